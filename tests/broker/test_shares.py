"""Shared Subscriptions: one member of a group gets each message."""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.complaints import LINES_PER_HOST, Complaints
from platziverse.broker.interfaces import SERVER, Client
from platziverse.broker.limits import Limits
from platziverse.broker.shares import Share, Shares
from platziverse.broker.sharing import Sharing
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.packets import (
    Disconnect,
    Properties,
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
from platziverse.mqtt.properties import brought_by
from platziverse.testing import BrokerHarness, FakeClient, OpenAuthority
from tests.broker.test_access import Rules
from tests.logs import observe_lines

GROUP = "$share/g/t"


def payloads(client: FakeClient) -> list[bytes]:
    return [message.payload for message in messages(client)]


def messages(client: FakeClient) -> list[Publish]:
    return [packet for packet in client.received() if isinstance(packet, Publish)]


class Secret(Rules):
    """Nobody may subscribe to ``secret``."""

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        return topic_filter != "secret"


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness()
        self.sender = self.harness.connect("sender")
        self.ids = 0

    def member(self, client_id: str, topic_filter: str = GROUP, qos: int = 1, **fields: Any) -> FakeClient:
        client = self.harness.connect(client_id, **fields)
        client.send(Subscribe(1, [Subscription(topic_filter, qos)]))
        self.assertEqual(client.received(), [Suback(1, [qos])])
        return client

    def publish(self, *all_: bytes, qos: int = 1, topic: str = "t", **more: Any) -> None:
        for payload in all_:
            self.ids += 1
            self.sender.publish(topic, payload, qos, self.ids if qos else None, **more)
        self.sender.received()


class Choosing(Case):
    def test_one_member_gets_each_message_in_turn(self) -> None:
        """Of every version of the protocol; the QoS is that of the member. [MQTT5-4.8.2-3]"""
        members = [
            self.member(f"m{number}", qos=number, protocol_level=level)
            for number, level in enumerate((5, 4, 3))
        ]
        self.publish(*[b"%d" % number for number in range(3)], qos=2)
        got = [messages(client) for client in members]
        self.assertEqual([[one.qos for one in all_] for all_ in got], [[0], [1], [2]])
        self.assertEqual(len({one.payload for all_ in got for one in all_}), 3)

    def test_at_qos_0_too(self) -> None:
        members = [self.member(f"m{number}") for number in range(2)]
        self.publish(*[b"%d" % number for number in range(4)], qos=0)
        self.assertEqual([len(payloads(client)) for client in members], [2, 2])

    def test_the_one_with_fewest_in_flight_gets_it(self) -> None:
        slow, quick = self.member("slow"), self.member("quick")
        for number in range(6):
            self.publish(b"%d" % number)
            packets = quick.received()
            quick.send(*(Puback(one.packet_id or 0) for one in packets if isinstance(one, Publish)))
        self.assertEqual(payloads(slow), [b"0"])

    def test_a_member_with_thousands_of_others_is_found_at_once(self) -> None:
        """The busy ones do not stand before the others for ever."""
        members = [self.member(f"m{number}") for number in range(100)]
        self.publish(*[b"%d" % number for number in range(300)])
        self.assertEqual({len(payloads(client)) for client in members}, {3})

    def test_connected_ones_come_first_and_kept_sessions_get_what_nobody_else_gets(self) -> None:
        away = self.member("away", clean_session=False)
        also = self.member("also", clean_session=False)
        here = self.member("here")
        away.lose()
        also.lose()
        self.publish(b"1", b"2", b"3")
        self.assertEqual(payloads(here), [b"1", b"2", b"3"])
        here.send(Puback(1), Puback(2), Puback(3))
        here.lose()
        self.publish(b"4", b"5", b"6", b"7")
        self.publish(b"not kept", qos=0)
        both = [self.harness.connect(name, clean_session=False) for name in ("away", "also")]
        got = [[one.payload for one in client.connack if isinstance(one, Publish)] for client in both]
        self.assertEqual(got, [[b"4", b"6"], [b"5", b"7"]])

    def test_a_member_at_qos_0_that_is_away_gets_nothing(self) -> None:
        self.member("away", qos=0, clean_session=False).lose()
        self.publish(b"1")
        self.assertEqual(self.harness.connect("away", clean_session=False).connack[1:], [])

    def test_groups_and_plain_subscriptions_get_a_copy_each(self) -> None:
        """Also if they are of one client, which is told which is which."""
        client = self.harness.connect("both", protocol_level=5)
        wanted = ("t", "t/#", GROUP, "$share/h/t", "$share/g/+")
        for number, name in enumerate(wanted, 1):
            asked = Properties(subscription_identifier=number)
            client.send(Subscribe(1, [Subscription(name, 1)], asked))
        client.received()
        self.publish(b"x")
        found = [one.properties.subscription_identifiers for one in messages(client) if one.properties]
        self.assertEqual(sorted(found), [(1, 2), (3,), (4,), (5,)])

    def test_a_message_that_is_too_large_for_one_goes_to_another(self) -> None:
        small = self.member("small", protocol_level=5, properties=Properties(maximum_packet_size=30))
        large = self.member("large")
        self.publish(bytes(40), bytes(50))
        self.assertEqual((len(payloads(small)), len(payloads(large))), (0, 2))

    def test_the_server_s_own_messages_are_shared_too(self) -> None:
        members = [self.member(f"m{number}", "$share/g/$SYS/x", 0) for number in range(2)]
        for _ in range(4):
            self.harness.broker.announce("$SYS/x", b"told")
            self.harness.broker.tell("$SYS/x", lambda: b"told")
        self.assertEqual([len(payloads(client)) for client in members], [4, 4])


class Syntax(Case):
    def test_what_is_no_shared_subscription_is_refused(self) -> None:
        """Row 518: with 0x8F, or 0x80; the connection stays. [MQTT5-4.8.2-1] [MQTT5-4.8.2-2]"""
        wrong = ["$share/", "$share//t", "$share/g", "$share/g/", "$share/+/t", "$share/#"]
        for level, code in ((5, 0x8F), (4, 0x80)):
            client = self.harness.connect(f"client{level}", protocol_level=level)
            for name in wrong:
                client.send(Subscribe(1, [Subscription(name, 1), Subscription(GROUP, 0)]))
                self.assertEqual(client.received(), [Suback(1, [code, 0])], name)
        refused = self.harness.broker.traffic.subscriptions_refused
        self.assertEqual(sum(refused.values()), 2 * len(wrong))

    def test_no_local_is_a_protocol_error(self) -> None:
        """[MQTT5-3.8.3-4]"""
        client = self.harness.connect("client", protocol_level=5)
        client.send(Subscribe(1, [Subscription(GROUP, 1, no_local=True)]))
        [goodbye] = client.received()
        assert isinstance(goodbye, Disconnect)
        self.assertEqual((goodbye.reason_code, client.closed), (0x82, True))

    def test_unsubscribe_tells_them_apart(self) -> None:
        client = self.harness.connect("client", protocol_level=5)
        for gone, left in (("t", [b"x"]), (GROUP, [b"x"])):
            client.send(Subscribe(1, [Subscription(GROUP, 1), Subscription("t", 1)]))
            client.send(Unsubscribe(2, [gone, gone, "$share/h/t"]))
            client.received()
            self.publish(b"x")
            self.assertEqual(payloads(client), left)
        client.send(Unsubscribe(3, ["t", GROUP]))
        [unsuback] = client.received()
        self.assertEqual(unsuback, Unsuback(3, [0, 0x11]))
        self.publish(b"y")
        self.assertEqual(payloads(client), [])
        self.assertEqual((len(self.harness.broker.shares), len(self.harness.broker.subscriptions)), (0, 0))

    def test_no_retained_messages_come_with_it(self) -> None:
        self.publish(b"kept", retain=True)
        client = self.member("client")
        self.assertEqual(payloads(client), [])
        client.send(Subscribe(1, [Subscription("t", 1)]))
        self.assertEqual(payloads(client), [b"kept"])

    def test_retain_is_as_published_if_a_member_says_so(self) -> None:
        client = self.harness.connect("client", protocol_level=5)
        for as_published in (False, True):
            for qos in (0, 1):
                client.send(Subscribe(1, [Subscription(GROUP, qos, retain_as_published=as_published)]))
                client.received()
                self.publish(b"kept", qos=qos, retain=True)
                self.assertEqual([one.retain for one in messages(client)], [as_published])

    def test_rules_are_about_the_filter_behind_the_name(self) -> None:
        self.harness = BrokerHarness(authority=Secret())
        client = self.harness.connect("client")
        for name, code in (("$share/g/secret", 0x80), ("$share/secret/t", 1)):
            client.send(Subscribe(1, [Subscription(name, 1)]))
            self.assertEqual(client.received(), [Suback(1, [code])])

    def test_who_may_not_receive_a_message_is_passed_over(self) -> None:
        """And a message that nobody may receive goes to nobody."""
        rules = Rules()
        self.harness = BrokerHarness(authority=rules)
        self.sender = self.harness.connect("sender")
        members = [self.member(name) for name in ("one", "other")]
        rules.deaf = {"one"}
        self.publish(b"1", b"2", b"3")
        self.assertEqual([payloads(client) for client in members], [[], [b"1", b"2", b"3"]])
        rules.deaf = {"one", "other"}
        self.publish(b"4")
        self.assertEqual([payloads(client) for client in members], [[], []])

    def test_a_bridge_gets_none_of_its_own(self) -> None:
        bridge, other = self.member("bridge", bridge=True), self.member("other")
        for number in range(4):
            bridge.publish("t", b"%d" % number, 1, 1)
        self.assertEqual((payloads(bridge), len(payloads(other))), ([], 4))


class Leaving(Case):
    def test_what_a_member_leaves_behind_goes_to_another(self) -> None:
        """What waits, and what was sent at QoS 1; a message of QoS 2 that was sent goes to nobody else.

        [MQTT5-4.8.2-5]
        """
        leaves = self.member("leaves", qos=2)
        self.publish(*[b"at 1: %d" % number for number in range(15)])
        self.publish(*[b"at 2: %d" % number for number in range(15)], qos=2)  # five in flight, ten wait
        stays = self.member("stays", qos=2)
        leaves.lose()
        self.harness.advance(0.1)
        got: list[bytes] = []
        while packets := stays.received():
            for packet in packets:
                if isinstance(packet, Publish):
                    got.append(packet.payload)
                    answer = Puback if packet.qos == 1 else Pubrec
                    stays.send(answer(packet.packet_id or 0))
                elif isinstance(packet, Pubrel):
                    stays.send(Pubcomp(packet.packet_id))
        expected = [b"at 1: %d" % number for number in range(15)]
        self.assertEqual(got, expected + [b"at 2: %d" % number for number in range(5, 15)])

    def test_the_last_one_takes_what_it_has_with_it(self) -> None:
        leaves = self.member("leaves")
        self.publish(b"1")
        leaves.lose()
        self.harness.advance(0.1)
        self.assertEqual(payloads(self.member("late")), [])

    def test_a_qos_2_exchange_is_completed_when_its_member_is_back(self) -> None:
        """[MQTT5-4.8.2-4]"""
        for before_pubrec in (True, False):
            back = self.member("back", qos=2, clean_session=False)
            other = self.member("other", qos=2)
            self.publish(b"1", b"2", qos=2)
            [message] = messages(back)
            if not before_pubrec:
                back.send(Pubrec(message.packet_id or 0))
            back.lose()
            self.harness.advance(0.1)
            back = self.harness.connect("back", clean_session=False)
            expected = replace(message, dup=True) if before_pubrec else Pubrel(message.packet_id or 0)
            self.assertEqual(back.connack[1:], [expected])
            self.assertEqual(len(messages(other)), 1)
            self.harness.connect("back")
            other.lose()

    def test_what_came_by_plain_subscriptions_is_nobody_else_s(self) -> None:
        leaves, stays = self.member("leaves", "t"), self.member("stays")
        leaves.send(Subscribe(1, [Subscription(GROUP, 1), Subscription("#", 1)]))
        leaves.received()
        self.publish(b"1", b"2")
        leaves.lose()
        self.harness.advance(0.1)
        self.assertEqual(sorted(payloads(stays)), [b"1", b"2"])

    def test_a_session_that_expires_leaves_them_too(self) -> None:
        self.member("away", clean_session=False).lose()
        self.publish(b"1", b"2")
        here = self.member("here")
        self.harness.advance(0.1)
        self.assertEqual(payloads(here), [])
        self.harness.connect("away", clean_session=True)
        self.harness.advance(0.1)
        self.assertEqual(payloads(here), [b"1", b"2"])

    def test_what_a_member_refuses_goes_to_nobody_else(self) -> None:
        """[MQTT5-4.8.2-6]"""
        refuses = self.member("refuses", qos=2, protocol_level=5)
        self.publish(b"1")
        self.publish(b"2", qos=2)
        others = self.member("other", qos=2)
        refuses.send(Puback(1, 0x80), Pubrec(2, 0x80))
        refuses.lose()
        self.harness.advance(0.1)
        self.assertEqual(payloads(others), [])

    def test_very_many_go_in_turns_of_the_reactor(self) -> None:
        """Row 519."""
        self.harness = BrokerHarness(limits=Limits(max_queued_messages=5000))
        self.sender = self.harness.connect("sender")
        self.member("away", clean_session=False).lose()
        for number in range(3000):
            self.sender.publish("t", b"%d" % number, 1, 1)
        self.sender.received()
        here = self.member("here", clean_session=False)
        self.harness.connect("away")
        self.harness.advance(0.1)
        session = self.harness.broker.sessions.get("here")
        assert session is not None
        self.assertEqual(session.inflight + session.queued, 3000)
        self.assertEqual(payloads(here)[:3], [b"0", b"1", b"2"])


@settings(max_examples=60, stateful_step_count=30, deadline=None)
class Machine(RuleBasedStateMachine):
    """Members come, acknowledge, lose their connection and go for good, while messages are published.

    One of them keeps its Session for ever, so the group is never empty: each message at QoS 1 is
    acknowledged exactly once, whoever got it before.
    """

    NAMES = ("keeps", "a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.harness = BrokerHarness(limits=Limits(max_inflight=3))
        self.sender = self.harness.connect("sender")
        self.clients: dict[str, FakeClient] = {}
        self.waiting: dict[str, list[Publish]] = {name: [] for name in self.NAMES}
        self.acknowledged: Counter[bytes] = Counter()
        self.published = 0
        self.come("keeps", True)

    def take(self) -> None:
        for name, client in self.clients.items():
            self.waiting[name] += [one for one in client.received() if isinstance(one, Publish)]

    @rule(name=st.sampled_from(NAMES), kept=st.booleans())
    def come(self, name: str, kept: bool) -> None:
        if name in self.clients:
            return
        client = self.clients[name] = self.harness.connect(name, clean_session=not (kept or name == "keeps"))
        self.waiting[name] = [one for one in client.connack if isinstance(one, Publish)]
        client.send(Subscribe(1, [Subscription(GROUP, 1)]))
        self.take()

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        for _ in range(count):
            self.published += 1
            self.sender.publish("t", b"%d" % self.published, 1, 1)
        self.sender.received()
        self.take()

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 3))
    def acknowledge(self, name: str, count: int) -> None:
        done, self.waiting[name] = self.waiting[name][:count], self.waiting[name][count:]
        for packet in done:
            self.acknowledged[packet.payload] += 1
            self.clients[name].send(Puback(packet.packet_id or 0))
        self.take()

    @rule(name=st.sampled_from(NAMES))
    def lose(self, name: str) -> None:
        if name in self.clients:
            self.clients.pop(name).lose()
            self.waiting[name] = []
            self.settle()

    @rule(name=st.sampled_from(NAMES[1:]))
    def end(self, name: str) -> None:
        """Its Session ends, though its client may be away."""
        self.lose(name)
        self.harness.connect(name).lose()
        self.settle()

    def settle(self) -> None:
        self.harness.advance(0.05)
        self.take()

    @invariant()
    def nothing_is_acknowledged_twice(self) -> None:
        assert all(count == 1 for count in self.acknowledged.values())

    def teardown(self) -> None:
        for name in self.NAMES:
            self.come(name, True)
        self.settle()
        while any(self.waiting.values()):
            for name in self.NAMES:
                self.acknowledge(name, 100)
        assert sum(self.acknowledged.values()) == self.published, (self.acknowledged, self.published)


