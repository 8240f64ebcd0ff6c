"""SubscriptionTree against a naive oracle, and what it remembers."""

import contextlib
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.subscriptions import MANY_STEPS, SubscriptionTree
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.topics import check_topic_filter, matches
from tests.memory import bytes_kept, objects_kept

LEVEL = st.sampled_from(["", "a", "b", "$SYS", "agent"])
TOPICS = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(st.one_of(LEVEL, st.just("+")), max_size=3), st.sampled_from([[], ["#"], ["a"]]))
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)
RESTORED = st.lists(st.dictionaries(FILTERS, st.integers(0, 2), max_size=5), max_size=3)
CHANGES = st.lists(st.tuples(st.booleans(), FILTERS, st.integers(0, 3), st.integers(0, 2)), max_size=30)


class Matching(SynchronousTestCase):
    @given(RESTORED, CHANGES, st.lists(TOPICS, min_size=1, max_size=6))
    def test_matches_as_the_naive_oracle_after_any_changes(
        self, restored: list[dict[str, int]], changes: list[tuple[bool, str, int, int]], topics: list[str]
    ) -> None:
        """row 53: what is matched is exactly what the standard says, cached or not."""
        tree: SubscriptionTree[int] = SubscriptionTree()
        model: dict[tuple[str, int], int] = {}
        for holder, subscriptions in enumerate(restored):
            tree.match(topics[0])
            tree.restore(subscriptions, holder)
            model |= {(topic_filter, holder): qos for topic_filter, qos in subscriptions.items()}
        for add, topic_filter, holder, qos in changes:
            if add:
                tree.add(topic_filter, holder, qos)
                model[topic_filter, holder] = qos
            else:
                self.assertEqual(
                    tree.remove(topic_filter, holder), model.pop((topic_filter, holder), None) is not None
                )
            for topic in topics:
                expected: dict[int, int] = {}
                for (held, who), granted in model.items():
                    if matches(held, topic):
                        expected[who] = max(granted, expected.get(who, 0))
                self.assertEqual(dict(tree.match(topic)), expected)
        self.assertEqual(len(tree), len(model))

    def test_an_emptied_tree_holds_nothing(self) -> None:
        tree: SubscriptionTree[str] = SubscriptionTree()
        filters = ["a/b", "a/+/c", "#", "+", "a/b/#", "a/+/c/d/e/f"]
        for topic_filter in filters:
            tree.add(topic_filter, "client", 1)
        for topic_filter in filters:
            self.assertTrue(tree.remove(topic_filter, "client"))
        self.assertEqual(len(tree), 0)
        self.assertEqual(objects_kept(tree), objects_kept(SubscriptionTree()))

    def test_a_search_that_took_long_is_told(self) -> None:
        strained: list[bool] = []
        tree: SubscriptionTree[int] = SubscriptionTree(strained=lambda: strained.append(True))
        for number in range(MANY_STEPS):
            tree.add("#", number, 0)
        tree.find("a")
        self.assertEqual(strained, [True])
        tree.remove("#", 0)
        tree.remove("#", 1)
        tree.find("a")
        self.assertEqual(strained, [True])

    def test_a_leading_wildcard_hides_dollar_topics(self) -> None:
        """[MQTT-4.7.2-1]"""
        tree: SubscriptionTree[str] = SubscriptionTree()
        for topic_filter in ("#", "+/broker/uptime", "+/#"):
            tree.add(topic_filter, topic_filter, 0)
        tree.add("$SYS/#", "asked", 0)
        self.assertEqual(tree.match("$SYS/broker/uptime"), (("asked", 0),))

    def test_what_looks_like_a_pattern_is_text(self) -> None:
        """row 35"""
        tree: SubscriptionTree[str] = SubscriptionTree()
        for topic_filter in ("\\", "(a|a)*$", "[", ".*", "(a+)+/b", "^x"):
            with contextlib.suppress(MalformedPacket):
                check_topic_filter(topic_filter)
                tree.add(topic_filter, topic_filter, 0)
        self.assertEqual(tree.match("a" * 50_000 + "!"), ())
        self.assertEqual(tree.match("\\"), (("\\", 0),))

    def test_a_filter_of_thousands_of_levels_does_not_recurse(self) -> None:
        """row 34"""
        tree: SubscriptionTree[str] = SubscriptionTree()
        deep = "/".join(["+"] * 30_000)
        tree.add(deep, "client", 0)
        self.assertEqual(tree.match("/".join(["x"] * 30_000)), (("client", 0),))
        tree.remove(deep, "client")


class Memory(SynchronousTestCase):
    def test_what_is_remembered_is_bounded(self) -> None:
        tree: SubscriptionTree[str] = SubscriptionTree(memory=5000)
        tree.add("#", "client", 0)
        empty = bytes_kept(tree)
        for number in range(100):
            tree.match(f"topic/{number}")
            self.assertLessEqual(bytes_kept(tree), empty + 2 * 5000)
        self.assertIs(tree.match("topic/99"), tree.match("topic/99"))

    def test_the_books_of_the_memory_balance(self) -> None:
        """What was forgotten one by one takes no room: as many topics as ever are remembered together."""
        tree: SubscriptionTree[str] = SubscriptionTree(memory=5000)
        tree.add("#", "everything", 0)
        for number in range(1000):
            tree.match(f"topic/{number}")
            tree.add(f"topic/{number}", "one", 1)
            tree.remove(f"topic/{number}", "one")
        found = [tree.match(f"topic/{number}") for number in range(5)]
        self.assertTrue(all(tree.match(f"topic/{number}") is found[number] for number in range(5)))

    def test_it_is_bounded_in_bytes_whatever_the_topics_are_like(self) -> None:
        """Row 53: as measured, with long Topic Names of characters that take four bytes each."""
        tree: SubscriptionTree[str] = SubscriptionTree(memory=2 * 1024 * 1024)
        for holder in ("one", "two", "three"):
            tree.add("#", holder, 0)
        for topic in ("{}", "\N{GRINNING FACE}" * 250 + "{}"):
            tracemalloc.start()
            for number in range(20_000):
                tree.match(topic.format(number))
            taken = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            self.assertLess(taken, 3 * 1024 * 1024)
            self.assertGreater(taken, 1024 * 1024 // 4)

    def test_long_topic_names_are_not_remembered(self) -> None:
        tree: SubscriptionTree[str] = SubscriptionTree()
        tree.match("x" * 60_000)
        self.assertEqual(objects_kept(tree), objects_kept(SubscriptionTree()))
