"""Traffic: the counters of the broker since it started; the objects that count own it, others read."""

from attrs import define, field

from platziverse.mqtt.details import REFUSED, VERSIONS, code_name


@define
class Traffic:
    """A Traffic has plain counters; lists are indexed by QoS."""

    bytes_received: int = 0
    bytes_sent: int = 0
    #: Control Packets of every kind.
    messages_received: int = 0
    messages_sent: int = 0
    publish_received: list[int] = field(factory=lambda: [0, 0, 0])
    publish_sent: list[int] = field(factory=lambda: [0, 0, 0])
    #: Payloads alone.
    publish_bytes_received: list[int] = field(factory=lambda: [0, 0, 0])
    publish_bytes_sent: list[int] = field(factory=lambda: [0, 0, 0])
    #: Deliveries that did not happen because a queue was full.
    publish_dropped: int = 0
    #: Deliveries that did not happen because the packet is larger than its receiver takes.
    publish_too_large: int = 0
    #: Messages at QoS 1 and 2 that no member of their group was there for, by setting.
    groups_dropped: dict[str, int] = field(factory=dict)
    #: QoS 0 publishes of connections that ended before they were handled, while no more could wait.
    leftovers_dropped: int = 0
    #: Subscriptions answered with 0x80, by limit or reason.
    subscriptions_refused: dict[str, int] = field(factory=dict)
    #: Publishes acknowledged and ignored because the client may not publish there.
    publish_denied: int = 0
    #: Publishes in which bridges say that they are there, or not; acknowledged, and routed nowhere.
    bridge_notifications: int = 0
    #: Acknowledgements for Packet Identifiers that were not in flight.
    unknown_acknowledgements: int = 0
    connections_opened: int = 0
    #: Connections closed before they could say anything, by reason.
    connections_refused: dict[str, int] = field(factory=dict)
    #: Connections that had to wait because too many came at once.
    connections_delayed: int = 0
    #: HTTP connections closed because a request had begun and did not end.
    requests_timed_out: int = 0
    #: How often reading was held because a client sent faster than it may.
    rate_holds: int = 0
    #: How often the others got their turn before the rest of what one client had sent.
    turns_ended: int = 0
    #: How often reading was held because the store had not finished what a client had published.
    store_holds: int = 0
    #: Messages of MQTT 5 that were refused as the store was away and too much waited for it, by setting.
    store_refusals: dict[str, int] = field(factory=dict)
    #: How often messages began to wait for a client that had not acknowledged enough of those before.
    queues_begun: int = 0
    #: QoS 2 messages whose PUBREL never came, forgotten to make room.
    pubrels_missed: int = 0
    #: How often a receiver with a full queue began to hold its publishers.
    receiver_holds: int = 0
    #: How often a receiver had held them for long enough, so that its messages were dropped.
    receivers_too_slow: int = 0
    #: Connections closed because incomplete packets took too much memory.
    partials_dropped: int = 0
    #: HTTP connections closed as answers that nobody read took too much.
    answers_cut: int = 0
    #: Events that were not written to a stream over HTTP, as its client was slow or there were too many.
    events_dropped: int = 0
    #: Sessions of absent clients that were ended because memory was short.
    sessions_shed: int = 0
    #: Receivers disconnected because memory was short.
    receivers_dropped: int = 0
    connects_accepted: int = 0
    #: Clients that are connected now, by Protocol Level.
    connected: dict[int, int] = field(factory=lambda: dict.fromkeys(VERSIONS, 0))
    #: Connections closed because another client came with their Client Identifier.
    takeovers: int = 0
    #: CONNECTs delayed because each took over a living connection.
    takeovers_delayed: int = 0
    sessions_expired: int = 0
    #: Retained Messages of MQTT 5 that were forgotten as they were over.
    retained_expired: int = 0
    #: Sessions of absent clients that were ended because there were more than there may be.
    sessions_ended_for_room: int = 0
    #: Connections closed for a protocol error, by statement.
    protocol_errors: dict[str, int] = field(factory=dict)
    connects_refused: dict[str, int] = field(factory=dict)
    #: Reason Codes of MQTT 5 from 0x80 on: who has said it, in which packet, and its name.
    refusals: dict[tuple[str, str, str], int] = field(factory=dict)
    #: Exceptions that are bugs of ours; a test asserts that there are none.
    internal_errors: int = 0

    def received(self, qos: int, count: int, size: int) -> None:
        """Count PUBLISHes of this QoS that came, and the bytes of their payloads together."""
        self.publish_received[qos] += count
        self.publish_bytes_received[qos] += size

    def protocol_error(self, statement: str) -> None:
        """Count a connection closed for breaking this statement."""
        self.protocol_errors[statement] = self.protocol_errors.get(statement, 0) + 1

    def store_refused(self, setting: str) -> None:
        """Count a message that was refused as too much waits for a store that is away."""
        self.store_refusals[setting] = self.store_refusals.get(setting, 0) + 1

    def group_dropped(self, setting: str) -> None:
        """Count a message that no member of its group was there for."""
        self.groups_dropped[setting] = self.groups_dropped.get(setting, 0) + 1

    @property
    def dropped(self) -> int:
        """How many deliveries did not happen as a queue was full, or no member of a group was there."""
        return self.publish_dropped + sum(self.groups_dropped.values())

    def connection_refused(self, reason: str) -> None:
        """Count a connection that was closed for want of room."""
        self.connections_refused[reason] = self.connections_refused.get(reason, 0) + 1

    def refused(self, who: str, packet: str, code: int) -> None:
        """Count a Reason Code that says no; another one is not counted.

        :param who: ``"server"`` or ``"client"``.
        :param packet: its name.
        """
        if code >= REFUSED:
            key = who, packet, code_name(code)
            self.refusals[key] = self.refusals.get(key, 0) + 1

    def connect_refused(self, reason: str) -> None:
        """Count a CONNACK with a return code other than 0."""
        self.connects_refused[reason] = self.connects_refused.get(reason, 0) + 1
