"""0x10: a publisher of MQTT 5 is told when nobody has subscribed to what it publishes."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.mqtt.packets import Packet, Puback, Pubcomp, Publish, PublishProperties, Pubrec, Pubrel
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore, MemoryStore
from tests.broker.test_mqtt5 import Case
from tests.cluster.daemons import Daemons
from tests.net.doubles import Store

UNHEARD = 0x10


def codes(client: FakeClient) -> list[tuple[int, int]]:
    """Packet Identifier and Reason Code of each acknowledgement that has come."""
    return [_code(packet) for packet in client.received() if not isinstance(packet, Publish)]


def _code(packet: Packet) -> tuple[int, int]:
    assert isinstance(packet, (Puback, Pubrec)), packet
    return packet.packet_id, packet.reason_code


class Unheard(Case):
    def setUp(self) -> None:
        self.store = Store()
        table: dict[str, Any] = {"kept": self.store, "seen": self.see}
        self.harness = BrokerHarness(table)
        self.harness.connect("listener").subscribe("heard/#", 1)
        self.client = self.connect("publisher")

    def see(self, message: Publish, client: Client) -> None:
        """Handle a message at once."""

    def publish(self, *topics: str, qos: int = 1, **fields: Any) -> list[tuple[int, int]]:
        self.client.send(
            *[Publish(topic, b"", qos, packet_id=one, **fields) for one, topic in enumerate(topics, 1)]
        )
        return codes(self.client)

    def test_the_answer_says_so_if_nobody_has_subscribed(self) -> None:
        self.assertEqual(self.publish("t"), [(1, UNHEARD)])
        self.assertEqual(self.publish("heard"), [(1, 0)])
        self.assertEqual(self.publish("t", qos=2), [(1, UNHEARD)])
        self.client.send(Pubrel(1))
        self.client.received()
        self.assertEqual(self.publish("heard/t", qos=2), [(1, 0)])

    def test_a_qos_2_message_is_over_with_its_pubrel_all_the_same(self) -> None:
        self.publish("t", qos=2)
        self.client.send(Publish("t", b"", 2, packet_id=1, dup=True))
        self.assertEqual(codes(self.client), [(1, 0)])
        self.client.send(Pubrel(1))
        [pubcomp] = self.client.received()
        self.assertEqual(_reason(pubcomp), 0)

    def test_each_of_many_has_its_own_in_order(self) -> None:
        topics = ["t", "t", "heard", "kept/not", "heard/t", "seen", "t"]
        told = [UNHEARD, UNHEARD, 0, UNHEARD, 0, 0, UNHEARD]
        for qos in 1, 2:
            self.assertEqual(self.publish(*topics, qos=qos), list(enumerate(told, 1)))
            self.client.send(*map(Pubrel, range(1, 8)))
            self.client.received()

    def test_those_behind_one_that_waits_keep_their_place(self) -> None:
        self.assertEqual(self.publish("kept", "t", "heard", "t"), [])
        self.store.commit()
        self.assertEqual(codes(self.client), [(1, 0), (2, UNHEARD), (3, 0), (4, UNHEARD)])
        self.assertEqual(self.publish("kept", "t", qos=2), [])
        self.client.send(Pubrel(2))  # too early: it waits for its PUBREC
        self.assertEqual(self.client.received(), [])
        self.store.commit()
        kinds = [type(packet).__name__ for packet in self.client.received()]
        self.assertEqual(kinds, ["Pubrec", "Pubrec", "Pubcomp"])

    def test_a_publisher_that_has_subscribed_itself_is_answered_first(self) -> None:
        self.client.subscribe("own", 0)
        self.client.send(Publish("own", b"", 1, packet_id=1), Publish("t", b"", 1, packet_id=2))
        received = self.client.received()
        self.assertEqual([type(packet) for packet in received], [Puback, Puback, Publish])
        self.assertEqual([_reason(packet) for packet in received[:2]], [0, UNHEARD])

    def test_what_is_handled_is_heard(self) -> None:
        """What is recorded among it."""
        self.assertEqual(self.publish("seen"), [(1, 0)])
        self.publish("kept", qos=2)
        self.store.commit()
        self.assertEqual(codes(self.client), [(1, 0)])
        self.harness = BrokerHarness(reports=MemoryStore())
        self.client = self.connect()
        [(_, code)] = self.publish("agent/message")
        self.assertEqual(code, 0x99)

    def test_what_is_retained_waits_for_those_who_come(self) -> None:
        self.assertEqual(self.publish("t", retain=True), [(1, 0)])

    def test_one_that_is_retained_tells_nothing_of_those_around_it(self) -> None:
        for retained in range(3):
            messages = [Publish("t", b"", 1, one == retained, packet_id=one + 1) for one in range(3)]
            self.client.send(*messages)
            told = [(one + 1, 0 if one == retained else UNHEARD) for one in range(3)]
            self.assertEqual(codes(self.client), told)

    def test_many_of_one_topic_have_their_own_number_each(self) -> None:
        numbers = [*range(250, 262), 0x1234, 0xFFFF]
        self.client.send(*[Publish("t", b"", 1, packet_id=number) for number in numbers])
        self.assertEqual(codes(self.client), [(number, UNHEARD) for number in numbers])

    def test_one_with_properties_is_told_too(self) -> None:
        self.assertEqual(self.publish("t", properties=PublishProperties(content_type="x")), [(1, UNHEARD)])

    def test_an_absent_client_with_a_session_is_somebody(self) -> None:
        for sessions in None, MemorySessionStore():
            self.harness = BrokerHarness(sessions=sessions)
            absent = self.harness.connect("absent", clean_session=False)
            absent.subscribe("t", 1)
            absent.lose()
            self.client = self.connect("publisher")
            self.client.send(Publish("t", b"", 1, packet_id=1))
            self.harness.advance(1)
            self.assertEqual(codes(self.client), [(1, 0)])

    def test_a_group_that_shares_a_subscription_is_somebody(self) -> None:
        """Connected or not."""
        member = self.harness.connect("member", clean_session=False)
        member.subscribe("$share/group/t/#", 1)
        self.assertEqual(self.publish("t", "other"), [(1, 0), (2, UNHEARD)])
        member.lose()
        self.assertEqual(self.publish("t", "t/x", qos=2), [(1, 0), (2, 0)])

    def test_nobody_is_told_before_all_sessions_are_loaded(self) -> None:
        sessions = MemorySessionStore()
        before = BrokerHarness(sessions=sessions)
        before.connect("absent", clean_session=False).subscribe("t", 1)
        sessions.hold(reads=True)
        self.harness = BrokerHarness(sessions=sessions)
        self.client = self.connect("publisher")
        self.client.send(Publish("t", b"", 1, packet_id=1))
        self.assertEqual(codes(self.client), [])
        sessions.resume()
        self.harness.advance(1)
        self.assertEqual(codes(self.client), [(1, 0)])

    def test_older_clients_are_not_told(self) -> None:
        self.client = self.harness.connect("four")
        self.assertEqual(self.publish("t", "t"), [(1, 0), (2, 0)])
        self.assertEqual(self.publish("t", qos=2), [(1, 0)])

    def test_a_trace_has_each_of_them(self) -> None:
        self.harness.shared.traced = frozenset(["publisher"])
        self.client = self.connect("publisher")
        self.assertEqual(self.publish("t", "t", "heard"), [(1, UNHEARD), (2, UNHEARD), (3, 0)])
        sent = self.harness.broker.traffic.messages_sent
        self.publish("t", "t", "heard")
        self.assertEqual(self.harness.broker.traffic.messages_sent - sent, 4)  # one of them to the listener


def _reason(packet: Packet) -> int:
    assert isinstance(packet, (Puback, Pubcomp))
    return int(packet.reason_code)


class Elsewhere(SynchronousTestCase):
    def test_clients_of_other_daemons_are_somebody(self) -> None:
        daemons = Daemons()
        one, two = daemons.begin(1), daemons.begin(2)
        publisher = one.connect("publisher", protocol_level=5)
        listener = two.listening("listener", "far/#", 1)
        for topic, told in (("far/t", 0), ("t", UNHEARD)):
            for qos in 1, 2:
                publisher.send(Publish(topic, b"", qos, packet_id=1))
                daemons.turn()
                self.assertEqual(codes(publisher), [(1, told)])
                publisher.send(Pubrel(1))
                daemons.turn()
                publisher.received()
        listener.lose()
        daemons.turn()
        publisher.send(Publish("far/t", b"", 1, packet_id=1))
        daemons.advance(120)
        self.assertEqual([code for _, code in codes(publisher)][:1], [0])
        publisher.send(Publish("far/t", b"", 1, packet_id=2))
        self.assertEqual(codes(publisher), [(2, UNHEARD)])
