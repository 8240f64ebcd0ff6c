"""Every Control Packet, as hypothesis makes them."""

from hypothesis import strategies as st

from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)

QOS = st.integers(0, 2)
IDS = st.integers(1, 65_535)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
BINARY = st.binary(max_size=300)
LEVELS = st.text(st.characters(exclude_characters="\0/+#", exclude_categories=["Cs"]), max_size=6)
#: In a Topic Name nothing controls, and everything is a character.
NAMES = st.text(st.characters(exclude_characters="/+#", exclude_categories=["Cs", "Cc", "Cn"]), max_size=6)
TOPIC_NAMES = st.lists(NAMES, min_size=1, max_size=5).map("/".join).filter(bool)
TOPIC_FILTERS = (
    st.tuples(st.lists(LEVELS | st.just("+"), max_size=4), st.sampled_from([["#"], ["+"], ["x"]]))
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)

WILLS = st.builds(Publish, TOPIC_NAMES, BINARY, QOS, st.booleans())


@st.composite
def publishes(draw: st.DrawFn) -> Publish:
    qos = draw(QOS)
    return Publish(
        draw(TOPIC_NAMES),
        draw(BINARY),
        qos,
        draw(st.booleans()),
        bool(qos) and draw(st.booleans()),
        draw(IDS) if qos else None,
    )


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    client_id = draw(TEXTS)
    username = draw(st.none() | TEXTS)
    return Connect(
        client_id,
        draw(st.booleans()) or not client_id,
        draw(st.integers(0, 65_535)),
        draw(st.none() | WILLS),
        username,
        draw(st.none() | BINARY) if username is not None else None,
        draw(st.sampled_from([3, 4])),
        draw(st.booleans()),
    )


SUBSCRIPTIONS = st.lists(st.builds(Subscription, TOPIC_FILTERS, QOS), min_size=1, max_size=5)
CODES = st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=5)

#: What may come once a connection is open.
LATER: st.SearchStrategy[Packet] = st.one_of(
    publishes(),
    st.builds(Connack, st.booleans(), st.sampled_from(list(ConnectReturnCode))),
    *(st.builds(kind, IDS) for kind in (Puback, Pubrec, Pubrel, Pubcomp, Unsuback)),
    st.builds(Subscribe, IDS, SUBSCRIPTIONS),
    st.builds(Suback, IDS, CODES),
    st.builds(Unsubscribe, IDS, st.lists(TOPIC_FILTERS, min_size=1, max_size=5)),
    st.sampled_from([Pingreq(), Pingresp(), Disconnect()]),
)
PACKETS: st.SearchStrategy[Packet] = connects() | LATER