TestMachine = Machine.TestCase


class SimpleNamespace:
    """Something with these attributes, that is equal to nothing else."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


def standing_in(congested: bool = False) -> Any:
    """What a group asks of a connected member."""
    return SimpleNamespace(
        inflight=0, queued=0, connection=SimpleNamespace(congested=congested), subscriptions={GROUP: 1}
    )


class Parts(SynchronousTestCase):
    def setUp(self) -> None:
        self.tree: SubscriptionTree[Any] = SubscriptionTree()
        self.shares = Shares(lambda: None, self.tree)

    def test_a_connection_that_is_congested_comes_last(self) -> None:
        congested, free = standing_in(congested=True), standing_in()
        share = Share(GROUP)
        share.present.update({congested: 1, free: 1})
        for _ in range(3):
            self.assertEqual(share.choose(1, lambda session: True), (free, 1))

    def test_who_is_no_member_cannot_leave(self) -> None:
        member: Any = SimpleNamespace(connection=None, subscriptions={GROUP: 1})
        self.assertFalse(self.shares.remove(member, GROUP))
        self.shares.add(member, GROUP, 1)
        self.assertFalse(self.shares.remove(standing_in(), GROUP))
        self.assertTrue(self.shares.remove(member, GROUP))
        self.assertEqual(len(self.shares), 0)

    def test_a_member_that_was_about_to_move_may_stay(self) -> None:
        member: Any = SimpleNamespace(connection=None, inflight=0, queued=0, subscriptions={GROUP: 1})
        self.shares.add(member, GROUP, 1)
        [share] = self.shares.of("t")
        for there in (True, False, True):
            (self.shares.stay if there else self.shares.depart)(member)
            self.assertEqual(share.choose(1, lambda session: True), (member, 1) if there else None)
            self.assertEqual((share.is_there, len(share)), (there, 1))

    def test_what_is_left_behind_is_given_in_order_though_a_turn_is_too_short_for_it(self) -> None:
        """Row 519."""
        clock, given = Clock(), list[bytes]()

        class Slow:
            route = route_retained = None

            def route_owed(self, message: Publish, *rest: object) -> None:
                given.append(message.payload)
                clock.rightNow += 0.006  # without a turn

        router: Any = Slow()
        parts = OpenAuthority(), Limits(), Traffic(), Complaints(clock)
        sharing = Sharing(self.shares, router, standing_in(), clock, *parts)
        member = standing_in()
        member.terms = SimpleNamespace(fits=lambda message: True)
        self.shares.add(member, GROUP, 1)
        sharing.take_back(brought_by(Publish("t", b"%d" % number, 1), GROUP) for number in range(5))
        clock.pump([0] * 5)
        self.assertEqual(given, [b"%d" % number for number in range(5)])


class Nobody(Case):
    def test_a_copy_that_nobody_can_get_waits_for_a_while(self) -> None:
        """At QoS 0 it does not."""
        take = self.harness.broker.sharing.take
        self.assertIsNone(take(brought_by(Publish("t", b"0"), GROUP), SERVER))
        answer = take(brought_by(Publish("t", b"1", 1), GROUP), SERVER)
        assert answer is not None
        self.harness.advance(3)
        self.assertNoResult(answer)
        self.harness.advance(2)
        self.assertIsNone(self.successResultOf(answer))
        late = take(brought_by(Publish("t", b"2", 1), GROUP), SERVER)
        assert late is not None
        client = self.member("late")
        self.harness.advance(1)
        self.assertEqual(payloads(client), [b"2"])
        self.assertIsNone(self.successResultOf(late))

    def test_what_nobody_came_for_is_counted_and_said(self) -> None:
        said = observe_lines(self)
        traffic, take = self.harness.broker.traffic, self.harness.broker.sharing.take
        for number in range(100):
            take(brought_by(Publish("t", b"%d" % number, number % 3), GROUP), SERVER)
        self.assertEqual(traffic.groups_dropped, {})
        self.harness.advance(5)
        self.assertEqual(traffic.groups_dropped, {"group_patience": 66})
        self.harness.advance(20)
        lines = [line for line in said if "group_patience" in line]
        self.assertIn("Dropped a message for '$share/g/t'", lines[0])
        self.assertEqual(len(lines), LINES_PER_HOST + 1)

    def test_no_more_wait_than_may(self) -> None:
        self.harness = BrokerHarness(limits=Limits(max_queued_for_groups=2, group_patience=1))
        traffic, take = self.harness.broker.traffic, self.harness.broker.sharing.take
        answers = [take(brought_by(Publish("t", b"", 1), GROUP), SERVER) for _ in range(3)]
        self.assertIsNone(answers[2])
        self.assertEqual(traffic.groups_dropped, {"max_queued_for_groups": 1})
        self.harness.advance(1)
        self.assertEqual(traffic.groups_dropped, {"max_queued_for_groups": 1, "group_patience": 2})
        self.assertIsNotNone(take(brought_by(Publish("t", b"", 1), GROUP), SERVER))

    def test_without_patience_it_goes_in_the_next_turn(self) -> None:
        self.harness = BrokerHarness(limits=Limits(group_patience=0))
        self.harness.broker.sharing.take(brought_by(Publish("t", b"", 1), GROUP), SERVER)
        self.harness.turn()
        self.assertEqual(self.harness.broker.traffic.groups_dropped, {"group_patience": 1})

    def test_retained_messages_of_other_topics_are_as_before(self) -> None:
        self.member("member")
        other = self.member("other", "other")
        self.publish(b"kept", topic="other", retain=True)
        self.assertEqual(payloads(other), [b"kept"])


class Elsewhere:
    """Another daemon that has members of the group, from the second question on if it is late."""

    def __init__(self, late: bool = False) -> None:
        self.late, self.got = late, list[tuple[int, bytes]]()

    def groups(self, topic: str) -> list[str]:
        return [GROUP] if topic == "t" else []

    def choose(self, topic_filter: str, qos: int, share: Share | None) -> int:
        late, self.late = self.late, False
        return 0 if late else 2

    def hand(self, daemon: int, copy: Publish, client: Client) -> None:
        self.got.append((daemon, copy.payload))


class Others(Case):
    """Another daemon has members too, and its turn comes."""

    def test_it_is_handed_a_copy(self) -> None:
        client = self.member("here")
        sharing = self.harness.broker.sharing
        sharing.others = others = Elsewhere()
        self.publish(b"x")
        self.assertEqual((others.got, payloads(client)), ([(2, b"x")], []))

    def test_also_one_that_nobody_could_get_here(self) -> None:
        sharing = self.harness.broker.sharing
        sharing.others = others = Elsewhere(late=True)
        answer = sharing.hand_out(Publish("t", b"x", 1), SERVER)
        assert answer is not None
        self.assertEqual(others.got, [])
        self.harness.advance(1)
        self.assertEqual(others.got, [(2, b"x")])
        self.assertIsNone(self.successResultOf(answer))
