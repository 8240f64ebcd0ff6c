"""Clients of MQTT 5, with each other and with older ones."""

from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.records import WillGone, WillLeft
from platziverse.errors import ComesAgain, NotStorable
from platziverse.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
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
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore, MemoryStore

ALL = PublishProperties(
    payload_format_indicator=1,
    content_type="text/plain",
    response_topic="answers/here",
    correlation_data=b"\x00\xff",
    user_properties=(("b", "1"), ("a", "2"), ("b", "3")),
)


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness()

    def connect(self, client_id: str = "five", **fields: Any) -> FakeClient:
        return self.harness.connect(client_id, protocol_level=5, **fields)

    def connack(self, client: FakeClient) -> tuple[int, Properties]:
        [connack] = client.connack
        assert isinstance(connack, Connack)
        return connack.return_code, connack.properties or Properties()

    def goodbye(self, client: FakeClient) -> tuple[int, str | None]:
        """Code and Reason String of the last packet, after which the connection is closed."""
        *_, last = client.received()
        assert isinstance(last, Disconnect), last
        self.assertTrue(client.closed)
        return last.reason_code, last.properties.reason_string if last.properties else None

    def told(self, packets: list[Packet]) -> list[tuple[int, str | None]]:
        """Code and Reason String of acknowledgements."""
        found = []
        for packet in packets:
            assert isinstance(packet, (Puback, Pubrec))
            found.append((packet.reason_code, packet.properties.reason_string if packet.properties else None))
        return found


class Connecting(Case):
    def test_connack_says_what_the_client_has_to_keep_to(self) -> None:
        """[MQTT5-3.2.0-1] [MQTT5-3.1.4-5] [MQTT5-3.2.2-2]"""
        code, told = self.connack(self.connect())
        limits = Limits()
        expected = Properties(
            receive_maximum=limits.max_unfinished,
            topic_alias_maximum=16,
            maximum_packet_size=limits.max_packet_size,
        )
        self.assertEqual((code, told), (0, expected))

    def test_a_client_without_an_identifier_is_told_the_one_that_it_gets(self) -> None:
        """Row 505: with Clean Start 0 too. [MQTT5-3.1.3-6] [MQTT5-3.1.3-7] [MQTT5-3.2.2-16]"""
        for clean in (True, False):
            _, told = self.connack(self.connect("", clean_session=clean))
            self.assertTrue((told.assigned_client_identifier or "").startswith("auto-"))

    def test_a_password_alone_is_allowed(self) -> None:
        """Row 506."""
        self.assertEqual(self.connack(self.connect(password=b"secret"))[0], 0)

    def test_an_authentication_method_is_not_known(self) -> None:
        """Row 507. [MQTT5-4.12.0-1]"""
        client = self.connect(properties=Properties(authentication_method="X"))
        code, told = self.connack(client)
        self.assertEqual((code, client.closed), (0x8C, True))
        self.assertIn("'X'", told.reason_string or "")

    def test_auth_out_of_place_is_a_protocol_error(self) -> None:
        """Row 507."""
        client = self.connect()
        client.send(Auth(0x18, Properties(authentication_method="X")))
        self.assertEqual(self.goodbye(client)[0], 0x82)

    def test_what_is_wrong_with_a_connect_is_said(self) -> None:
        """[MQTT5-3.1.4-1]"""
        for data, code in (
            ("100e00044d515454050300000000016300", 0x81),
            ("101300044d5154540502000006210001210001000163", 0x82),
        ):
            client = self.harness.open(5)
            client.send_bytes(bytes.fromhex(data)[: int(data[2:4], 16) + 2])
            [connack] = client.received()
            assert isinstance(connack, Connack)
            self.assertEqual((connack.return_code, client.closed), (code, True))

    def test_a_second_connect_is_a_protocol_error(self) -> None:
        """[MQTT5-3.1.0-2]"""
        client = self.connect()
        client.send(Connect("five", protocol_level=5))
        self.assertEqual(self.goodbye(client)[0], 0x82)

    def test_a_reason_string_is_not_sent_to_who_wants_none_or_too_little(self) -> None:
        """Row 508. [MQTT5-3.1.2-29] [MQTT5-3.14.2-3]"""
        for asked in (Properties(request_problem_information=0), Properties(maximum_packet_size=20)):
            client = self.connect(properties=asked)
            client.send(Auth())
            self.assertEqual(self.goodbye(client), (0x82, None))

    def test_a_will_that_is_not_what_it_says_is_refused(self) -> None:
        will = Publish("w", b"\xff", properties=PublishProperties(1))
        self.assertEqual(self.connack(self.connect(will=will))[0], 0x99)
        good = Publish("w", b"x", properties=PublishProperties(1))
        self.assertEqual(self.connack(self.connect(will=good))[0], 0)

    def test_ends_have_their_codes(self) -> None:
        """[MQTT5-3.1.4-3] [MQTT5-3.1.2-22]"""
        first = self.connect()
        second = self.connect()
        self.assertEqual(self.goodbye(first)[0], 0x8E)
        second.send_bytes(b"\xf7\0")
        self.assertEqual(self.goodbye(second)[0], 0x81)
        quiet = self.connect("quiet", keep_alive=1)
        self.harness.advance(3)
        self.assertEqual(self.goodbye(quiet)[0], 0x8D)
        last = self.connect("last")
        self.harness.shared.close_all(Reason.SHUTTING_DOWN, "the daemon is stopping")
        self.assertEqual(self.goodbye(last), (0x8B, "the daemon is stopping"))

    def test_a_packet_that_is_too_large_has_its_code(self) -> None:
        self.harness = BrokerHarness(limits=Limits(max_packet_size=128))
        client = self.connect()
        client.send_bytes(b"\x30\x81\x01")
        self.assertEqual(self.goodbye(client)[0], 0x95)

    def test_a_client_that_leaves_gets_no_disconnect(self) -> None:
        """[MQTT5-3.14.4-3]"""
        client = self.connect()
        client.send(Disconnect())
        self.assertEqual((client.received(), client.closed), ([], True))


