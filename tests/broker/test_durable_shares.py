"""Shared Subscriptions of durable Sessions."""

from platziverse.mqtt.packets import Packet, Puback, Publish
from platziverse.testing import FakeClient
from tests.broker.durability import DurableCase

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
