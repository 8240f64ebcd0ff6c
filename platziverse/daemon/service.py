"""makeService and Daemon: in which order the parts of the daemon start, and in which they stop."""

import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from platziverse.broker.reasons import Reason
from platziverse.config import Config, Options, config_file, log_levels
from platziverse.daemon.banner import say_limits, say_listening, say_ready
from platziverse.daemon.database import GRACE
from platziverse.daemon.listening import CannotListen, Listeners, divided
from platziverse.daemon.logins import mode_warnings
from platziverse.daemon.logs import LineLog, log_target, open_log
from platziverse.daemon.machine import raise_open_files
from platziverse.daemon.process import (
    choose_reactor,
    collect_rarely,
    fail,
    reload_on_hangup,
    reopen_on_usr1,
    stop_on_signals,
    use_steady_clock,
    within,
)
from platziverse.daemon.reload import Reload
from platziverse.daemon.supervisor import Supervisor
from platziverse.daemon.wiring import Parts
from platziverse.embedded.server import Stopped
from platziverse.errors import Unusable

log = Logger("platziverse.service")

#: Seconds that the store may take for its rounds when the daemon stops, and then each of the shorter steps.
DRAIN: Final = 8.0
GOODBYE: Final = 1.5
#: Seconds between two looks for Sessions that have expired.
EXPIRE: Final = 10.0


def makeService(options: Options | None = None) -> "Daemon":
    """Return the service that twistd runs.

    :param options: have been parsed; ``None``: there is no command line, but environment and file count.
    :raises SystemExit: the configuration cannot be used; with one line that says why.
    """
    choose_reactor()
    from twisted.internet import reactor

    if options is None:
        options = Options()
        options.parseOptions([])  # type: ignore[no-untyped-call]
    use_steady_clock(reactor)
    raise_open_files()
    try:
        for warning in mode_warnings(options.config, config_file(options["config"])):
            log.warn("{warning}", warning=warning)
        return Daemon(options.config, reactor, options.read)
    except Unusable as error:
        raise SystemExit(f"platziverse: {error}") from None


class Daemon(Service):
    """A Daemon is broker, listeners and database as one service, and starts and stops them in their order.

    :param config: all settings.
    :param reactor: its ``seconds`` must be a steady clock.
    :param reread: reads the configuration again, for a reload.
    :raises Unusable: the state directory, a file about access, a row of ``handlers`` or the certificate
        cannot be used.
    """

    name = "platziverse"

    def __init__(self, config: Config, reactor: Any, reread: Callable[[], Config]) -> None:
        self.config = config
        self._reactor = reactor
        self._parts = parts = Parts(config, reactor)
        self._listeners = Listeners(reactor, parts.crowd)
        self._supervisor = Supervisor(reactor, self._status)
        self._reload = Reload(config, reread, parts.authority, parts.front, self._use_levels)
        self._log: LineLog | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Give the application, if the parent is one, our log, unless twistd was told to log elsewhere."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        levels = log_levels(self.config.log_level)
        if isinstance(parent, Componentized) and (target := log_target(sys.argv[1:])) is not None:
            try:
                self._log = open_log(target, self.config.log_format, levels)
            except OSError as error:
                raise SystemExit(f"platziverse: {target}: {error.strerror}") from None
            parent.setComponent(ILogObserver, self._log)
        self._use_levels(levels)

    def _use_levels(self, levels: Mapping[str, LogLevel]) -> None:
        if self._log is not None:
            self._log.use(levels)
        rooms = [levels.get(room, levels.get("")) for room in ("mqtt", "net")]
        self._parts.shared.tracing = LogLevel.debug in rooms

    # -- starting --------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the ports, while we may; nobody is answered before the reactor runs."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        for description in self.config.listen:
            try:
                endpoint, protocol = divided(description)
                self._listeners.listen(endpoint, self._parts.front.behind(endpoint, protocol))
            except CannotListen as error:
                log.critical("platziverse: {error}", error=error)
                raise SystemExit(1) from None

    def startService(self) -> None:
        """Begin the rest when the reactor runs, and signals are ours."""
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        """Let clients come at once; the database follows."""
        stop_on_signals(self._reactor)
        reload_on_hangup(self._reactor, self._read_again)
        reopen_on_usr1(self._reactor, self._reopen_log)
        collect_rarely()
        parts = self._parts
        parts.hashing.start()
        parts.sys_topics.start()
        parts.expiry.start(EXPIRE, now=False)
        parts.turns.start()
        parts.shared.pressure.start()
        parts.front.start(self._reactor)
        say_listening(self._listeners.ports, parts.who)
        say_limits(parts.limits, self.config.limits)
        self._supervisor.ready()
        parts.database.start().addCallback(self._ready).addErrback(self._unusable)

    def _ready(self, _: object) -> None:
        listeners = [
            (*divided(given), port)
            for given, port in zip(self.config.listen, self._listeners.ports, strict=False)
        ]
        say_ready(listeners, self.config, self._parts.database.psql_commands)

    def _status(self) -> str:
        return f"the database is {self._parts.database.store.state}; {self._parts.broker.connected} clients"

    def _read_again(self) -> None:
        """Reload: SIGHUP came."""
        if not self.running:  # it is stopping
            return
        self._supervisor.reloading()
        self._reopen_log()
        self._reload()
        self._supervisor.ready()

    def _reopen_log(self) -> None:
        if self._log is not None:
            self._log.reopen()

    def _unusable(self, failure: Failure) -> None:
        if failure.check(Stopped):
            return
        if not failure.check(Unusable):
            log.failure("Bug: starting the database", failure)
        fail(self._reactor, f"platziverse: {failure.getErrorMessage()}")

    # -- stopping --------------------------------------------------------------------------------

    @inlineCallbacks
    def stopService(self) -> Generator["Deferred[Any]", Any, None]:
        """Stop everything in its order; a part that does not end in its time is left behind."""
        super().stopService()  # type: ignore[no-untyped-call]
        parts = self._parts
        self._supervisor.stopping()
        self._stop_timers()
        yield within(self._reactor, self._listeners.stop(), GOODBYE)
        parts.shared.hold_all()
        yield within(self._reactor, parts.tables.stop(), GOODBYE)
        yield within(self._reactor, parts.database.drain(), DRAIN)
        parts.front.close_all()
        parts.shared.close_all(Reason.SHUTTING_DOWN, "the daemon is stopping")
        yield within(self._reactor, self._all_gone(), GOODBYE)
        yield within(self._reactor, parts.database.drain(), GOODBYE)  # the agents that went with them
        parts.shared.stop()
        parts.authority.stop()  # first: the pool waits until its threads have done all their work
        parts.hashing.stop()
        yield within(self._reactor, parts.database.stop(), sum(GRACE) + GOODBYE)
        parts.complaints.stop()
        self._supervisor.stop()

    def _stop_timers(self) -> None:
        parts = self._parts
        parts.sys_topics.stop()
        parts.turns.stop()
        parts.front.stop()
        if parts.expiry.running:
            parts.expiry.stop()

    @inlineCallbacks
    def _all_gone(self) -> Generator["Deferred[Any]", Any, None]:
        deadline = self._reactor.seconds() + GOODBYE
        while self._parts.shared.connections and self._reactor.seconds() < deadline:
            yield deferLater(self._reactor, 0.02)
