"""Shared Subscriptions of durable Sessions."""

from typing import Any

from twisted.internet.defer import fail

from platziverse.broker.durable import RETRY
from platziverse.broker.estates import PAGE, TRIES
from platziverse.broker.records import Begun, Ended, Queued
from platziverse.mqtt.packets import Packet, Properties, Puback, Publish, PublishProperties, Pubrec
from platziverse.testing import FakeClient
from tests.broker.durability import DurableCase
from tests.logs import observe_lines

GROUP = "$share/g/t"


def payloads(packets: list[Packet]) -> list[bytes]:
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


class Members(DurableCase):
    def member(self, client_id: str, qos: int = 1) -> FakeClient:
        return self.receiver(client_id, qos, GROUP)

    def settle(self) -> None:
        self.harness.advance(0.1)

    def test_while_all_are_away_a_message_is_kept_for_one_of_them_and_a_restart_keeps_it(self) -> None:
        for name in ("one", "other"):
            self.member(name).lose()
        for payload in (b"1", b"2", b"3", b"4"):
            self.publish(payload)
        self.settle()
        self.assertEqual(len(self.publisher.received()), 4)
        self.start()
        got = [payloads(self.connect(name).received()) for name in ("one", "other")]
        self.assertEqual(got, [[b"1", b"3"], [b"2", b"4"]])

    def test_puback_waits_until_the_copy_is_committed(self) -> None:
        self.member("away").lose()
        for qos in (1, 2):
            self.settle()
            self.store.hold()
            self.publish(b"x", qos)
            self.settle()
            self.assertEqual(self.publisher.received(), [])
            self.store.resume()
            self.assertEqual(len(self.publisher.received()), 1)

    def test_connected_members_share_and_acknowledge(self) -> None:
        members = [self.member(name) for name in ("one", "other")]
        for payload in (b"1", b"2", b"3", b"4"):
            self.publish(payload)
        for client, expected in zip(members, ([b"1", b"3"], [b"2", b"4"]), strict=True):
            packets = client.received()
            self.assertEqual(payloads(packets), expected)
            client.send(*(Puback(one.packet_id or 0) for one in packets if isinstance(one, Publish)))
        self.assertEqual(len(self.publisher.received()), 4)
        self.settle()
        self.start()
        self.assertEqual([payloads(self.connect(name).received()) for name in ("one", "other")], [[], []])

    def test_a_restored_member_is_one_of_its_group(self) -> None:
        self.member("one").lose()
        self.start()
        here = self.member("here")
        self.publish(b"1")
        self.assertEqual(payloads(here.received()), [b"1"])
        here.lose()
        one = self.connect("one")
        self.publish(b"2")
        self.assertEqual(payloads(one.received()), [b"2"])


