"""``/metrics`` of several workers."""

from collections.abc import Iterator
from typing import Any, cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyRequest

from platziverse.web.metrics import MetricsPage
from platziverse.web.totals import TotalsPage


class Numbers:
    """The metrics of a worker that has ``count`` of everything."""

    def __init__(self, count: int) -> None:
        self.count = count

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("platziverse_clients", "Clients.", self.count)
        packets = CounterMetricFamily("platziverse_packets", "Packets.", labels=("direction",))
        packets.add_metric(("in",), self.count)
        packets.add_metric(("out",), 2 * self.count)
        yield packets
        buckets = [("0.1", self.count), ("+Inf", 2 * self.count)]
        yield HistogramMetricFamily("platziverse_seconds", "Times.", buckets=buckets, sum_value=self.count)
        yield GaugeMetricFamily("process_open_fds", "Files.", self.count)
        yield GaugeMetricFamily("platziverse_daemons", "Daemons.", self.count)


def page(count: int) -> MetricsPage:
    return MetricsPage(cast(Any, Numbers(count)))


class TotalsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: list[int] = []
        self.answers: dict[int, Deferred[bytes]] = {}

    def fetch(self, number: int, method: bytes, path: str, by: str) -> "Deferred[bytes]":
        self.asked.append(number)
        return self.answers[number]

    def get(self, totals: TotalsPage, **arguments: str) -> str:
        request: Any = DummyRequest([b"metrics"])
        request.args = {name.encode(): [value.encode()] for name, value in arguments.items()}
        answer: Any = totals.answer(request)
        return str(answer if isinstance(answer, bytes) else self.successResultOf(answer), "utf-8")

    def test_they_are_added_up(self) -> None:
        self.answers = {2: succeed(generate_latest(cast(Any, Numbers(10)))), 3: succeed(b"")}
        text = self.get(TotalsPage(page(1), 1, [2, 3], self.fetch))
        for line in (
            "platziverse_workers 3.0",
            "platziverse_clients 11.0",
            'platziverse_packets_total{direction="in"} 11.0',
            'platziverse_packets_total{direction="out"} 22.0',
            'platziverse_seconds_bucket{le="0.1"} 11.0',
            'platziverse_seconds_bucket{le="+Inf"} 22.0',
            "platziverse_seconds_count 22.0",
            "platziverse_seconds_sum 11.0",
            'process_open_fds{worker="2"} 10.0',
            "platziverse_daemons 10.0",
        ):
            self.assertIn(f"{line}\n", text)
        self.assertEqual(text.count("# TYPE platziverse_packets_total counter"), 1)
        self.assertEqual(self.asked, [2, 3])

    def test_one_that_does_not_answer_is_left_out_and_the_gauge_says_so(self) -> None:
        self.answers = {2: fail(ConnectError()), 3: succeed(b"no metrics at {all\n")}
        text = self.get(TotalsPage(page(1), 1, [2, 3], self.fetch))
        self.assertIn("platziverse_workers 1.0\n", text)
        self.assertIn("platziverse_clients 1.0\n", text)

    def test_a_worker_tells_its_own_alone(self) -> None:
        text = self.get(TotalsPage(page(7), 1, [2], self.fetch), worker="own")
        self.assertIn("platziverse_clients 7.0\n", text)
        self.assertNotIn("platziverse_workers", text)
        self.assertEqual(self.asked, [])
