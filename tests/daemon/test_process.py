"""What concerns the process as a whole."""

import os
import signal
import time

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.process import reopen_on_usr1, use_steady_clock, within


class SteadyClockTests(SynchronousTestCase):
    """Row 120: the clock of the machine is set back, or forward."""

    def test_timers_fire_at_their_time(self) -> None:
        reactor = SelectReactor()
        self.addCleanup(reactor.removeAll)
        use_steady_clock(reactor)
        steady = [1000.0]
        self.patch(time, "monotonic", lambda: steady[0])
        use_steady_clock(reactor)
        for step in (-86_400.0, 86_400.0, 0.0):
            wall = time.time() + step
            self.patch(time, "time", lambda wall=wall: wall)
            fired: list[float] = []
            reactor.callLater(10, lambda fired=fired: fired.append(reactor.seconds()))
            began = steady[0]
            for seconds in range(1, 12):
                steady[0] = began + seconds
                reactor.runUntilCurrent()
            self.assertEqual(fired, [began + 10])

    def test_it_is_that_of_the_process(self) -> None:
        reactor = SelectReactor()
        self.addCleanup(reactor.removeAll)
        use_steady_clock(reactor)
        self.assertIs(reactor.seconds, time.monotonic)


class SignalTests(SynchronousTestCase):
    def test_sigusr1_reopens_the_log_and_ends_nothing(self) -> None:
        reactor = SelectReactor()
        self.addCleanup(reactor.removeAll)
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        reopened: list[bool] = []
        reopen_on_usr1(reactor, lambda: reopened.append(True))
        os.kill(os.getpid(), signal.SIGUSR1)
        self.assertEqual(reopened, [])  # not in the middle of something
        reactor.runUntilCurrent()
        self.assertEqual(reopened, [True])


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
