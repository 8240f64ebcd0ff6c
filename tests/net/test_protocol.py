"""Conversations with a whole broker over fake transports: CONNECT, QoS, deadlines, order."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
    Disconnect,
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
from platziverse.testing import BrokerHarness, OpenAuthority
from tests.net.doubles import Store


class Connecting(SynchronousTestCase):
    def test_connack_says_whether_a_session_was_there(self) -> None:
        """[MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT-3.1.2-4] [MQTT-3.1.2-6] [MQTT-3.1.4-3]"""
        harness = BrokerHarness()
        first = harness.connect("one", clean_session=False)
        self.assertEqual(first.connack, [Connack(False, ConnectReturnCode.ACCEPTED)])
        first.send(Disconnect())
        second = harness.connect("one", clean_session=False)
        self.assertEqual(second.connack, [Connack(True, ConnectReturnCode.ACCEPTED)])
        second.send(Disconnect())
        clean = harness.connect("one")
        self.assertEqual(clean.connack, [Connack(False, ConnectReturnCode.ACCEPTED)])
        clean.send(Disconnect())
        again = harness.connect("one", clean_session=False)
        self.assertEqual(again.connack, [Connack(False, ConnectReturnCode.ACCEPTED)])

    def test_an_empty_client_id_gets_a_unique_one(self) -> None:
        """[MQTT-3.1.3-6]"""
        harness = BrokerHarness()
        first, second = harness.connect(""), harness.connect("")
        self.assertFalse(first.closed or second.closed)
        self.assertEqual(len({session.client_id for session in harness.broker.sessions}), 2)

    def test_an_empty_client_id_with_clean_session_0_is_refused(self) -> None:
        """row 18 [MQTT-3.1.3-8] [MQTT-3.1.3-9]"""
        client = BrokerHarness().connect("", clean_session=False)
        self.assertEqual(client.connack, [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)])
        self.assertTrue(client.closed)

    def test_nothing_behind_a_refused_connect_is_handled(self) -> None:
        """[MQTT-3.1.4-5]"""
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.open()
        client.send(Connect("", clean_session=False), Publish("t", b"x"), Pingreq())
        self.assertEqual(client.received(), [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)])
        self.assertEqual(store.messages, [])

    def test_a_too_long_client_id_is_refused(self) -> None:
        """row 19"""
        harness = BrokerHarness()
        for client_id in (":", "../", "'", "a b", "\U0001f600", "x" * 1024):
            self.assertFalse(harness.connect(client_id).closed)
        client = harness.connect("x" * 1025)
        self.assertEqual(client.connack, [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)])

    def test_second_connect_closes_the_connection(self) -> None:
        """row 13 [MQTT-3.1.0-2]"""
        harness = BrokerHarness()
        client = harness.connect("one")
        client.send(Connect("one"))
        self.assertTrue(client.closed)
        self.assertEqual(harness.broker.traffic.protocol_errors, {"MQTT-3.1.0-2": 1})

    def test_silence_is_closed_at_the_connect_deadline(self) -> None:
        """row 14"""
        harness = BrokerHarness()
        client = harness.open()
        harness.advance(9.5)
        self.assertFalse(client.closed)
        harness.advance(1.5)
        self.assertTrue(client.closed)
        self.assertEqual(client.received_bytes(), b"")

    def test_the_deadline_is_for_the_whole_connect(self) -> None:
        """row 14"""
        harness = BrokerHarness()
        client = harness.open()
        for byte in encode(Connect("slow"))[:-1]:
            client.send_bytes(bytes([byte]))
            harness.advance(1.5)
            if client.closed:
                break
        self.assertTrue(client.closed)
        self.assertLessEqual(harness.clock.seconds(), 12.0)

    def test_a_new_connection_takes_the_client_id_over(self) -> None:
        """row 24 [MQTT-3.1.4-2] [MQTT-3.1.3-2]"""
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will")
        old = harness.connect("one", will=Publish("will", b"gone"))
        new = harness.connect("one")
        self.assertTrue(old.closed)
        self.assertFalse(new.closed)
        self.assertEqual(watcher.received(), [Publish("will", b"gone")])
        self.assertEqual(harness.broker.connected, 2)

    def test_ten_thousand_take_overs_leave_one_session(self) -> None:
        """row 24"""
        harness = BrokerHarness(limits=Limits(connect_delay=0))
        for _ in range(10_000):
            client = harness.connect("one", clean_session=False)
        self.assertFalse(client.closed)
        self.assertEqual((len(harness.broker.sessions), len(harness.shared.connections)), (1, 1))

    def test_a_flapping_client_is_delayed_and_never_banned(self) -> None:
        """rows 24 and 30"""
        harness = BrokerHarness(limits=Limits(max_connects_per_minute=2))
        for _ in range(2):
            self.assertTrue(harness.connect("flap").connack)
        third = harness.connect("flap")
        self.assertEqual(third.connack, [])
        other = harness.connect("other")
        self.assertTrue(other.connack)
        harness.advance(1)
        self.assertEqual(third.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])
        harness.advance(61)
        self.assertTrue(harness.connect("flap").connack)

    def test_a_long_delay_is_not_taken_for_a_slow_connect(self) -> None:
        """Row 24."""
        harness = BrokerHarness(limits=Limits(max_connects_per_minute=1, connect_delay=30))
        harness.connect("flap")
        late = harness.connect("flap")
        harness.advance(31)
        self.assertEqual(late.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])

    def test_packets_sent_right_behind_connect_are_handled(self) -> None:
        """row 45, as ``mqtt pub`` sends them; section 3.1.4"""
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.open()
        client.send(Connect("one"), Publish("t", b"x"), Disconnect())
        self.assertEqual([message.payload for message in store.messages], [b"x"])
        self.assertTrue(client.closed)
        store.commit()
        self.assertEqual(harness.shared.flow.unfinished, 0)


class QoS(SynchronousTestCase):
    def test_puback_waits_for_the_commit(self) -> None:
        store = Store()
        client = BrokerHarness({"agent/message": store}).connect()
        client.publish("agent/message", b"1", 1, 7)
        self.assertEqual(client.received(), [])
        store.commit()
        self.assertEqual(client.received(), [Puback(7)])

    def test_pubrec_waits_for_the_commit(self) -> None:
        """[MQTT-4.3.3-2]"""
        store = Store()
        client = BrokerHarness({"agent/message": store}).connect()
        client.publish("agent/message", b"1", 2, 7)
        self.assertEqual(client.received(), [])
        store.commit()
        self.assertEqual(client.received(), [Pubrec(7)])
        client.send(Pubrel(7))
        self.assertEqual(client.received(), [Pubcomp(7)])

    def test_acknowledgements_leave_in_the_order_of_their_publishes(self) -> None:
        """row 62 [MQTT-4.6.0-2] [MQTT-4.6.0-3]"""
        store = Store()
        client = BrokerHarness({"slow": store}).connect()
        for number, (topic, qos) in enumerate(
            [("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2), ("slow", 0)], 1
        ):
            client.publish(topic, b"", qos, number if qos else None)
        store.commit(1)
        self.assertEqual(client.received(), [])
        store.commit(0)
        self.assertEqual(client.received(), [Puback(1), Puback(2), Pubrec(3), Pubrec(4)])

    def test_acknowledgements_of_one_commit_are_one_write_and_counted_each(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect()
        for packet_id in (1, None, 2, 3):
            client.publish("t", b"", 1 if packet_id else 0, packet_id)
        written: list[bytes] = []
        before = harness.broker.traffic.messages_sent
        self.patch(client.transport, "write", written.append)
        store.commit()
        harness.turn()
        self.assertEqual(written, [b"".join(encode(Puback(number)) for number in (1, 2, 3))])
        self.assertEqual(harness.broker.traffic.messages_sent - before, 3)

    def test_a_failed_handler_closes_the_connection_without_puback(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect()
        client.publish("t", b"", 1, 1)
        store.answers[0].errback(ValueError("no"))
        self.assertEqual(client.received_bytes(), b"")
        self.assertTrue(client.closed)
        self.assertEqual(harness.shared.flow.unfinished, 0)

    def test_a_handler_that_raises_costs_only_its_own_client(self) -> None:
        """row 85 [MQTT-4.8.0-2]"""

        def broken(message: Publish, client: Client) -> Answer:
            raise KeyError("bug")

        harness = BrokerHarness({"t": broken})
        bad, good = harness.connect("bad"), harness.connect("good")
        bad.publish("t", b"", 1, 1)
        self.assertTrue(bad.closed)
        self.assertEqual(harness.broker.traffic.internal_errors, 1)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        good.send(Pingreq())
        self.assertEqual(good.received(), [Pingresp()])

    def test_a_handler_that_raises_when_the_peer_has_gone_leaves_nothing_behind(self) -> None:
        """Row 85."""
        store = Store()

        def handle(message: Publish, client: Client) -> Answer:
            if message.payload == b"bad":
                raise KeyError("bug")
            return store(message, client)

        harness = BrokerHarness({"t": handle}, Limits(max_unfinished=1))
        client = harness.connect("one")
        client.send(Publish("t", b"1"), Publish("t", b"bad"))
        client.lose()
        self.assertEqual((harness.broker.connected, len(harness.broker.sessions)), (0, 0))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_a_handler_that_raises_for_a_will_holds_up_nobody(self) -> None:
        """row 85"""

        def broken(message: Publish, client: Client) -> Answer:
            raise KeyError("bug")

        harness = BrokerHarness({"w": broken, "announced": broken})
        harness.connect("one", will=Publish("w", b"")).lose()
        harness.broker.announce("announced", b"")
        self.assertEqual((harness.broker.connected, len(harness.broker.sessions)), (0, 0))
        self.assertEqual(harness.broker.traffic.internal_errors, 2)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)

    def test_a_repeated_qos_2_publish_is_answered_but_not_routed_again(self) -> None:
        """row 57 [MQTT-4.3.3-2]"""
        store = Store()
        client = BrokerHarness({"t": store}).connect()
        client.publish("t", b"x", 2, 5)
        client.publish("t", b"x", 2, 5, dup=True)
        self.assertEqual(client.received(), [])
        store.commit()
        self.assertEqual(client.received(), [Pubrec(5), Pubrec(5)])
        client.publish("t", b"x", 2, 5, dup=True)
        self.assertEqual(client.received(), [Pubrec(5)])
        self.assertEqual(len(store.messages), 1)
        client.send(Pubrel(5))
        client.publish("t", b"y", 2, 5)
        self.assertEqual(len(store.messages), 2)

    def test_a_repetition_on_a_new_connection_waits_for_the_first_commit(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        old = harness.connect("one", clean_session=False)
        old.publish("t", b"x", 2, 5)
        old.lose()
        new = harness.connect("one", clean_session=False)
        new.publish("t", b"x", 2, 5, dup=True)
        self.assertEqual(new.received(), [])
        store.commit()
        self.assertEqual(new.received(), [Pubrec(5)])
        self.assertEqual(len(store.messages), 1)

    def test_pubrel_for_an_unknown_id_is_answered(self) -> None:
        """row 58"""
        client = BrokerHarness().connect()
        client.send(Pubrel(99))
        self.assertEqual(client.received(), [Pubcomp(99)])

    def test_publishes_that_are_never_released_expire(self) -> None:
        """row 59"""
        harness = BrokerHarness(limits=Limits(max_awaiting_pubrel=2))
        client = harness.connect()
        client.publish("t", b"", 2, 1)
        client.publish("t", b"", 2, 2)
        harness.advance(301)
        client.publish("t", b"", 2, 3)
        self.assertFalse(client.closed)
        client.publish("t", b"", 2, 4)
        client.publish("t", b"", 2, 5)
        self.assertTrue(client.closed)

    def test_unknown_acknowledgements_are_counted(self) -> None:
        """row 56"""
        harness = BrokerHarness()
        client = harness.connect()
        client.send(Puback(1), Pubcomp(2))
        client.send(Pubrec(3))
        self.assertFalse(client.closed)
        self.assertEqual(client.received(), [Pubrel(3)])
        self.assertEqual(harness.broker.traffic.unknown_acknowledgements, 3)

    def test_an_acknowledgement_of_the_wrong_kind_closes(self) -> None:
        """row 56"""
        for qos, wrong in ((1, Pubrec(1)), (2, Puback(1)), (1, Pubcomp(1)), (2, Pubcomp(1))):
            client = BrokerHarness().connect()
            client.subscribe("t", qos)
            client.publish("t", b"", qos, 9)
            client.send(wrong)
            self.assertTrue(client.closed, (qos, wrong))

    def test_a_message_is_received_once_at_every_qos(self) -> None:
        """[MQTT-2.3.1-5] [MQTT-4.6.0-6]"""
        client = BrokerHarness().connect()
        client.subscribe("t", 2)
        client.publish("t", b"0")
        client.publish("t", b"1", 1, 1)
        client.publish("t", b"2", 2, 2)
        self.assertEqual(
            client.received(),
            [
                Publish("t", b"0"),
                Publish("t", b"1", 1, packet_id=1),
                Puback(1),
                Publish("t", b"2", 2, packet_id=2),
                Pubrec(2),
            ],
        )
        client.send(Puback(1), Pubrec(2))
        self.assertEqual(client.received(), [Pubrel(2)])
        client.send(Pubcomp(2))
        session = next(iter(client.protocol.shared.broker.sessions))
        self.assertEqual(session.inflight, 0)

    def test_packet_identifiers_skip_zero_and_those_in_use(self) -> None:
        """row 63 [MQTT-2.3.1-1] [MQTT-2.3.1-4]"""
        client = BrokerHarness(limits=Limits(max_inflight=65_534)).connect()
        client.subscribe("t", 1)
        client.publish("t", b"", 1, 1)
        first = client.received()[0]
        assert isinstance(first, Publish)
        session = next(iter(client.protocol.shared.broker.sessions))
        session._last_id = 65_534
        client.publish("t", b"", 1, 1)
        client.publish("t", b"", 1, 1)
        ids = [packet.packet_id for packet in client.received() if isinstance(packet, Publish)]
        self.assertEqual((first.packet_id, ids), (1, [65_535, 2]))


class Sessions(SynchronousTestCase):
    def test_everything_unacknowledged_is_sent_again_in_order(self) -> None:
        """[MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1] [MQTT-3.1.2-5] [MQTT-4.1.0-1]"""
        harness = BrokerHarness()
        sender = harness.connect("sender")
        client = harness.connect("one", clean_session=False)
        client.subscribe("t", 2)
        for number, qos in enumerate((1, 2, 2, 1), 1):
            sender.publish("t", b"%d" % number, qos, number)
        client.received()
        client.send(Pubrec(2))
        client.lose()
        sender.publish("t", b"5", 1, 9)
        sender.publish("t", b"zero")
        again = harness.connect("one", clean_session=False)
        self.assertEqual(
            again.connack,
            [
                Connack(True, ConnectReturnCode.ACCEPTED),
                Publish("t", b"1", 1, dup=True, packet_id=1),
                Pubrel(2),
                Publish("t", b"3", 2, dup=True, packet_id=3),
                Publish("t", b"4", 1, dup=True, packet_id=4),
                Publish("t", b"5", 1, packet_id=5),
            ],
        )

    def test_nothing_is_sent_again_on_a_living_connection(self) -> None:
        """row 55"""
        harness = BrokerHarness()
        client = harness.connect("one")
        client.subscribe("t", 1)
        for number in range(25):
            client.publish("t", b"", 1, number + 1)
        received = [packet for packet in client.received() if isinstance(packet, Publish)]
        self.assertEqual(len(received), 20)
        harness.advance(3600)
        self.assertEqual(client.received(), [])
        client.send(Puback(1), Puback(2))
        self.assertEqual([type(packet) for packet in client.received()], [Publish, Publish])

    def test_the_queue_of_an_absent_client_keeps_the_oldest(self) -> None:
        harness = BrokerHarness(limits=Limits(max_queued_messages=3))
        harness.connect("one", clean_session=False).subscribe("t", 1)
        harness.connect("one", clean_session=False).lose()
        sender = harness.connect("sender")
        for number in range(5):
            sender.publish("t", b"%d" % number, 1, 1)
        again = harness.connect("one", clean_session=False)
        payloads = [packet.payload for packet in again.connack if isinstance(packet, Publish)]
        self.assertEqual(payloads, [b"0", b"1", b"2"])

    def test_an_absent_session_expires(self) -> None:
        harness = BrokerHarness(limits=Limits(session_expiry=100))
        harness.connect("one", clean_session=False).subscribe("t", 1)
        next(iter(harness.shared.connections)).close(Reason.ADMINISTRATIVE, "a test")
        harness.advance(99)
        harness.broker.expire_sessions()
        self.assertEqual(len(harness.broker.sessions), 1)
        harness.advance(2)
        harness.broker.expire_sessions()
        self.assertEqual((len(harness.broker.sessions), len(harness.broker.subscriptions)), (0, 0))

    def test_everything_is_given_back_when_clean_clients_leave(self) -> None:
        """[MQTT-4.1.0-2]"""
        harness = BrokerHarness()
        for number in range(100):
            client = harness.connect(f"c{number}")
            client.subscribe("a/+/b", 1)
            client.publish("a/x/b", b"", 1, 1)
            client.lose()
        broker = harness.broker
        self.assertEqual((len(broker.sessions), len(broker.subscriptions), broker.connected), (0, 0, 0))
        self.assertEqual(len(harness.shared.connections), 0)


class Subscribing(SynchronousTestCase):
    def test_retained_messages_outlive_the_session_of_their_publisher(self) -> None:
        """[MQTT-3.1.2-7]"""
        harness = BrokerHarness()
        sender = harness.connect("sender")
        sender.publish("t", b"kept", retain=True)
        sender.send(Disconnect())
        harness.connect("sender")
        self.assertEqual(harness.connect("one").subscribe("t")[1:], [Publish("t", b"kept", 0, True)])

    def test_pubrels_leave_in_the_order_of_their_pubrecs(self) -> None:
        """[MQTT-4.6.0-4]"""
        client = BrokerHarness().connect()
        client.subscribe("t", 2)
        for number in range(1, 6):
            client.publish("t", b"", 2, number)
        client.received()
        client.send(*(Pubrec(number) for number in (3, 1, 5, 2, 4)))
        self.assertEqual(client.received(), [Pubrel(number) for number in (3, 1, 5, 2, 4)])

    def test_suback_answers_every_filter_in_order(self) -> None:
        """[MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1]"""
        client = BrokerHarness().connect()
        filters = [
            Subscription("a", 2),
            Subscription("$share/g/t", 1),
            Subscription("b/#", 1),
            Subscription("c", 0),
        ]
        client.send(Subscribe(10, filters))
        self.assertEqual(client.received(), [Suback(10, [2, 0x80, 1, 0])])

    def test_too_many_subscriptions_are_refused(self) -> None:
        """row 48"""
        client = BrokerHarness(limits=Limits(max_subscriptions=2)).connect()
        client.send(Subscribe(1, [Subscription(name, 0) for name in "abc"]))
        self.assertEqual(client.received(), [Suback(1, [0, 0, 0x80])])
        self.assertEqual(client.subscribe("a", 1), [Suback(1, [1])])

    def test_the_levels_of_all_subscriptions_together_are_limited(self) -> None:
        """Rows 34, 48: a level takes some hundred bytes, a slash in a filter one."""
        client = BrokerHarness(limits=Limits(max_subscriptions=100)).connect()
        deep = [Subscription(f"{number}" + "/a" * 198 + "/+", 0) for number in range(10)]
        client.send(Subscribe(1, deep))
        self.assertEqual(client.received(), [Suback(1, [0] * 8 + [0x80] * 2)])
        client.send(Unsubscribe(2, [deep[0].topic_filter]), Subscribe(3, deep[8:]))
        self.assertEqual(client.received(), [Unsuback(2), Suback(3, [0, 0x80])])

    def test_a_packet_with_ever_so_many_filters_closes(self) -> None:
        """Row 48."""
        for packet in (Subscribe(1, [Subscription("a", 0)] * 10_001), Unsubscribe(1, ["a"] * 10_001)):
            client = BrokerHarness().connect()
            client.send(packet)
            self.assertTrue(client.closed)
        client = BrokerHarness().connect()
        client.send(Subscribe(1, [Subscription("a", 0)] * 10_000))
        self.assertEqual(client.received(), [Suback(1, [0] * 1000 + [0x80] * 9000)])

    def test_too_deep_a_filter_is_refused(self) -> None:
        """row 34"""
        client = BrokerHarness().connect()
        self.assertEqual(client.subscribe("/" * 65_535), [Suback(1, [0x80])])
        self.assertEqual(client.subscribe("/".join(["a"] * 200)), [Suback(1, [0])])

    def test_overlapping_filters_bring_a_message_once_at_the_highest_qos(self) -> None:
        """[MQTT-3.3.5-1]"""
        client = BrokerHarness().connect()
        client.send(Subscribe(1, [Subscription("t/#", 0), Subscription("t/+", 2), Subscription("t/a", 1)]))
        client.received()
        client.publish("t/a", b"x", 2, 1)
        self.assertEqual(client.received(), [Publish("t/a", b"x", 2, packet_id=1), Pubrec(1)])

    def test_subscribing_again_replaces_and_brings_the_retained_message_again(self) -> None:
        """row 49 [MQTT-3.8.4-3]"""
        harness = BrokerHarness()
        client = harness.connect()
        client.publish("t", b"kept", 1, 1, retain=True)
        client.received()
        self.assertEqual(client.subscribe("t", 0), [Suback(1, [0]), Publish("t", b"kept", 0, True)])
        self.assertEqual(
            client.subscribe("t", 1), [Suback(1, [1]), Publish("t", b"kept", 1, True, packet_id=1)]
        )
        self.assertEqual(len(harness.broker.subscriptions), 1)

    def test_unsubscribing_compares_filters_exactly(self) -> None:
        """[MQTT-3.10.4-1] [MQTT-3.10.4-3] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6]"""
        client = BrokerHarness().connect()
        client.subscribe("a/+")
        client.send(Unsubscribe(3, ["a/b", "a/#"]))
        client.publish("a/b", b"1")
        self.assertEqual(client.received(), [Unsuback(3), Publish("a/b", b"1")])
        client.send(Unsubscribe(4, ["a/+", "nothing"]))
        client.publish("a/b", b"2")
        self.assertEqual(client.received(), [Unsuback(4)])

    def test_live_messages_are_not_marked_retained(self) -> None:
        """[MQTT-3.3.1-8] [MQTT-3.3.1-9]"""
        client = BrokerHarness().connect()
        client.subscribe("t")
        client.publish("t", b"1", retain=True)
        self.assertEqual(client.received(), [Publish("t", b"1")])

    def test_the_servers_own_topics_are_ignored_with_ack(self) -> None:
        """rows 36 and 37"""
        harness = BrokerHarness()
        client = harness.connect()
        client.send(Subscribe(1, [Subscription("#", 0), Subscription("$SYS/#", 0), Subscription("$foo", 0)]))
        client.received()
        for number, topic in enumerate(("$SYS/x", "$foo", "agent/connected", "agent/disconnected"), 1):
            client.publish(topic, b"forged", 1, number, retain=True)
        self.assertEqual(client.received(), [Puback(1), Puback(2), Puback(3), Puback(4)])
        self.assertEqual((len(harness.broker.retained), harness.broker.traffic.publish_denied), (0, 4))

    def test_ever_so_many_retained_messages_hold_up_nobody(self) -> None:
        """Rows 42, 49: in turns, and once for the same filter."""
        harness = BrokerHarness()
        sender, greedy = harness.connect("sender"), harness.connect("greedy")
        for number in range(1000):
            sender.publish(f"t/{number}", b"x", retain=True)
            harness.turn()
        greedy.send(Subscribe(1, [Subscription("#", 0)] * 900 + [Subscription("t/+", 0)] * 100))
        self.assertLessEqual(len(greedy.received()), 201)
        count, turns = 150, 0
        while found := greedy.received() or turns < 5:
            count += len(found) if isinstance(found, list) else 0
            turns += 1
            harness.turn()
        self.assertEqual((count, greedy.closed), (2000, False))

    def test_many_subscribes_in_one_turn_have_the_time_of_one(self) -> None:
        """Rows 42, 49."""
        harness = BrokerHarness()
        sender, greedy = harness.connect("sender"), harness.connect("greedy")
        sender.publish("t", b"x", retain=True)
        looked: list[str] = []
        match = harness.broker.retained.match
        self.patch(harness.broker.retained, "match", lambda name: looked.append(name) or match(name))
        greedy.send(*(Subscribe(1, [Subscription(f"+/{number}", 0)]) for number in range(99)))
        self.assertEqual(len(looked), 4)
        harness.turn()  # and those that follow it: a Clock knows no difference
        self.assertEqual(len(looked), 99)
        self.assertIsNone(next(s for s in harness.broker.sessions if s.client_id == "greedy")._sending)

    def test_a_retained_message_is_not_older_than_what_came_since(self) -> None:
        """[MQTT-3.3.1-6]"""
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        sender, client = harness.connect("sender"), harness.connect("one")
        for topic in "abc":
            sender.publish(topic, b"old", 1, 1, retain=True)
        client.subscribe("+", 1)
        sender.publish("a", b"new", 1, 1, retain=True)
        sender.publish("b", b"", 1, 1, retain=True)
        client.send(Puback(1))
        seen = []
        while packets := client.received():
            seen += [(p.topic, p.payload, p.retain) for p in packets if isinstance(p, Publish)]
            client.send(*(Puback(p.packet_id) for p in packets if isinstance(p, Publish) and p.packet_id))
        self.assertEqual(seen, [("a", b"new", False), ("b", b"", False), ("a", b"new", True)])

    def test_unsubscribing_ends_the_retained_messages(self) -> None:
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        client = harness.connect("one")
        for topic in ("a/1", "a/2", "a/3", "b"):
            client.publish(topic, b"x", 1, 1, retain=True)
        client.received()
        client.send(Subscribe(1, [Subscription("a/+", 1), Subscription("b", 1)]))
        client.send(Unsubscribe(2, ["a/+"]), Puback(1))
        self.assertEqual(client.received()[-1], Publish("b", b"x", 1, True, packet_id=2))

    def test_a_session_gets_the_rest_of_the_retained_messages_when_it_is_back(self) -> None:
        """[MQTT-3.1.2-5]"""
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        client = harness.connect("one", clean_session=False)
        for topic in ("a", "b"):
            client.publish(topic, b"x", 1, 1, retain=True)
        client.subscribe("+", 1)
        client.lose()
        back = harness.connect("one", clean_session=False)
        again = back.connack[1]
        assert isinstance(again, Publish)
        back.send(Puback(1))
        [last] = back.received()
        assert isinstance(last, Publish)
        self.assertEqual((again.dup, last.dup, {again.topic, last.topic}), (True, False, {"a", "b"}))

    def test_retained_messages_wait_for_a_slow_client(self) -> None:
        """rows 42 and 49"""
        harness = BrokerHarness()
        sender = harness.connect("sender")
        for number in range(2000):
            sender.publish(f"t/{number}", b"x" * 100, retain=True)
            harness.turn()
        client = harness.connect("one")
        client.stop_reading()
        client.subscribe("t/#")
        client.read_again()
        harness.turn()
        packets = client.received()
        self.assertEqual(len([packet for packet in packets if isinstance(packet, Publish)]), 2000)


class Wills(SynchronousTestCase):
    def test_a_lost_connection_publishes_the_will(self) -> None:
        """[MQTT-3.1.2-8] [MQTT-3.1.2-16] [MQTT-3.1.2-17]"""
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will/#", 1)
        for retain in (False, True):
            client = harness.connect("one", will=Publish("will/one", b"gone", 1, retain))
            client.lose()
        received = [packet.payload for packet in watcher.received() if isinstance(packet, Publish)]
        self.assertEqual(received, [b"gone", b"gone"])
        self.assertEqual(len(harness.broker.retained), 1)

    def test_a_violation_publishes_the_will(self) -> None:
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will")
        harness.connect("one", will=Publish("will", b"gone")).send_bytes(b"\xf0\x00")
        self.assertEqual(watcher.received(), [Publish("will", b"gone")])

    def test_disconnect_discards_the_will(self) -> None:
        """[MQTT-3.1.2-10] [MQTT-3.14.4-3] [MQTT-3.1.2-12]"""
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will")
        harness.connect("one", will=Publish("will", b"gone")).send(Disconnect())
        self.assertEqual(watcher.received(), [])

    def test_a_will_goes_to_the_handler_like_any_publish(self) -> None:
        """row 29"""
        store = Store()
        harness = BrokerHarness({"agent/message": store})
        harness.connect("one", will=Publish("agent/message", b"x")).lose()
        self.assertEqual(store.messages, [Publish("agent/message", b"x")])

    def test_a_will_on_a_forbidden_topic_is_refused_at_connect(self) -> None:
        """row 28"""
        client = BrokerHarness().connect("one", will=Publish("$SYS/broker/uptime", b"x"))
        self.assertEqual(client.connack, [Connack(False, ConnectReturnCode.NOT_AUTHORIZED)])
        self.assertTrue(client.closed)


class SlowAuthority(OpenAuthority):
    """Answers a login when it is told to."""

    def __init__(self) -> None:
        self.answer: Deferred[str | None] = Deferred()

    def login(
        self, connect: Connect, address: str, certificate_user: str | None, near: bool
    ) -> "Deferred[str | None] | None":
        return self.answer


class Deadlines(SynchronousTestCase):
    def test_the_time_of_a_login_is_not_the_clients(self) -> None:
        """Rows 14, 23: CONNECT came in time, and from then on we hold reading."""
        authority = SlowAuthority()
        harness = BrokerHarness(authority=authority)
        client = harness.open()
        harness.advance(9)
        client.send(Connect("one", keep_alive=1))
        harness.advance(9)
        authority.answer.callback(None)
        self.assertEqual(client.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])
        harness.advance(1.4)
        self.assertFalse(client.closed)

    def test_a_login_that_never_ends_does_not_keep_its_connection(self) -> None:
        """Row 14."""
        harness = BrokerHarness(authority=SlowAuthority())
        client = harness.open()
        client.send(Connect("one"))
        harness.advance(9.9)
        self.assertFalse(client.closed)
        harness.advance(1.1)
        self.assertTrue(client.closed)
        self.assertEqual(harness.broker.traffic.protocol_errors, {"no login in time": 1})

    def test_silence_is_closed_after_one_and_a_half_keep_alives(self) -> None:
        """rows 26 and 27 [MQTT-3.1.2-24]"""
        for keep_alive in (1, 4, 10, 60):
            harness = BrokerHarness()
            client = harness.connect("one", keep_alive=keep_alive)
            harness.advance(keep_alive * 1.5 - 0.01)
            self.assertFalse(client.closed, keep_alive)
            harness.advance(1.01)
            self.assertTrue(client.closed, keep_alive)

    def test_any_packet_keeps_the_connection(self) -> None:
        harness = BrokerHarness()
        client = harness.connect("one", keep_alive=4)
        for _ in range(20):
            harness.advance(4)
            client.send(Pingreq())
        self.assertFalse(client.closed)

    def test_keep_alive_0_is_off(self) -> None:
        """row 26"""
        harness = BrokerHarness()
        client = harness.connect("one", keep_alive=0)
        harness.advance(20_000)
        self.assertFalse(client.closed)

    def test_keep_alive_rests_while_we_hold_reading(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=2))
        client = harness.connect("one", keep_alive=4)
        client.send(Publish("t", b"1"), Publish("t", b"2"))
        self.assertTrue(client.held)
        harness.advance(60)
        self.assertFalse(client.closed)
        store.commit()
        self.assertFalse(client.held)
        harness.advance(5.9)
        self.assertFalse(client.closed)
        harness.advance(1.1)
        self.assertTrue(client.closed)

    def test_a_suspended_machine_closes_nobody(self) -> None:
        """row 121"""
        harness = BrokerHarness()
        client = harness.connect("one", keep_alive=10)
        harness.clock.advance(3600)
        self.assertFalse(client.closed)
        harness.advance(16)
        self.assertTrue(client.closed)

    def test_half_a_packet_is_not_waited_for_for_ever(self) -> None:
        """row 4"""
        harness = BrokerHarness()
        client = harness.connect("one")
        harness.advance(100)
        client.send_bytes(b"\x30\x7f\x00")
        for _ in range(28):
            harness.advance(1)
            client.send_bytes(b"\x00")
        self.assertFalse(client.closed)
        for _ in range(32):
            harness.advance(1)
            if client.closed:
                break
        self.assertTrue(client.closed)

    def test_a_client_that_does_not_read_is_cut_after_the_write_deadline(self) -> None:
        """row 54"""
        harness = BrokerHarness()
        client = harness.connect("one")
        harness.advance(7)
        client.stop_reading()
        harness.advance(59)
        self.assertFalse(client.closed)
        harness.advance(2)
        self.assertTrue(client.closed)


class Fairness(SynchronousTestCase):
    def test_a_flood_in_one_segment_is_taken_in_turns(self) -> None:
        """row 6"""
        harness = BrokerHarness()
        client = harness.connect()
        client.send(*[Pingreq()] * 250)
        self.assertEqual(len(client.received()), 100)
        self.assertTrue(client.held)
        harness.turn()
        harness.turn()
        self.assertEqual(len(client.received()), 150)
        self.assertFalse(client.held)

    def test_reading_is_held_while_the_store_lags_behind(self) -> None:
        """rows 60 and 112"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=4))
        client = harness.connect()
        client.send(*(Publish("t", b"", 1, packet_id=number) for number in range(1, 11)))
        self.assertEqual((len(store.messages), client.held), (4, True))
        store.commit(0)
        self.assertTrue(client.held)
        store.commit(1)
        self.assertEqual(len(store.messages), 6)
        while len(store.messages) < 10 or harness.shared.flow.unfinished:
            store.commit()
        self.assertFalse(client.held)
        self.assertEqual([type(packet) for packet in client.received()], [Puback] * 10)

    def test_answers_that_wait_behind_one_that_is_not_stored_are_bounded(self) -> None:
        """row 112: a client that never takes a breath while the database is away"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=4))
        client = harness.connect()
        client.publish("t", b"", 1, 1)
        client.send(*(Publish("elsewhere", b"", 1, packet_id=number) for number in range(2, 20)))
        self.assertEqual((client.held, harness.broker.traffic.publish_received[1]), (True, 4))
        store.commit()
        self.assertFalse(client.held)
        self.assertEqual([type(packet) for packet in client.received()], [Puback] * 19)

    def test_messages_of_one_read_are_answered_up_to_the_one_whose_handler_breaks(self) -> None:
        def handler(message: Publish, client: Client) -> None:
            if message.payload == b"3":
                raise ZeroDivisionError

        harness = BrokerHarness({"t": handler})
        client, seen = harness.connect(), harness.connect("seen")
        seen.subscribe("t")
        client.send(*(Publish("t", b"%d" % number, 1, packet_id=number) for number in range(1, 6)))
        self.assertEqual((client.received(), client.closed), ([Puback(1), Puback(2)], True))
        self.assertEqual(len(seen.received()), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(harness.broker.traffic.publish_received, [0, 2, 0])

    def test_messages_of_one_read_are_answered_in_order_when_only_some_wait(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect()
        topics = ("a", "b", "t", "a", "t", "b")
        client.send(*(Publish(topic, b"xy", 1, packet_id=n) for n, topic in enumerate(topics, 1)))
        self.assertEqual(client.received(), [Puback(1), Puback(2)])
        store.commit(0)
        self.assertEqual(client.received(), [Puback(3), Puback(4)])
        store.commit(1)
        self.assertEqual(client.received(), [Puback(5), Puback(6)])
        traffic = harness.broker.traffic
        self.assertEqual((traffic.publish_received, traffic.publish_bytes_received), ([0, 6, 0], [0, 12, 0]))

    def test_repetitions_of_a_qos_2_message_are_bounded_while_it_waits(self) -> None:
        """rows 57 and 112"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=4))
        client = harness.connect(clean_session=False)
        client.send(*[Publish("t", b"x", 2, packet_id=5, dup=True)] * 20)
        self.assertEqual((len(store.messages), client.held), (1, True))
        self.assertEqual(harness.broker.traffic.publish_received[2], 4)
        store.commit()
        self.assertEqual((client.held, harness.shared.flow.unfinished), (False, 0))
        self.assertEqual(client.received(), [Pubrec(5)] * 20)

    def test_releases_are_bounded_while_they_wait(self) -> None:
        """rows 58 and 112"""
        releases: list[Deferred[object]] = []

        class Observer:
            def client_connected(self, client: Client) -> None: ...
            def client_disconnected(self, client: Client, taken_over: bool) -> None: ...
            def session_ended(self, client_id: str) -> None: ...
            def message_released(self, client: Client, packet_id: int) -> Deferred[object]:
                releases.append(Deferred())
                return releases[-1]

        harness = BrokerHarness({}, Limits(max_unfinished=4), observers=[Observer()])
        client = harness.connect(clean_session=False)
        client.send(*[Pubrel(7)] * 20)
        self.assertEqual((len(releases), client.held), (4, True))
        for release in releases:
            release.callback(None)
        self.assertEqual((client.held, harness.shared.flow.unfinished), (False, 0))
        self.assertEqual(client.received(), [Pubcomp(7)] * 20)

    def test_the_total_holds_everyone_and_frees_everyone(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished_total=4))
        clients = [harness.connect(f"c{number}") for number in range(4)]
        for client in clients:
            client.publish("t", b"", 1, 1)
        self.assertEqual([client.held for client in clients], [False, False, False, True])
        for client in clients:
            client.publish("t", b"", 1, 2)
        self.assertEqual([client.held for client in clients], [True] * 4)
        store.commit()
        self.assertEqual([client.held for client in clients], [False] * 4)

    def test_what_was_sent_before_the_peer_left_still_counts(self) -> None:
        """row 45"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=2))
        client = harness.connect("one", will=Publish("w", b""))
        client.send(*[Publish("t", b"x")] * 5, Disconnect())
        client.lose()
        self.assertEqual(len(store.messages), 5)
        store.commit()
        self.assertEqual((harness.shared.flow.unfinished, harness.shared.flow.held), (0, 0))

    def test_a_slow_client_loses_qos_0_first_then_its_connection(self) -> None:
        """row 54"""
        harness = BrokerHarness(limits=Limits(max_queued_messages=10))
        slow, fast, sender = (harness.connect(name) for name in ("slow", "fast", "sender"))
        for client in (slow, fast):
            client.send(Subscribe(1, [Subscription("zero", 0), Subscription("one", 1)]))
            client.received()
        slow.stop_reading()
        for _ in range(30):
            sender.publish("zero", b"x")
        self.assertEqual(harness.broker.traffic.publish_dropped, 20)
        self.assertEqual(len(fast.received()), 30)
        self.assertFalse(slow.closed)
        for number in range(11):
            sender.publish("one", b"x", 1, number + 1)
        self.assertTrue(slow.closed)
        self.assertFalse(fast.closed)
        self.assertEqual(len([p for p in fast.received() if isinstance(p, Publish)]), 11)

    def test_answers_that_are_not_read_are_bounded_in_memory(self) -> None:
        """Row 54: two bytes of an answer take many more while they wait."""
        harness = BrokerHarness(limits=Limits(max_queued_bytes=1 << 20))
        client = harness.connect("one")
        client.stop_reading()
        sent = 0
        while not client.closed:
            client.send(*[Pingreq()] * 1000)
            sent += 1000
            while client.held and not client.closed:
                harness.turn()
        self.assertLess(sent, 40_000)

    def test_what_is_dropped_is_counted_as_dropped(self) -> None:
        """Row 54."""
        harness = BrokerHarness(limits=Limits(max_queued_messages=2))
        harness.connect("absent", clean_session=False).subscribe("t", 1)
        next(iter(harness.shared.connections)).close(Reason.ADMINISTRATIVE, "a test")
        sender = harness.connect("sender")
        for number in range(5):
            sender.publish("t", b"", 1, number + 1)
        traffic = harness.broker.traffic
        self.assertEqual((traffic.publish_sent[1], traffic.publish_dropped), (2, 3))

    def test_a_slow_client_goes_on_where_it_stopped(self) -> None:
        """[MQTT-4.6.0-5]"""
        harness = BrokerHarness()
        slow, sender = harness.connect("slow"), harness.connect("sender")
        slow.send(Subscribe(1, [Subscription("#", 1)]))
        slow.received()
        slow.stop_reading()
        sender.publish("a", b"0")
        sender.publish("b", b"1", 1, 1)
        self.assertEqual(slow.received(), [])
        slow.read_again()
        harness.turn()
        self.assertEqual(slow.received(), [Publish("a", b"0"), Publish("b", b"1", 1, packet_id=1)])