class Publishing(Case):
    def test_properties_are_passed_on_in_order_and_older_clients_get_the_rest(self) -> None:
        """[MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17]

        [MQTT5-3.3.2-18] [MQTT5-3.3.2-20]
        """
        five, four, publisher = self.connect(), self.harness.connect("four"), self.connect("publisher")
        for qos in (0, 1, 2):
            for subscriber in (five, four):
                subscriber.subscribe(f"{qos}/#", qos)
            number = 7 if qos else None
            publisher.send(Publish(f"{qos}/t", b"x", qos, packet_id=number, properties=ALL))
            sent = Publish(f"{qos}/t", b"x", qos, packet_id=qos or None)
            self.assertEqual(four.received(), [sent])
            self.assertEqual(five.received(), [replace(sent, properties=ALL)])

    def test_retained_messages_and_wills_keep_them(self) -> None:
        publisher = self.connect("publisher", will=Publish("w", b"x", 1, properties=ALL))
        publisher.send(Publish("t", b"x", 1, True, packet_id=1, properties=ALL))
        client = self.connect()
        self.assertEqual(client.subscribe("t")[1], Publish("t", b"x", 0, True, properties=ALL))
        client.subscribe("w")
        publisher.lose()
        self.assertEqual(client.received(), [Publish("w", b"x", properties=ALL)])

    def test_a_topic_alias_stands_for_its_name_until_the_connection_ends(self) -> None:
        """Row 509. [MQTT5-3.3.2-7] [MQTT5-3.3.2-10]"""
        subscriber = self.harness.connect("four")
        subscriber.subscribe("#")
        alias = PublishProperties(topic_alias=16)
        client = self.connect()
        for topic, payload in (("a", b"1"), ("", b"2"), ("b", b"3"), ("", b"4")):
            client.send(Publish(topic, payload, properties=alias))
        seen = [(one.topic, one.payload) for one in subscriber.received() if isinstance(one, Publish)]
        self.assertEqual(seen, [("a", b"1"), ("a", b"2"), ("b", b"3"), ("b", b"4")])
        again = self.connect()
        again.send(Publish("", b"", properties=alias))
        self.assertEqual(self.goodbye(again)[0], 0x82)

    def test_a_topic_alias_beyond_the_maximum_is_invalid(self) -> None:
        """Row 502. [MQTT5-3.3.2-9]"""
        client = self.connect()
        client.send(Publish("a", b"", properties=PublishProperties(topic_alias=17)))
        self.assertEqual(self.goodbye(client)[0], 0x94)

    def test_a_subscription_identifier_of_a_publisher_is_a_protocol_error(self) -> None:
        """Row 510. [MQTT5-3.3.4-6]"""
        client = self.connect()
        client.send(Publish("a", b"", properties=PublishProperties(subscription_identifiers=(1,))))
        self.assertEqual(self.goodbye(client)[0], 0x82)

    def test_a_payload_that_is_not_utf8_as_it_says_is_refused_in_its_place(self) -> None:
        """Row 511."""
        client, four = self.connect(), self.harness.connect("four")
        four.subscribe("t")
        bad = PublishProperties(1)
        client.send(
            Publish("t", b"1", 1, packet_id=1),
            Publish("t", b"\xff", 1, packet_id=2, properties=bad),
            Publish("t", b"3", 1, packet_id=3, properties=ALL),
            Publish("t", b"\xff", 2, packet_id=4, properties=bad),
            Publish("t", b"\xff", properties=bad),
        )
        answers = client.received()
        self.assertEqual([code for code, _ in self.told(answers)], [0, 0x99, 0, 0x99])
        self.assertEqual(len(four.received()), 2)
        client.send(Publish("t", b"new", 2, packet_id=4))
        self.assertEqual(client.received(), [Pubrec(4)])

    def test_message_expiry_counts_down_and_ends(self) -> None:
        """Row 512: live, waiting and retained. [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]"""
        kept = Properties(session_expiry_interval=100)
        client = self.connect(clean_session=False, properties=kept)
        client.subscribe("#", 1)
        client.lose()
        publisher = self.connect("publisher")
        for number, seconds in ((1, 5), (2, 20)):
            props = PublishProperties(message_expiry_interval=seconds)
            publisher.send(Publish(f"t/{number}", b"x", 1, True, packet_id=number, properties=props))
        self.harness.advance(8)
        client = self.connect(clean_session=False, properties=kept)
        left = PublishProperties(message_expiry_interval=12)
        found = [packet for packet in client.connack if isinstance(packet, Publish)]
        self.assertEqual(found, [Publish("t/2", b"x", 1, packet_id=found[0].packet_id, properties=left)])
        other = self.harness.connect("four")
        self.assertEqual(other.subscribe("t/#")[1:], [Publish("t/2", b"x", 0, True)])
        self.harness.advance(13)
        self.assertEqual(self.connect("late").subscribe("t/#")[1:], [])

    def test_a_message_that_is_too_large_is_dropped_for_its_receiver_alone(self) -> None:
        """[MQTT5-3.1.2-24] [MQTT5-3.1.2-25]"""
        small = self.connect("small", properties=Properties(maximum_packet_size=40))
        small.subscribe("#", 1)
        four, publisher = self.harness.connect("four"), self.connect("publisher")
        four.subscribe("#", 1)
        for qos in (0, 1):
            for size in (5, 30, 31, 60, 5):
                publisher.send(Publish("t", bytes(size), qos, packet_id=qos or None))
        self.assertEqual(len(four.received()), 10)
        sizes = [len(one.payload) for one in small.received() if isinstance(one, Publish)]
        self.assertEqual(sizes, [5, 30, 31, 5] * 2)
        self.assertEqual(self.harness.broker.traffic.publish_too_large, 2)
        publisher.send(Publish("r", bytes(60), 1, True, packet_id=3), Publish("q", bytes(60), 0, True))
        self.assertEqual(len(small.subscribe("+")), 1)
        self.assertEqual(self.harness.broker.traffic.publish_too_large, 6)

    def test_no_more_is_in_flight_than_the_client_takes(self) -> None:
        """Row 513: of this connection, not the one before. [MQTT5-3.3.4-9]"""
        three = Properties(session_expiry_interval=9, receive_maximum=3)
        client = self.connect(clean_session=False, properties=three)
        client.subscribe("t", 2)
        publisher = self.harness.connect("publisher")
        for number in range(1, 6):
            publisher.publish("t", b"%d" % number, 1 + number % 2, number)
        first = client.received()
        self.assertEqual(len(first), 3)
        client.lose()
        one = Properties(session_expiry_interval=9, receive_maximum=1)
        client = self.connect(clean_session=False, properties=one)
        payloads = []
        packets = client.connack[1:]
        while packets:
            [packet] = packets
            if isinstance(packet, Pubrel):
                client.send(Pubcomp(packet.packet_id))
            else:
                assert isinstance(packet, Publish)
                payloads.append(packet.payload)
                number = packet.packet_id or 0
                client.send(Pubrec(number) if packet.qos == 2 else Puback(number))
            packets = client.received()
        self.assertEqual(payloads, [b"1", b"2", b"3", b"4", b"5"])

    def test_a_client_refuses_a_message_and_gets_no_pubrel(self) -> None:
        """Row 514. [MQTT5-4.3.3-4]"""
        for sessions in (None, MemorySessionStore()):
            self.harness = BrokerHarness(sessions=sessions)
            kept = Properties(session_expiry_interval=9, receive_maximum=1)
            client = self.connect(clean_session=False, properties=kept)
            client.subscribe("t", 2)
            publisher = self.harness.connect("publisher")
            for number in (1, 2):
                publisher.publish("t", b"%d" % number, 2, number)
            self.harness.advance(1)
            client.received()
            client.send(Pubrec(1, 0x97), Pubrec(9, 0x80))
            self.harness.advance(1)
            [second] = client.received()
            assert isinstance(second, Publish)
            self.assertEqual((second.payload, second.dup), (b"2", False))

    def test_pubrel_for_an_unknown_message_is_told(self) -> None:
        """[MQTT5-4.3.3-11]"""
        client = self.connect()
        client.send(Publish("t", b"", 2, packet_id=1), Pubrel(1), Pubrel(1))
        self.assertEqual(client.received(), [Pubrec(1, 0x10), Pubcomp(1), Pubcomp(1, 0x92)])


