"""What concerns the process as a whole."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.process import within


class WithinTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def test_what_has_fired_is_not_waited_for(self) -> None:
        self.assertTrue(self.successResultOf(within(self.clock, succeed(None), 5)))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience_ends(self) -> None:
        never: Deferred[None] = Deferred()
        answer = within(self.clock, never, 5)
        self.clock.advance(4.9)
        self.assertNoResult(answer)
        self.clock.advance(0.2)
        self.assertFalse(self.successResultOf(answer))
        never.callback(None)

    def test_a_failure_is_logged_and_the_stop_goes_on(self) -> None:
        self.assertTrue(self.successResultOf(within(self.clock, fail(ValueError("so")), 5)))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
