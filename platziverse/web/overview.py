"""Overview: ``/api/broker``, what ``/metrics`` counts as a person wants to see it: by second, and lately."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from platziverse.mqtt.details import VERSIONS
from platziverse.web import interfaces as ports
from platziverse.web.histogram import Histogram
from platziverse.web.interfaces import Row

#: Seconds between two samples, and how many are kept: rates and latencies are of the time between the first
#: and the last of them.
INTERVAL: Final = 1.0
KEPT: Final = 11


@frozen
class _Sample:
    """A _Sample is what was counted at a moment.

    :ivar moment: seconds, steady.
    :ivar totals: since the start.
    :ivar counts: of the histograms, by name.
    """

    moment: float
    totals: Mapping[str, int]
    counts: Mapping[str, Sequence[int]]


class Overview:
    """An Overview samples the counters once a second.

    :param clock: steady time, and ``callLater``.
    :param now: seconds since the epoch.
    :param histograms: by name: of PUBACKs, commits and turns of the reactor, in seconds.
    :param timed: returns the name of each table of handlers, how many messages they have finished with, and
        the seconds that it took.
    """

    def __init__(
        self,
        clock: Any,
        now: Callable[[], float],
        version: str,
        broker: ports.Broker,
        connections: ports.Connections,
        handlers: ports.Handlers,
        writer: ports.Writer,
        upkeep: ports.Upkeep,
        histograms: Mapping[str, Histogram],
        timed: Callable[[], Iterable[tuple[str, int, float]]] = tuple,
    ) -> None:
        self._clock, self._now, self._version = clock, now, version
        self._broker, self._connections, self._handlers = broker, connections, handlers
        self._writer, self._upkeep, self._histograms = writer, upkeep, histograms
        self._timed = timed
        self._samples: deque[_Sample] = deque(maxlen=KEPT)
        self._began = clock.seconds()
        self._call: Any = None

    def start(self) -> None:
        """Begin to sample."""
        self._began = self._clock.seconds()
        self._take()

    def stop(self) -> None:
        """Sample no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _take(self) -> None:
        self._samples.append(self._sample())
        self._call = self._clock.callLater(INTERVAL, self._take)

    def _sample(self) -> _Sample:
        counts = {name: histogram.counts for name, histogram in self._histograms.items()}
        return _Sample(self._clock.seconds(), self._totals(), counts)

    def _totals(self) -> dict[str, int]:
        traffic, writer = self._broker.traffic, self._writer
        return {
            "messagesReceived": sum(traffic.publish_received),
            "messagesSent": sum(traffic.publish_sent),
            "messagesDropped": traffic.dropped,
            "messagesDenied": traffic.publish_denied,
            "bytesReceived": traffic.bytes_received,
            "bytesSent": traffic.bytes_sent,
            "refusals": sum(count for (by, *_), count in traffic.refusals.items() if by == "server"),
            "connectsAccepted": traffic.connects_accepted,
            "connectsRefused": sum(traffic.connects_refused.values()),
            "reportsStored": writer.stored,
            "reportsDuplicate": writer.duplicates,
            "reportsRejected": writer.rejected,
        }

    def page(self) -> Row:
        """Return how the broker is now, and has been lately."""
        now = self._sample()
        before = self._samples[0] if self._samples else now
        seconds = now.moment - before.moment
        return {
            "time": int(self._now() * 1000),
            "version": self._version,
            "uptime": round(now.moment - self._began, 3),
            "rates": {name: _rate(now, before, name, seconds) for name in now.totals},
            "totals": now.totals,
            "latency": {name: self._latency(name, before.counts[name]) for name in now.counts},
            "clients": self._clients(),
            "queues": self._queues(),
            "handlers": [
                {"name": name, "calls": calls, "seconds": round(seconds, 6)}
                for name, calls, seconds in self._timed()
            ],
            "database": {"state": self._upkeep.state, "clockDifference": self._upkeep.apart},
            "memory": {"used": self._connections.pressure.used, "budget": self._connections.pressure.budget},
        }

    def _latency(self, name: str, before: Sequence[int]) -> Row:
        histogram = self._histograms[name]
        return {"p50": histogram.quantile(0.5, before), "p99": histogram.quantile(0.99, before)}

    def _clients(self) -> Row:
        broker = self._broker
        return {
            "connected": broker.connected,
            "protocols": {VERSIONS[level]: n for level, n in broker.traffic.connected.items()},
            "agents": self._handlers.presence.agents,
            "sessions": len(broker.sessions),
            "absent": broker.sessions.absent,
            "subscriptions": len(broker.subscriptions),
            "retainedMessages": len(broker.retained),
            "daemons": self._upkeep.others + 1,
        }

    def _queues(self) -> Row:
        flow = self._connections.flow
        return {
            "unfinishedMessages": flow.unfinished,
            "unfinishedBytes": flow.unfinished_bytes,
            "heldConnections": flow.held,
            "pendingReports": self._writer.pending,
            "waitingEntries": self._writer.waiting,
        }


def _rate(now: _Sample, before: _Sample, name: str, seconds: float) -> float:
    return round((now.totals[name] - before.totals[name]) / seconds, 3) if seconds > 0 else 0.0
