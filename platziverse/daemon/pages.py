"""Pages: what is answered over HTTP below ``/api`` and ``/metrics``, put together."""

from functools import partial
from typing import Any

from twisted.web.resource import Resource

from platziverse import __version__
from platziverse.agents.recorder import Recorder
from platziverse.agents.tables import Tables
from platziverse.broker.broker import Broker
from platziverse.cluster.cluster import Cluster
from platziverse.cluster.figures import Figures
from platziverse.config import Config
from platziverse.daemon.database import Database
from platziverse.daemon.feed import Feed
from platziverse.daemon.hands import Hands
from platziverse.daemon.replays import Replays
from platziverse.daemon.sockets import sibling_socket
from platziverse.door.arrivals import Arrivals
from platziverse.door.crowd import Crowd
from platziverse.net.shared import Shared
from platziverse.rules.recording import RuleHandler
from platziverse.web.answers import METHODS
from platziverse.web.api import Action, Api
from platziverse.web.clients import Clients
from platziverse.web.events import Events
from platziverse.web.exports import Exports
from platziverse.web.files import PageFiles
from platziverse.web.metrics import BusCollector, DaemonCollector, MetricsPage, Observations
from platziverse.web.overview import Overview
from platziverse.web.rejections import Rejections
from platziverse.web.siblings import Siblings, UnixFetch
from platziverse.web.totals import TotalsPage
from platziverse.web.traces import Traces
from platziverse.web.turns import Turns
from platziverse.web.workers import BrokerPage


class Pages:
    """Pages holds the parts that are behind HTTP, and starts and stops what runs by itself.

    :ivar turns: looks how long turns of the reactor are.
    :ivar overview: samples the counters.
    :ivar broker: how all workers are, by their overviews.
    :ivar events: the event streams.
    :ivar traces: the packets of single clients.
    :ivar api: everything below ``/api``.
    :ivar metrics: what Prometheus scrapes.
    :ivar files: those of the page; ``None``: there is none.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        database: Database,
        broker: Broker,
        shared: Shared,
        recorder: Recorder,
        observations: Observations,
        crowd: Crowd,
        arrivals: Arrivals,
        rules: RuleHandler,
        cluster: Cluster | None,
        hands: Hands,
        tables: Tables,
    ) -> None:
        self._config, self._reactor, self._database = config, reactor, database
        self._broker, self._shared, self._recorder = broker, shared, recorder
        self._observations, self._cluster, self._hands = observations, cluster, hands
        self._siblings, self._tables, self._rules = self._workers(), tables, rules
        self.turns = Turns(reactor)
        self.overview = self._overview()
        self.broker = BrokerPage(self.overview.page, self._siblings)
        self.events = self._events()
        self.traces = self._traces()
        self.api = self._api()
        counted = broker, shared, crowd, arrivals, recorder, database.writer, database.store
        collector = DaemonCollector(
            __version__,
            *counted,
            observations,
            self.turns,
            database,
            kept=database.sessions,
            rules=rules,
            sharing=Figures(cluster) if cluster is not None else None,
        )
        self.metrics = self._of_all_workers(collector)
        self.files = PageFiles(__version__) if config.web.page else None

    @property
    def resources(self) -> list[tuple[str, Resource]]:
        """The resources below ``/``, by their names."""
        page: list[tuple[str, Resource]] = [] if self.files is None else [("page", self.files)]
        return [("metrics", self.metrics), ("api", self.api), *page]

    @property
    def home(self) -> Resource | None:
        """The resource that answers ``/``; ``None``: a list of links does."""
        return None if self.files is None else self.files.index

    def _overview(self) -> Overview:
        seen, database = self._observations, self._database
        histograms = {
            "puback": seen.ack_seconds,
            "commit": seen.commit_seconds,
            "turn": self.turns.lateness,
        }
        counted = self._broker, self._shared, self._recorder, database.writer, database
        return Overview(self._reactor, database.clock, __version__, *counted, histograms, self._tables.timed)

    def _events(self) -> Events:
        database, most, patience = self._database, self._config.web.max_streams, self._config.web.timeout
        said = self._broker.traffic, self._shared.complaints
        events = Events(self._reactor, database.reader, self.broker.page, most, patience, *said)
        shared = self._cluster is not None
        events.use(Feed(self._broker, self._recorder, events, database.clock, shared))
        return events

    def _api(self) -> Api:
        database, most, patience = self._database, self._config.web.max_exports, self._config.web.timeout
        said = self._broker.traffic, self._shared.complaints
        exports = Exports(
            self._reactor, database.exports, lambda: database.writer.waiting > 0, most, patience, *said
        )
        more = {"broker": self.broker.answer, "events": self.events.answer, "export": exports.answer}
        clients = Clients(database.reader, self._broker.sessions, self._hands, self._siblings)
        actions = {("clients", "trace"): Action(self.traces.answer, METHODS)}
        replays = Replays(
            self._reactor, self._config.agents, lambda: self._rules.rules, lambda: database.reader.dsn
        )
        rejections = Rejections(database.reader, replays)
        return Api(database.reader, database.clock, clients, rejections, more, actions)

    def _traces(self) -> Traces:
        clock, now, web = self._reactor, self._database.clock, self._config.web
        said = self._broker.traffic, self._shared.complaints
        return Traces(clock, now, self._hands, self._siblings, web.max_streams, web.timeout, *said)

    def _workers(self) -> Siblings:
        workers = self._config.workers
        if not workers.number:
            return Siblings()
        others = [number for number in range(1, workers.count + 1) if number != workers.number]
        fetch = UnixFetch(self._reactor, partial(sibling_socket, self._config.state_dir))
        return Siblings(workers.number, others, fetch, fetch.follow)

    def start(self) -> None:
        """Begin to look and to sample."""
        self.turns.start()
        self.overview.start()

    def stop(self) -> None:
        """Look and sample no more, and end the streams."""
        self.turns.stop()
        self.overview.stop()
        self.events.stop()
        self.traces.stop()

    def _of_all_workers(self, collector: DaemonCollector) -> MetricsPage | TotalsPage:
        bus = [] if self._cluster is None else [BusCollector(self._cluster.bus)]
        page, siblings = MetricsPage(collector, *bus), self._siblings
        if siblings.fetch is None:
            return page
        return TotalsPage(page, siblings.number, siblings.others, siblings.fetch)
