"""Process: the signals of the process as a whole, its exit code, its collector and its steady clock."""

import atexit
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

log = Logger("platziverse.process")


def choose_reactor() -> None:
    """Install :class:`ServingReactor` where there is epoll, unless something has chosen already."""
    if "twisted.internet.reactor" not in sys.modules and hasattr(select, "epoll"):
        from platziverse.door.reactor import install

        install()


def use_steady_clock(reactor: Any) -> None:
    """Let timers run by the monotonic clock: a step of the wall clock would stop them, or fire them all."""
    reactor.seconds = time.monotonic


def collect_rarely() -> None:
    """Let the collector look at new objects only: the parts of the daemon live as long as it does.

    Messages are freed by their reference counts. With Python's defaults the collector looked at them all
    the same, and at everything that had been imported: 45 instead of 41 µs of CPU per stored message.
    To be called before the first client comes: what is frozen is never looked at again, and a connection
    that ends leaves no cycle behind, so it needs no collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 100)


def stop_on_signals(reactor: Any) -> None:
    """SIGTERM and SIGINT stop the reactor, and the process then exits with 0; the second one ends it at once.

    Twisted's own handlers would let the process die of the signal when everything has been put away.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, end_now)
        signal.signal(signal.SIGINT, end_now)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        reactor.callFromThread(stop, number)

    def end_now(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    def stop(number: int) -> None:
        log.info("{signal} came; stopping", signal=signal.Signals(number).name)
        _stop(reactor)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


@implementer(IReadDescriptor)
class _Parent:
    """A _Parent is the standard input of a worker, whose other end the process that looks after it holds."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def fileno(self) -> int:
        return sys.stdin.fileno()

    def logPrefix(self) -> str:
        return "parent"

    def doRead(self) -> None:
        """Look whether the other end is there; nothing is ever written to it."""
        if not os.read(self.fileno(), 4096):
            self.connectionLost(None)

    def connectionLost(self, reason: object) -> None:
        """Stop: the other end is gone. epoll says so without anything to read."""
        self._reactor.removeReader(self)
        log.info("the process that looks after this worker stops it, or has gone; stopping")
        _stop(self._reactor)


def stop_with_parent(reactor: Any) -> None:
    """Let the reactor stop when the process that has started this one ends, however that happens."""
    reactor.addReader(_Parent(reactor))


def reload_on_hangup(reactor: Any, reload: Callable[[], object]) -> None:
    """SIGHUP calls ``reload``; but when it says that our terminal has gone, the daemon stops."""
    on_terminal = os.isatty(0)

    def handle(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(hung_up)

    def hung_up() -> None:
        if on_terminal and not os.isatty(0):
            log.info("the terminal has gone; stopping")
            _stop(reactor)
        else:
            reload()

    signal.signal(signal.SIGHUP, handle)


def reopen_on_usr1(reactor: Any, reopen: Callable[[], object]) -> None:
    """SIGUSR1, which ends a process that does not expect it, calls ``reopen``: rotation of logs uses it."""
    signal.signal(signal.SIGUSR1, lambda number, frame: reactor.callFromThread(reopen))


def within(reactor: Any, deferred: "Deferred[Any]", seconds: float) -> "Deferred[bool]":
    """Fire with whether ``deferred`` has, when it has or ``seconds`` have passed; its failure is logged."""
    answer: Deferred[bool] = Deferred()
    call = reactor.callLater(seconds, answer.callback, False)

    def fired(_: object) -> None:
        if call.active():
            call.cancel()
            answer.callback(True)

    deferred.addErrback(lambda failure: log.failure("while stopping", failure)).addCallback(fired)
    return answer


def while_somebody_reads(run: Callable[[], int | None]) -> int:
    """Return the exit code of ``run``, which prints, or of the signal that has ended it: SIGPIPE or SIGINT.

    A reader such as ``head`` goes when it has seen enough. Python would complain once more at its end, so the
    output leads nowhere from then on.
    """
    try:
        code = run() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def fail(reactor: Any, reason: str) -> None:
    """Put everything away and exit with 1; ``reason`` is the last line of the log, as it says what to do."""
    reactor.addSystemEventTrigger("after", "shutdown", log.critical, "{reason}", reason=reason)
    # twistd knows no exit code but 0 when a running reactor was stopped.
    atexit.register(_exit_with_failure)
    _stop(reactor)


def _stop(reactor: Any) -> None:
    with suppress(ReactorNotRunning):  # it is already stopping
        reactor.stop()


def _exit_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
