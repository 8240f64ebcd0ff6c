"""What a client of MQTT 5 is told in CONNACK to keep to, and what becomes of one that does not."""

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import (
    Connack,
    Disconnect,
    Pingreq,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
)
from platziverse.testing import BrokerHarness, MemorySessionStore
from tests.broker.test_mqtt5 import Case
from tests.net.doubles import Store

KEPT = Properties(session_expiry_interval=100)


class ServerKeepAlive(Case):
    def setUp(self) -> None:
        self.harness = BrokerHarness(limits=Limits(max_keep_alive=10))

    def told_keep_alive(self, asked: int) -> int | None:
        return self.connack(self.connect(str(asked), keep_alive=asked))[1].server_keep_alive

    def test_a_client_that_asks_for_more_or_for_none_is_told_ours(self) -> None:
        """[MQTT5-3.2.2-22]"""
        self.assertEqual(
            [self.told_keep_alive(asked) for asked in (0, 1, 10, 11, 65_535)], [10, None, None, 10, 10]
        )

    def test_without_a_setting_everybody_has_its_own(self) -> None:
        self.harness = BrokerHarness()
        self.assertEqual([self.told_keep_alive(asked) for asked in (0, 1, 65_535)], [None] * 3)

    def test_it_has_to_be_kept_to(self) -> None:
        """[MQTT5-3.1.2-22]"""
        for asked in (0, 60):
            client = self.connect(keep_alive=asked)
            self.harness.advance(14)
            client.send(Pingreq())
            self.harness.advance(14.9)
            self.assertFalse(client.closed)
            self.harness.advance(1.1)
            self.assertEqual(self.goodbye(client), (0x8D, "Keep Alive"))

    def test_a_shorter_one_is_the_clients(self) -> None:
        client = self.connect(keep_alive=2)
        self.harness.advance(4)
        self.assertEqual([type(packet) for packet in client.received()], [Disconnect])

    def test_older_clients_cannot_be_told(self) -> None:
        client = self.harness.connect("four", keep_alive=60)
        self.assertEqual(client.connack, [Connack(False, 0)])
        self.harness.advance(89)
        self.assertFalse(client.closed)


def messages(*numbers: int, topic: str = "t", qos: int = 1) -> list[Publish]:
    return [Publish(topic, b"", qos, packet_id=number) for number in numbers]


class Told(Case):
    def test_every_client_is_told_the_limits_of_its_own_broker(self) -> None:
        """Those who are told nothing else, whose CONNACK is encoded once, and the others."""
        for most, aliases in ((10, 0), (20, 5), (10, 0)):
            limits = Limits(max_packet_size=1000 * most, max_unfinished=most, topic_alias_maximum=aliases)
            self.harness, told = BrokerHarness(limits=limits), (most, aliases or None, 1000 * most)
            for client_id in ("a", "b", ""):
                connack = self.connack(self.connect(client_id))[1]
                limited = connack.receive_maximum, connack.topic_alias_maximum, connack.maximum_packet_size
                self.assertEqual(limited, told)
                self.assertEqual(connack.assigned_client_identifier is None, bool(client_id))

    def test_session_present_is_told_though_nothing_else_is(self) -> None:
        kept = Properties(session_expiry_interval=100)
        for present in (False, True):
            client = self.connect(clean_session=False, properties=kept)
            [connack] = client.connack
            assert isinstance(connack, Connack)
            self.assertEqual(connack.session_present, present)
            self.assertIsNone(self.connack(client)[1].session_expiry_interval)
            client.lose()

    def test_a_client_that_takes_small_packets_alone_is_not_told_of_limits(self) -> None:
        for most, told in ((5, False), (1000, True)):
            client = self.connect(str(most), properties=Properties(maximum_packet_size=most))
            self.assertEqual(self.connack(client)[1].receive_maximum is not None, told)


