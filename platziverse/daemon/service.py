"""makeService: the one place that knows every part, and in which order they start and stop."""

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from platziverse import __version__
from platziverse.access.authority import AccessAuthority
from platziverse.access.passwords import PasswordChecker, UserTable
from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.recorder import ANNOUNCEMENTS, Recorder
from platziverse.agents.tables import Tables
from platziverse.broker.broker import Broker
from platziverse.broker.complaints import Complaints
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.interfaces import ClientObserver, Handler
from platziverse.broker.reasons import Reason
from platziverse.broker.sys import SysTopics
from platziverse.config import Access, Config, Options, config_file, log_levels
from platziverse.daemon.banner import say_limits, say_listening, say_ready
from platziverse.daemon.database import GRACE, Database
from platziverse.daemon.extensions import handler_rows
from platziverse.daemon.front import Front
from platziverse.daemon.listening import CannotListen, Listeners, divided
from platziverse.daemon.logins import access_rules, mode_warnings, user_tables, who_may_connect
from platziverse.daemon.logs import LineLog, log_target, open_log
from platziverse.daemon.machine import fitted, raise_open_files
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
from platziverse.door.arrivals import Arrivals
from platziverse.door.crowd import Crowd
from platziverse.door.upgrade import WebSocketResource
from platziverse.embedded.server import Stopped
from platziverse.errors import Unusable
from platziverse.net.factory import MQTTFactory
from platziverse.net.shared import Shared
from platziverse.web.api import Api
from platziverse.web.metrics import DaemonCollector, MetricsPage, Observations
from platziverse.web.site import make_site
from platziverse.web.turns import Turns

log = Logger("platziverse.service")

#: Seconds that the store may take for its rounds when the daemon stops, and then each of the shorter steps.
DRAIN: Final = 8.0
GOODBYE: Final = 1.5
#: Seconds between two looks for Sessions that have expired.
EXPIRE: Final = 10.0


