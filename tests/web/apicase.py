"""The whole API over a store in memory, with a broker whose clients speak packets."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.recorder import Recorder
from platziverse.broker.complaints import Complaints
from platziverse.daemon.feed import Feed
from platziverse.daemon.hands import Hands
from platziverse.ingest.memory import MemoryStore
from platziverse.ingest.reports import KINDS
from platziverse.ingest.writer import BatchWriter
from platziverse.testing import BrokerHarness
from platziverse.web.answers import METHODS
from platziverse.web.api import Action, Api
from platziverse.web.clients import Clients
from platziverse.web.events import Events
from platziverse.web.exports import Exports
from platziverse.web.metrics import Observations
from platziverse.web.overview import Overview
from platziverse.web.rejections import Rejections
from platziverse.web.settings import WebSettings
from platziverse.web.siblings import Siblings
from platziverse.web.site import make_site
from platziverse.web.traces import Traces
from platziverse.web.turns import Turns
from platziverse.web.workers import BrokerPage
from tests.logs import observe_lines
from tests.web.browser import Connection, Response
from tests.web.tables import TableStore
from tests.web.test_metrics import FakeDatabase

#: Seconds since the epoch, when tests begin.
NOW = 1_795_493_285.5


class ApiCase(SynchronousTestCase):
    settings = WebSettings()
    #: There are other daemons.
    shared = False
    #: Messages wait to be stored.
    busy = False

    def setUp(self) -> None:
        self.clock, self.store, self.observations = Clock(), TableStore(), Observations()
        self.harness = BrokerHarness(reports=MemoryStore(), clock=self.clock, wall_clock=NOW)
        self.recorder: Recorder = self.harness.recorder
        self.traffic = self.harness.broker.traffic
        self.said = observe_lines(self)
        complaints = Complaints(self.clock, "web")
        self.addCleanup(complaints.stop)
        counted: Any = (self.traffic, complaints)
        self.overview = self.make_overview()
        self.siblings = self.make_siblings()
        broker = BrokerPage(self.overview.page, self.siblings)
        patience = self.settings.timeout
        self.events = Events(
            self.clock, self.store, broker.page, self.settings.max_streams, patience, *counted
        )
        self.events.use(Feed(self.harness.broker, self.recorder, self.events, self.harness.now, self.shared))
        self.exports = Exports(
            self.clock, self.store, lambda: self.busy, self.settings.max_exports, patience, *counted
        )
        more = {
            "broker": broker.answer,
            "events": self.events.answer,
            "export": self.exports.answer,
        }
        hands = Hands(self.harness.broker, self.harness.shared, self.store.ask_others)
        self.clients = Clients(self.store, self.harness.broker.sessions, hands, self.siblings)
        self.traces = Traces(
            self.clock,
            self.harness.now,
            hands,
            self.siblings,
            self.settings.max_streams,
            patience,
            *counted,
        )
        actions = {("clients", "trace"): Action(self.traces.answer, METHODS)}
        rejections = Rejections(self.store, self.store)
        self.api = Api(self.store, self.harness.now, self.clients, rejections, more, actions)
        self.site = make_site(
            self.clock,
            self.settings,
            lambda: "",
            [("api", self.api)],
            traffic=self.traffic,
            complaints=complaints,
        )

    def make_siblings(self) -> Siblings:
        """The other workers: there are none."""
        return Siblings()

    def make_overview(self) -> Overview:
        database: Any = FakeDatabase()
        turns = Turns(self.clock)
        histograms = {
            "puback": self.observations.ack_seconds,
            "commit": self.observations.commit_seconds,
            "turn": turns.lateness,
        }
        return Overview(
            self.clock,
            self.harness.now,
            "1.2",
            self.harness.broker,
            self.harness.shared,
            self.recorder,
            BatchWriter(database, self.clock, KINDS),
            database,
            histograms,
            self.harness.tables.timed,
        )

    def get(self, path: str) -> Response:
        return Connection(self.site).request(path)

    def error(self, path: str) -> tuple[int, str]:
        response = self.get(path)
        self.assertEqual(list(response.json), ["error"])
        return response.status, response.json["error"]
