"""How many types of metric an agent may invent."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Metric
from platziverse.agents.vocabulary import Vocabulary
from platziverse.broker.limits import KIB
from tests.memory import bytes_kept


def metrics(*types: str) -> list[Metric]:
    return [Metric(type, "1") for type in types]


class VocabularyTests(SynchronousTestCase):
    """row 98"""

    def test_types_beyond_the_cap_are_not_admitted(self) -> None:
        vocabulary = Vocabulary(max_types=2)
        self.assertEqual(
            vocabulary.admit("u", metrics("a", "b", "c", "a")),
            (metrics("a", "b", "a"), metrics("c"), ["a", "b"]),
        )
        self.assertEqual(vocabulary.admit("u", metrics("d")), ([], metrics("d"), []))
        self.assertEqual(vocabulary.admit("u", metrics("b")), (metrics("b"), (), ()))

    def test_every_agent_has_its_own_cap(self) -> None:
        vocabulary = Vocabulary(max_types=1)
        vocabulary.admit("u", metrics("a"))
        self.assertEqual(vocabulary.admit("v", metrics("b")), (metrics("b"), [], ["b"]))

    def test_nothing_is_copied_when_all_is_well(self) -> None:
        vocabulary, given = Vocabulary(max_types=2), metrics("a")
        self.assertIs(vocabulary.admit("u", given)[0], given)
        self.assertIs(vocabulary.admit("u", given)[0], given)

    def test_a_million_agents_take_a_bounded_memory(self) -> None:
        vocabulary = Vocabulary(max_types=10, max_remembered=100 * KIB)
        for number in range(10_000):
            vocabulary.admit(f"agent {number}", metrics("a", "b", "c"))
            self.assertLessEqual(vocabulary.remembered, 100 * KIB)
        self.assertLess(bytes_kept(vocabulary), 100 * KIB)

    def test_long_types_of_wide_characters_count_as_what_they_take(self) -> None:
        """Row 290: a character beyond the first 65,536 makes each one of its text take four bytes."""
        vocabulary = Vocabulary(max_types=1000, max_remembered=1024 * KIB)
        for number in range(20):
            types = [f"{number}-{kind}".ljust(254) + "\U0001f600" for kind in range(300)]
            vocabulary.admit(f"agent {number}", metrics(*types))
        self.assertLess(bytes_kept(vocabulary), 1024 * KIB)

    def test_agents_without_metrics_are_not_remembered(self) -> None:
        vocabulary = Vocabulary(max_types=10, max_remembered=100 * KIB)
        for number in range(1000):
            vocabulary.admit(f"agent {number}", [])
        self.assertEqual(
            bytes_kept(vocabulary), bytes_kept(Vocabulary(max_types=10, max_remembered=100 * KIB))
        )

    def test_the_agent_silent_for_longest_is_forgotten_first(self) -> None:
        vocabulary = Vocabulary(max_types=1, max_remembered=1500)
        vocabulary.admit("silent", metrics("a"))
        vocabulary.admit("busy", metrics("a"))
        vocabulary.admit("silent", metrics("a"))
        vocabulary.admit("new", metrics("a"))
        self.assertEqual(vocabulary.admit("busy", metrics("b")), (metrics("b"), [], ["b"]))