class Refusing(Case):
    def send(self, handler: Any, qos: int = 1) -> FakeClient:
        self.harness = BrokerHarness({"t": handler})
        client = self.connect()
        client.send(Publish("t", b"x", qos, packet_id=1 if qos else None))
        return client

    def test_a_handler_that_refuses_or_fails_is_told_with_its_reason(self) -> None:
        def refuses(message: Publish, client: Client) -> Deferred[Any]:
            return succeed(Refused(Reason.PAYLOAD_INVALID, "no number"))

        def fails(error: Exception) -> Any:
            return lambda message, client: fail(error)

        for handler, code, text in (
            (refuses, 0x99, "no number"),
            (fails(Refused(Reason.QUOTA, "full")), 0x97, "full"),
            (fails(NotStorable("a NUL")), 0x99, "a NUL"),
            (fails(ValueError("bug")), 0x80, "its message was not handled"),
        ):
            for qos in (1, 2):
                client = self.send(handler, qos)
                self.assertEqual(self.told(client.received()), [(code, text)])
                self.assertFalse(client.closed)
                client.send(Publish("t", b"x", qos, packet_id=1))
                self.assertEqual(self.told(client.received()), [(code, text)])
            client = self.send(handler, 0)
            self.assertEqual((client.received(), client.closed), ([], False))

    def test_what_has_to_come_again_ends_the_connection(self) -> None:
        client = self.send(lambda message, client: fail(ComesAgain("stopping")))
        self.assertEqual(self.goodbye(client), (0x80, "its message was not handled"))

    def test_an_older_client_hears_nothing_of_a_refusal_that_is_done_with(self) -> None:
        refuses: Any = lambda message, client: succeed(Refused(Reason.QUOTA, "full"))  # noqa: E731
        harness = BrokerHarness({"t": refuses})
        client = harness.connect()
        client.publish("t", b"", 1, 1)
        client.publish("t", b"", 2, 2)
        self.assertEqual(client.received(), [Puback(1), Pubrec(2)])
        client.send(Pubrel(2))
        self.assertEqual(client.received(), [Pubcomp(2)])

    def test_a_payload_that_cannot_become_rows_is_refused_with_its_path(self) -> None:
        self.harness = BrokerHarness(reports=MemoryStore())
        client = self.connect()
        client.send(Publish("agent/message", b"Hello", 1, packet_id=1))
        [(code, text)] = self.told(client.received())
        self.assertEqual((code, text), (0x99, "JSON is malformed: invalid character (byte 0)"))
        self.assertFalse(client.closed)

    def test_a_denied_publish_is_told(self) -> None:
        client = self.connect()
        client.send(Publish("$SYS/x", b"", 1, packet_id=1), Publish("$SYS/x", b"", 2, packet_id=2))
        self.assertEqual(self.told(client.received()), [(0x87, "not allowed to publish there")] * 2)
        four = self.harness.connect("four")
        four.publish("$SYS/x", b"", 1, 1)
        self.assertEqual(four.received(), [Puback(1)])


