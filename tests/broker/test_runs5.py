"""Messages with Properties that come in one read are published as those that come one by one."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Packet, Publish, PublishProperties
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore

TOPICS = ("a", "b", "nobody/hears")
PROPERTIES = (
    None,
    PublishProperties(user_properties=(("n", "v"),)),
    PublishProperties(message_expiry_interval=60),
    PublishProperties(payload_format_indicator=1),
    PublishProperties(topic_alias=1),
    PublishProperties(topic_alias=2, content_type="t"),
)
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(TOPICS),
        st.booleans(),
        st.sampled_from((b"text", b"\xff\xfe", b"x" * 5000)),
        st.sampled_from(PROPERTIES),
    ),
    max_size=30,
)


def packets(found: list[tuple[str, bool, bytes, PublishProperties | None]], qos: int) -> list[Publish]:
    """Packets of a client that leaves out Topic Names behind their aliases, as it may."""
    known, sent = dict[int, str](), list[Publish]()
    for number, (topic, short, payload, properties) in enumerate(found, 1):
        alias = properties.topic_alias if properties is not None else None
        name = topic
        if alias is not None and short and alias in known:
            name = ""
        elif alias is not None:
            known[alias] = topic
        packet_id = number if qos else None
        sent.append(Publish(name, payload, qos, False, False, packet_id, properties))
    return sent


class Runs(SynchronousTestCase):
    def outcome(
        self, messages: list[Publish], at_once: bool, **limits: Any
    ) -> tuple[list[Packet], list[Packet]]:
        harness = BrokerHarness(sessions=MemorySessionStore(), limits=Limits(**limits))
        watcher = harness.connect("watcher", protocol_level=5, clean_session=False)
        watcher.subscribe("a", 0)
        watcher.subscribe("b", 0)
        publisher: FakeClient = harness.connect("publisher", protocol_level=5)
        if at_once:
            publisher.send(*messages)
        else:
            for message in messages:
                publisher.send(message)
                harness.advance(0.1)
        harness.advance(5)
        return watcher.received(), publisher.received()

    @given(MESSAGES, st.integers(0, 2), st.sampled_from((3, 100)))
    def test_all_at_once_is_one_by_one(self, found: Any, qos: int, per_turn: int) -> None:
        """Rows 509 and 511."""
        messages = packets(found, qos)
        expected = self.outcome(messages, at_once=False)
        self.assertEqual(self.outcome(messages, at_once=True, packets_per_turn=per_turn), expected)

    def test_a_protocol_error_ends_the_connection_behind_those_before_it(self) -> None:
        bad = (
            PublishProperties(topic_alias=9),
            PublishProperties(topic_alias=17),
            PublishProperties(subscription_identifiers=(1,)),
        )
        for properties in bad:
            harness = BrokerHarness()
            watcher, publisher = harness.connect("watcher"), harness.connect("five", protocol_level=5)
            watcher.subscribe("#", 1)
            topic = "" if properties.topic_alias == 9 else "t"
            good = [Publish("t", b"", 1, False, False, number, PROPERTIES[1]) for number in (1, 2, 3)]
            publisher.send(*good, Publish(topic, b"", 1, False, False, 4, properties), good[0])
            self.assertEqual(len(watcher.received()), 3, properties)
            self.assertTrue(publisher.closed)
