"""Aliasing: what a client with Topic Aliases is sent says the same as without."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.aliasing import REMEMBERED, Aliasing
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.details import packets_in
from platziverse.mqtt.packets import Publish, PublishProperties
from platziverse.mqtt.wire import Wires
from tests.mqtt.strategies5 import properties

ANY = 1 << 30
#: Some are too short to be worth an alias.
TOPICS = ("t", "five5", "sensor", "é/temperature", "a/long/topic/name/" + "x" * 200, "b" * 130)


def aliasing(most: int = 3, largest: int = ANY, takes: bool = True) -> Aliasing:
    return Aliasing(Wires(lambda: 0.0).of(5), most, largest, lambda: takes)


class Client:
    """What a client understands, which knows what it was told and nothing more."""

    def __init__(self, most: int) -> None:
        self.most, self.names = most, dict[int, str]()

    def reads(self, data: bytes) -> Publish:
        [(packet, size)] = packets_in(data)
        assert isinstance(packet, Publish)
        assert size == len(data)
        found = packet.properties
        if found is None or found.topic_alias is None:
            return packet
        assert 1 <= found.topic_alias <= self.most
        if packet.topic:
            assert found.topic_alias not in self.names
            self.names[found.topic_alias] = packet.topic
        bare = replace(found, topic_alias=None)
        topic = self.names[found.topic_alias]
        return replace(packet, topic=topic, properties=bare if bare != PublishProperties() else None)


MESSAGES = st.tuples(
    st.sampled_from(TOPICS), st.sampled_from((b"", b"x" * 90, b"y" * 20_000)), properties("PUBLISH")
)


class Saying(SynchronousTestCase):
    @given(
        st.lists(st.tuples(MESSAGES, st.integers(0, 2), st.booleans(), st.booleans()), max_size=40),
        st.integers(1, 4),
        st.sampled_from((ANY, 130, 40)),
        st.sampled_from((b"", b"\x0b\x07")),
    )
    def test_the_client_reads_what_was_published(
        self,
        sent: list[tuple[tuple[str, bytes, PublishProperties | None], int, bool, bool]],
        most: int,
        largest: int,
        identifiers: bytes,
    ) -> None:
        taken = [True]
        wire = Aliasing(Wires(lambda: 0.0).of(5), most, largest, lambda: taken[0])
        plain = Wires(lambda: 0.0).of(5)
        if identifiers:
            self.assertIs(wire.identifying(lambda message: identifiers), wire)
            plain = plain.identifying(lambda message: identifiers)
        client = Client(most)
        for (topic, payload, found), qos, retain, taken[0] in sent:
            given = found and replace(found, topic_alias=None, subscription_identifiers=())
            message = Publish(topic, payload, qos, properties=given)
            encoded = EncodedPublish(message, retain)
            if qos:
                written, whole = wire.with_id(encoded, qos, 7, retain), plain.with_id(encoded, qos, 7, retain)
            elif retain:
                written, whole = wire.qos0(encoded), plain.qos0(encoded)
            else:
                written, whole = wire.at_qos0(message), plain.at_qos0(message)
            self.assertTrue(len(written) <= len(whole) or len(written) <= largest)
            if qos or taken[0]:
                self.assertEqual(client.reads(written), client.reads(whole))

    def test_a_topic_that_repeats_gets_one_and_is_left_out_then(self) -> None:
        """[MQTT5-3.1.2-26]"""
        wire, name = aliasing(most=2), "sensors/temperature"
        found: list[tuple[str, int | None]] = []
        for topic in (name, name, name, "sensors/2", "sensors/2", "sensors/3", "sensors/3", "sensors/3"):
            [(packet, _)] = packets_in(wire.at_qos0(Publish(topic, b"x")))
            assert isinstance(packet, Publish)
            found.append((packet.topic, packet.properties.topic_alias if packet.properties else None))
        both = [(name, None), (name, 1), ("", 1), ("sensors/2", None), ("sensors/2", 2)]
        self.assertEqual(found, [*both, *[("sensors/3", None)] * 3])

    def test_none_begins_where_the_client_may_not_get_it_or_it_would_be_too_large(self) -> None:
        message = Publish("sensors/temperature", b"x" * 10)
        plain = Wires(lambda: 0.0).of(5).at_qos0(message)
        for wire in (aliasing(takes=False), aliasing(largest=len(plain))):
            for _ in range(3):
                self.assertEqual(wire.at_qos0(message), plain)

    def test_of_topics_that_come_once_only_some_are_remembered(self) -> None:
        wire = aliasing(most=1)
        for number in range(REMEMBERED + 1):
            wire.at_qos0(Publish(f"sensors/{number}", b""))
        for topic, expected in (("sensors/0", False), (f"sensors/{REMEMBERED}", True)):
            [(packet, _)] = packets_in(wire.at_qos0(Publish(topic, b"")))
            self.assertEqual(getattr(packet, "properties", None) is not None, expected, topic)
