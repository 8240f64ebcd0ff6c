"""Workers: several daemons of one machine behind the same ports, and the process that looks after them."""

import os
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse import __version__
from platziverse.config import Config, with_bus
from platziverse.daemon.background import PATIENCE, Background
from platziverse.daemon.database import GRACE, embedded, stage_of_server
from platziverse.daemon.logs import LineLog, give_log, log_target
from platziverse.daemon.process import fail, reload_on_hangup, reopen_on_usr1, stop_on_signals, within
from platziverse.daemon.reload import changes
from platziverse.daemon.sockets import Closing, Sockets, worker_dir
from platziverse.daemon.starting import EMBEDDED, GIVEN, OF_WORKERS, WORKERS, Stage, StartLine
from platziverse.daemon.statedir import Instance
from platziverse.daemon.supervisor import Supervisor
from platziverse.daemon.worker import STOP, Worker
from platziverse.embedded.places import make_state_dir
from platziverse.embedded.server import Stopped
from platziverse.errors import Unusable

log = Logger("platziverse.workers")

#: Variables that are for this process, and of which a worker gets others.
OURS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: Settings that workers are given, of which they do not see it when they change in the file.
HANDED: Final = ("listen", "database", "state_dir", "workers.count", "bus.url")
#: What the status of a worker says when its database is there.
READY: Final = "the database is ready"


