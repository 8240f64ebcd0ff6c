"""Memo and Recent: what they remember, and that it has an end."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.memo import Memo, Recent
from platziverse.mqtt.readers import topic_names
from platziverse.mqtt.topics import CACHED_TOPIC_LENGTH, CACHED_TOPICS

KEYS = st.sampled_from("abcdef")


class Memos(SynchronousTestCase):
    def test_a_value_is_made_once(self) -> None:
        made: list[str] = []

        def make(key: str) -> int:
            made.append(key)
            return len(made)

        memo: Memo[str, int] = Memo(make)
        self.assertEqual([memo["a"], memo["b"], memo["a"]], [1, 2, 1])
        memo.forget("a")
        memo.forget("never")
        self.assertEqual((memo["a"], made), (3, ["a", "b", "a"]))

    def test_nothing_is_also_a_value(self) -> None:
        made: list[str] = []
        memo: Memo[str, None] = Memo(made.append)
        self.assertEqual([memo["a"], memo["a"], made], [None, None, ["a"]])

    def test_what_could_not_be_made_is_tried_again(self) -> None:
        memo: Memo[str, int] = Memo(int)
        for _ in range(2):
            self.assertRaises(ValueError, memo.__getitem__, "x")
        self.assertEqual(len(memo), 0)

    def test_their_number_is_bounded(self) -> None:
        """row 34"""
        memo: Memo[str, str] = Memo(str.upper)
        for number in range(CACHED_TOPICS + 10):
            self.assertEqual(memo[f"a{number}"], f"A{number}")
            self.assertLessEqual(len(memo), CACHED_TOPICS)

    def test_long_ones_are_not_remembered(self) -> None:
        """row 34"""
        topic_names.cache_clear()
        topics = topic_names(200)
        self.assertEqual(topics[b"x" * CACHED_TOPIC_LENGTH], "x" * CACHED_TOPIC_LENGTH)
        self.assertEqual(topics[b"x" * 65_535], "x" * 65_535)
        self.assertEqual(len(topics), 1)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), st.integers(1, 30))
    def test_all_together_never_weigh_too_much(self, steps: list[tuple[bool, int]], most: int) -> None:
        memo: Memo[int, int] = Memo(lambda key: key, most, lambda key, value: key)
        for look, key in steps:
            if look:
                self.assertEqual(memo[key], key)
            else:
                memo.forget(key)
                self.assertNotIn(key, memo)
            self.assertTrue(sum(memo) <= most or len(memo) == 1)  # one that is too heavy stands alone
            self.assertNotIn(0, memo)

    @given(st.lists(st.integers(1, 9), max_size=30))
    def test_the_room_of_what_was_forgotten_is_free(self, keys: list[int]) -> None:
        memo: Memo[int, int] = Memo(lambda key: key, 45, lambda key, value: key)
        for key in keys:
            memo.forget(memo[key])
        for key in range(1, 10):
            memo[key]
        self.assertEqual(len(memo), 9)


class Recents(SynchronousTestCase):
    @given(
        st.lists(
            st.tuples(st.sampled_from(["put", "touch", "forget"]), KEYS, st.integers(0, 3)), max_size=60
        ),
        st.integers(0, 8),
    )
    def test_the_newest_that_have_room_are_kept(self, steps: list[tuple[str, str, int]], most: int) -> None:
        recent: Recent[str, int] = Recent(most, lambda value: value)
        model: list[tuple[str, int]] = []  # the oldest first
        for step, key, value in steps:
            here = dict(model).get(key)
            model = [entry for entry in model if entry[0] != key or (step == "touch" and here == 0)]
            if step == "put":
                model.append((key, value))
                gone = []
                while sum(weight for _, weight in model) > most:
                    gone.append(model.pop(0)[0])
                self.assertEqual(recent.put(key, value), gone)
            elif step == "touch":
                self.assertEqual(recent.touch(key), here)
                if here is not None:
                    model = [entry for entry in model if entry[0] != key] + [(key, here)]
            else:
                recent.forget(key)
            self.assertEqual((len(recent), recent.weight), (len(model), sum(value for _, value in model)))
            self.assertEqual(recent.oldest(), model[0] if model else None)
            self.assertEqual({key: recent.get(key) for key in dict(model)}, dict(model))

    def test_each_value_weighs_one_without_a_scale(self) -> None:
        recent: Recent[str, str] = Recent(2)
        self.assertEqual([recent.put(key, "value") for key in "abac"], [[], [], [], ["b"]])
