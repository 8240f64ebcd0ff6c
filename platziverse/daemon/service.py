"""makeService and Daemon: in which order the parts of the daemon start, and in which they stop."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from platziverse.broker.reasons import Reason
from platziverse.config import CLIENT, Config, config_file, log_levels
from platziverse.daemon.background import PATIENCE, Background
from platziverse.daemon.banner import say_limits, say_listening, say_ready, say_rules
from platziverse.daemon.database import GRACE
from platziverse.daemon.listening import CannotListen, Listeners, divided
from platziverse.daemon.logins import mode_warnings
from platziverse.daemon.logs import LineLog, give_log
from platziverse.daemon.machine import raise_open_files
from platziverse.daemon.options import Options
from platziverse.daemon.process import (
    choose_reactor,
    collect_rarely,
    fail,
    reload_on_hangup,
    reopen_on_usr1,
    stop_on_signals,
    stop_with_parent,
    use_steady_clock,
    within,
)
from platziverse.daemon.reload import Reload
from platziverse.daemon.sockets import operator_socket
from platziverse.daemon.starting import StartLine
from platziverse.daemon.supervisor import Supervisor
from platziverse.daemon.wiring import Parts
from platziverse.daemon.workers import Workers
from platziverse.embedded.server import Stopped
from platziverse.errors import Unusable

log = Logger("platziverse.service")

#: Seconds that the store may take for its rounds when the daemon stops, and then each of the shorter steps.
DRAIN: Final = 8.0
#: Of these, seconds for what is stored to be loaded: before that no Will of who is there can be stored.
LOAD: Final = 5.0
GOODBYE: Final = 1.5
#: Clients that a daemon lets go at a time while it is drained, and seconds in between: others take them.
AT_A_TIME: Final = 100
BETWEEN: Final = 0.1
#: Seconds between two looks for Sessions that have expired.
EXPIRE: Final = 10.0


def makeService(options: Options | None = None) -> "Daemon | Workers":
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
        background = Background(options.parent)
        if options.config.workers.count and not options.config.workers.number:
            given, path = options.given, options.path
            return Workers(options.config, reactor, given, path, options.read, background)
        return Daemon(options.config, reactor, options.read, background)
    except Unusable as error:
        number = options.config.workers.number
        which = f"worker {number}: " if number else ""  # there is no log yet that would say so
        raise SystemExit(f"platziverse: {which}{error}") from None


class Daemon(Service):
    """A Daemon is broker, listeners and database as one service, and starts and stops them in their order.

    :param config: all settings.
    :param reactor: its ``seconds`` must be a steady clock.
    :param reread: reads the configuration again, for a reload.
    :param background: who waits for the start; ``None``: nobody.
    :raises Unusable: the state directory, a file about access, a row of ``handlers`` or the certificate
        cannot be used.
    """

    name = "platziverse"

    def __init__(
        self,
        config: Config,
        reactor: Any,
        reread: Callable[[], Config],
        background: Background | None = None,
    ) -> None:
        self.config = config
        self._background = background or Background(None)
        self._reactor = reactor
        self._parts = parts = Parts(config, reactor)
        self._listeners = Listeners(reactor, parts.crowd)
        self._supervisor = Supervisor(reactor, self._status)
        use = self._use_levels, parts.use_rules, parts.look_for_gone
        self._reload = Reload(config, reread, parts.authority, parts.front, *use)
        self._log: LineLog | None = None
        self._start_line = StartLine(reactor, lambda: self._log, parts.stage)
        self._drains = False
        # Fires when the start is over, well or not.
        self._started: Deferred[Any] = succeed(None)
        parts.drain = self._drain

    def setServiceParent(self, parent: Any) -> None:
        """Give the application, if the parent is one, our log, unless twistd was told to log elsewhere."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        self._log = give_log(parent, self.config)
        self._use_levels(log_levels(self.config.log_level))

    def _use_levels(self, levels: Mapping[str, LogLevel]) -> None:
        if self._log is not None:
            self._log.use(levels)
        rooms = [levels.get(room, levels.get("")) for room in ("mqtt", "net")]
        shared = self._parts.shared
        shared.tracing = LogLevel.debug in rooms
        shared.traced = frozenset(
            name.removeprefix(CLIENT)
            for name, level in levels.items()
            if name.startswith(CLIENT) and level is LogLevel.debug
        )

    # -- starting --------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the ports, while we may; nobody is answered before the reactor runs."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        with self._background.opening():
            for description in self.config.listen:
                endpoint, protocol = divided(description)
                front = self._parts.front
                if protocol == "operator":
                    self._listeners.listen_for_operators(endpoint, front.operators)
                else:
                    self._listeners.listen(endpoint, front.behind(endpoint, protocol))
        if not self.config.workers.number:  # or it was given its own
            self._answer_operators()

    def _answer_operators(self) -> None:
        """Open the socket in the state directory; without it the daemon serves its clients all the same."""
        try:
            opened = operator_socket(self.config.state_dir)
        except CannotListen as error:
            log.warn("no command can reach this daemon: {reason}", reason=str(error))
        else:
            self._listeners.adopt(opened, self._parts.front.operators)

    def startService(self) -> None:
        """Begin the rest when the reactor runs, and signals are ours."""
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        """Let clients come at once; the database follows."""
        stop_on_signals(self._reactor)
        reload_on_hangup(self._reactor, self._read_again)
        reopen_on_usr1(self._reactor, self._reopen_log)
        if self.config.workers.number:
            stop_with_parent(self._reactor)
        collect_rarely()
        parts = self._parts
        parts.hashing.start()
        parts.sys_topics.start()
        parts.expiry.start(EXPIRE, now=False)
        parts.pages.start()
        parts.shared.pressure.start()
        parts.front.start(self._reactor)
        say_listening(self._listeners.ports, parts.who)
        say_limits(parts.limits, self.config.limits)
        say_rules(len(parts.rules.rules.rules))
        self._supervisor.ready()
        self._reactor.callLater(PATIENCE, self._background.started)
        if not self.config.workers.number:  # or who looks after the workers has one for all
            self._start_line.start()
        started = parts.database.start().addCallback(lambda _: parts.join())
        self._started = started.addCallback(self._load).addErrback(self._unusable)

    def _load(self, _: object) -> "Deferred[None]":
        return self._parts.load().addCallback(self._ready)

    def _ready(self, _: object) -> None:
        self._start_line.stop()
        self._background.started()
        if self.config.workers.number > 1:
            return  # the first one says it for all
        listeners = [
            (*divided(given), port)
            for given, port in zip(self.config.listen, self._listeners.ports, strict=False)
        ]
        say_ready(listeners, self.config, self._parts.database.psql_commands)

    def _status(self) -> str:
        return f"the database is {self._parts.database.state}; {self._parts.broker.connected} clients"

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
        self._start_line.stop()
        if failure.check(Stopped, CancelledError):
            return
        if not failure.check(Unusable):
            log.failure("Bug: starting the database", failure)
        reason = f"platziverse: {failure.getErrorMessage()}"
        self._background.failed(reason)
        fail(self._reactor, reason)

    # -- stopping --------------------------------------------------------------------------------

    @inlineCallbacks
    def _drain(self) -> Generator["Deferred[Any]", Any, None]:
        """Accept nobody any more, let the clients go, a few at a time, then stop: an operator asks."""
        if self._drains or not self.running:
            return
        self._drains = self._parts.database.leaves = True
        shared = self._parts.shared
        log.info("Draining: {count} clients are let go", count=len(shared.connections))
        yield within(self._reactor, self._listeners.stop(), GOODBYE)
        clients = list(shared.connections)
        for at in range(0, len(clients), AT_A_TIME):
            shared.close(clients[at : at + AT_A_TIME], Reason.SHUTTING_DOWN, "the daemon is drained")
            yield deferLater(self._reactor, BETWEEN)
        if self.running:
            self._reactor.stop()

    @inlineCallbacks
    def stopService(self) -> Generator["Deferred[Any]", Any, None]:
        """Stop everything in its order; a part that does not end in its time is left behind."""
        super().stopService()  # type: ignore[no-untyped-call]
        parts = self._parts
        self._supervisor.stopping()
        self._stop_timers()
        yield within(self._reactor, self._listeners.stop(), GOODBYE)
        parts.shared.hold_all()
        began = self._reactor.seconds()
        if not parts.database.is_away and (
            parts.broker.connected or parts.broker.clients.farewells.unfinished.count
        ):
            yield within(self._reactor, self._started, LOAD)
        parts.broker.stop()
        yield within(self._reactor, parts.tables.stop(), GOODBYE)
        yield within(self._reactor, parts.database.drain(), DRAIN - (self._reactor.seconds() - began))
        parts.front.close_all()
        parts.shared.close_all(Reason.SHUTTING_DOWN, "the daemon is stopping")
        yield within(self._reactor, self._all_gone(), GOODBYE)
        yield within(self._reactor, parts.database.drain(), GOODBYE)  # the agents that went with them
        yield within(self._reactor, parts.part(), GOODBYE)
        parts.shared.stop()
        parts.authority.stop()  # first: the pool waits until its threads have done all their work
        parts.hashing.stop()
        yield within(self._reactor, parts.database.stop(), sum(GRACE) + GOODBYE)
        parts.complaints.stop()
        self._supervisor.stop()

    def _stop_timers(self) -> None:
        parts = self._parts
        self._start_line.stop()
        parts.sys_topics.stop()
        parts.pages.stop()
        parts.front.stop()
        if parts.expiry.running:
            parts.expiry.stop()

    @inlineCallbacks
    def _all_gone(self) -> Generator["Deferred[Any]", Any, None]:
        deadline = self._reactor.seconds() + GOODBYE
        shared, due = self._parts.shared, self._parts.broker.clients.farewells.due.waiting
        while (shared.connections or due) and self._reactor.seconds() < deadline:
            yield deferLater(self._reactor, 0.02)
