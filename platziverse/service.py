"""makeService: the one place that knows every part, and in which order they start and stop."""

import sys
import time
from collections.abc import Generator, Mapping
from importlib import import_module
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from platziverse import __version__
from platziverse.access.acl import AccessRules
from platziverse.access.authority import AccessAuthority
from platziverse.access.files import AccessError
from platziverse.access.passwords import PasswordChecker, PasswordFile
from platziverse.agents.handlers import AgentHandlers
from platziverse.broker.broker import Broker
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.interfaces import ClientObserver, Handler
from platziverse.broker.sys import SysTopics
from platziverse.config import Access, Config, Options, log_levels
from platziverse.database import GRACE, Database, Unusable
from platziverse.front import Front
from platziverse.listening import CannotListen, Listeners, divided, readable
from platziverse.net.factory import MQTTFactory
from platziverse.net.upgrade import websocket_resource
from platziverse.process import (
    choose_reactor,
    collect_rarely,
    fail,
    log_observer,
    logs_here,
    stop_on_signals,
    use_steady_clock,
    within,
)
from platziverse.store.embedded import Stopped
from platziverse.web.api import Api
from platziverse.web.metrics import DaemonCollector, MetricsPage, Observations
from platziverse.web.site import make_site
from platziverse.web.turns import Turns

log = Logger()

#: Seconds that the store may take for its rounds when the daemon stops, and then each of the shorter steps.
DRAIN: Final = 8.0
GOODBYE: Final = 1.5
#: Seconds between two looks for Sessions that have expired.
EXPIRE: Final = 10.0

WHO: Final = {
    "local": "without a login only clients on this machine may connect",
    "always": "everyone may connect, with or without a login",
    "never": "nobody may connect without a login",
}
EXAMPLE: Final = (
    '{"agent": {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10,'
    ' "hostname": "platzibogota"}, "metrics": [{"type": "memory", "value": "1001"},'
    ' {"type": "temp", "value": "33"}]}'
)


def makeService(options: Options | None = None) -> "Daemon":
    """What twistd runs. Anything wrong with the configuration ends the process with one line."""
    choose_reactor()
    from twisted.internet import reactor

    if options is None:
        options = Options()
        options.parseOptions([])  # type: ignore[no-untyped-call]
    use_steady_clock(reactor)
    try:
        return Daemon(options.config, reactor)
    except Unusable as error:
        raise SystemExit(f"platziverse: {error}") from None


