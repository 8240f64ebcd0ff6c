"""Shared Subscriptions whose members are at several daemons."""

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.cluster.groups import REMEMBERED
from platziverse.mqtt.packets import Properties, Puback, Publish, PublishProperties, Subscribe, Subscription
from platziverse.testing import FakeClient
from tests.cluster.daemons import Daemon, Daemons
from tests.cluster.shares import Share, Table

GROUP = "$share/g/t/+"


def payloads(client: FakeClient) -> list[bytes]:
    return [packet.payload for packet in client.received() if isinstance(packet, Publish)]


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.daemons = Daemons()
        self.one, self.two, self.three = (self.daemons.begin(number) for number in (1, 2, 3))
        three = self.one, self.two, self.three
        self.senders = [daemon.connect(f"sender {daemon.number}") for daemon in three]

    def publish(self, sender: int, *all_: bytes, qos: int = 1, **more: Any) -> None:
        for number, payload in enumerate(all_, 1 + 10 * qos):
            self.senders[sender].publish("t/x", payload, qos, number if qos else None, **more)
        self.daemons.turn()
        self.senders[sender].received()


class Live(Case):
    def test_one_member_of_the_whole_group_gets_each_message_wherever_it_is_published(self) -> None:
        for qos in (0, 1, 2):
            members = [
                daemon.listening(f"m{number} {qos}", f"$share/{qos}/t/+", qos)
                for number, daemon in enumerate((self.one, self.two, self.two))
            ]
            for sender in (0, 1, 2):
                self.publish(sender, *[b"%d %d" % (sender, number) for number in range(6)], qos=qos)
            got = [payloads(client) for client in members]
            self.assertEqual(len({one for all_ in got for one in all_}), 18)
            self.assertEqual(sum(map(len, got)), 18)
            self.assertTrue(all(len(all_) >= 3 for all_ in got), got)

    def test_plain_subscriptions_get_theirs_besides(self) -> None:
        member, plain = self.two.listening("member", GROUP), self.two.listening("plain", "#")
        both = self.one.listening("both", GROUP)
        both.subscribe("t/#")
        self.daemons.turn()
        for number in range(10):
            self.publish(2, b"%d" % number, qos=0)
        self.assertEqual(len(payloads(plain)), 10)
        self.assertEqual(len(payloads(member)) + len(payloads(both)), 20)

    def test_a_daemon_whose_last_member_has_gone_gets_nothing_more(self) -> None:
        stays, goes = self.one.listening("stays", GROUP), self.two.listening("goes", GROUP)
        goes.lose()
        self.daemons.advance(2)
        self.publish(2, b"1", b"2", b"3", b"4")
        self.assertEqual(len(payloads(stays)), 4)
        stays.lose()
        self.daemons.advance(2)
        self.publish(2, b"5")
        match = self.three.broker.subscriptions.match("t/x")
        self.assertEqual(match, ())

    def test_what_crosses_while_the_last_member_goes_finds_another(self) -> None:
        goes = self.two.listening("goes", GROUP)
        goes.lose()
        self.publish(2, b"1")  # nobody has said yet that it is gone
        stays = self.one.listening("stays", GROUP)
        self.daemons.advance(2)
        self.assertEqual(payloads(stays), [b"1"])

    def test_a_dead_daemon_is_not_chosen(self) -> None:
        stays = self.one.listening("stays", GROUP)
        self.two.listening("dies", GROUP)
        self.daemons.members.leave(2, True)
        self.daemons.turn()
        self.publish(2, b"1", b"2", b"3")
        self.assertEqual(len(payloads(stays)), 3)

    def test_properties_and_the_identifier_of_the_member_come_along(self) -> None:
        member = self.two.connect("member", protocol_level=5)
        member.send(Subscribe(1, [Subscription(GROUP, 1)], Properties(subscription_identifier=7)))
        self.daemons.turn()
        member.received()
        sender = self.one.connect("five", protocol_level=5)
        for packet_id in (1, 2, 3):  # together, in one frame
            sender.publish("t/x", b"x", 1, packet_id, properties=PublishProperties(content_type="c"))
        self.daemons.turn()
        packets = [packet for packet in member.received() if isinstance(packet, Publish)]
        found = [
            one.properties and (one.properties.content_type, one.properties.subscription_identifiers)
            for one in packets
        ]
        self.assertEqual(found, [("c", (7,))] * 3)

    def test_several_messages_with_the_same_properties_keep_them(self) -> None:
        plain = self.two.listening("plain", "#", protocol_level=5)
        sender = self.one.connect("five", protocol_level=5)
        for _ in range(3):
            sender.publish("t/x", b"x", 0, properties=PublishProperties(content_type="c"))
        self.daemons.turn()
        packets = [packet for packet in plain.received() if isinstance(packet, Publish)]
        self.assertEqual([one.properties and one.properties.content_type for one in packets], ["c"] * 3)


