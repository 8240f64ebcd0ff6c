"""Totals: ``/metrics`` of all workers of a machine, whichever of them is asked."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import DeferredList
from twisted.logger import Logger
from twisted.web.server import Request

from platziverse.web.answers import Answer
from platziverse.web.metrics import PREFIX, MetricsPage, exposed
from platziverse.web.siblings import Fetch

log = Logger("platziverse.web")

#: What makes no sense as a sum has the number of its worker as a label.
OF_EACH: Final = (
    "process_",
    *(PREFIX + name for name in ("build_info", "database_state", "clock_difference")),
)
#: What all of them know of the same things: the worker that knows most is right.
OF_ALL: Final = tuple(PREFIX + name for name in ("daemons", "retained_messages", "roll_up_waiting"))
OWN: Final = "/metrics?worker=own"


class TotalsPage(Answer):
    """A TotalsPage adds up the metrics of all workers; with ``?worker=own`` it is the page of this one alone.

    :param own: the page of this worker.
    :param number: of this worker.
    :param others: numbers of the others.
    """

    def __init__(self, own: MetricsPage, number: int, others: Iterable[int], fetch: Fetch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own, self._number, self._others, self._fetch = own, number, list(others), fetch

    def answer(self, request: Request) -> Any:
        """Ask the others, and add up what comes in time."""
        if b"worker" in (request.args or {}):
            return self._own.answer(request)
        totals = _Totals()
        totals.add(self._number, self._own.registry.collect())
        asked = [
            self._fetch(number, b"GET", OWN, "")
            .addCallback(totals.add_page, number)
            .addErrback(self._unheard, number)
            for number in self._others
        ]
        return DeferredList(asked, consumeErrors=True).addCallback(self._render, totals, request)

    def _unheard(self, failure: Any, number: int) -> None:
        """Leave out a worker that does not answer; the gauge of those that did says so."""
        reason = failure.getErrorMessage()
        log.warn("worker {number} does not tell its metrics: {reason}", number=number, reason=reason)

    def _render(self, _: object, totals: "_Totals", request: Request) -> bytes:
        return exposed(totals, request)


class _Totals:
    """A _Totals is a registry of what several pages say together."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        self._heard = 0

    def add_page(self, page: bytes, number: int) -> None:
        """Add the page of a worker in the text format."""
        self.add(number, list(text_string_to_metric_families(page.decode())))

    def add(self, number: int, families: Iterable[Metric]) -> None:
        """Add what one worker says."""
        self._heard += 1
        for family in families:
            self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            values = self._values.setdefault(family.name, {})
            for sample in family.samples:
                labels: Mapping[str, str] = sample.labels
                if sample.name.startswith(OF_EACH):
                    labels = {**labels, "worker": str(number)}
                key = sample.name, tuple(labels.items())
                known = values.get(key, 0.0)
                values[key] = max(known, sample.value) if sample.name in OF_ALL else known + sample.value

    def collect(self) -> Iterator[Metric]:
        """Return the sums, and how many workers are in them."""
        heard = Metric(f"{PREFIX}workers", "Workers whose metrics are in this page.", "gauge")
        heard.add_sample(heard.name, {}, self._heard)
        yield heard
        for name, family in self._families.items():
            for (sample, labels), value in self._values[name].items():
                family.add_sample(sample, dict(labels), value)
            yield family