class Daemon(Service):
    """Broker, listeners and database as one service.

    :param reactor: its ``seconds`` must be a steady clock.
    :raises Unusable: the state directory or a row of ``handlers`` cannot be used.
    """

    name = "platziverse"

    def __init__(self, config: Config, reactor: Any) -> None:
        self.config = config
        self._reactor = reactor
        self.observations = Observations()
        self.database = Database(config, reactor, self.observations.batch)
        self._hashing = ThreadPool(0, 2, "passwords")
        self.authority = _authority(config.access, reactor, self._hashing)
        may_speak = cast(Any, self.authority.may_speak_for)
        self.handlers = AgentHandlers(
            self.database.writer, self._publish, time.time, config.agents, may_speak
        )
        tables = [_table(name, self._publish) for name in config.handlers]
        dispatcher = TopicDispatcher(cast(Mapping[str, Handler], self.handlers.table), *tables)
        observer = cast(ClientObserver, self.handlers)
        self.broker = Broker(config.limits, dispatcher, self.authority, reactor, time.time, [observer])
        self.factory = MQTTFactory(self.broker, reactor, self.observations.ack)
        self.front = self._front()
        self._expiry = LoopingCall(self.broker.expire_sessions)
        self._expiry.clock = reactor
        self.sys_topics = SysTopics(self.broker, reactor, __version__, config.sys.interval)
        self.listeners = Listeners(reactor)

    def _front(self) -> Front:
        """:raises Unusable: the certificate."""
        config, database = self.config, self.database
        self.turns = Turns(self._reactor)
        collector = DaemonCollector(
            __version__,
            self.broker,
            self.factory,
            self.handlers,
            database.writer,
            database.store,
            self.observations,
            self.turns,
        )
        site = make_site(
            self._reactor,
            config.web,
            lambda: database.trouble,
            [("metrics", MetricsPage(collector)), ("api", Api(database.reader, self.broker.sessions))],
            websocket_resource(self.factory, config.web.websocket_origins),
        )
        return Front(self.factory, site, config.tls)

    def _publish(self, topic: str, payload: bytes) -> None:
        self.broker.announce(topic, payload)

    def setServiceParent(self, parent: Any) -> None:
        """Give the application our log, unless twistd was told to log elsewhere."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        if logs_here(sys.argv[1:]):
            levels = log_levels(self.config.log_level)
            parent.setComponent(ILogObserver, log_observer(sys.stdout, self.config.log_format, levels))

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
        collect_rarely()
        self._hashing.start()
        self.sys_topics.start()
        self._expiry.start(EXPIRE, now=False)
        self.turns.start()
        self.front.start(self._reactor)
        ports = ", ".join(readable(port) for port in self.listeners.ports)
        who = WHO[self.config.access.anonymous]
        log.info(
            "platziverse {version} listens for MQTT on {ports}; {who}",
            version=__version__,
            ports=ports,
            who=who,
        )
        self.database.start().addCallback(self._ready).addErrback(self._unusable)

    def _ready(self, _: object) -> None:
        for command in self.database.psql_commands:
            log.info("look at the data: {command}", command=command)
        log.info("try: {command}", command=self._example())

    def _example(self) -> str:
        """A command of the course to paste, for the first of our TCP ports."""
        ports = [getattr(port.getHost(), "port", None) for port in self.listeners.ports]
        numbers = [number for number in ports if number is not None]
        port = "" if not numbers or 1883 in numbers else f" -p {numbers[0]}"
        return f"mqtt pub -h localhost{port} -t agent/message -m '{EXAMPLE}'"

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
        self._stop_timers()
        yield within(self._reactor, self.listeners.stop(), GOODBYE)
        self.factory.hold_all()
        yield within(self._reactor, self.database.drain(), DRAIN)
        self.front.close_all()
        self.factory.close_all("the daemon is stopping")
        yield within(self._reactor, self._all_gone(), GOODBYE)
        yield within(self._reactor, self.database.drain(), GOODBYE)  # the agents that went with them
        self.factory.stop()
        self._hashing.stop()
        yield within(self._reactor, self.database.stop(), sum(GRACE) + GOODBYE)

    def _stop_timers(self) -> None:
        self.sys_topics.stop()
        self.turns.stop()
        self.front.stop()
        if self._expiry.running:
            self._expiry.stop()

    @inlineCallbacks
    def _all_gone(self) -> Generator["Deferred[Any]", Any, None]:
        deadline = self._reactor.seconds() + GOODBYE
        while self.factory.connections and self._reactor.seconds() < deadline:
            yield deferLater(self._reactor, 0.02)


def _authority(access: Access, reactor: Any, pool: ThreadPool) -> AccessAuthority:
    """:raises Unusable: a file says nothing, or cannot be read; that must never mean "open"."""
    try:
        checker = rules = None
        if access.password_file:
            checker = PasswordChecker((PasswordFile.load(access.password_file),), reactor, pool)
        if access.acl_file:
            rules = AccessRules.load(access.acl_file)
    except AccessError as error:
        raise Unusable(str(error)) from None
    return AccessAuthority(reactor, checker, rules, access.anonymous, access.binding)


def _table(name: str, publish: Any) -> Mapping[str, Handler]:
    """The rows of the handler table that ``package.module:name`` makes. :raises Unusable:"""
    module, _, function = name.partition(":")
    try:
        rows: Mapping[str, Handler] = getattr(import_module(module), function)(publish)
    except (ImportError, AttributeError) as error:
        raise Unusable(f"handlers: {name}: {error}") from None
    return rows
