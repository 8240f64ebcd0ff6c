"""Worker: one daemon among several of this machine, as the process that looks after it sees it."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import DatagramProtocol, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.daemon.sockets import FIRST, Closing

log = Logger("platziverse.workers")

#: The pid is not known before the process runs; who is told of sockets wants to see its own.
PROGRAM: Final = (
    "import os; os.environ['LISTEN_PID'] = str(os.getpid()); from twisted.scripts.twistd import run; run()"
)
#: Seconds without a sign of life after which a worker hangs and is killed.
SILENCE: Final = 30.0
#: Seconds before it is started again: the first time, and at most; and how long it has to run for the first.
PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 30.0
WELL: Final = 60.0
#: Seconds beyond which connections do not wait for its next start. ADR 0224.
WAIT: Final = 1.0
#: Seconds that it may take to stop.
STOP: Final = 25.0


class Worker(ProcessProtocol):
    """A Worker starts its process again whenever that ends, until it is told to stop.

    :param number: from 1.
    :param arguments: of ``twistd``.
    :param environment: called before each start.
    :param descriptors: of its sockets, in order.
    :param notices: path of the socket to which the process sends what systemd would be told.
    :param said: called with each line that the process writes; ``None``: it writes where we do.
    :param changed: called when ``status`` has, with the Worker.
    :param closing: closes what comes to its sockets while it does not run for long.
    :ivar status: what it said last; ``""`` until its ports are open, and after its end.
    :ivar starts: how often it was started.
    :ivar refused: the process ended soon with exit code 1: it cannot be used as it is configured.
    """

    def __init__(
        self,
        reactor: Any,
        number: int,
        arguments: Sequence[str],
        environment: "Callable[[], dict[str, str]]",
        descriptors: Sequence[int],
        notices: str,
        said: "Callable[[bytes], None] | None",
        changed: "Callable[[Worker], None]",
        closing: Closing,
    ) -> None:
        self.number, self.status, self.starts = number, "", 0
        self.refused = False
        self._reactor, self._environment, self._descriptors = reactor, environment, descriptors
        self._command = [sys.executable, "-c", PROGRAM, *arguments]
        self._path, self._said, self._changed, self._closing = notices, said, changed, closing
        self._notices: Any = None
        self._process: Any = None
        self._began, self._pause = 0.0, PAUSE
        self._silent: Any = None
        self._again: Any = None
        self._rest = b""
        self._stopped: Deferred[None] | None = None

    def start(self) -> None:
        """Start the process, and listen to what it says of itself."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)  # a run that was killed has left it behind
        self._notices = self._reactor.listenUNIXDatagram(self._path, _Notices(self._told), mode=0o600)
        self._spawn()

    def signal(self, name: str) -> None:
        """Send the process a signal, e.g. ``"HUP"``, if it runs."""
        if self._process is not None:
            self._process.signalProcess(name)

    def stop(self) -> "Deferred[None]":
        """Stop the process; the Deferred fires when it has ended, by force if it does not in time.

        It is told by the end of its input: a signal to all processes, as from a terminal, may have reached it
        already, and a second one ends a daemon at once.
        """
        if self._stopped is None:
            self._stopped = Deferred()
            if self._again is not None and self._again.active():
                self._again.cancel()
            self._let_wait()
            if self._process is None:
                return self._put_away()
            self._watch(STOP)
            self._process.closeStdin()
        return self._stopped

    def _put_away(self) -> "Deferred[None]":
        if self._notices is not None:
            self._notices.stopListening()
        return succeed(None)

    def _let_wait(self) -> None:
        """Close no more connections to its sockets."""
        if closed := self._closing.end():
            text = "{closed} connections to worker {number} were closed while it did not run"
            log.warn(text, closed=closed, number=self.number)

    def _spawn(self) -> None:
        self._let_wait()
        streams: dict[int, Any] = {0: "w", 1: 1, 2: 2} if self._said is None else {0: "w", 1: "r", 2: "r"}
        sockets = dict(enumerate(self._descriptors, FIRST))
        environment = self._environment() | {
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": ":".join(str(descriptor) for descriptor in sockets),
            "NOTIFY_SOCKET": self._path,
            "WATCHDOG_USEC": str(int(SILENCE * 1e6)),
        }
        self.starts += 1
        self._began = self._reactor.seconds()
        # Its standard input ends when we do, however that happens: so does the worker then.
        self._process = self._reactor.spawnProcess(
            self, self._command[0], self._command, environment, childFDs=streams | sockets
        )
        self._watch(SILENCE)

    # -- what the process says -------------------------------------------------------------------

    def childDataReceived(self, descriptor: int, data: bytes) -> None:
        """Pass whole lines on."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._said is not None:
                self._said(line)

    def _told(self, datagram: bytes) -> None:
        """Take what the process tells of itself; any of it is a sign of life."""
        if self._stopped is None:
            self._watch(SILENCE)
        for line in datagram.decode("utf-8", "replace").split("\n"):
            name, _, value = line.partition("=")
            if name == "STATUS":
                self.status = value
                self._changed(self)

    def _watch(self, seconds: float) -> None:
        """Kill the process unless it gives a sign of life, or ends, within ``seconds``."""
        if self._silent is not None and self._silent.active():
            self._silent.reset(seconds)
        else:
            self._silent = self._reactor.callLater(seconds, self._hangs)

    def _hangs(self) -> None:
        log.error("worker {number} gives no sign of life; killing it", number=self.number)
        self.signal("KILL")

    def processEnded(self, reason: Failure) -> None:
        """Start it again, after a pause that grows while it ends early."""
        self._process, self._rest = None, b""
        if self._silent is not None and self._silent.active():
            self._silent.cancel()
        if self._stopped is not None:
            self._put_away()
            self._stopped.callback(None)
            return
        ran = self._reactor.seconds() - self._began
        value: Any = reason.value
        self.refused = value.exitCode == 1 and ran < WELL
        self._pause = PAUSE if ran > WELL else self._pause * 2
        pause = min(self._pause, LONGEST_PAUSE)
        ending = " ".join(reason.getErrorMessage().split())
        text = "worker {number} has ended: {ending} It is started again in {pause:.1f} s"
        if pause > WAIT:
            text += "; until then its share of the connections is closed"
            self._closing.begin()
        log.warn(text, number=self.number, ending=ending, pause=pause)
        self._again = self._reactor.callLater(pause, self._spawn)
        self.status = ""
        self._changed(self)


class _Notices(DatagramProtocol):
    """_Notices takes datagrams in the form of ``sd_notify``."""

    def __init__(self, told: Callable[[bytes], None]) -> None:
        self._told = told

    def datagramReceived(self, datagram: bytes, address: object) -> None:
        """Pass one on."""
        self._told(datagram)