class ReceiveMaximum(Case):
    """Row 520: more messages than may be unacknowledged. Of QoS 0, and of 3.1.1, there may be any number."""

    def setUp(self) -> None:
        self.store = Store()
        self.harness = BrokerHarness({"t": self.store}, Limits(max_unfinished=4))

    def assert_exceeded(self, code: int, text: str | None) -> None:
        self.assertEqual(code, 0x93)
        self.assertIn("more than 4 unacknowledged messages (max_unfinished)", text or "")

    def test_one_message_more_than_announced_closes_the_connection(self) -> None:
        client = self.connect()
        self.assertEqual(self.connack(self.connect("other"))[1].receive_maximum, 4)
        client.send(*messages(1, 2, 3, 4))
        self.assertEqual((client.held, client.closed), (True, False))
        client = self.connect("another")
        client.send(*messages(1, 2, 3, 4, 5))
        self.assert_exceeded(*self.goodbye(client))
        self.assertEqual(len(self.store.messages), 8)

    def test_what_is_acknowledged_makes_room(self) -> None:
        client = self.connect()
        for number in range(1, 40, 4):
            client.send(*messages(*range(number, number + 4)))
            self.store.commit()
            self.assertEqual([type(packet) for packet in client.received()], [Puback] * 4)
        self.assertFalse(client.closed)

    def test_what_comes_while_nothing_is_read_is_judged_when_it_is_read(self) -> None:
        """What has been acknowledged by then is no more than the client knew, or less."""
        client = self.connect()
        client.send(*messages(1, 2, 3, 4))
        self.store.commit(0, 1, 2)
        client.send(*messages(5, 6, 7))
        self.assertFalse(client.closed)
        self.store.commit()
        self.assertEqual((len(client.received()), client.held, client.closed), (7, False, False))

    def test_an_acknowledgement_that_waits_for_another_counts(self) -> None:
        client = self.connect()
        client.send(*messages(1), *messages(2, 3, 4, topic="elsewhere"))
        self.assertEqual((client.received(), client.closed), ([], False))
        client.send(*messages(5, topic="elsewhere"))
        self.assertFalse(client.closed)  # nothing more is read
        self.store.commit()
        self.assertEqual([packet.packet_id for packet in client.received()], [1, 2, 3, 4, 5])  # type: ignore[union-attr]

    def test_qos_0_is_not_counted(self) -> None:
        client = self.connect()
        client.send(*[Publish("t", b"")] * 3, *messages(1, 2, 3))
        self.assertEqual((client.held, client.closed), (True, False))
        self.store.commit()
        self.store.commit()
        self.assertEqual((len(client.received()), client.closed), (3, False))

    def test_a_message_at_qos_2_counts_until_its_pubcomp(self) -> None:
        self.harness.connect("listener").subscribe("x")
        client = self.connect()
        client.send(*messages(1, 2, 3, 4, topic="x", qos=2))
        self.assertEqual(client.received(), [Pubrec(number) for number in (1, 2, 3, 4)])
        client.send(Pubrel(2), *messages(5, topic="x", qos=2))
        self.assertEqual(client.received(), [Pubcomp(2), Pubrec(5)])
        client.send(Pubrel(1), *messages(6, topic="x"))
        self.assertEqual(client.received(), [Pubcomp(1), Puback(6)])
        client.send(*messages(7, 8, topic="x", qos=2))
        self.assert_exceeded(*self.goodbye(client))

    def test_properties_make_no_difference(self) -> None:
        client = self.connect()
        properties = PublishProperties(content_type="x")
        client.send(*(Publish("x", b"", 2, packet_id=one, properties=properties) for one in range(1, 6)))
        self.assert_exceeded(*self.goodbye(client))

    def test_a_refused_message_makes_room(self) -> None:
        client = self.connect()
        indicated = PublishProperties(payload_format_indicator=1)
        for _ in range(10):
            client.send(Publish("x", b"\xff", 2, packet_id=1, properties=indicated))
        self.assertFalse(client.closed)

    def test_what_came_over_an_earlier_connection_is_not_counted(self) -> None:
        """Row 513. Nor are its PUBCOMPs taken for less than the room that they make for the client."""
        client = self.connect(clean_session=False, properties=KEPT)
        client.send(*messages(1, 2, 3, 4, topic="x", qos=2))
        client.lose()
        client = self.connect(clean_session=False, properties=KEPT)
        client.send(*messages(5, 6, 7, 8, topic="x", qos=2))
        client.send(Pubrel(1), Pubrel(2), *messages(9, 10, topic="x", qos=2))
        self.assertFalse(client.closed)
        client.send(*messages(11, topic="x", qos=2))
        self.assert_exceeded(*self.goodbye(client))

    def test_messages_for_a_durable_session_are_counted_one_by_one(self) -> None:
        """They wait together, in one place of the queue."""
        sessions = MemorySessionStore()
        self.harness = BrokerHarness(limits=Limits(max_unfinished=4), sessions=sessions)
        absent = self.harness.connect("absent", clean_session=False)
        absent.subscribe("d", 1)
        absent.lose()
        client = self.connect()
        sessions.hold()
        client.send(*messages(1, 2, 3, topic="d"))
        self.assertEqual((client.received(), client.closed), ([], False))
        client.send(*messages(4, 5, topic="d"))
        self.assert_exceeded(*self.goodbye(client))

    def test_a_client_of_3_1_1_is_held_and_loses_nothing(self) -> None:
        client = self.harness.connect("four")
        client.send(*messages(1, 2, 3, 4, 5, 6, 7, 8))
        self.assertEqual((client.held, client.closed), (True, False))
        self.store.commit()
        self.store.commit()
        self.assertEqual(len(client.received()), 8)
