"""Parts: the rooms of the daemon, put together; the one place that knows all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Cooperator, LoopingCall
from twisted.logger import Logger
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
from platziverse.broker.interfaces import SERVER, ClientObserver, Handler
from platziverse.broker.reasons import Reason
from platziverse.broker.sys import SysTopics
from platziverse.bus.kept import READY
from platziverse.bus.making import make_bus
from platziverse.bus.url import without_password
from platziverse.cluster.cluster import Cluster
from platziverse.config import Access, Config
from platziverse.daemon.database import Database
from platziverse.daemon.extensions import handler_rows
from platziverse.daemon.front import Front
from platziverse.daemon.gone import GoneUsers
from platziverse.daemon.hands import Hands
from platziverse.daemon.logins import access_rules, user_tables, who_may_connect
from platziverse.daemon.machine import fitted, tcp_memory
from platziverse.daemon.pages import Pages
from platziverse.daemon.readers import MQTTLogins
from platziverse.daemon.recording import load_rules
from platziverse.daemon.starting import SESSIONS, Stage
from platziverse.door.arrivals import Arrivals
from platziverse.door.crowd import Crowd
from platziverse.door.upgrade import WebSocketResource
from platziverse.mqtt.packets import Publish
from platziverse.net.factory import MQTTFactory
from platziverse.net.shared import Shared
from platziverse.postgres.requests import CLEAR_RETAINED, DRAIN, END_SESSION, KICK
from platziverse.rules.recording import RuleHandler, Tell
from platziverse.rules.ruleset import RuleSet
from platziverse.web.metrics import Observations
from platziverse.web.site import make_site

log = Logger("platziverse.service")


class Parts:
    """Parts holds everything of one daemon, from the database to what is behind its ports; nothing runs yet.

    :param reactor: its ``seconds`` must be a steady clock.
    :raises Unusable: the state directory, a file about access, a row of ``handlers``, a rule or the
        certificate cannot be used.
    :ivar limits: those of the configuration, with what the machine gives in the place of 0.
    :ivar cluster: shares the clients with other daemons; ``None``: this one is alone.
    :ivar hashing: the threads that check passwords.
    :ivar expiry: looks for Sessions that have expired.
    """

    def __init__(self, config: Config, reactor: Any) -> None:
        self._config, self._reactor = config, reactor
        self.observations = Observations()
        self.database = Database(
            config, reactor, self.observations.batch, self._left_behind, asked=self._asked
        )
        self.hashing, self.who = ThreadPool(0, 2, "passwords"), who_may_connect(config)
        self.authority = _authority(config.access, reactor, self.hashing, self.database.users)
        self.complaints = Complaints(reactor, "agents")
        self.recorder, self.limits = self._recorder(), fitted(config.limits, config.workers.count or 1)
        self.recorder.presence.limit(self.limits.max_memory)
        self.tables = self._tables()
        self.broker = self._broker()
        self.cluster = self._cluster()
        self.database.inherit, self.database.fenced = self._inherit, self._begin_anew
        #: Called when an operator wants the daemon to let its clients go, and to stop.
        self.drain: Callable[[], object] = lambda: None
        self.shared = self._shared()
        self._heed_others()
        self.crowd = self._crowd()
        self.arrivals = Arrivals(self.limits.max_connect_rate, reactor)
        self.hands, self.pages = self._pages()
        self.front = self._front()
        self.expiry = LoopingCall(self.broker.expire)
        self.expiry.clock = reactor
        self.sys_topics = SysTopics(self.broker, reactor, __version__, config.sys.interval)

    def _heed_others(self) -> None:
        """Have what others may have taken over from us respected, if they share our clients."""
        if self.cluster is not None:
            self.database.overtaken = self.cluster.overtaken
            self.database.heir.may_inherit = self.cluster.former.may_inherit
            self.shared.waking.confirm = self.database.confirm

    def _shared(self) -> Shared:
        shared = Shared(self.broker, self._reactor, self.observations.ack, self.database)
        shared.refusing.is_away = lambda: self.database.is_away
        shared.server_reference = self._config.server_reference
        return shared

    def _recorder(self) -> Recorder:
        database, may_speak = self.database, cast(Any, self.authority.may_speak_for)
        limits, warn = self._config.agents, self.complaints.warn
        recorder = Recorder(database.writer, self._publish, database.clock, limits, may_speak, warn)
        database.prepared_again = recorder.describe_again
        return recorder

    def _tables(self) -> Tables:
        room, deadline = self.limits.handler_room, self.limits.handler_deadline
        return Tables(self.recorder, self._publish, self._reactor, self.complaints, deadline, room)

    def _broker(self) -> Broker:
        """Make the broker and its handlers.

        :raises Unusable: a row of ``handlers``, or a rule, cannot be used.
        """
        config = self._config
        agents = cast(Mapping[str, Handler], AgentHandlers(self.recorder).table)
        self._rows = [agents, *(handler_rows(name, self.tables) for name in config.handlers)]
        self.rules = RuleHandler(self.recorder, load_rules(config), self._tell_of(config))
        dispatcher = self._dispatcher()
        observer = cast(ClientObserver, self.recorder)
        store, grace = self.database.sessions, self._config.sessions.grace
        clock, now = self._reactor, self.database.clock  # absent clients are so by the clock of the database
        return Broker(
            self.limits, dispatcher, self.authority, clock, now, [observer], store=store, grace=grace
        )

    def _cluster(self) -> Cluster | None:
        """Make what shares the clients with other daemons, if there is a bus.

        :raises Unusable: a file of the bus cannot be read, or a package is missing.
        """
        database = self.database
        bus = make_bus(self._config.bus, self._reactor, database.members, lambda: database.reader.dsn or "")
        if bus is None:
            return None
        return Cluster(self.broker, bus, database.members, self._reactor, database.clock)

    def join(self) -> "Deferred[None]":
        """Join the other daemons, if there is a bus; the Deferred fires when we know their clients."""
        return self.cluster.start() if self.cluster is not None else succeed(None)

    def load(self) -> "Deferred[Any]":
        """Load what is stored; then the other daemons get to know our Sessions."""
        loaded = self.broker.load()
        if (cluster := self.cluster) is not None:
            loaded.addCallback(self._loaded, cluster)
        return loaded

    def _loaded(self, sessions: int, cluster: Cluster) -> None:
        cluster.loaded(sessions)

    def part(self) -> "Deferred[None]":
        """Leave the other daemons."""
        return self.cluster.stop() if self.cluster is not None else succeed(None)

    def _crowd(self) -> Crowd:
        shared = self.shared
        crowd = Crowd(self.limits, self.broker.traffic, shared.complaints)
        shared.pressure.sockets, shared.pressure.kernel = crowd.sockets, tcp_memory
        return crowd

    def _dispatcher(self) -> TopicDispatcher:
        rules = cast(Mapping[str, Handler], self.rules.table)
        return TopicDispatcher(*self._rows, rules, together=self.tables.together)

    def use_rules(self, config: Config, rules: RuleSet) -> None:
        """Record by other rules from now on."""
        if not rules.rules and not self.rules.rules.rules:
            return  # nothing has changed, and no series need be written again
        self.rules.rules, self.rules.tell = rules, self._tell_of(config)
        self.recorder.describe_again()
        self.broker.use_handlers(self._dispatcher())

    def _tell_of(self, config: Config) -> Tell | None:
        return self._tell if config.record.republish == "subscribed" else None

    def _tell(self, topic: str, make: Callable[[], bytes]) -> None:
        self.broker.tell(topic, make)

    def _pages(self) -> tuple[Hands, Pages]:
        hands = Hands(self.broker, self.shared, self.database.ask_others)
        return hands, Pages(
            self._config,
            self._reactor,
            self.database,
            self.broker,
            self.shared,
            self.recorder,
            self.observations,
            self.crowd,
            self.arrivals,
            self.rules,
            self.cluster,
            hands,
            self.tables,
        )

    def _front(self) -> Front:
        """Make all that is behind the ports.

        :raises Unusable: the certificate cannot be used.
        """
        config, mqtt = self._config, MQTTFactory(self.shared)
        site = make_site(
            self._reactor,
            config.web,
            self.trouble,
            self.pages.resources,
            WebSocketResource(mqtt),
            home=self.pages.home,
            lets_in=self.authority.lets_in,
            warning=self._warning,
            traffic=self.broker.traffic,
            complaints=self.shared.complaints,
            max_memory=self.limits.max_memory,
            logins=MQTTLogins(self.authority),
        )
        self.shared.counted.append(lambda: site.unread.total)
        return Front(mqtt, site, config.tls, self.arrivals)

    def trouble(self) -> str:
        """Return why what is sent now is not stored now, in one line; empty when it is."""
        return self.database.trouble or str(self.broker.loading or "")

    def stage(self) -> Stage | None:
        """Return where the start has come to; ``None``: all is there."""
        if (stage := self.database.stage) is not None:
            return stage
        loading = self.broker.loading
        return None if loading is None else Stage(self.database.stages, SESSIONS, str(loading))

    def _warning(self) -> str:
        """Return what somebody should put right although all is stored, in one line; empty: nothing."""
        bus = self.cluster.bus.state if self.cluster is not None else READY
        where = without_password(self._config.bus.url)
        away = f"the bus {where} is {bus}" if bus != READY else ""
        unheard = self.cluster.peers.unheard if self.cluster is not None else []
        alone = f"daemons {unheard} live and are not heard on the bus {where}" if unheard else ""
        return "; ".join(filter(None, (self.database.clock.warning, away, alone)))

    def look_for_gone(self) -> "Deferred[Any]":
        """End the connections of users that are gone; fires when that is done."""
        streams = self.pages.events, self.pages.traces
        return GoneUsers(self._reactor, self.broker, self.authority, streams).look()

    def _publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.broker.announce(topic, payload, retain)

    def _asked(self, request: str, argument: str) -> None:
        """Do as an operator has asked."""
        log.info("An operator asks: {request} {argument!r}", request=request, argument=argument)
        if request == END_SESSION:
            session = self.broker.sessions.get(argument)
            if session is not None:
                self.broker.drop(session, Reason.ADMINISTRATIVE, "an operator has ended its Session")
        elif request == KICK:
            self.hands.asked(argument)
        elif request == DRAIN:
            self.drain()
        elif request == CLEAR_RETAINED:
            clock = self._reactor
            cooperator = Cooperator(scheduler=lambda go_on: clock.callLater(0, go_on))
            cooperator.coiterate(self._clear_retained(argument))

    def _clear_retained(self, topic_filter: str) -> Iterator[None]:
        """Clear the Retained Messages that match; some in each turn of the reactor."""
        for message in self.broker.retained.match(topic_filter):
            self.broker.retained.set(Publish(message.topic, b"", 0, True), SERVER)
            yield

    def _inherit(self, daemon: int, taken: "Deferred[Sequence[int]]") -> None:
        """Go on with what a dead daemon has left to us, as soon as it is taken."""
        if self.database.sessions is not None:
            cluster = self.cluster
            inherited = cluster.inheriting.inherit(daemon, taken) if cluster else self.broker.inherit(taken)
            inherited.addErrback(self._not_read)

    def _begin_anew(self) -> None:
        """Let all clients go: other daemons have taken over their Sessions and Wills."""
        text = "other daemons have taken over from this one; all clients are disconnected, and may come again"
        log.warn(text)
        self.recorder.taken_over()
        if self.database.sessions is not None:
            loaded = self.broker.begin_anew()
            if (cluster := self.cluster) is not None:
                loaded.addCallback(self._loaded, cluster)
            loaded.addErrback(self._not_read)
        self.shared.hold_all()
        self.shared.close_all(Reason.SHUTTING_DOWN, "other daemons have taken over from this one")

    def _not_read(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("Bug: Sessions of another daemon, or our own once more", failure)

    def _left_behind(self, uuids: Sequence[str]) -> None:
        self.recorder.left_behind(uuids)


def _authority(access: Access, reactor: Any, pool: ThreadPool, database: UserTable) -> AccessAuthority:
    """Make the authority.

    :raises Unusable: a file says nothing, or cannot be read; that must never mean "open".
    """
    tables = user_tables(access, database)
    checker = PasswordChecker(tables, reactor, pool) if tables else None
    rules = access_rules(access)
    return AccessAuthority(reactor, checker, rules, access.anonymous, access.binding, ANNOUNCEMENTS)
