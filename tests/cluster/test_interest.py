"""Who listens to what, on all daemons."""

from collections import Counter
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from platziverse.cluster.frames import DURABLE, LIVE
from platziverse.cluster.interest import FEW, Interest, OwnInterest, is_key, key_of
from platziverse.mqtt.topics import matches

NAMES = st.sampled_from(["", "a", "b", "$x"])
TOPICS = st.lists(NAMES, min_size=1, max_size=4).map("/".join).filter(bool)
WILDCARDS = st.lists(NAMES | st.just("+"), max_size=4)
FILTERS = st.one_of(
    TOPICS,
    WILDCARDS.map("/".join).filter(bool),
    WILDCARDS.map(lambda levels: "/".join([*levels, "#"])),
)


class KeyTests(SynchronousTestCase):
    def test_a_key_ends_before_the_first_wildcard(self) -> None:
        keys = {
            "a/b": "a/b",
            "a/+/c": "a/#",
            "a/b/#": "a/b/#",
            "+": "#",
            "#": "#",
            "+/x": "#",
            "/+": "/#",
            "$SYS/#": "$SYS/#",
        }
        self.assertEqual({topic_filter: key_of(topic_filter) for topic_filter in keys}, keys)

    @given(FILTERS, TOPICS)
    def test_a_key_matches_whatever_its_filters_match(self, topic_filter: str, topic: str) -> None:
        key = key_of(topic_filter)
        self.assertTrue(is_key(key))
        self.assertEqual(key_of(key), key)
        if matches(topic_filter, topic):
            self.assertTrue(matches(key, topic))


class InterestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.forgotten: list[str] = []
        self.work: list[Iterator[None]] = []
        self.interest = Interest(self.forgotten.append, self.work.append)

    def finish(self) -> None:
        while self.work:
            for _ in self.work.pop(0):
                pass

    def test_a_mask_has_the_bits_of_the_daemons_that_listen(self) -> None:
        self.interest.change(5, [("a/b", LIVE), ("a/#", DURABLE)])
        self.interest.change(32767, [("#", LIVE | DURABLE)])
        self.assertEqual(self.interest.daemons("a/b"), (1 << 5 | 1 << 32767, 1 << 5 | 1 << 32767))
        self.assertEqual(self.interest.daemons("a"), (1 << 32767, 1 << 5 | 1 << 32767))
        self.assertEqual(self.interest.daemons("b"), (1 << 32767, 1 << 32767))
        self.assertEqual(self.interest.daemons("$b"), (0, 0))
        self.assertEqual(len(self.interest), 3)

    def test_a_key_that_nobody_listens_to_is_gone(self) -> None:
        self.interest.change(1, [("a", LIVE)])
        self.interest.change(2, [("a", LIVE)])
        self.interest.change(1, [("a", 0), ("b", 0)])
        self.assertEqual(self.interest.daemons("a"), (1 << 2, 0))
        self.interest.change(2, [("a", 0)])
        self.assertEqual(len(self.interest), 0)

    def test_only_keys_that_change_are_forgotten(self) -> None:
        self.interest.change(1, [("a", LIVE)])
        self.interest.change(1, [("a", LIVE)])
        self.assertEqual(self.forgotten, ["a"])

    def test_a_snapshot_takes_the_place_of_what_was_known_when_it_is_whole(self) -> None:
        self.interest.change(1, [("a", LIVE), ("b", LIVE)])
        self.assertNotIn(1, self.interest)
        self.assertFalse(self.interest.snapshot(1, True, False, [("b", DURABLE)]))
        self.assertEqual(self.interest.daemons("a"), (2, 0))
        self.assertEqual(self.interest.daemons("b"), (2, 2))
        self.interest.change(1, [("c", LIVE)])  # meanwhile
        self.assertTrue(self.interest.snapshot(1, False, True, []))
        self.assertIn(1, self.interest)
        self.assertEqual(self.interest.daemons("a"), (0, 0))
        self.assertEqual(self.interest.daemons("b"), (0, 2))
        self.assertEqual(self.interest.daemons("c"), (2, 0))
        self.finish()
        self.assertEqual(len(self.interest), 2)

    def test_a_snapshot_without_its_first_part_is_none(self) -> None:
        self.assertFalse(self.interest.snapshot(1, False, True, [("a", LIVE)]))
        self.assertNotIn(1, self.interest)
        self.assertEqual(self.interest.daemons("a"), (0, 0))

    def test_a_snapshot_that_begins_again_is_whole_all_the_same(self) -> None:
        self.interest.snapshot(1, True, False, [("a", LIVE)])
        self.interest.snapshot(1, True, True, [("b", LIVE)])
        self.assertEqual(self.interest.daemons("a"), (0, 0))
        self.finish()
        self.assertEqual(self.interest.daemons("b"), (2, 0))
        self.assertEqual(len(self.interest), 1)

    def test_a_daemon_that_is_dropped_gets_nothing_at_once_and_leaves_nothing(self) -> None:
        keys = [(f"a/{number}", LIVE) for number in range(2 * FEW + 1)]
        self.interest.change(1, keys)
        self.interest.change(2, keys[:1])
        self.interest.drop(1)
        self.interest.drop(3)
        self.assertEqual(self.interest.daemons("a/0"), (4, 0))
        self.assertEqual(self.interest.daemons("a/1"), (0, 0))
        steps = [list(steps) for steps in self.work]
        self.assertEqual(len(steps[0]), 2)
        self.assertEqual(len(self.interest), 1)

    def test_a_daemon_that_comes_back_before_all_is_swept_has_what_it_says_now(self) -> None:
        self.interest.change(1, [("a", LIVE), ("b", LIVE)])
        self.interest.drop(1)
        self.interest.change(1, [("b", LIVE)])
        self.finish()
        self.assertEqual(self.interest.daemons("a"), (0, 0))
        self.assertEqual(self.interest.daemons("b"), (2, 0))

    def test_slots_are_used_again(self) -> None:
        for number in range(1, 2000):
            self.interest.change(number, [("a", LIVE)])
            self.interest.drop(number)
            self.finish()
        self.interest.change(7, [("a", LIVE)])
        self.assertEqual(self.interest.daemons("a"), (1 << 7, 0))


class OwnInterestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.own = OwnInterest()

    def test_the_first_of_a_key_is_told_and_no_other(self) -> None:
        self.own.add("a/+/c", False)
        self.assertTrue(self.own.is_changed)
        self.own.add("a/b/+", False)
        self.assertEqual(dict(self.own.changes()), {"a/#": LIVE, "a/b/#": LIVE})
        self.own.add("a/+", False)
        self.assertFalse(self.own.is_changed)
        self.own.add("a/+", True)
        self.assertEqual(self.own.changes(), [("a/#", LIVE | DURABLE)])

    def test_what_is_over_is_told_later(self) -> None:
        self.own.add("a", False)
        self.own.add("a", False)
        self.own.changes()
        self.own.remove("a", False)
        self.assertEqual(self.own.faded(), [])
        self.own.remove("a", False)
        self.assertEqual(self.own.changes(), [])
        self.assertEqual(self.own.faded(), [("a", 0)])
        self.assertEqual(len(self.own), 0)

    def test_who_comes_back_soon_is_not_told_of(self) -> None:
        self.own.add("a", False)
        self.own.changes()
        self.own.remove("a", False)
        self.own.add("a", False)
        self.assertEqual(self.own.changes(), [])
        self.assertEqual(self.own.faded(), [])

    def test_a_durable_one_that_comes_in_the_place_of_another_is_told_at_once(self) -> None:
        self.own.add("a", False)
        self.own.changes()
        self.own.remove("a", False)
        self.own.add("a", True)
        self.assertEqual(self.own.changes(), [("a", LIVE | DURABLE)])
        self.assertEqual(self.own.faded(), [("a", DURABLE)])

    def test_what_comes_and_goes_within_a_turn_is_never_told(self) -> None:
        self.own.add("a", False)
        self.own.remove("a", False)
        self.assertEqual(self.own.changes(), [])
        self.assertEqual(self.own.faded(), [])
        self.assertEqual(len(self.own), 0)

    def test_figures_of_one_daemon_are_nobody_elses_business(self) -> None:
        for topic_filter in ("$SYS/#", "$SYS/broker/uptime", "$SYS/+/uptime"):
            self.own.add(topic_filter, False)
            self.own.remove(topic_filter, False)
        self.assertEqual(len(self.own), 0)
        self.assertFalse(self.own.is_changed)

    def test_a_subscription_that_was_not_counted_cannot_end(self) -> None:
        with self.assertRaises(KeyError):
            self.own.remove("a", False)

    def test_the_parts_have_what_was_told(self) -> None:
        for number in range(FEW + 1):
            self.own.add(str(number), False)
        self.own.changes()
        self.own.add("later", False)
        parts = list(self.own.parts())
        self.assertEqual([len(part) for part in parts], [FEW, 1])
        self.own.remove("0", False)
        parts = list(self.own.parts())
        self.assertIn(("0", LIVE), parts[0])  # not told yet


class TwoDaemons(RuleBasedStateMachine):
    """One daemon's Subscriptions, and what another one knows of them, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: Counter[tuple[str, bool]] = Counter()
        self.own = OwnInterest()
        self.work: list[Iterator[None]] = []
        self.other = Interest(lambda key: None, self.work.append)

    @rule(topic_filter=FILTERS, durable=st.booleans())
    def subscribe(self, topic_filter: str, durable: bool) -> None:
        self.subscriptions[topic_filter, durable] += 1
        self.own.add(topic_filter, durable)
        self.other.change(1, self.own.changes())

    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        if there := sorted(self.subscriptions.elements()):
            one = data.draw(st.sampled_from(there))
            self.subscriptions[one] -= 1
            self.own.remove(*one)

    @rule()
    def fade(self) -> None:
        self.other.change(1, self.own.faded())

    @rule()
    def snapshot(self) -> None:
        self.other.snapshot(1, True, False, [])
        for part in self.own.parts():
            self.other.snapshot(1, False, False, part)
        self.other.snapshot(1, False, True, [])

    @rule()
    def sweep(self) -> None:
        while self.work:
            for _ in self.work.pop():
                pass

    @rule()
    def everything_is_told_in_the_end(self) -> None:
        self.fade()
        self.sweep()
        keys = {key_of(topic_filter) for topic_filter, _ in self.subscriptions.elements()}
        assert len(self.other) == len(self.own) == len(keys)

    @invariant()
    def the_other_one_misses_nobody(self) -> None:
        for topic in ("a", "a/b", "/", "a/a/a", "$x/a"):
            live, durable = self.other.daemons(topic)
            for topic_filter, is_durable in self.subscriptions.elements():
                if matches(topic_filter, topic):
                    assert durable if is_durable else live


TwoDaemons.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTwoDaemons = TwoDaemons.TestCase