class Left(DurableCase):
    """A member ends its Session, and others get what it was owed. [MQTT5-4.8.2-5]"""

    def setUp(self) -> None:
        super().setUp()
        self.leaver = self.receiver("leaver", 2, GROUP)

    def keep(self, *payloads: bytes, qos: int = 1) -> None:
        """Let messages wait for the one who will leave."""
        self.leaver.lose()
        for number, payload in enumerate(payloads, 1):
            self.publish(payload, qos, number)
        self.harness.advance(0.1)

    def end(self) -> None:
        """End its Session: the client comes with Clean Session 1, and goes."""
        self.harness.connect("leaver").lose()
        self.harness.advance(0.1)

    def test_a_connected_member_gets_what_waited(self) -> None:
        for qos in (1, 2):
            self.setUp()
            self.keep(b"1", b"2", qos=qos)
            other = self.harness.connect("other")
            other.subscribe(GROUP, 1)
            self.end()
            self.assertEqual(payloads(other.received()), [b"1", b"2"])
            other.lose()
            self.assertIsNone(self.broker.sessions.get("leaver"))

    def test_an_absent_member_gets_the_rows_in_the_same_transaction(self) -> None:
        self.keep(b"1", b"2")
        self.receiver("other", 1, GROUP).lose()
        self.end()
        moved = [record.crossed for record in self.saved(Queued) if record.crossed]
        self.assertEqual(moved, [((1, 1),), ((1, 2),)])
        self.assertEqual(self.left("other"), 2)
        self.start()
        self.assertEqual(payloads(self.connect("other").received()), [b"1", b"2"])

    def test_what_was_sent_at_qos_2_or_received_goes_to_nobody_else(self) -> None:
        for qos in (1, 2):
            self.publish(str(qos).encode(), qos, 10 + qos)
            self.harness.advance(0.1)
        packets = [packet for packet in self.leaver.received() if isinstance(packet, Publish)]
        self.assertEqual([packet.qos for packet in packets], [1, 2])
        self.leaver.lose()
        other = self.receiver("other", 2, GROUP)
        self.end()
        self.assertEqual(payloads(other.received()), [b"1"])

    def test_what_is_owned_does_not_come_again(self) -> None:
        self.publish(b"1", 1, 1)
        self.publish(b"2", 2, 2)
        self.harness.advance(0.1)
        for packet in self.leaver.received():
            assert isinstance(packet, Publish)
            assert packet.packet_id is not None
            self.leaver.send(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))
        self.leaver.lose()
        other = self.receiver("other", 2, GROUP)
        self.end()
        self.assertEqual(payloads(other.received()), [])

    def test_plain_messages_end_with_the_session(self) -> None:
        self.leaver.subscribe("plain", 1)
        self.leaver.lose()
        self.publish(b"plain", topic="plain")
        self.publish(b"shared", 1, 2)
        self.harness.advance(0.1)
        other = self.receiver("other", 1, GROUP)
        other.subscribe("plain", 1)
        self.end()
        self.assertEqual(payloads(other.received()), [b"shared"])

    def test_many_go_page_by_page_and_in_order(self) -> None:
        numbers = [b"%d" % number for number in range(2 * PAGE + 5)]
        self.keep(*numbers)
        other = self.receiver("other", 1, GROUP)
        self.end()
        got: list[bytes] = []
        while packets := [packet for packet in other.received() if isinstance(packet, Publish)]:
            got += [packet.payload for packet in packets]
            other.send(*[Puback(packet.packet_id or 0) for packet in packets])
            self.harness.advance(0.1)
        self.assertEqual(got, numbers)

    def test_where_no_member_is_left_it_is_counted_and_ends(self) -> None:
        self.keep(b"1", b"2")
        self.end()
        self.assertEqual(self.broker.traffic.groups_dropped, {"group_patience": 2})
        self.assertEqual(len(self.saved(Ended)), 1)

    def test_its_expiry_keeps(self) -> None:
        properties = PublishProperties(content_type="t", user_properties=(("a", "b"),))
        five = self.harness.connect("five", protocol_level=5)
        self.leaver.lose()
        five.send(Publish("t", b"x", 1, packet_id=1, properties=properties))
        self.harness.advance(0.1)
        kept = Properties(session_expiry_interval=100)
        other = self.harness.connect("other", protocol_level=5, properties=kept)
        other.subscribe(GROUP, 1)
        self.end()
        [packet] = [packet for packet in other.received() if isinstance(packet, Publish)]
        self.assertEqual(packet.properties, properties)

    def test_the_next_session_of_its_client_begins_behind_the_end_of_this_one(self) -> None:
        self.keep(b"1")
        self.receiver("other", 1, GROUP).lose()
        self.store.hold(reads=True)
        self.store.available = True
        again = self.harness.connect(
            "leaver", protocol_level=5, properties=Properties(session_expiry_interval=100)
        )
        self.harness.turn()
        self.assertEqual(again.connack, [])
        self.assertEqual(self.saved(Ended), [])
        self.store.resume()
        self.harness.advance(0.1)
        self.assertEqual(len(again.received()), 1)
        kinds = [type(record) for record in self.saved(Begun, Ended)][-2:]
        self.assertEqual(kinds, [Ended, Begun])

    def test_what_cannot_be_read_is_tried_again_for_a_while(self) -> None:
        self.keep(b"1")
        other = self.receiver("other", 1, GROUP)
        page, failures = self.store.page, [2]

        def failing(*place: Any) -> Any:
            failures[0] -= 1
            return fail(RuntimeError("away")) if failures[0] >= 0 else page(*place)

        durable: Any = self.broker.durable
        durable.page = failing
        self.harness.connect("leaver").lose()
        self.harness.advance(2 * RETRY + 1)
        self.assertEqual(payloads(other.received()), [b"1"])
        self.leaver = self.receiver("leaver", 2, GROUP)
        other.lose()
        self.keep(b"2")
        failures[0] = TRIES
        self.harness.connect("leaver").lose()
        self.harness.advance(TRIES * RETRY + 1)
        self.assertEqual(len(self.saved(Ended)), 2)

    def test_a_bug_ends_the_session_all_the_same(self) -> None:
        said = observe_lines(self)
        self.keep(b"1")
        self.receiver("other", 1, GROUP)

        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        sharing: Any = self.broker.sharing
        sharing.pass_on = broken
        self.end()
        self.assertEqual(len(self.saved(Ended)), 1)
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual(len([line for line in said if "Bug: what 'leaver' leaves" in line]), 1)
