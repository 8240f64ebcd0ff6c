"""Every Control Packet of MQTT 5 with any Properties that it may have, as hypothesis makes them."""

from typing import Any

from hypothesis import strategies as st

from platziverse.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.properties import ALLOWED, Kind, Property
from platziverse.mqtt.reasoncodes import REASON_CODES
from tests.mqtt.strategies import BINARY, IDS, QOS, TEXTS, TOPIC_FILTERS, TOPIC_NAMES


def values(row: Property) -> st.SearchStrategy[Any]:
    """Values that a Property may have."""
    if row.name == "response_topic":
        return TOPIC_NAMES
    most = {Kind.BYTE: 1, Kind.TWO_BYTES: 0xFFFF, Kind.FOUR_BYTES: 0xFFFF_FFFF, Kind.VARIABLE: 268_435_455}
    if row.kind in most:
        least = 1 if row.name == "topic_alias" else row.least
        return st.integers(least, most[row.kind])
    return {Kind.BINARY: BINARY, Kind.TEXT: TEXTS, Kind.PAIR: st.tuples(TEXTS, TEXTS)}[row.kind]


def some_of(packet: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the Properties that a packet may have."""
    each = {
        row.name: st.lists(values(row), min_size=1, max_size=4).map(tuple) if row.repeatable else values(row)
        for row in ALLOWED[packet].values()
    }
    return st.fixed_dictionaries({}, optional=each).map(consistent)


def consistent(found: dict[str, Any]) -> dict[str, Any]:
    if "authentication_data" in found:
        found.setdefault("authentication_method", "m")
    return found


def properties(packet: str) -> st.SearchStrategy[Any]:
    kind: type = PublishProperties if packet == "PUBLISH" else Properties
    return some_of(packet).map(lambda found: kind(**found) if found else None)


@st.composite
def publishes(draw: st.DrawFn) -> Publish:
    qos, found = draw(QOS), draw(properties("PUBLISH"))
    aliased = found is not None and found.topic_alias is not None
    topic = draw(st.just("") | TOPIC_NAMES if aliased else TOPIC_NAMES)
    dup = bool(qos) and draw(st.booleans())
    number = draw(IDS) if qos else None
    return Publish(topic, draw(BINARY), qos, draw(st.booleans()), dup, number, found)


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    will, delay = None, 0
    if draw(st.booleans()):
        found = draw(some_of("WILL"))
        delay = found.pop("will_delay_interval", 0)
        kept = PublishProperties(**found) if found else None
        will = Publish(draw(TOPIC_NAMES), draw(BINARY), draw(QOS), draw(st.booleans()), properties=kept)
    return Connect(
        draw(TEXTS),
        draw(st.booleans()),
        draw(st.integers(0, 65_535)),
        will,
        draw(st.none() | TEXTS),
        draw(st.none() | BINARY),
        5,
        will_delay=delay,
        properties=draw(properties("CONNECT")),
    )


def codes(kind: type) -> st.SearchStrategy[int]:
    return st.sampled_from(sorted(REASON_CODES[kind]))


@st.composite
def connacks(draw: st.DrawFn) -> Connack:
    code = draw(codes(Connack))
    return Connack(not code and draw(st.booleans()), code, draw(properties("CONNACK")))


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    options = draw(QOS), draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2))
    return Subscription(draw(TOPIC_FILTERS.filter(lambda each: not each.startswith("$share/"))), *options)


def lists(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=1, max_size=4)


#: What may come once a connection is open.
LATER: st.SearchStrategy[Packet] = st.one_of(
    publishes(),
    connacks(),
    *(
        st.builds(kind, IDS, codes(kind), properties(kind.__name__.upper()))
        for kind in (Puback, Pubrec, Pubrel, Pubcomp)
    ),
    st.builds(Subscribe, IDS, lists(subscriptions()), properties("SUBSCRIBE")),
    st.builds(Suback, IDS, lists(codes(Suback)), properties("SUBACK")),
    st.builds(Unsubscribe, IDS, lists(TOPIC_FILTERS), properties("UNSUBSCRIBE")),
    st.builds(Unsuback, IDS, lists(codes(Unsuback)), properties("UNSUBACK")),
    st.builds(Disconnect, codes(Disconnect), properties("DISCONNECT")),
    st.builds(Auth, codes(Auth), properties("AUTH")),
    st.sampled_from([Pingreq(), Pingresp()]),
)
PACKETS: st.SearchStrategy[Packet] = connects() | LATER
