"""Who hears whom in the bench of several daemons."""

from twisted.trial.unittest import SynchronousTestCase

from bench.cluster import PAIRS, topic_of


class SpreadTests(SynchronousTestCase):
    def across(self, far: int) -> int:
        """How many subscribers hear a publisher of the other of two daemons, which have them in turn."""
        topics = [topic_of(subscriber, far) for subscriber in range(PAIRS)]
        self.assertEqual(sorted(topics), list(range(PAIRS)))
        return sum((topic - subscriber) % 2 for subscriber, topic in enumerate(topics))

    def test_every_publisher_has_a_subscriber_as_far_away_as_is_said(self) -> None:
        self.assertEqual([self.across(far) for far in (0, 1, -1)], [0, PAIRS, PAIRS // 2])
