"""``/metrics``: the counters of the daemon's parts, for Prometheus."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from twisted.web.server import Request

from platziverse.mqtt.details import VERSIONS
from platziverse.web import interfaces as ports
from platziverse.web.answers import Answer
from platziverse.web.histogram import Histogram
from platziverse.web.turns import Turns

PREFIX: Final = "platziverse_"
STATES: Final = ("connecting", "ready", "away")
#: The settings of how long roll-ups are kept.
ROLLED_UP: Final = ("keep_5m_months", "keep_1h_months")

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

    def ack(self, seconds: float, count: int) -> None:
        """Count PUBLISHes that are acknowledged together; ``Shared`` of net calls it."""
        self.ack_seconds.observe(seconds, count)


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
        kept: ports.Keeper | None = None,
        rules: ports.Rules | None = None,
        sharing: ports.Sharing | None = None,
    ) -> None:
        self._version = version
        self._broker, self._connections, self._handlers = broker, connections, handlers
        self._crowd, self._arrivals = crowd, arrivals
        self._writer, self._database = writer, database
        self._observations, self._turns = observations, turns
        self._upkeep, self._kept, self._rules, self._sharing = upkeep, kept, rules, sharing

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        yield _gauge("build_info", "1, with the version of the daemon.", {(self._version,): 1}, ("version",))
        yield from self._clients()
        yield from self._sessions()
        yield from self._messages()
        yield from self._errors()
        yield from self._queues()
        yield from self._durable()
        yield from self._memory()
        yield from self._refusals()
        yield from self._ingest()
        yield from self._store()
        yield from self._recorded()
        yield from self._daemons()

    def _recorded(self) -> Iterator[Metric]:
        rules = self._rules
        if rules is not None:
            of = "rule", "outcome"
            yield _counter("rule_messages", "Messages that have a rule.", rules.outcomes, of)
            ignored = {(rule,): count for rule, count in rules.ignored_values.items()}
            text = "Values that were no numbers, of messages that are stored."
            yield _counter("rule_ignored_values", text, ignored, ("rule",))

    def _daemons(self) -> Iterator[Metric]:
        others, inherited = self._upkeep.others, self._upkeep.inherited
        yield _gauge("daemons", "Daemons that share their clients, this one too.", others + 1)
        taken = {(kind,): count for kind, count in inherited.items()}
        yield _counter("inherited", "Taken over from daemons that were dead or left.", taken, ("kind",))
        if (sharing := self._sharing) is not None:
            events = {(event,): count for event, count in sharing.events.items()}
            yield _counter("bus_frames", "Frames of daemons, by what became of them.", events, ("event",))
            sent = {(str(daemon),): count for daemon, count in sharing.sent.items()}
            yield _counter("bus_messages_sent", "Messages and frames to other daemons.", sent, ("daemon",))
            came = {(str(daemon),): count for daemon, count in sharing.received.items()}
            yield _counter("bus_messages_received", "Messages of other daemons.", came, ("daemon",))
            gaps = {(str(daemon),): count for daemon, count in sharing.gaps.items()}
            yield _counter("bus_gaps", "Times that frames of a daemon were missing.", gaps, ("daemon",))
            owed = {(str(daemon),): count for daemon, count in sharing.unanswered.items()}
            text = "Messages for durable Sessions of a daemon that it has not answered, and no row has yet."
            yield _gauge("link_unanswered_messages", text, owed, ("daemon",))
            moved = {(way,): count for way, count in sharing.moved.items()}
            text = "Durable Sessions that came with their clients from other daemons, or went, or could not."
            yield _counter("sessions_moved", text, moved, ("way",))
            text = "Messages that waited for Sessions on their way, or for what was lost on the bus."
            yield _counter("messages_delayed", text, sharing.delayed)
            yield _gauge("interest_keys", "Keys that clients of other daemons listen to.", sharing.keys)
            text = "Daemons that live, as the database says, and are not heard on the bus."
            yield _gauge("bus_unheard_daemons", text, sharing.unheard)

    def _clients(self) -> Iterator[Metric]:
        broker, traffic = self._broker, self._broker.traffic
        yield _gauge("connections", "Network Connections now.", len(self._connections.connections))
        yield _gauge("sockets", "Sockets now: MQTT, HTTP and undecided.", self._crowd.total)
        yield _gauge("arrivals_waiting", "Connections not yet attended to.", len(self._arrivals))
        yield _gauge("clients", "Clients connected now.", broker.connected)
        yield from self._versions()
        yield _gauge("agents", "Agents connected now.", self._handlers.presence.agents)
        yield _counter("connections_opened", "Network Connections opened.", traffic.connections_opened)
        full = {(reason,): 0 for reason in ("total", "address", "http", "streams", "exports")}
        full |= {(reason,): count for reason, count in traffic.connections_refused.items()}
        yield _counter("connections_refused", "Closed at once for want of room.", full, ("reason",))
        late = traffic.connections_delayed
        yield _counter("connections_delayed", "Attended to later, as too many came at once.", late)
        unended = traffic.requests_timed_out
        unread = traffic.answers_cut
        yield _counter("http_answers_cut", "HTTP answers cut, as nobody read them.", unread)
        dropped = traffic.events_dropped
        yield _counter("http_events_dropped", "Events that streams over HTTP did not get.", dropped)
        yield _counter("http_requests_timed_out", "HTTP requests that did not end in time.", unended)
        delayed = traffic.takeovers_delayed
        yield _counter("takeovers_delayed", "Clients that take each other over, slowed down.", delayed)
        yield _counter("connects_accepted", "CONNECTs accepted.", traffic.connects_accepted)
        yield _counter("takeovers", "Closed as another came with its identifier.", traffic.takeovers)
        refused = {(reason,): count for reason, count in traffic.connects_refused.items()}
        yield _counter("connects_refused", "CONNECTs refused.", refused, ("reason",))

    def _versions(self) -> Iterator[Metric]:
        counts = {(VERSIONS[level],): n for level, n in self._broker.traffic.connected.items()}
        yield _gauge("clients_by_protocol", "Of them, by version of MQTT.", counts, ("protocol",))

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
        over = traffic.retained_expired
        yield _counter("retained_messages_expired", "Forgotten as their time was over (MQTT 5).", over)
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
        alone = {(setting,): count for setting, count in traffic.groups_dropped.items()}
        text = "Messages at QoS 1 and 2 that no member of their group was there for."
        yield _counter("group_messages_dropped", text, alone, ("setting",))
        left = traffic.leftovers_dropped
        yield _counter("leftovers_dropped", "QoS 0 of ended connections, while all queues were full.", left)
        yield _counter("messages_denied", "Publishes that their clients may not.", traffic.publish_denied)
        too_large = "Deliveries of packets larger than their receiver takes."
        yield _counter("messages_too_large", too_large, traffic.publish_too_large)
        notices = traffic.bridge_notifications
        yield _counter("bridge_notifications", "What bridges say of themselves; ignored.", notices)
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
        missed = traffic.pubrels_missed
        yield _counter("pubrels_missed", "QoS 2 messages without PUBREL, forgotten to make room.", missed)
        bugs = traffic.internal_errors + database.internal_errors
        yield _counter("internal_errors", "Bugs of the daemon.", bugs)
        suspended = self._connections.deadlines.suspensions
        yield _counter("suspensions", "Times that the process seems to have been suspended.", suspended)

    def _queues(self) -> Iterator[Metric]:
        flow = self._connections.flow
        yield _gauge("unfinished_messages", "Publishes not yet stored.", flow.unfinished)
        yield _gauge("unfinished_bytes", "Bytes of publishes not yet stored.", flow.unfinished_bytes)
        yield _gauge("held_connections", "Connections held back until the store is done.", flow.held)
        waiting = inflight = size = 0
        for session in self._broker.sessions:
            waiting += session.queued
            inflight += session.inflight
            size += session.queued_bytes
        yield _gauge("queued_messages", "Messages that wait for their receivers.", waiting)
        yield _gauge("queued_bytes", "Their Topic Names and payloads.", size)
        yield _gauge("inflight_messages", "Messages sent and not yet acknowledged.", inflight)

    def _durable(self) -> Iterator[Metric]:
        durable, kept = self._broker.durable, self._kept
        if durable is None or kept is None:
            return
        text = "Messages for durable Sessions that all of them acknowledged within the grace."
        yield _counter("durable_messages_discharged", text, durable.discharged)
        yield _counter("durable_messages_saved", "The others, which were written.", durable.saved)
        yield _gauge("records_waiting", "Changes of Sessions not yet committed.", kept.writer.waiting)
        yield _counter("records_refused", "Those that the database refused.", kept.connections.refused)
        yield _counter("rows_unreadable", "Rows of Sessions that were left out.", kept.reader.unreadable)
        yield _gauge("loading", "1 while a start loads Sessions.", int(self._broker.loading is not None))

    def _memory(self) -> Iterator[Metric]:
        memory, traffic = self._connections.pressure, self._broker.traffic
        yield _gauge("memory_used_bytes", "Bytes of sessions and messages, estimated.", memory.used)
        yield _gauge("memory_budget_bytes", "What they may take: limits.max_memory.", memory.budget)
        yield _counter("rate_holds", "Times that a client sent faster than it may.", traffic.rate_holds)
        ended, stored = traffic.turns_ended, traffic.store_holds
        yield _counter("turns_ended", "Times that the others got their turn first.", ended)
        yield _counter("store_holds", "Times that a client was held until the store is done.", stored)
        begun = traffic.queues_begun
        yield _counter("queues_begun", "Times that messages began to wait for a connected client.", begun)
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

    def _refusals(self) -> Iterator[Metric]:
        traffic, who = self._broker.traffic, ("by", "packet", "code")
        text = "Reason Codes of MQTT 5 that say no, by who says it and in which packet."
        yield _counter("refusals", text, traffic.refusals, who)
        refused = {(setting,): count for setting, count in traffic.store_refusals.items()}
        text = "Messages of MQTT 5 refused while the store is away."
        yield _counter("store_refusals", text, refused, ("setting",))

    def _ingest(self) -> Iterator[Metric]:
        writer, handlers = self._writer, self._handlers
        note = " received = stored + duplicates + rejected + given_up + pending."
        yield _counter("ingest_received", "Messages given to the store." + note, writer.received)
        yield _counter("ingest_stored", "Messages whose metrics are in the tables.", writer.stored)
        adjusted = handlers.times_adjusted
        yield _counter("timestamps_adjusted", "Messages stored with the time of their arrival.", adjusted)
        written = {(form,): count for form, count in handlers.times_converted.items()}
        yield _counter("timestamps_converted", "Stored, and not written in ms.", written, ("form",))
        yield _counter("ingest_duplicates", "Messages that were stored before.", writer.duplicates)
        yield _counter("ingest_rejected", "Messages kept in rejected_messages.", writer.rejected)
        text = "Messages at QoS 2 left to the daemon that has taken over from this one."
        yield _counter("ingest_given_up", text, writer.given_up)
        yield _gauge("ingest_pending", "Messages not yet committed.", writer.pending)
        yield _gauge("ingest_waiting", "Entries of all kinds not yet committed.", writer.waiting)
        met = {(setting,): count for setting, count in writer.limits_met.items()}
        yield _counter("ingest_limits_met", "Times that a setting of [ingest] was met.", met, ("setting",))
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
        state = self._upkeep.state.partition(":")[0]
        states = {(name,): int(name == state) for name in STATES}
        yield _gauge("database_state", "1 for the state the database is in.", states, ("state",))
        deleted = {("keep_rejected_days",): 0, ("keep_rejected_bytes",): 0}
        deleted |= {(setting,): count for setting, count in self._upkeep.deleted.items()}
        dropped = {(setting,): deleted.pop((setting,), 0) for setting in ROLLED_UP}
        months = deleted.pop(("keep_months",), 0)
        yield _counter("months_dropped", "Months of metrics dropped: keep_months.", months)
        yield _counter("roll_ups_dropped", "Partitions of roll-ups dropped.", dropped, ("setting",))
        yield from self._roll_ups()
        yield _counter("rejected_messages_deleted", "Old rejected messages deleted.", deleted, ("setting",))
        if (apart := self._upkeep.apart) is not None:
            yield _gauge("clock_difference_seconds", "Our clock's time minus the database's.", apart)
        seen = self._observations
        yield _histogram("puback_seconds", "From PUBLISH to its PUBACK or PUBREC.", seen.ack_seconds)
        yield _histogram("batch_entries", "Entries of a batch.", seen.batch_entries)
        yield _histogram("commit_seconds", "Time to commit a batch.", seen.commit_seconds)
        late = "How late timers fire: what is left of the reactor's turn."
        yield _histogram("reactor_turn_seconds", late, self._turns.lateness)

    def _roll_ups(self) -> Iterator[Metric]:
        roll_ups = self._upkeep.roll_ups
        if roll_ups is not None:
            yield _gauge("roll_up_waiting", "Buckets that are marked and not made yet.", roll_ups.waiting)
            yield _counter("roll_up_buckets", "Buckets of roll-ups that were made.", roll_ups.buckets)
            text = "Time that their statements took, the database's."
            yield _counter("roll_up_seconds", text, roll_ups.seconds)


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


class BusCollector:
    """A BusCollector makes the metrics of the bus to other daemons."""

    def __init__(self, bus: ports.Bus) -> None:
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        bus, state = self._bus, self._bus.state.partition(":")[0]
        states = {(name,): int(name == state) for name in STATES}
        yield _gauge("bus_state", "1 for the state the bus is in.", states, ("state",))
        yield _counter("bus_frames_lost", "Frames for other daemons that were lost or dropped.", bus.lost)
        yield _counter("bus_messages_missed", "Messages of other daemons that have not come.", bus.missed)
        yield _counter("bus_messages_refused", "Messages that were not of this set.", bus.refused)


def exposed(registry: Any, request: Request) -> bytes:
    """Return the metrics of ``registry`` in the format that the request prefers, and name the format."""
    encode, content_type = choose_encoder(request.getHeader("Accept") or "")
    request.setHeader("Content-Type", content_type)
    return encode(registry)


class MetricsPage(Answer):
    """A MetricsPage is scraped by Prometheus, in the format it prefers; with memory, CPU and descriptors."""

    def __init__(self, *collectors: DaemonCollector | BusCollector) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        for collector in collectors:
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)

    def answer(self, request: Request) -> bytes:
        return exposed(self.registry, request)
