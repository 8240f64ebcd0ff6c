"""Parts: the rooms of the daemon, put together; the one place that knows all of them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from twisted.internet.task import LoopingCall
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
from platziverse.broker.sys import SysTopics
from platziverse.config import Access, Config
from platziverse.daemon.database import Database
from platziverse.daemon.extensions import handler_rows
from platziverse.daemon.front import Front
from platziverse.daemon.logins import access_rules, user_tables, who_may_connect
from platziverse.daemon.machine import fitted
from platziverse.door.arrivals import Arrivals
from platziverse.door.crowd import Crowd
from platziverse.door.upgrade import WebSocketResource
from platziverse.net.factory import MQTTFactory
from platziverse.net.shared import Shared
from platziverse.web.api import Api
from platziverse.web.metrics import DaemonCollector, MetricsPage, Observations
from platziverse.web.site import make_site
from platziverse.web.turns import Turns


class Parts:
    """Parts holds everything of one daemon, from the database to what is behind its ports; nothing runs yet.

    :param reactor: its ``seconds`` must be a steady clock.
    :raises Unusable: the state directory, a file about access, a row of ``handlers`` or the certificate
        cannot be used.
    :ivar limits: those of the configuration, with what the machine gives in the place of 0.
    :ivar hashing: the threads that check passwords.
    :ivar expiry: looks for Sessions that have expired.
    """

    def __init__(self, config: Config, reactor: Any) -> None:
        self._config, self._reactor = config, reactor
        self.observations = Observations()
        self.database = Database(config, reactor, self.observations.batch, self._left_behind)
        self.hashing = ThreadPool(0, 2, "passwords")
        self.who = who_may_connect(config)
        self.authority = _authority(config.access, reactor, self.hashing, self.database.users)
        self.complaints = Complaints(reactor, "agents")
        self.recorder = self._recorder()
        self.limits = fitted(config.limits)
        self.tables = self._tables()
        self.broker = self._broker()
        self.shared = Shared(self.broker, reactor, self.observations.ack, self.database.writer)
        self.crowd = Crowd(self.limits, self.broker.traffic, self.shared.complaints)
        self.arrivals = Arrivals(self.limits.max_connect_rate, reactor)
        self.turns = Turns(reactor)
        self.front = self._front()
        self.expiry = LoopingCall(self.broker.expire_sessions)
        self.expiry.clock = reactor
        self.sys_topics = SysTopics(self.broker, reactor, __version__, config.sys.interval)

    def _recorder(self) -> Recorder:
        database, may_speak = self.database, cast(Any, self.authority.may_speak_for)
        limits, warn = self._config.agents, self.complaints.warn
        return Recorder(database.writer, self._publish, database.clock, limits, may_speak, warn)

    def _tables(self) -> Tables:
        room, deadline = self.limits.handler_room, self.limits.handler_deadline
        return Tables(self.recorder, self._publish, self._reactor, self.complaints, deadline, room)

    def _broker(self) -> Broker:
        """Make the broker and its handlers.

        :raises Unusable: a row of ``handlers`` cannot be used.
        """
        rows = [handler_rows(name, self.tables) for name in self._config.handlers]
        agents = cast(Mapping[str, Handler], AgentHandlers(self.recorder).table)
        dispatcher = TopicDispatcher(agents, *rows, together=self.tables.together)
        observer = cast(ClientObserver, self.recorder)
        return Broker(self.limits, dispatcher, self.authority, self._reactor, time.time, [observer])

    def _front(self) -> Front:
        """Make all that is behind the ports.

        :raises Unusable: the certificate cannot be used.
        """
        config, database, mqtt = self._config, self.database, MQTTFactory(self.shared)
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


def _authority(access: Access, reactor: Any, pool: ThreadPool, database: UserTable) -> AccessAuthority:
    """Make the authority.

    :raises Unusable: a file says nothing, or cannot be read; that must never mean "open".
    """
    tables = user_tables(access, database)
    checker = PasswordChecker(tables, reactor, pool) if tables else None
    rules = access_rules(access)
    return AccessAuthority(reactor, checker, rules, access.anonymous, access.binding, ANNOUNCEMENTS)
