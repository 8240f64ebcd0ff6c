"""What Prometheus sees, and what the dashboard asks it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from attrs import define, frozen
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.recorder import Recorder
from platziverse.broker.limits import Limits
from platziverse.door.arrivals import Arrivals
from platziverse.door.sniff import SniffingFactory
from platziverse.ingest.reports import KINDS
from platziverse.ingest.writer import BatchWriter
from platziverse.mqtt.packets import Pingreq, Puback
from platziverse.testing import BrokerHarness
from platziverse.web.histogram import Histogram
from platziverse.web.metrics import BusCollector, DaemonCollector, MetricsPage, Observations
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from platziverse.web.turns import Turns
from tests.agents.doubles import COURSE, NOW, HeldStore
from tests.web.browser import Connection

DASHBOARD = Path(__file__).parent.parent.parent / "examples" / "grafana-dashboard.json"


class Shared:
    """What a daemon shares with another one."""

    events: ClassVar = {"sent": 8, "lost": 7}
    received: ClassVar = {3: 9}
    gaps: ClassVar = {3: 1}
    sent: ClassVar = {3: 7}
    unanswered: ClassVar = {3: 6}
    keys = 4
    unheard = 1
    moved: ClassVar = {"come": 2, "gone": 1}
    delayed = 5


@frozen
class FakeRollUps:
    waiting: int = 4
    buckets: int = 5
    seconds: float = 0.5


@define
class FakeDatabase:
    slots: int = 1
    state: str = "ready"
    refused: int = 0
    internal_errors: int = 0
    apart: float | None = None
    deleted: Mapping[str, int] = {}
    others: int = 2
    inherited: Mapping[str, int] = {"daemons": 1, "sessions": 20, "wills": 3}
    roll_ups: FakeRollUps | None = None


class MetricsCase(SynchronousTestCase):
    limits = Limits()

    def setUp(self) -> None:
        self.database, self.observations, self.clock = FakeDatabase(), Observations(), Clock()
        self.turns = Turns(self.clock)
        self.recorder = Recorder(HeldStore(held=False), lambda topic, payload: None, lambda: NOW)
        self.harness = BrokerHarness(
            AgentHandlers(self.recorder).table, self.limits, observers=[self.recorder]
        )
        writer = BatchWriter(self.database, self.clock, KINDS)  # type: ignore[arg-type]
        self.arrivals = Arrivals(self.limits.max_connect_rate, self.clock)
        collector = DaemonCollector(
            "1.2",
            self.harness.broker,
            self.harness.shared,
            self.harness.crowd,
            self.arrivals,
            self.recorder,
            writer,
            self.database,
            self.observations,
            self.turns,
            self.database,
            sharing=Shared(),
        )
        self.page = MetricsPage(collector)
        self.site = make_site(self.clock, WebSettings(), lambda: "", [("metrics", self.page)])

    def samples(self) -> dict[tuple[str, ...], float]:
        """Name and label values → value."""
        body = Connection(self.site).request("/metrics").body.decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }


@frozen
class FakeBus:
    state: str = "away: refused"
    lost: int = 3
    missed: int = 2
    refused: int = 1


class BusMetricsTests(SynchronousTestCase):
    def test_the_bus_has_its_own(self) -> None:
        collector = BusCollector(FakeBus())
        samples = [sample for one in collector.collect() for sample in one.samples]
        found = {sample.name: sample.value for sample in samples if sample.value}
        self.assertEqual(
            found,
            {
                "platziverse_bus_state": 1,
                "platziverse_bus_frames_lost_total": 3,
                "platziverse_bus_messages_missed_total": 2,
                "platziverse_bus_messages_refused_total": 1,
            },
        )


class LimitMetricsTests(MetricsCase):
    limits = Limits(max_connections=1, max_connect_rate=1.0, max_message_rate=1.0)

    def test_what_is_refused_delayed_and_held_is_counted(self) -> None:
        crowd = self.harness.crowd
        shared = SniffingFactory(self.harness.factory, arrivals=self.arrivals)
        for _ in range(3):
            transport = StringTransport()
            shared.buildProtocol(transport.getPeer()).makeConnection(transport)
        crowd.entered(object())
        self.assertFalse(crowd.admits(IPv4Address("TCP", "192.0.2.1", 1), "192.0.2.1"))
        self.harness.connect("fast").send(*[Pingreq()] * 20)
        expected = {
            ("platziverse_connections_refused_total", "total"): 1,
            ("platziverse_connections_refused_total", "address"): 0,
            ("platziverse_connections_delayed_total",): 2,
            ("platziverse_arrivals_waiting",): 2,
            ("platziverse_sockets",): 1,
            ("platziverse_rate_holds_total",): 1,
            ("platziverse_receivers_dropped_total",): 0,
            ("platziverse_memory_used_bytes",): 0,
        }
        samples = self.samples()
        self.assertEqual({key: samples[key] for key in expected}, expected)


class MetricsTests(MetricsCase):
    def test_daemons_are_counted_with_what_was_taken_over_from_dead_ones(self) -> None:
        samples = self.samples()
        self.assertEqual(samples["platziverse_daemons",], 3)
        self.assertEqual(samples["platziverse_inherited_total", "sessions"], 20)
        self.assertEqual(samples["platziverse_bus_frames_total", "lost"], 7)
        self.assertEqual(samples["platziverse_bus_messages_received_total", "3"], 9)
        self.assertEqual(samples["platziverse_bus_gaps_total", "3"], 1)
        self.assertEqual(samples["platziverse_bus_messages_sent_total", "3"], 7)
        self.assertEqual(samples["platziverse_link_unanswered_messages", "3"], 6)
        self.assertEqual(samples["platziverse_interest_keys",], 4)
        self.assertEqual(samples["platziverse_bus_unheard_daemons",], 1)
        self.assertEqual(samples["platziverse_sessions_moved_total", "come"], 2)
        self.assertEqual(samples["platziverse_messages_delayed_total",], 5)

    def test_counters_are_those_of_the_daemon(self) -> None:
        client = self.harness.connect("one")
        client.publish("agent/message", COURSE, 1, 1)
        client.publish("agent/message", b"Hello", 1, 2)
        client.send(Puback(7))
        self.harness.turn()
        samples = self.samples()
        expected = {
            ("platziverse_build_info", "1.2"): 1,
            ("platziverse_clients",): 1,
            ("platziverse_agents",): 1,
            ("platziverse_messages_total", "in", "1"): 2,
            ("platziverse_rejected_messages_total", "syntax"): 1,
            ("platziverse_unknown_acknowledgements_total",): 1,
            ("platziverse_internal_errors_total",): 0,
            ("platziverse_database_state", "ready"): 1,
            ("platziverse_database_state", "away"): 0,
        }
        self.assertEqual({key: samples[key] for key in expected}, expected)
        self.assertGreater(samples[("process_resident_memory_bytes",)], 0)

    def test_errors_are_counted_by_what_was_broken(self) -> None:
        self.harness.open().send_bytes(b"\xc0\x00")
        self.assertEqual(self.samples()[("platziverse_protocol_errors_total", "MQTT-3.1.0-1")], 1)

    def test_a_database_away_is_one_state(self) -> None:
        self.database.state = "away: connection refused"
        samples = self.samples()
        states = [samples[("platziverse_database_state", name)] for name in ("connecting", "ready", "away")]
        self.assertEqual(states, [0, 0, 1])

    def test_the_difference_of_the_clocks_is_told_when_it_is_known(self) -> None:
        """Row 140."""
        self.assertNotIn(("platziverse_clock_difference_seconds",), self.samples())
        self.database.apart = -61.5
        self.assertEqual(self.samples()[("platziverse_clock_difference_seconds",)], -61.5)

    def test_rejected_messages_that_were_deleted_are_counted(self) -> None:
        """Row 143."""
        self.database.deleted = {"keep_rejected_bytes": 7}
        samples = self.samples()
        deleted = "platziverse_rejected_messages_deleted_total"
        found = [samples[(deleted, setting)] for setting in ("keep_rejected_days", "keep_rejected_bytes")]
        self.assertEqual(found, [0, 7])

    def test_roll_ups_are_counted_once_the_database_is_there(self) -> None:
        self.assertNotIn(("platziverse_roll_up_waiting",), self.samples())
        self.database.roll_ups = FakeRollUps()
        self.database.deleted = {"keep_5m_months": 3}
        samples = self.samples()
        names = "waiting", "buckets_total", "seconds_total"
        self.assertEqual([samples[(f"platziverse_roll_up_{name}",)] for name in names], [4, 5, 0.5])
        dropped = "platziverse_roll_ups_dropped_total"
        settings = "keep_5m_months", "keep_1h_months"
        self.assertEqual([samples[(dropped, setting)] for setting in settings], [3, 0])

    def test_distributions_have_cumulative_buckets(self) -> None:
        self.observations.ack(0.002, 1)
        self.observations.ack(0.0025, 1)
        self.observations.ack(99, 1)
        self.observations.batch(500, 0.01)
        samples = self.samples()
        self.assertEqual(samples[("platziverse_puback_seconds_bucket", "0.001")], 0)
        self.assertEqual(samples[("platziverse_puback_seconds_bucket", "0.0025")], 2)
        self.assertEqual(samples[("platziverse_puback_seconds_bucket", "+Inf")], 3)
        self.assertEqual(samples[("platziverse_puback_seconds_count",)], 3)
        self.assertEqual(samples[("platziverse_batch_entries_bucket", "500.0")], 1)
        self.assertEqual(samples[("platziverse_commit_seconds_sum",)], 0.01)

    def test_a_long_turn_of_the_reactor_is_seen(self) -> None:
        """Row 122."""
        self.turns.start()
        self.clock.advance(0.25)
        self.clock.advance(0.4)
        self.turns.stop()
        buckets = dict(self.turns.lateness.buckets())
        self.assertEqual((buckets["0.001"], buckets["0.1"], buckets["0.25"]), (1, 1, 2))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_openmetrics_is_spoken_when_asked_for(self) -> None:
        accept = "application/openmetrics-text; version=1.0.0"
        response = Connection(self.site).request("/metrics", Accept=accept)
        self.assertIn("application/openmetrics-text", response.headers["content-type"])
        self.assertTrue(response.body.endswith(b"# EOF\n"))

    def test_the_dashboard_asks_for_names_that_exist(self) -> None:
        names = {name for name, *_ in self.samples()}
        families = {family.name for family in self.page.registry.collect()}
        # Without a value yet, but exported as soon as there is one.
        names |= {"platziverse_protocol_errors_total", "platziverse_connects_refused_total"} & {
            f"{family}_total" for family in families
        }
        expressions = [
            target["expr"]
            for panel in json.loads(DASHBOARD.read_text())["panels"]
            for target in panel["targets"]
        ]
        asked = {name for text in expressions for name in re.findall(r"platziverse_\w+", text)}
        self.assertGreater(len(asked), 20)
        self.assertEqual(asked - names, set())


class HistogramTests(SynchronousTestCase):
    def test_a_bound_belongs_to_its_bucket(self) -> None:
        histogram = Histogram([1, 2])
        for value in (0, 1, 1.5, 2, 3):
            histogram.observe(value)
        self.assertEqual(list(histogram.buckets()), [("1.0", 2), ("2.0", 4), ("+Inf", 5)])
        self.assertEqual(histogram.sum, 7.5)
