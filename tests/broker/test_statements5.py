"""Statements of MQTT 5 that no other test shows, one by one."""

from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.errors import ConnectRefused, MalformedPacket, ProtocolViolation
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
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
from platziverse.mqtt.reasoncodes import REASON_CODES, ReasonCode
from platziverse.net.dialect import MQTT5
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore

KEPT = Properties(session_expiry_interval=100)


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness()

    def connect(self, client_id: str = "five", **fields: Any) -> FakeClient:
        return self.harness.connect(client_id, protocol_level=5, **fields)

    def code(self, client: FakeClient) -> int:
        """Reason Code of the last packet, after which the connection is closed."""
        *_, last = client.connack + client.received()
        self.assertTrue(client.closed)
        assert isinstance(last, (Connack, Disconnect)), last
        return last.return_code if isinstance(last, Connack) else last.reason_code


class Refused5(Case):
    def test_a_connect_that_is_refused_has_one_connack_and_an_end(self) -> None:
        """[MQTT5-3.2.0-2] [MQTT5-3.2.2-7] [MQTT5-3.1.4-2] [MQTT5-3.1.3-8] [MQTT5-4.13.2-1] [MQTT5-4.12.0-4]

        [MQTT5-3.1.4-6] [MQTT5-3.14.0-1]
        """
        bad = Publish("w", b"\xff", properties=PublishProperties(1))
        asked = Properties(authentication_method="X")
        for code, sent in (
            (0x85, Connect("x" * 2000, protocol_level=5)),
            (0x99, Connect("five", protocol_level=5, will=bad)),
            (0x8C, Connect("five", protocol_level=5, properties=asked)),
        ):
            watcher = self.connect("watcher")
            watcher.subscribe("#")
            client = self.harness.open(5)
            client.send(sent, Publish("t", b"late"), Pingreq(), sent)
            [connack] = client.received()
            assert isinstance(connack, Connack)
            self.assertEqual((connack.return_code, connack.session_present), (code, False))
            self.assertTrue(client.closed)
            self.assertEqual(watcher.received(), [])

    def test_there_is_one_connack_for_a_connection(self) -> None:
        """[MQTT5-3.2.0-2] [MQTT5-3.14.0-1]"""
        client = self.connect()
        client.send(Connect("five", protocol_level=5))
        self.assertEqual([type(one) for one in client.connack + client.received()], [Connack, Disconnect])
        unknown = self.harness.open(5)
        unknown.send(Pingreq())  # before CONNECT
        self.assertEqual((unknown.received(), unknown.closed), ([], True))

    def test_a_version_that_is_unknown_closes_the_connection(self) -> None:
        """[MQTT5-3.1.2-2]"""
        for level in (0, 2, 6, 0x7F, 0xFF):
            client = self.harness.open()
            client.send_bytes(b"\x10\x0e\0\4MQTT" + bytes((level,)) + b"\2\0\0\0\0\1c")
            [connack] = client.received()
            self.assertEqual((connack, client.closed), (Connack(False, 1), True))

    def test_every_reason_has_a_code_that_its_packet_may_have(self) -> None:
        """[MQTT5-3.2.2-8] [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-3.14.2-1] [MQTT5-3.14.2-2]"""
        dialect = MQTT5(Connect("five", protocol_level=5), Limits(), Traffic())
        for reason in Reason:
            refused = Refused(reason, "why")
            self.assertEqual(dialect.negative(Publish("t", b""), refused), b"")
            for qos, kind in ((1, Puback), (2, Pubrec)):
                data = dialect.negative(Publish("t", b"", qos, packet_id=7), refused)
                self.assertIn((data or b"")[4], REASON_CODES[kind], reason)
            goodbye = dialect.goodbye(reason, "why", None)
            self.assertTrue(not goodbye or goodbye[2] in REASON_CODES[Disconnect], reason)
        for code in ReasonCode:
            self.assertIn(dialect.goodbye(Reason.MALFORMED, "why", code)[2], REASON_CODES[Disconnect])
            for error in (MalformedPacket("why", "1"), ProtocolViolation("why", "1", code)):
                self.assertIn(dialect.refuse(error)[3], REASON_CODES[Connack])
            no = ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, "why", "1", code)
            self.assertIn(dialect.refuse(no)[3], REASON_CODES[Connack])