class Durable(SynchronousTestCase):
    """With a store, which all daemons share."""

    def setUp(self) -> None:
        self.daemons, self.table = Daemons(), Table()
        self.shares = {number: Share(self.table, number) for number in (1, 2, 3)}
        self.one, self.two, self.three = (self.begin(number) for number in (1, 2, 3))
        self.publisher = self.three.connect("publisher")

    def begin(self, number: int) -> Daemon:
        return self.daemons.begin(number, sessions=self.shares[number])

    def member(self, daemon: Daemon, client_id: str, qos: int = 2) -> FakeClient:
        return daemon.listening(client_id, GROUP, qos, clean_session=False)

    def publish(self, *all_: bytes, qos: int = 1) -> None:
        for number, payload in enumerate(all_, 1 + 10 * qos):
            self.publisher.publish("t/x", payload, qos, number)
        self.daemons.advance(0.5)

    def come(self, daemon: Daemon, client_id: str) -> list[bytes]:
        client = daemon.connect(client_id, clean_session=False)
        self.daemons.advance(0.5)
        packets = [*client.connack[1:], *client.received()]
        return [packet.payload for packet in packets if isinstance(packet, Publish)]

    def test_while_all_are_away_one_of_the_whole_group_has_each_message(self) -> None:
        self.member(self.one, "m1").lose()
        self.member(self.two, "m2").lose()
        self.daemons.advance(2)
        for qos in (1, 2):
            self.publish(*[b"%d %d" % (qos, number) for number in range(4)], qos=qos)
            self.assertEqual(len(self.publisher.received()), 4)  # PUBACK, or PUBREC
        got = [self.come(self.one, "m1"), self.come(self.two, "m2")]
        self.assertEqual([len(all_) for all_ in got], [4, 4])
        self.assertEqual(len({*got[0], *got[1]}), 8)

    def test_connected_members_elsewhere_come_before_those_that_are_away_here(self) -> None:
        self.member(self.three, "away").lose()
        here = self.member(self.two, "here")
        self.daemons.advance(2)
        self.publish(b"1", b"2")
        self.assertEqual(payloads(here), [b"1", b"2"])
        self.assertEqual(len(self.publisher.received()), 2)

    def test_what_is_owed_to_a_daemon_that_was_killed_comes_when_it_is_back(self) -> None:
        self.member(self.one, "m1").lose()
        self.daemons.advance(2)
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.daemons.turn()
        self.publish(b"1")
        self.assertEqual(len(self.publisher.received()), 1)
        self.shares[1] = Share(self.table, 1)
        self.one = self.begin(1)
        self.daemons.advance(2)
        self.assertEqual(self.come(self.one, "m1"), [b"1"])

    def test_a_member_that_moves_loses_nothing(self) -> None:
        """What is published meanwhile waits for it, as there is no other member."""
        self.member(self.one, "m").lose()
        self.daemons.advance(2)
        client = self.two.harness.connect("m", clean_session=False)
        got: list[bytes] = []
        for number in range(1, 8):
            self.publisher.publish("t/x", b"%d" % number, 1, number)
            self.daemons.turn()
        self.daemons.advance(3)
        self.publish(b"8")
        while packets := client.received():
            for packet in packets:
                if isinstance(packet, Publish):
                    got.append(packet.payload)
                    client.send(Puback(packet.packet_id or 0))
            self.daemons.advance(0.2)
        self.assertEqual(sorted(got), [b"%d" % number for number in range(1, 9)])
        self.assertIsNone(self.one.broker.sessions.get("m"))


class Turns(Case):
    def test_whose_turn_it_was_is_remembered_of_so_many_groups(self) -> None:
        groups = self.one.broker.sharing.others
        share: Any = SimpleNamespace(present={1: 1}, is_there=True)
        self.assertEqual(groups.choose("$share/nobody/t", 1, None), 0)
        for number in range(REMEMBERED + 2):
            self.assertEqual(groups.choose(f"$share/{number}/t", 1, share), 0)