class Subscribing(Case):
    def test_options_of_a_subscription(self) -> None:
        """[MQTT5-3.8.3-3] [MQTT5-3.3.1-12] [MQTT5-3.3.1-13]"""
        client, other = self.connect(), self.connect("other")
        for qos in (0, 1):
            wanted = [
                Subscription(f"{qos}/local", qos, no_local=True),
                Subscription(f"{qos}/published", qos, retain_as_published=True),
                Subscription(f"{qos}/plain", qos),
            ]
            client.send(Subscribe(1, wanted))
            client.received()
            for sender in (client, other):
                for name in ("local", "published", "plain"):
                    sender.send(Publish(f"{qos}/{name}", b"x", qos, True, packet_id=7 if qos else None))
            own = [("published", True), ("plain", False)]
            got = [(one.topic[2:], one.retain) for one in client.received() if isinstance(one, Publish)]
            self.assertEqual(got, [*own, ("local", False), *own])

    def test_overlapping_subscriptions_are_one_copy_with_what_all_grant(self) -> None:
        """[MQTT5-3.3.4-2]"""
        client = self.connect()
        client.send(
            Subscribe(
                1,
                [
                    Subscription("a/#", 1, no_local=True),
                    Subscription("a/b", 0, retain_as_published=True),
                    Subscription("+/b", 0),
                ],
            )
        )
        client.received()
        client.send(Publish("a/b", b"x", 1, True, packet_id=1), Publish("a/c", b"x", 1, packet_id=2))
        sent = Publish("a/b", b"x", 1, True, packet_id=1)
        self.assertEqual(client.received(), [Puback(1), Puback(2), sent])

    def test_retain_handling(self) -> None:
        """[MQTT5-3.3.1-9] [MQTT5-3.3.1-10] [MQTT5-3.3.1-11]"""
        for sessions in (None, MemorySessionStore()):
            self.harness = BrokerHarness(sessions=sessions)
            self.connect("publisher").send(Publish("t", b"x", 1, True, packet_id=1))
            client = self.connect(clean_session=False, properties=Properties(session_expiry_interval=9))
            counts = []
            for handling in (2, 1, 1, 0, 0, 2):
                client.send(Subscribe(1, [Subscription("t", 1, retain_handling=handling)]))
                self.harness.advance(1)
                packets = client.received()
                counts.append(len(packets) - 1)
                client.send(*(Puback(one.packet_id or 0) for one in packets if isinstance(one, Publish)))
                if counts == [0]:
                    client.send(Unsubscribe(2, ["t"]))
                    client.received()
            self.assertEqual(counts, [0, 1, 0, 1, 1, 0])

    def test_refusals_have_their_codes(self) -> None:
        """[MQTT5-3.9.3-1]"""
        self.harness = BrokerHarness(limits=Limits(max_topic_levels=2, max_subscriptions=1))
        client = self.connect()
        wanted = ["a", "a/b/c/d", "b", "$share/g/t"]
        client.send(Subscribe(1, [Subscription(name, 1) for name in wanted]))
        self.assertEqual(client.received(), [Suback(1, [1, 0x8F, 0x97, 0x97])])
        client.send(Unsubscribe(2, ["a", "a", "b"]))
        self.assertEqual(client.received(), [Unsuback(2, [0, 0x11, 0x11])])
        client.send(Subscribe(3, [Subscription("$share/g", 1)]))
        self.assertEqual(client.received(), [Suback(3, [0x8F])])