class Small(Case):
    """A client whose Maximum Packet Size is small."""

    def refuse(self, message: Publish, client: Client) -> Any:
        return succeed(Refused(Reason.PAYLOAD_INVALID, "why" * 20))

    def test_nothing_is_larger_than_the_client_takes(self) -> None:
        """[MQTT5-3.1.2-24] [MQTT5-3.2.2-19] [MQTT5-3.2.2-20] [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] [MQTT5-3.5.2-2]

        [MQTT5-3.5.2-3] [MQTT5-3.6.2-2] [MQTT5-3.6.2-3] [MQTT5-3.7.2-2] [MQTT5-3.7.2-3] [MQTT5-3.9.2-1]
        [MQTT5-3.9.2-2] [MQTT5-3.11.2-1] [MQTT5-3.11.2-2] [MQTT5-3.14.2-3] [MQTT5-3.14.2-4]
        """
        sizes = []
        for largest in (5, 6, 7, 16, 19, 24, 30, 80, 200):
            self.harness = BrokerHarness({"no": self.refuse})
            asked = Properties(maximum_packet_size=largest, session_expiry_interval=10)
            client = self.harness.open(5)
            client.send(Connect("five", protocol_level=5, properties=asked))
            packets = [client.received_bytes()]
            for packet in (
                Subscribe(1, [Subscription("t", 2), Subscription("u", 2)]),
                Publish("no", b"", 1, packet_id=1),
                Publish("no", b"", 2, packet_id=2),
                Publish("t", b"", 2, packet_id=3),
                Publish("t", bytes(60), 1, packet_id=4),
                Pubrec(1),
                Pubrel(3),
                Unsubscribe(2, ["t", "u", "v"]),
                Disconnect(0, Properties(session_expiry_interval=0)),
                Unsubscribe(2, ["t"] * 200),
            ):
                if not client.closed:
                    client.send(packet)
                    packets.append(client.received_bytes())
            sizes.append(max(size for data in packets for size in self.sizes(data)))
            self.assertLessEqual(sizes[-1], largest)
        self.assertGreater(sizes[-1], 68)  # there was a Reason String

    def sizes(self, data: bytes) -> list[int]:
        found = [0]
        while data:
            length, at = data[1] & 0x7F, 2
            if data[1] & 0x80:
                length, at = length | data[2] << 7, 3
            found.append(at + length)
            data = data[at + length :]
        return found

    def test_a_client_that_takes_no_connack_is_refused(self) -> None:
        """Row 540. [MQTT5-3.1.2-24]"""
        for largest in (1, 2, 3, 4):
            client = self.connect(properties=Properties(maximum_packet_size=largest))
            self.assertEqual((client.connack, client.closed), ([], True), largest)
            self.assertEqual(self.harness.broker.clients.connected, 0)

    def test_what_was_in_flight_is_not_sent_to_who_takes_less_now(self) -> None:
        """[MQTT5-3.1.2-24] [MQTT5-3.1.2-25]"""
        for sessions in (None, MemorySessionStore()):
            self.harness = BrokerHarness(sessions=sessions)
            client = self.connect(properties=KEPT)
            client.subscribe("t", 2)
            publisher = self.harness.connect("publisher")
            for number, size in enumerate((5, 100, 5, 100, 5), 1):
                publisher.publish("t", bytes(size), 1 + number % 2, number)
            self.harness.advance(1)
            self.assertEqual(len(client.received()), 5)
            client.lose()
            small = Properties(session_expiry_interval=100, maximum_packet_size=40)
            client = self.connect(clean_session=False, properties=small)
            self.harness.advance(1)
            again = [one for one in client.connack + client.received() if isinstance(one, Publish)]
            self.assertEqual([len(one.payload) for one in again], [5, 5, 5])

    def test_a_suback_that_is_too_large_ends_the_connection(self) -> None:
        """Row 541. [MQTT5-3.1.2-24]"""
        for make in (
            lambda names: Subscribe(1, [Subscription(name, 0) for name in names]),
            lambda names: Unsubscribe(1, names),
        ):
            client = self.connect(properties=Properties(maximum_packet_size=20))
            client.send(make([str(number) for number in range(15)]))
            [answer] = client.received()
            self.assertEqual(len(answer.return_codes), 15)  # type: ignore[union-attr]
            client.send(make([str(number) for number in range(16)]))
            self.assertEqual(self.code(client), 0x95)