class Workers(Service):
    """Workers starts as many daemons as ``[workers] count`` says, and starts again each one that ends.

    It opens the ports and has the embedded database; clients and messages are none of its business. The
    daemons share their clients over the bus, like any others. See ADR 0146.

    :param config: all settings.
    :param given: what the command line says, by dotted name.
    :param path: of the TOML file; ``None``: there is none.
    :param reread: reads the configuration again, for a reload.
    :param background: who waits for the start; ``None``: nobody.
    :raises Unusable: the state directory cannot be used.
    """

    name = "platziverse"

    def __init__(
        self,
        config: Config,
        reactor: Any,
        given: Mapping[str, Any],
        path: str | None,
        reread: Callable[[], Config],
        background: Background | None = None,
    ) -> None:
        self._config, self._reactor, self._given, self._path = config, reactor, given, path
        self._reread = reread
        self._background = background or Background(None)
        self._instance = Instance(config.state_dir)
        self._embedded = None if config.database else embedded(config, reactor)
        self._dsn = config.database
        self._sockets = Sockets(config.workers.count)
        self._supervisor = Supervisor(reactor, self._status)
        self._log: LineLog | None = None
        self._start_line = StartLine(reactor, lambda: self._log, self._stage)
        self._workers: list[Worker] = []
        self._began: set[int] = set()

    def setServiceParent(self, parent: Any) -> None:
        """Give the application, if the parent is one, our log, as :meth:`Daemon.setServiceParent` does."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        self._log = give_log(parent, self._config)

    # -- starting --------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the ports, while we may."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        with self._background.opening():
            for description in self._config.listen:
                self._sockets.open(description)

    def startService(self) -> None:
        """Begin the rest when the reactor runs, and signals are ours."""
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        stop_on_signals(self._reactor)
        reload_on_hangup(self._reactor, self._read_again)
        reopen_on_usr1(self._reactor, self._reopen_log)
        text = "platziverse {version} has {count} workers; they listen on {ports}"
        log.info(text, version=__version__, count=self._config.workers.count, ports=self._sockets.readable)
        self._reactor.callLater(PATIENCE, self._background.started)
        self._start_line.start()
        self._launch().addErrback(self._unusable)

    @inlineCallbacks
    def _launch(self) -> Generator["Deferred[Any]", Any, None]:
        if self._embedded is not None:
            self._dsn = yield self._embedded.start()
        state, numbers = self._config.state_dir, range(1, self._config.workers.count + 1)
        for number in numbers:
            make_state_dir(worker_dir(state, number))
        self._sockets.open_for_operators(state)
        self._workers = [self._worker(number) for number in numbers]
        for worker in self._workers:
            worker.start()

    def _worker(self, number: int) -> Worker:
        return Worker(
            self._reactor,
            number,
            ["--nodaemon", "--pidfile=", "--logfile=-", "platziverse"],
            lambda: self._environment(number),
            self._sockets.of(number - 1),
            os.path.join(worker_dir(self._config.state_dir, number), "notices"),
            None if log_target(sys.argv[1:]) == "-" else self._write,
            self._changed,
            Closing(self._reactor, self._sockets.own(number - 1)),
        )

    def _environment(self, number: int) -> dict[str, str]:
        """Return the environment of a worker: what we were given, and what it has for itself."""
        kept = {name: value for name, value in os.environ.items() if name not in OURS}
        given = {
            name: " ".join(value) if isinstance(value, list) else value for name, value in self._given.items()
        }
        config = self._config
        settings = given | {
            "listen": " ".join(self._sockets.listen),
            "database": self._dsn,
            "state_dir": worker_dir(config.state_dir, number),
            "workers.count": str(config.workers.count),
            "workers.number": str(number),
            "bus.url": with_bus(config).bus.url,
        }
        variables = {f"PLATZIVERSE_{name.upper().replace('.', '_')}": text for name, text in settings.items()}
        return kept | variables | ({"PLATZIVERSE_CONFIG": self._path} if self._path else {})

    def _stage(self) -> Stage:
        """Return where the start has come to."""
        if self._embedded is not None and not self._workers:
            return stage_of_server(OF_WORKERS[EMBEDDED], self._embedded)
        ready = sum(READY in worker.status for worker in self._workers)
        stages = OF_WORKERS[GIVEN if self._embedded is None else EMBEDDED]
        count = len(self._workers)
        return Stage(stages, WORKERS, f"{ready} of {count} workers are ready", ready / max(count, 1))

    def _unusable(self, failure: Failure) -> None:
        self._start_line.stop()
        if failure.check(Stopped):
            return
        if not failure.check(Unusable):
            log.failure("Bug: starting the workers", failure)
        self._fail(f"platziverse: {failure.getErrorMessage()}")

    def _fail(self, reason: str) -> None:
        self._background.failed(reason)
        fail(self._reactor, reason)

    # -- while they run --------------------------------------------------------------------------

    def _changed(self, worker: Worker) -> None:
        """A worker says something else of itself, or has ended."""
        if all(READY in one.status for one in self._workers):
            self._start_line.stop()
        if worker.status and worker.number not in self._began:
            self._began.add(worker.number)
            if len(self._began) == len(self._workers):
                self._background.started()
                self._supervisor.ready()
        elif worker.refused and worker.starts == 1 and self.running:
            self._fail(f"platziverse: worker {worker.number} does not start; a line above says why")

    def _status(self) -> str:
        ready = sum(bool(worker.status) for worker in self._workers)
        told = "; ".join(f"{worker.number}: {worker.status or 'away'}" for worker in self._workers)
        return f"{ready} of {len(self._workers)} workers; {told}"

    def _write(self, line: bytes) -> None:
        """Write a line of a worker into our log."""
        if self._log is not None:
            self._log.write_lines(line + b"\n")
        else:
            log.info("{line}", line=line.decode("utf-8", "backslashreplace"))

    def _read_again(self) -> None:
        """Let all workers reload: SIGHUP came."""
        if self.running:
            self._supervisor.reloading()
            self._reopen_log()
            for worker in self._workers:
                worker.signal("HUP")
            self._say_changed()
            self._supervisor.ready()

    def _say_changed(self) -> None:
        try:
            fresh = self._reread()
        except (Unusable, OSError):  # each worker says why it has not reloaded
            return
        if later := [name for name in changes(self._config, fresh) if name in HANDED]:
            log.warn("Changed, but needs a restart: {settings}", settings=", ".join(later))

    def _reopen_log(self) -> None:
        if self._log is not None:
            self._log.reopen()

    # -- stopping --------------------------------------------------------------------------------

    @inlineCallbacks
    def stopService(self) -> Generator["Deferred[Any]", Any, None]:
        """Stop the workers, each of which commits what it has; then the database."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._start_line.stop()
        self._supervisor.stopping()
        self._sockets.close()
        stopped: Deferred[Any] = DeferredList([worker.stop() for worker in self._workers])
        yield within(self._reactor, stopped, STOP + 1.0)
        if self._embedded is not None:
            yield within(self._reactor, self._embedded.stop(), sum(GRACE) + 1.0)
        self._instance.release()
        self._supervisor.stop()