class Leaving(Case):
    def session(self) -> Any:
        return self.harness.broker.sessions.get("five")

    def expire(self, seconds: float) -> bool:
        """Return whether the Session is there after so many seconds."""
        self.harness.advance(seconds)
        self.harness.broker.expire()
        return self.session() is not None

    def test_a_session_is_kept_as_long_as_its_client_wants_within_the_setting(self) -> None:
        """Row 515: 0 at once, some seconds, and for ever. [MQTT5-3.1.2-23] [MQTT5-4.1.0-2]"""
        for asked, told, there in (
            (None, None, (False,)),
            (0, None, (False,)),
            (10, None, (True, True, False)),
            (100, 60, (True, True, True, False)),
            (0xFFFFFFFF, 60, (True, True, True, False)),
        ):
            self.harness = BrokerHarness(limits=Limits(session_expiry=60))
            client = self.connect(properties=Properties(session_expiry_interval=asked))
            self.assertEqual(self.connack(client)[1].session_expiry_interval, told)
            client.lose()
            waits = (0, 8, 4, 60)[: len(there)]
            self.assertEqual(tuple(self.expire(seconds) for seconds in waits), there, asked)

    def test_for_ever_is_for_ever_without_a_setting(self) -> None:
        self.harness = BrokerHarness(limits=Limits(session_expiry=0))
        client = self.connect(properties=Properties(session_expiry_interval=0xFFFFFFFF))
        self.assertIsNone(self.connack(client)[1].session_expiry_interval)
        client.lose()
        self.assertTrue(self.expire(100_000))

    def test_clean_start_ends_what_was_and_the_new_session_is_kept(self) -> None:
        """[MQTT5-3.1.2-4] [MQTT5-3.1.2-5] [MQTT5-3.1.2-6] [MQTT5-3.2.2-3]"""
        for sessions in (None, MemorySessionStore()):
            self.harness = BrokerHarness(sessions=sessions)
            kept = Properties(session_expiry_interval=50)
            present = []
            for clean in (True, False, True, False):
                client = self.connect(clean_session=clean, properties=kept)
                [connack] = client.connack
                assert isinstance(connack, Connack)
                present.append(connack.session_present)
                client.lose()
                self.harness.advance(1)
            self.assertEqual(present, [False, True, False, True])

    def test_disconnect_may_change_how_long(self) -> None:
        """[MQTT5-3.14.2-2]"""
        for first, then, there in ((50, 0, False), (50, 5, True), (50, None, True)):
            client = self.connect(properties=Properties(session_expiry_interval=first))
            client.send(Disconnect(0, Properties(session_expiry_interval=then)))
            self.assertEqual(self.session() is not None, there)
        client = self.connect()
        client.send(Disconnect(0, Properties(session_expiry_interval=5)))
        self.assertEqual(self.goodbye(client)[0], 0x82)

    def test_a_client_that_leaves_changes_nothing_of_others_that_have_asked_for_nothing(self) -> None:
        self.connect()
        other = self.connect("other")
        other.send(Disconnect(0, Properties(session_expiry_interval=0)))
        self.assertTrue(other.closed)
        self.assertIsNone(self.session().terms.expiry)

    def test_a_will_is_sent_if_disconnect_says_so(self) -> None:
        """[MQTT5-3.1.2-10] [MQTT5-3.14.4-3]"""
        watcher = self.harness.connect("four")
        watcher.subscribe("w")
        for code, count in ((0, 0), (4, 1), (0x80, 1)):
            client = self.connect(will=Publish("w", b"x"))
            client.send(Disconnect(code))
            self.assertEqual(len(watcher.received()), count, code)
            self.assertTrue(client.closed)

    def test_a_will_waits_for_its_client_to_come_back(self) -> None:
        """Row 516: not sent, sent once, or when the Session ends. [MQTT5-3.1.3-9] [MQTT5-3.1.2-8]"""
        for sessions in (None, MemorySessionStore()):
            self.harness = BrokerHarness(sessions=sessions)
            watcher = self.harness.connect("four")
            watcher.subscribe("w")
            for expiry, clean, wait, early, late in (
                (100, False, 5, 0, 0),  # back in time
                (100, False, 15, 1, 0),  # too late: it was sent
                (100, True, 5, 0, 1),  # back in time, with another Session
                (6, False, 7, 1, 0),  # the Session ends first
                (0, False, 0, 1, 0),
            ):
                kept = Properties(session_expiry_interval=expiry)
                client = self.connect(will=Publish("w", b"x"), will_delay=10, properties=kept)
                self.harness.advance(1)
                client.lose()
                self.harness.advance(wait)
                self.assertEqual(len(watcher.received()), early, (expiry, clean, wait))
                again = self.connect(clean_session=clean, properties=kept)
                self.assertEqual(len(watcher.received()), late, (expiry, clean, wait))
                self.harness.advance(20)
                again.send(Disconnect(0, Properties(session_expiry_interval=0)))
                self.assertEqual(watcher.received(), [])
                self.assertEqual(len(self.harness.broker.clients.farewells.delayed), 0)

    def test_a_will_of_a_client_that_is_taken_over_waits_too(self) -> None:
        """Row 516."""
        watcher = self.harness.connect("four")
        watcher.subscribe("w")
        kept = Properties(session_expiry_interval=100)
        for clean, count in ((False, 0), (True, 1)):
            self.connect(will=Publish("w", b"x"), will_delay=10, properties=kept)
            self.connect(clean_session=clean, properties=kept)
            self.harness.advance(20)
            self.assertEqual(len(watcher.received()), count)

    def test_a_will_that_waits_is_the_others_when_they_have_taken_over(self) -> None:
        """Row 516."""
        store = MemorySessionStore()
        harness = self.harness = BrokerHarness(sessions=store)
        watcher = harness.connect("four")
        watcher.subscribe("w")
        kept = Properties(session_expiry_interval=100)
        client = self.connect(will=Publish("w", b"x"), will_delay=10, properties=kept)
        harness.advance(1)
        client.lose()
        (left, _) = [record for record in store.records if isinstance(record, WillLeft)]
        store.save(WillGone("five", left.connection))  # it is another daemon's now
        harness.broker.begin_anew()
        harness.advance(1)
        again = harness.connect("again")
        again.subscribe("w")
        harness.advance(20)
        self.assertEqual((len(harness.broker.clients.farewells.delayed), again.received()), (0, []))

    def test_a_durable_session_keeps_its_time_and_its_messages_their_properties(self) -> None:
        """Row 512. [MQTT5-3.3.2-5]"""
        store = MemorySessionStore()
        harness = self.harness = BrokerHarness(sessions=store, wall_clock=1_000.0)
        kept = Properties(session_expiry_interval=50)
        client = self.connect(properties=kept)
        client.send(Subscribe(1, [Subscription("t", 1, retain_as_published=True)]))
        harness.advance(1)
        client.lose()
        publisher = self.connect("publisher")
        brief = PublishProperties(message_expiry_interval=5)
        publisher.send(Publish("t", b"1", 1, True, packet_id=1, properties=ALL))
        publisher.send(Publish("t", b"2", 1, packet_id=2, properties=brief))
        harness.advance(2)
        now = harness.now()
        harness = self.harness = BrokerHarness(sessions=store, wall_clock=now + 10)
        session = self.session()
        self.assertEqual((session.terms.expiry, session.subscriptions), (50, {"t": 9}))
        client = self.connect(clean_session=False, properties=Properties(session_expiry_interval=20))
        harness.advance(1)
        found = [one for one in client.connack + client.received() if isinstance(one, Publish)]
        self.assertEqual(found, [Publish("t", b"1", 1, True, True, 1, ALL)])
        retained = self.connect("other").subscribe("t", 1)[1:]
        self.assertEqual(retained, [Publish("t", b"1", 1, True, False, 1, ALL)])
        client.lose()
        harness.advance(1)
        self.harness = BrokerHarness(sessions=store, wall_clock=harness.now())
        self.assertEqual(self.session().terms.expiry, 20)
        self.harness.connect("five", clean_session=False).lose()
        self.harness.advance(1)
        self.harness = BrokerHarness(sessions=store, wall_clock=self.harness.now())
        self.assertIsNone(self.session().terms.expiry)

    def test_a_stored_will_keeps_its_properties_too(self) -> None:
        store = MemorySessionStore()
        harness = self.harness = BrokerHarness(sessions=store)
        harness.advance(1)
        timed = PublishProperties(message_expiry_interval=5, content_type="t")
        self.connect("leaver", will=Publish("w", b"x", 1, True, properties=timed))
        harness.advance(1)
        self.harness = BrokerHarness(sessions=store, wall_clock=harness.now())
        self.harness.advance(1)
        [_, message] = self.connect().subscribe("w")
        left = PublishProperties(message_expiry_interval=4, content_type="t")
        self.assertEqual(message, Publish("w", b"x", 0, True, properties=left))


class Leftovers(Case):
    def test_what_came_before_the_end_is_published(self) -> None:
        publisher = self.connect(password=b"x")
        subscriber = self.harness.connect("four")
        subscriber.subscribe("#")
        publisher.protocol.reading.hold_reading(1)
        publisher.send(Publish("a", b"1", properties=PublishProperties(topic_alias=1)))
        publisher.send(Publish("", b"2", properties=PublishProperties(topic_alias=1)))
        publisher.lose()
        self.assertEqual(subscriber.received(), [Publish("a", b"1"), Publish("a", b"2")])