class Quality(Case):
    def both(self) -> "list[MemorySessionStore | None]":
        return [None, MemorySessionStore()]

    def test_maximum_qos_and_retain_are_what_there_is(self) -> None:
        """[MQTT5-3.2.2-9] [MQTT5-3.2.2-10] [MQTT5-3.2.2-12] [MQTT5-3.2.2-13]"""
        client = self.connect(will=Publish("w", b"x", 2, True))
        [connack] = client.connack
        assert isinstance(connack, Connack)
        assert connack.properties is not None
        told = connack.properties
        self.assertEqual((connack.return_code, told.maximum_qos, told.retain_available), (0, None, None))
        self.assertEqual(client.subscribe("w", 2), [Suback(1, [2])])

    def test_the_keep_alive_is_the_clients(self) -> None:
        """[MQTT5-3.2.2-22]"""
        client = self.connect(keep_alive=100)
        [connack] = client.connack
        assert isinstance(connack, Connack)
        assert connack.properties is not None
        self.assertIsNone(connack.properties.server_keep_alive)
        self.harness.advance(149)
        self.assertFalse(client.closed)
        self.harness.advance(3)
        self.assertEqual(self.code(client), 0x8D)

    def test_no_other_packet_waits_for_the_receive_maximum(self) -> None:
        """[MQTT5-3.3.4-10] [MQTT5-4.9.0-1] [MQTT5-4.9.0-2] [MQTT5-4.9.0-3]"""
        for sessions in self.both():
            self.harness = BrokerHarness({"no": lambda m, c: None}, sessions=sessions)
            two = Properties(receive_maximum=2, session_expiry_interval=9)
            client, publisher = self.connect(properties=two), self.connect("publisher")
            client.subscribe("t", 2)
            for number in (1, 2, 3):
                publisher.send(Publish("t", b"%d" % number, 2, packet_id=number))
            self.harness.advance(1)
            self.assertEqual(len(client.received()), 2)
            publisher.send(Publish("t", b"quick"))
            client.send(Pingreq(), Publish("no", b"", 1, packet_id=1), Publish("no", b"", 2, packet_id=2))
            client.send(Pubrel(2), Unsubscribe(7, ["none"]), Subscribe(8, [Subscription("u", 0)]), Pubrec(1))
            self.harness.advance(1)
            kinds = {type(one) for one in client.received()}
            expected = {Publish, Pingresp, Puback, Pubrec, Pubcomp, Unsuback, Suback, Pubrel}
            self.assertEqual(kinds, expected)
            client.send(Pubcomp(1))
            self.harness.advance(1)
            [third] = client.received()
            assert isinstance(third, Publish)
            self.assertEqual(third.payload, b"3")

    def test_what_was_refused_is_not_sent_again(self) -> None:
        """[MQTT5-4.4.0-2] [MQTT5-4.3.2-3] [MQTT5-4.3.3-3] [MQTT5-4.3.3-5] [MQTT5-4.3.3-6]"""
        for sessions in self.both():
            self.harness = BrokerHarness(sessions=sessions)
            client, publisher = self.connect(properties=KEPT), self.harness.connect("publisher")
            client.send(Subscribe(1, [Subscription("a", 1), Subscription("b", 2)]))
            for number, topic in enumerate("aabbb", 1):
                publisher.publish(topic, b"%d" % number, 2, number)
            self.harness.advance(1)
            sent = {one.payload: one.packet_id or 0 for one in client.received() if isinstance(one, Publish)}
            client.send(Puback(sent[b"1"], 0x97), Pubrec(sent[b"3"], 0x83), Pubrec(sent[b"4"]))
            self.harness.advance(1)
            self.assertEqual(client.received(), [Pubrel(sent[b"4"])])
            client.lose()
            client = self.connect(clean_session=False, properties=KEPT)
            self.harness.advance(1)
            again = (client.connack + client.received())[1:]
            expected: list[Packet] = [
                Publish("a", b"2", 1, dup=True, packet_id=sent[b"2"]),
                Pubrel(sent[b"4"]),
                Publish("b", b"5", 2, dup=True, packet_id=sent[b"5"]),
            ]
            self.assertEqual(again, expected)

    def test_an_identifier_is_a_new_message_when_its_exchange_is_over(self) -> None:
        """[MQTT5-4.3.2-5] [MQTT5-4.3.3-9] [MQTT5-4.3.3-12]"""
        self.harness = BrokerHarness({"no": Small.refuse.__get__(self)})
        watcher, client = self.connect("watcher"), self.connect()
        watcher.subscribe("t")
        for _ in range(2):
            client.send(Publish("t", b"1", 1, dup=True, packet_id=1))
            client.send(Publish("t", b"2", 2, dup=True, packet_id=2), Pubrel(2))
        self.assertEqual(client.received(), [Puback(1), Pubrec(2), Pubcomp(2)] * 2)
        self.assertEqual(len(watcher.received()), 4)
        client.send(Publish("no", b"", 2, packet_id=3))
        client.send(Publish("t", b"3", 2, packet_id=3))
        first, second = client.received()
        assert isinstance(first, Pubrec)
        self.assertEqual((first.reason_code, second), (0x99, Pubrec(3)))
        self.assertEqual(watcher.received(), [Publish("t", b"3")])

    def test_what_was_sent_does_not_expire_and_its_exchange_goes_on(self) -> None:
        """Row 512. [MQTT5-4.3.3-7] [MQTT5-4.3.3-13]"""
        brief = PublishProperties(message_expiry_interval=3)
        for sessions in self.both():
            self.harness = BrokerHarness(sessions=sessions)
            one = Properties(session_expiry_interval=100, receive_maximum=1)
            client, publisher = self.connect(properties=one), self.connect("publisher")
            client.subscribe("t", 2)
            for number in (1, 2):
                publisher.send(Publish("t", b"%d" % number, 2, packet_id=number, properties=brief))
            self.harness.advance(1)
            [sent] = client.received()
            assert isinstance(sent, Publish)
            assert sent.packet_id is not None
            client.lose()
            self.harness.advance(9)
            client = self.connect(clean_session=False, properties=one)
            self.harness.advance(1)
            again = (client.connack + client.received())[1:]
            over = PublishProperties(message_expiry_interval=0)
            self.assertEqual(again, [replace(sent, dup=True, properties=over)])
            client.send(Pubrec(sent.packet_id))
            self.harness.advance(1)
            self.assertEqual(client.received(), [Pubrel(sent.packet_id)])
            client.send(Pubcomp(sent.packet_id))
            self.harness.advance(1)
            self.assertEqual(client.received(), [])  # the second was never sent, and is over
            publisher.received()
            publisher.send(Pubrel(1), Pubrel(2))
            self.assertEqual(publisher.received(), [Pubcomp(1), Pubcomp(2)])

    def test_subscribing_again_sends_what_is_kept_and_loses_nothing(self) -> None:
        """[MQTT5-3.8.4-4] [MQTT5-3.3.1-9] [MQTT5-3.8.4-7] [MQTT5-3.9.3-2]"""
        for sessions in self.both():
            self.harness = BrokerHarness(sessions=sessions)
            one = Properties(session_expiry_interval=100, receive_maximum=1)
            client, publisher = self.connect(properties=one), self.harness.connect("publisher")
            publisher.publish("t/kept", b"kept", 1, 9, retain=True)
            client.subscribe("t/new", 1)
            for number in (1, 2):
                publisher.publish("t/new", b"%d" % number, 1, number)
            seen: list[bytes] = []
            for _ in range(2):
                client.send(Subscribe(2, [Subscription("t/#", 2), Subscription("t/new", 1)]))
                self.harness.advance(1)
                while packets := client.received():
                    for packet in packets:
                        if isinstance(packet, Suback):
                            self.assertEqual(packet.return_codes, [2, 1])
                        elif isinstance(packet, Publish):
                            seen.append(packet.payload)
                            client.send(Puback(packet.packet_id or 0))
                    self.harness.advance(1)
            self.assertEqual(sorted(seen), [b"1", b"2", b"kept", b"kept"])

    def test_the_codes_of_suback_and_unsuback_say_why(self) -> None:
        """[MQTT5-3.8.4-7] [MQTT5-3.9.3-2] [MQTT5-3.11.3-2]"""
        self.harness = BrokerHarness(limits=Limits(max_topic_levels=3, max_filters_per_subscribe=5))
        client = self.connect()
        filters = [Subscription(name, qos) for name, qos in (("a", 0), ("b", 1), ("c", 2), ("d/" * 9, 1))]
        client.send(Subscribe(1, [*filters, Subscription("e", 0), Subscription("f", 0)]))
        self.assertEqual(client.received(), [Suback(1, [0, 1, 2, 0x8F, 0, 0x97])])
        client.send(Unsubscribe(2, ["a", "x", "d/" * 9]))
        self.assertEqual(client.received(), [Unsuback(2, [0, 0x11, 0x11])])

    def test_after_disconnect_nothing_is_sent(self) -> None:
        """[MQTT5-3.14.4-1] [MQTT5-3.14.4-2]"""
        for reason in Reason:
            client, publisher = self.connect(), self.connect("publisher")
            client.subscribe("t", 1)
            client.protocol.close(reason, "why")
            publisher.send(Publish("t", b"", 1, packet_id=1), Publish("t", b""))
            client.send(Pingreq(), Publish("u", b"", 1, packet_id=1))
            self.assertIn([type(one) for one in client.received()], ([], [Disconnect]), reason)
            self.assertTrue(client.closed)

    def test_every_topic_alias_up_to_the_maximum_is_taken(self) -> None:
        """[MQTT5-3.3.2-12]"""
        client, watcher = self.connect(), self.connect("watcher")
        watcher.subscribe("#")
        for name in ("{}", ""):
            for alias in range(1, 17):
                message = Publish(name.format(alias), b"", properties=PublishProperties(topic_alias=alias))
                client.send(message)
        topics = [one.topic for one in watcher.received() if isinstance(one, Publish)]
        self.assertEqual(topics, [str(alias) for alias in range(1, 17)] * 2)

    def test_the_user_properties_of_a_will_keep_their_order(self) -> None:
        """[MQTT5-3.1.3-10] [MQTT5-3.3.2-18]"""
        pairs = (("b", "1"), ("a", "2"), ("b", "3"))
        watcher = self.connect("watcher")
        watcher.subscribe("w")
        will = Publish("w", b"", properties=PublishProperties(user_properties=pairs))
        self.connect(will=will).lose()
        self.assertEqual(watcher.received(), [will])

    def test_no_auth_is_sent_to_who_has_named_no_method(self) -> None:
        """[MQTT5-4.12.0-6]"""
        client = self.connect(username="u", password=b"p")
        [connack] = client.connack
        assert isinstance(connack, Connack)
        assert connack.properties is not None
        self.assertIsNone(connack.properties.authentication_method)

    def test_no_topic_alias_and_no_response_information_is_sent_unasked(self) -> None:
        """[MQTT5-3.1.2-26] [MQTT5-3.1.2-27] [MQTT5-3.1.2-28] [MQTT5-3.3.2-11]"""
        for asked in (
            Properties(),
            Properties(topic_alias_maximum=0),
            Properties(request_response_information=0),
        ):
            client = self.connect(properties=asked)
            [connack] = client.connack
            assert isinstance(connack, Connack)
            assert connack.properties is not None
            self.assertIsNone(connack.properties.response_information)
            client.subscribe("t", 1)
            for qos in (0, 1):
                for _ in range(2):
                    self.connect("publisher").send(Publish("t", b"", qos, packet_id=qos or None))
            packets = client.received()
            self.assertEqual([getattr(one, "properties", 0) for one in packets], [None] * 4)
