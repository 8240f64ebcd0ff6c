"""A worker, with a process that is none and a clock."""

import os
import shutil
import tempfile
from typing import Any, cast

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.sockets import Closing
from platziverse.daemon.worker import LONGEST_PAUSE, PAUSE, SILENCE, STOP, WELL, Worker
from tests.logs import observe_lines


class Process:
    """A process that was started, and the signals that it got."""

    def __init__(self, environment: dict[str, str], descriptors: dict[int, Any]) -> None:
        self.environment, self.descriptors = environment, descriptors
        self.signals: list[str] = []

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)

    def closeStdin(self) -> None:
        self.signals.append("end of input")


class Reactor(Clock):
    """A reactor that starts no process, and lets the test send datagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.notices: DatagramProtocol | None = None

    def spawnProcess(
        self, protocol: object, executable: str, arguments: object, environment: Any, childFDs: Any
    ) -> Process:
        self.processes.append(Process(environment, childFDs))
        return self.processes[-1]

    def listenUNIXDatagram(self, path: str, protocol: DatagramProtocol, mode: int) -> "Reactor":
        assert not os.path.exists(path)
        self.notices = protocol
        return self

    def stopListening(self) -> None:
        self.notices = None


class Sockets:
    """Sockets that are closed, or not."""

    def __init__(self) -> None:
        self.closing, self.closed = False, 0

    def begin(self) -> None:
        self.closing = True

    def end(self) -> int:
        self.closing = False
        return self.closed


class WorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.flushLoggedErrors()
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = os.path.join(folder, "notices")
        self.reactor = Reactor()
        self.lines: list[bytes] = []
        self.statuses: list[str] = []
        self.sockets = Sockets()

    def worker(self) -> Worker:
        worker = Worker(
            self.reactor,
            2,
            ["platziverse"],
            lambda: {"PLATZIVERSE_WORKERS_NUMBER": "2"},
            [11, 12],
            self.path,
            self.lines.append,
            lambda worker: self.statuses.append(worker.status),
            cast(Closing, self.sockets),
        )
        worker.start()
        return worker

    def ends(self, worker: Worker, code: int = 1) -> None:
        worker.processEnded(Failure(ProcessTerminated(code) if code else ProcessDone(0)))

    def tell(self, text: bytes) -> None:
        assert self.reactor.notices is not None
        self.reactor.notices.datagramReceived(text, ("", 0))

    def test_its_process_has_its_sockets_and_is_told_so_as_by_systemd(self) -> None:
        self.worker()
        (process,) = self.reactor.processes
        self.assertEqual(process.descriptors, {0: "w", 1: "r", 2: "r", 3: 11, 4: 12})
        given = process.environment
        self.assertEqual((given["LISTEN_FDS"], given["LISTEN_FDNAMES"]), ("2", "3:4"))
        self.assertEqual(given["NOTIFY_SOCKET"], self.path)
        self.assertEqual(given["PLATZIVERSE_WORKERS_NUMBER"], "2")

    def test_a_socket_that_was_left_behind_is_replaced(self) -> None:
        with open(self.path, "w", encoding="ascii"):
            self.worker()

    def test_its_status_is_what_it_said_last(self) -> None:
        worker = self.worker()
        self.tell(b"READY=1\nSTATUS=the database is ready; 0 clients")
        self.tell(b"STATUS=the database is ready; 1 clients")
        self.tell(b"WATCHDOG=1")
        self.assertEqual(worker.status, "the database is ready; 1 clients")
        self.assertEqual(len(self.statuses), 2)

    def test_whole_lines_are_passed_on(self) -> None:
        worker = self.worker()
        worker.childDataReceived(1, b"one\ntw")
        worker.childDataReceived(2, b"o\n")
        self.assertEqual(self.lines, [b"one", b"two"])

    def test_it_is_started_again_and_ever_later_while_it_ends_early(self) -> None:
        worker = self.worker()
        pauses = []
        for count in range(1, 12):
            self.tell(b"STATUS=well")
            self.ends(worker)
            self.assertEqual(worker.status, "")
            before = self.reactor.seconds()
            while len(self.reactor.processes) == count:
                self.reactor.advance(0.1)
            pauses.append(round(self.reactor.seconds() - before, 1))
        self.assertEqual(pauses, sorted(pauses))
        self.assertLess(pauses[0], 1)
        self.assertLess(abs(pauses[-1] - LONGEST_PAUSE), 0.2)
        self.assertEqual(worker.starts, 12)

    def test_connections_wait_for_it_unless_it_does_not_start(self) -> None:
        worker, closing = self.worker(), []
        for _ in range(4):
            self.ends(worker)
            closing.append(self.sockets.closing)
            while worker.starts == len(closing):
                self.reactor.advance(0.1)
            self.assertFalse(self.sockets.closing)
        self.assertEqual(closing, [False, False, True, True])
        self.ends(worker)
        self.sockets.closed = 3
        logged = observe_lines(self)
        self.successResultOf(worker.stop())
        self.assertFalse(self.sockets.closing)
        self.assertEqual(logged, ["3 connections to worker 2 were closed while it did not run"])

    def test_one_that_ran_for_long_is_started_again_soon(self) -> None:
        worker = self.worker()
        for _ in range(5):
            for _ in range(4):
                self.reactor.advance(WELL / 3)
                self.tell(b"WATCHDOG=1")
            self.ends(worker)
            self.reactor.advance(PAUSE)
        self.assertEqual(worker.starts, 6)

    def test_one_that_gives_no_sign_of_life_is_killed(self) -> None:
        worker = self.worker()
        (process,) = self.reactor.processes
        self.reactor.advance(SILENCE - 1)
        self.tell(b"WATCHDOG=1")
        self.reactor.advance(SILENCE - 1)
        self.assertEqual(process.signals, [])
        self.reactor.advance(1)
        self.assertEqual(process.signals, ["KILL"])
        self.ends(worker)
        self.reactor.advance(SILENCE)
        self.assertEqual(len(self.reactor.processes), 2)

    def test_it_stops_when_it_is_told_and_is_not_started_again(self) -> None:
        worker = self.worker()
        stopped = worker.stop()
        self.assertIs(worker.stop(), stopped)
        self.assertEqual(self.reactor.processes[0].signals, ["end of input"])
        self.assertNoResult(stopped)
        self.ends(worker, 0)
        self.assertIsNone(self.successResultOf(stopped))
        self.reactor.advance(LONGEST_PAUSE)
        self.assertEqual((len(self.reactor.processes), self.reactor.notices), (1, None))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_one_that_does_not_stop_in_time_is_killed(self) -> None:
        worker = self.worker()
        stopped = worker.stop()
        self.tell(b"STATUS=stopping")
        self.reactor.advance(STOP)
        self.assertEqual(self.reactor.processes[0].signals, ["end of input", "KILL"])
        self.ends(worker)
        self.successResultOf(stopped)

    def test_one_that_waits_to_be_started_again_stops_at_once(self) -> None:
        worker = self.worker()
        self.ends(worker)
        self.successResultOf(worker.stop())
        worker.signal("HUP")
        self.assertEqual((len(self.reactor.processes), self.reactor.getDelayedCalls()), (1, []))