def makeService(options: Options | None = None) -> "Daemon":
    """Return the service that twistd runs; a wrong configuration ends the process with one line."""
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
    """A Daemon is broker, listeners and database as one service.

    :param reactor: its ``seconds`` must be a steady clock.
    :param reread: reads the configuration again, for a reload.
    :raises Unusable: the state directory, a file about access or a row of ``handlers`` cannot be used.
    """

    name = "platziverse"

    def __init__(self, config: Config, reactor: Any, reread: Callable[[], Config]) -> None:
        self.config = config
        self._reactor = reactor
        self.observations = Observations()
        self.database = Database(config, reactor, self.observations.batch, self._left_behind)
        self._hashing = ThreadPool(0, 2, "passwords")
        self._who = who_may_connect(config)
        self.authority = _authority(config.access, reactor, self._hashing, self.database.users)
        self.complaints = Complaints(reactor, "agents")
        self.recorder = self._recorder()
        self.limits = fitted(config.limits)
        self.broker = self._broker()
        self.shared = Shared(self.broker, reactor, self.observations.ack, self.database.writer)
        self.crowd = Crowd(self.limits, self.broker.traffic, self.shared.complaints)
        self.arrivals = Arrivals(self.limits.max_connect_rate, reactor)
        self.front = self._front()
        self._expiry = LoopingCall(self.broker.expire_sessions)
        self._expiry.clock = reactor
        self.sys_topics = SysTopics(self.broker, reactor, __version__, config.sys.interval)
        self.listeners = Listeners(reactor, self.crowd)
        self.supervisor = Supervisor(reactor, self._status)
        self.reload = Reload(config, reread, self.authority, self.front, self._use_levels)
        self.log: LineLog | None = None

    def _recorder(self) -> Recorder:
        database, may_speak = self.database, cast(Any, self.authority.may_speak_for)
        limits, warn = self.config.agents, self.complaints.warn
        return Recorder(database.writer, self._publish, database.clock, limits, may_speak, warn)

    def _broker(self) -> Broker:
        """Make the broker and its handlers.

        :raises Unusable: a row of ``handlers`` cannot be used.
        """
        room, deadline = self.limits.handler_room, self.limits.handler_deadline
        tables = Tables(self.recorder, self._publish, self._reactor, self.complaints, deadline, room)
        self.tables = tables
        rows = [handler_rows(name, tables) for name in self.config.handlers]
        agents = cast(Mapping[str, Handler], AgentHandlers(self.recorder).table)
        dispatcher = TopicDispatcher(agents, *rows, together=tables.together)
        observer = cast(ClientObserver, self.recorder)
        return Broker(self.limits, dispatcher, self.authority, self._reactor, time.time, [observer])

    def _front(self) -> Front:
        """Make all that is behind the ports.

        :raises Unusable: the certificate cannot be used.
        """
        config, database, mqtt = self.config, self.database, MQTTFactory(self.shared)
        self.turns = Turns(self._reactor)
        site = make_site(
            self._reactor,
            config.web,
            lambda: database.trouble,
            [("metrics", self._metrics_page()), ("api", Api(database.reader, self.broker.sessions))],
            WebSocketResource(mqtt),
            lets_in=self.authority.lets_in,
            warning=lambda: database.clock.warning,
            traffic=self.broker.traffic,
            complaints=self.shared.complaints,
        )
        return Front(mqtt, site, config.tls, self.arrivals)

    def _metrics_page(self) -> MetricsPage:
        database = self.database
        collector = DaemonCollector(
            __version__,
            self.broker,
            self.shared,
            self.crowd,
            self.arrivals,
            self.recorder,
            database.writer,
            database.store,
            self.observations,
            self.turns,
            database,
        )
        return MetricsPage(collector)

    def _publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.broker.announce(topic, payload, retain)

    def _left_behind(self, uuids: Sequence[str]) -> None:
        self.recorder.left_behind(uuids)

    def setServiceParent(self, parent: Any) -> None:
        """Give the application, if the parent is one, our log, unless twistd was told to log elsewhere."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        levels = log_levels(self.config.log_level)
        if isinstance(parent, Componentized) and (target := log_target(sys.argv[1:])) is not None:
            try:
                self.log = open_log(target, self.config.log_format, levels)
            except OSError as error:
                raise SystemExit(f"platziverse: {target}: {error.strerror}") from None
            parent.setComponent(ILogObserver, self.log)
        self._use_levels(levels)

    def _use_levels(self, levels: Mapping[str, LogLevel]) -> None:
        if self.log is not None:
            self.log.use(levels)
        rooms = [levels.get(room, levels.get("")) for room in ("mqtt", "net")]
        self.shared.tracing = LogLevel.debug in rooms

    # -- starting --------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the ports, while we may; nobody is answered before the reactor runs."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        for description in self.config.listen:
            try:
                endpoint, protocol = divided(description)
                self.listeners.listen(endpoint, self.front.behind(endpoint, protocol))
            except CannotListen as error:
                log.critical("platziverse: {error}", error=error)
                raise SystemExit(1) from None

    def startService(self) -> None:
        """The rest begins when the reactor runs, and signals are ours."""
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        """Clients are welcome at once; the database follows."""
        stop_on_signals(self._reactor)
        reload_on_hangup(self._reactor, self._reload)
        reopen_on_usr1(self._reactor, self._reopen_log)
        collect_rarely()
        self._hashing.start()
        self.sys_topics.start()
        self._expiry.start(EXPIRE, now=False)
        self.turns.start()
        self.shared.pressure.start()
        self.front.start(self._reactor)
        say_listening(self.listeners.ports, self._who)
        say_limits(self.limits, self.config.limits)
        self.supervisor.ready()
        self.database.start().addCallback(self._ready).addErrback(self._unusable)

    def _ready(self, _: object) -> None:
        say_ready(self.listeners.ports, self.database.psql_commands)

    def _status(self) -> str:
        return f"the database is {self.database.store.state}; {self.broker.connected} clients"

    def _reload(self) -> None:
        """Reload: SIGHUP came."""
        if not self.running:  # it is stopping
            return
        self.supervisor.reloading()
        self._reopen_log()
        self.reload()
        self.supervisor.ready()

    def _reopen_log(self) -> None:
        if self.log is not None:
            self.log.reopen()

    def _unusable(self, failure: Failure) -> None:
        if failure.check(Stopped):
            return
        if not failure.check(Unusable):
            log.failure("Bug: starting the database", failure)
        fail(self._reactor, f"platziverse: {failure.getErrorMessage()}")

    # -- stopping --------------------------------------------------------------------------------

    @inlineCallbacks
    def stopService(self) -> Generator["Deferred[Any]", Any, None]:
        """Everything in its order; what does not end in its time is left behind."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.supervisor.stopping()
        self._stop_timers()
        yield within(self._reactor, self.listeners.stop(), GOODBYE)
        self.shared.hold_all()
        yield within(self._reactor, self.tables.stop(), GOODBYE)
        yield within(self._reactor, self.database.drain(), DRAIN)
        self.front.close_all()
        self.shared.close_all(Reason.SHUTTING_DOWN, "the daemon is stopping")
        yield within(self._reactor, self._all_gone(), GOODBYE)
        yield within(self._reactor, self.database.drain(), GOODBYE)  # the agents that went with them
        self.shared.stop()
        self.authority.stop()  # first: the pool waits until its threads have done all their work
        self._hashing.stop()
        yield within(self._reactor, self.database.stop(), sum(GRACE) + GOODBYE)
        self.complaints.stop()
        self.supervisor.stop()

    def _stop_timers(self) -> None:
        self.sys_topics.stop()
        self.turns.stop()
        self.front.stop()
        if self._expiry.running:
            self._expiry.stop()

    @inlineCallbacks
    def _all_gone(self) -> Generator["Deferred[Any]", Any, None]:
        deadline = self._reactor.seconds() + GOODBYE
        while self.shared.connections and self._reactor.seconds() < deadline:
            yield deferLater(self._reactor, 0.02)


def _authority(access: Access, reactor: Any, pool: ThreadPool, database: UserTable) -> AccessAuthority:
    """Make the authority.

    :raises Unusable: a file says nothing, or cannot be read, which must never mean "open".
    """
    tables = user_tables(access, database)
    checker = PasswordChecker(tables, reactor, pool) if tables else None
    rules = access_rules(access)
    return AccessAuthority(reactor, checker, rules, access.anonymous, access.binding, ANNOUNCEMENTS)
