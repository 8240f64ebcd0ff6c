"""Messages that differ in their payloads alone are handed to a receiver in one step. ADR 0223."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import SERVER, Client
from platziverse.broker.limits import Limits
from platziverse.broker.outgoing import IDENTIFIERS, SHARED
from platziverse.broker.session import Session
from platziverse.broker.together import Together
from platziverse.mqtt.packets import Properties, Puback, Publish, Subscribe, Subscription
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore, OpenAuthority

PAYLOADS = (b"1", b"22", b"", b"4" * 200)


class Restricted(OpenAuthority):
    """Nobody but ``near`` receives anything."""

    restricts = True

    def may_receive(self, client: Client, topic: str) -> bool:
        return client.client_id == "near"


class TogetherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness(sessions=MemorySessionStore())

    def receiver(self, name: str = "near", qos: int = 0, packet_id: int = 1, **fields: Any) -> FakeClient:
        client = self.harness.connect(name, **fields)
        client.send(Subscribe(1, [Subscription("t", qos, no_local=fields.get("protocol_level") == 5)]))
        client.received()
        return client

    def hand(self, qos: int = 0, client: Client = SERVER) -> list[tuple[Session, int]]:
        """Hand the messages to all who have subscribed; return who has to get each on its own."""
        broker = self.harness.broker
        messages = Together("t", PAYLOADS, qos)
        return list(broker.router.route_together(messages, broker.subscriptions.match("t"), client))

    def published(self, client: FakeClient) -> list[tuple[bytes, int, int | None]]:
        found = [packet for packet in client.received() if isinstance(packet, Publish)]
        return [(packet.payload, packet.qos, packet.packet_id) for packet in found]

    def session(self, name: str = "near") -> Session:
        found = self.harness.broker.sessions.get(name)
        assert found is not None
        return found

    def first_at(self, qos: int, client: FakeClient) -> None:
        """Let a first message come, on its own: nothing else is prepared for those at QoS 1 and 2."""
        broker = self.harness.broker
        message = Publish("t", b"first", qos)
        broker.router.route(message, broker.subscriptions.match("t"), SERVER)
        self.assertEqual(self.published(client), [(b"first", qos, 1)])

    def test_at_qos_0_each_version_gets_them_in_order_and_all_are_counted(self) -> None:
        traffic = self.harness.broker.traffic
        clients = [self.receiver(), self.receiver("five", protocol_level=5), self.receiver("higher", 2)]
        before = traffic.messages_sent
        self.assertEqual(self.hand(), [])
        for client in clients:
            self.assertEqual(self.published(client), [(payload, 0, None) for payload in PAYLOADS])
        self.assertEqual(traffic.publish_sent[0], 3 * len(PAYLOADS))
        self.assertEqual(traffic.publish_bytes_sent[0], 3 * sum(map(len, PAYLOADS)))
        self.assertEqual(traffic.messages_sent - before, 3 * len(PAYLOADS))

    def test_at_qos_1_and_2_they_have_the_next_packet_identifiers(self) -> None:
        for qos in 1, 2:
            self.setUp()
            client = self.receiver(qos=qos)
            self.assertEqual([session.client_id for session, _ in self.hand(qos)], ["near"])
            self.first_at(qos, client)
            self.assertEqual(self.hand(qos), [])
            expected = [(payload, qos, number) for number, payload in enumerate(PAYLOADS, 2)]
            self.assertEqual(self.published(client), expected)
            self.assertEqual(self.session().inflight, 1 + len(PAYLOADS))
            self.assertEqual(self.harness.broker.traffic.publish_sent[qos], 1 + len(PAYLOADS))

    def test_who_has_no_room_for_all_of_them_gets_each_on_its_own(self) -> None:
        self.harness = BrokerHarness(limits=Limits(max_inflight=len(PAYLOADS)))
        client = self.receiver(qos=1)
        self.first_at(1, client)
        self.assertEqual(len(self.hand(1)), 1)
        client.send(Puback(1))
        self.assertEqual(self.hand(1), [])
        self.assertEqual(len(self.published(client)), len(PAYLOADS))

    def test_behind_what_waits_each_waits_too(self) -> None:
        client = self.receiver(qos=1)
        self.first_at(1, client)
        client.stop_reading()
        self.assertEqual((len(self.hand()), len(self.hand(1))), (1, 1))
        self.harness.broker.router.route(Publish("t", b"", 1), ((self.session(), 1),), SERVER)
        self.session().connection.congested = False  # type: ignore[union-attr]
        self.assertEqual(len(self.hand(1)), 1)

    def test_packet_identifiers_that_are_in_use_are_looked_for_one_by_one(self) -> None:
        client = self.receiver(qos=1)
        self.first_at(1, client)
        outgoing = self.session().outgoing
        assert outgoing is not None
        for last in IDENTIFIERS - 1, IDENTIFIERS, 0:
            outgoing.last = last
            self.assertEqual(len(self.hand(1)), 1, last)
        outgoing.last = IDENTIFIERS - len(PAYLOADS)
        self.assertEqual(self.hand(1), [])
        self.assertEqual(self.published(client)[-1][2], IDENTIFIERS)

    def test_who_is_absent_gets_none_at_qos_0_and_each_at_qos_1(self) -> None:
        client = self.receiver("durable", 1, clean_session=False)
        self.assertEqual(len(self.hand(1)), 1)  # which the store has to know of
        self.assertEqual(self.hand(), [])
        self.assertEqual(len(self.published(client)), len(PAYLOADS))
        client.lose()
        self.assertEqual((self.hand(), len(self.hand(1))), ([], 1))

    def test_who_takes_packets_of_a_size_alone_gets_each_on_its_own(self) -> None:
        small = Properties(maximum_packet_size=100)
        self.receiver(protocol_level=5, properties=small)
        self.assertEqual(len(self.hand()), 1)

    def test_nobody_gets_what_is_local_or_forbidden(self) -> None:
        client = self.receiver(protocol_level=5)
        publisher = self.session().client
        assert publisher is not None
        self.assertEqual(self.hand(client=publisher), [])
        self.assertEqual(self.published(client), [])
        self.harness = BrokerHarness(authority=Restricted())
        near, far = self.receiver(), self.receiver("far")
        self.assertEqual(self.hand(), [])
        self.assertEqual((len(self.published(near)), self.published(far)), (len(PAYLOADS), []))

    def test_large_ones_are_not_handed_on_in_one_step(self) -> None:
        for payloads, expected in (
            ((bytes(SHARED + 1), b""), False),
            ((bytes(SHARED), bytes(SHARED)), True),
            ((b"", b""), True),
        ):
            self.assertEqual(Together("t", payloads, 0).is_short, expected)
