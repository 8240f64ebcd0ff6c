"""``/metrics``: the counters of the daemon's parts, for Prometheus."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from twisted.web.server import Request

from platziverse.web import interfaces as ports
from platziverse.web.answers import Answer
from platziverse.web.histogram import Histogram
from platziverse.web.turns import Turns

PREFIX: Final = "platziverse_"
STATES: Final = ("connecting", "ready", "away")

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ENTRIES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Observations:
    """The distributions; their methods are handed to the parts that measure."""

    def __init__(self) -> None:
        self.ack_seconds = Histogram(_SECONDS)
        self.commit_seconds = Histogram(_SECONDS)
        self.batch_entries = Histogram(_ENTRIES)

    def batch(self, entries: int, seconds: float) -> None:
        """Count one batch that is committed; ``BatchWriter`` calls it."""
        self.batch_entries.observe(entries)
        self.commit_seconds.observe(seconds)

    def ack(self, seconds: float) -> None:
        """Count one PUBLISH that is acknowledged; ``Shared`` of net calls it."""
        self.ack_seconds.observe(seconds)


class DaemonCollector:
    """Reads the counters when Prometheus asks, and only then."""

    def __init__(
        self,
        version: str,
        broker: ports.Broker,
        connections: ports.Connections,
        crowd: ports.Crowd,
        arrivals: Sized,
        handlers: ports.Handlers,
        writer: ports.Writer,
        database: ports.Store,
        observations: Observations,
        turns: Turns,
        upkeep: ports.Upkeep,
    ) -> None:
        self._version = version
        self._broker, self._connections, self._handlers = broker, connections, handlers
        self._crowd, self._arrivals = crowd, arrivals
        self._writer, self._database = writer, database
        self._observations, self._turns = observations, turns
        self._upkeep = upkeep

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        yield _gauge("build_info", "1, with the version of the daemon.", {(self._version,): 1}, ("version",))
        yield from self._clients()
        yield from self._sessions()
        yield from self._messages()
        yield from self._errors()
        yield from self._queues()
        yield from self._memory()
        yield from self._ingest()
        yield from self._store()

    def _clients(self) -> Iterator[Metric]:
        broker, traffic = self._broker, self._broker.traffic
        yield _gauge("connections", "Network Connections now.", len(self._connections.connections))
        yield _gauge("sockets", "Sockets now: MQTT, HTTP and undecided.", self._crowd.total)
        yield _gauge("arrivals_waiting", "Connections not yet attended to.", len(self._arrivals))
        yield _gauge("clients", "Clients connected now.", broker.connected)
        yield _gauge("agents", "Agents connected now.", self._handlers.presence.agents)
        yield _counter("connections_opened", "Network Connections opened.", traffic.connections_opened)
        full = {("total",): 0, ("address",): 0, ("http",): 0}
        full |= {(reason,): count for reason, count in traffic.connections_refused.items()}
        yield _counter("connections_refused", "Closed at once for want of room.", full, ("reason",))
        late = traffic.connections_delayed
        yield _counter("connections_delayed", "Attended to later, as too many came at once.", late)
        unended = traffic.requests_timed_out
        yield _counter("http_requests_timed_out", "HTTP requests that did not end in time.", unended)
        yield _counter("connects_accepted", "CONNECTs accepted.", traffic.connects_accepted)
        yield _counter("takeovers", "Closed as another came with its identifier.", traffic.takeovers)
        refused = {(reason,): count for reason, count in traffic.connects_refused.items()}
        yield _counter("connects_refused", "CONNECTs refused.", refused, ("reason",))

    def _sessions(self) -> Iterator[Metric]:
        broker, traffic = self._broker, self._broker.traffic
        yield _gauge("sessions", "Sessions, with those of absent clients.", len(broker.sessions))
        yield _gauge("sessions_absent", "Sessions of absent clients.", broker.sessions.absent)
        yield _counter("sessions_expired", "Sessions that have expired.", traffic.sessions_expired)
        ended = traffic.sessions_ended_for_room
        yield _counter("sessions_ended_for_room", "Ended as too many clients were absent.", ended)
        yield _gauge("subscriptions", "Subscriptions.", len(broker.subscriptions))
        yield _gauge("retained_messages", "Retained Messages.", len(broker.retained))
        refused_messages = broker.retained.refused
        yield _counter("retained_messages_refused", "Delivered and not kept.", refused_messages)
        yield _gauge("retained_bytes", "Bytes of Retained Messages.", broker.retained.bytes)

    def _messages(self) -> Iterator[Metric]:
        traffic = self._broker.traffic
        both = ("direction",)
        sizes = {("in",): traffic.bytes_received, ("out",): traffic.bytes_sent}
        yield _counter("network_bytes", "Bytes of MQTT.", sizes, both)
        packets = {("in",): traffic.messages_received, ("out",): traffic.messages_sent}
        yield _counter("packets", "Control Packets.", packets, both)
        received, sent = _by_qos("in", traffic.publish_received), _by_qos("out", traffic.publish_sent)
        yield _counter("messages", "Application Messages.", received | sent, ("direction", "qos"))
        bytes_in = _by_qos("in", traffic.publish_bytes_received)
        bytes_out = _by_qos("out", traffic.publish_bytes_sent)
        yield _counter("message_bytes", "Bytes of payloads.", bytes_in | bytes_out, ("direction", "qos"))
        yield _counter("messages_dropped", "Deliveries to clients too slow.", traffic.publish_dropped)
        left = traffic.leftovers_dropped
        yield _counter("leftovers_dropped", "QoS 0 of ended connections, while all queues were full.", left)
        yield _counter("messages_denied", "Publishes that their clients may not.", traffic.publish_denied)
        refused = {(reason,): count for reason, count in traffic.subscriptions_refused.items()}
        yield _counter("subscriptions_refused", "Answered with 0x80.", refused, ("reason",))

    def _errors(self) -> Iterator[Metric]:
        traffic, database = self._broker.traffic, self._database
        errors = {(statement,): count for statement, count in traffic.protocol_errors.items()}
        yield _counter(
            "protocol_errors", "Connections closed, by the statement they broke.", errors, ("reason",)
        )
        unknown = traffic.unknown_acknowledgements
        yield _counter("unknown_acknowledgements", "Of messages that were not in flight.", unknown)
        bugs = traffic.internal_errors + database.internal_errors
        yield _counter("internal_errors", "Bugs of the daemon.", bugs)
        suspended = self._connections.deadlines.suspensions
        yield _counter("suspensions", "Times that the process seems to have been suspended.", suspended)

    def _queues(self) -> Iterator[Metric]:
        flow = self._connections.flow
        yield _gauge("unfinished_messages", "Publishes not yet stored.", flow.unfinished)
        yield _gauge("unfinished_bytes", "Bytes of publishes not yet stored.", flow.unfinished_bytes)
        yield _gauge("held_connections", "Connections held back until the store is done.", flow.held)
        waiting = inflight = 0
        for session in self._broker.sessions:
            waiting += session.queued
            inflight += session.inflight
        yield _gauge("queued_messages", "Messages that wait for their receivers.", waiting)
        yield _gauge("inflight_messages", "Messages sent and not yet acknowledged.", inflight)

    def _memory(self) -> Iterator[Metric]:
        memory, traffic = self._connections.pressure, self._broker.traffic
        yield _gauge("memory_used_bytes", "Bytes of sessions and messages, estimated.", memory.used)
        yield _gauge("memory_budget_bytes", "What they may take: limits.max_memory.", memory.budget)
        yield _counter("rate_holds", "Times that a client sent faster than it may.", traffic.rate_holds)
        held, slow = traffic.receiver_holds, traffic.receivers_too_slow
        yield _counter("receiver_holds", "Times that a full queue began to hold its publishers.", held)
        yield _counter("receivers_too_slow", "Times that one had held them for long enough.", slow)
        partials, shed = traffic.partials_dropped, traffic.sessions_shed
        yield _counter(
            "partials_dropped", "Connections closed as incomplete packets took too much.", partials
        )
        yield _counter("sessions_shed", "Sessions of absent clients ended as memory was short.", shed)
        waiting = self._connections.partials.total
        yield _gauge("partial_bytes", "Bytes of packets that are not complete or not handled yet.", waiting)
        dropped = traffic.receivers_dropped
        yield _counter("receivers_dropped", "Slow receivers let go as memory was short.", dropped)

    def _ingest(self) -> Iterator[Metric]:
        writer, handlers = self._writer, self._handlers
        note = " received = stored + duplicates + rejected + pending."
        yield _counter("ingest_received", "Messages given to the store." + note, writer.received)
        yield _counter("ingest_stored", "Messages whose metrics are in the tables.", writer.stored)
        adjusted = handlers.times_adjusted
        yield _counter("timestamps_adjusted", "Messages stored with the time of their arrival.", adjusted)
        written = {(form,): count for form, count in handlers.times_converted.items()}
        yield _counter("timestamps_converted", "Stored, and not written in ms.", written, ("form",))
        yield _counter("ingest_duplicates", "Messages that were stored before.", writer.duplicates)
        yield _counter("ingest_rejected", "Messages kept in rejected_messages.", writer.rejected)
        yield _gauge("ingest_pending", "Messages not yet committed.", writer.pending)
        yield _gauge("ingest_waiting", "Entries of all kinds not yet committed.", writer.waiting)
        kinds = {(kind,): count for kind, count in handlers.rejected.items()}
        kinds[("database",)] = self._database.refused
        yield _counter("rejected_messages", "Messages rejected, by reason.", kinds, ("reason",))
        failed, of = handlers.handler_failures, ("handler", "reason")
        yield _counter("handler_failures", "Messages that a handler has failed with.", failed, of)
        partly = handlers.partly_rejected
        yield _counter("partly_rejected_messages", "Messages stored without some of their metrics.", partly)
        redelivered = handlers.redelivered
        yield _counter("redelivered_messages", "Messages that came again before being stored.", redelivered)

    def _store(self) -> Iterator[Metric]:
        state = self._database.state.partition(":")[0]
        states = {(name,): int(name == state) for name in STATES}
        yield _gauge("database_state", "1 for the state the database is in.", states, ("state",))
        deleted = {("keep_rejected_days",): 0, ("keep_rejected_bytes",): 0}
        deleted |= {(setting,): count for setting, count in self._upkeep.deleted.items()}
        yield _counter("rejected_messages_deleted", "Old rejected messages deleted.", deleted, ("setting",))
        if (apart := self._upkeep.apart) is not None:
            yield _gauge("clock_difference_seconds", "Our clock's time minus the database's.", apart)
        seen = self._observations
        yield _histogram("puback_seconds", "From PUBLISH to its PUBACK or PUBREC.", seen.ack_seconds)
        yield _histogram("batch_entries", "Entries of a batch.", seen.batch_entries)
        yield _histogram("commit_seconds", "Time to commit a batch.", seen.commit_seconds)
        late = "How late timers fire: what is left of the reactor's turn."
        yield _histogram("reactor_turn_seconds", late, self._turns.lateness)


def _by_qos(direction: str, counts: Sequence[int]) -> dict[tuple[str, ...], float]:
    return {(direction, str(qos)): count for qos, count in enumerate(counts)}


def _fill(family: Any, value: "float | Mapping[tuple[str, ...], float]") -> Any:
    for labels, number in value.items() if isinstance(value, Mapping) else [((), value)]:
        family.add_metric(labels, number)
    return family


def _counter(name: str, text: str, value: Any, labels: tuple[str, ...] = ()) -> Metric:
    family: Metric = _fill(CounterMetricFamily(PREFIX + name, text, labels=labels), value)
    return family


def _gauge(name: str, text: str, value: Any, labels: tuple[str, ...] = ()) -> Metric:
    family: Metric = _fill(GaugeMetricFamily(PREFIX + name, text, labels=labels), value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        PREFIX + name, text, buckets=list(histogram.buckets()), sum_value=histogram.sum
    )


class MetricsPage(Answer):
    """A MetricsPage is scraped by Prometheus, in the format it prefers; with memory, CPU and descriptors."""

    def __init__(self, collector: DaemonCollector) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(collector)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self.registry)

    def answer(self, request: Request) -> bytes:
        encode, content_type = choose_encoder(request.getHeader("Accept") or "")
        request.setHeader("Content-Type", content_type)
        return encode(self.registry)
