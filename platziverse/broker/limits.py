"""Limits: each limit of the broker and of a connection is a setting, with its default."""

from attrs import field, frozen
from attrs.validators import and_, ge, in_, le

KIB = 1024
MIB = 1024 * KIB

#: Levels that a Topic Filter, or the Topic Name of a Retained Message, may have on an average when there are
#: as many of them as allowed: a level of the trees takes some hundred bytes of memory.
USUAL_LEVELS = 16

#: How far beyond its limits a queue grows by messages whose publishers cannot be held: Wills, the server's
#: own, and those of clients that are full themselves.
OVERFULL = 2


@frozen
class Limits:
    """Limits are the settings in ``[limits]``; times are in seconds, sizes in bytes."""

    #: Connections of all kinds; 0, and at most, what the process may open less ``reserved_descriptors``.
    max_connections: int = field(default=0, validator=ge(0))
    #: Descriptors that are left to the database, the log and files that are read again.
    reserved_descriptors: int = field(default=64, validator=ge(32))
    #: Connections of one address, or of one /64 of IPv6; 0 is nine tenths of ``max_connections``.
    max_connections_per_address: int = field(default=0, validator=ge(0))
    #: Clients with the same user name; 0 is any number.
    max_connections_per_user: int = field(default=0, validator=ge(0))
    #: New connections attended to in a second; more of them wait, none is refused. 0 is any number.
    max_connect_rate: float = field(default=20_000.0, validator=ge(0))
    #: Control Packets and bytes that one client may send in a second; reading is held above. 0 is any number.
    max_message_rate: float = field(default=100_000.0, validator=ge(0))
    max_byte_rate: float = field(default=64.0 * MIB, validator=ge(0))
    #: What connections, sessions, queues, Retained Messages and unfinished publishes may take; 0 is half of
    #: the memory there is.
    max_memory: int = field(default=0, validator=ge(0))
    #: The whole CONNECT packet must have come within this time; the login that follows has as much again.
    connect_deadline: float = field(default=10.0, validator=ge(0.1))
    #: Longest Keep Alive of a client of MQTT 5, in seconds; 0 is any, and none.
    max_keep_alive: int = field(default=0, validator=and_(ge(0), le(65_535)))
    #: Once its first byte has come, a Control Packet must be complete within this time.
    packet_deadline: float = field(default=30.0, validator=ge(0.1))
    #: A client that takes none of what it was sent for this long is disconnected.
    write_deadline: float = field(default=60.0, validator=ge(0.1))
    #: A handler of the setting ``handlers`` that has not finished with a message after this time, the
    #: database's not counted, has failed.
    handler_deadline: float = field(default=30.0, validator=ge(0.1))
    #: Largest Control Packet before CONNECT was accepted.
    max_connect_size: int = field(default=256 * KIB, validator=ge(128))
    #: Largest Control Packet afterwards.
    max_packet_size: int = field(default=16 * MIB, validator=ge(128))
    #: Slashes in a Topic Name or Topic Filter, as Mosquitto counts levels.
    max_topic_levels: int = field(default=200, validator=ge(1))
    #: PUBLISHes of one connection that its client may not; with so many it is closed. 0 is any number.
    max_denied_publishes: int = field(default=1000, validator=ge(0))
    max_client_id_bytes: int = field(default=1024, validator=ge(23))
    #: Packets handled for one connection before the others get their turn.
    packets_per_turn: int = field(default=100, validator=ge(1))
    #: PUBLISHes sent to one client and not yet acknowledged by it.
    max_inflight: int = field(default=20, validator=and_(ge(1), le(65_535)))
    #: Messages waiting for one client, connected or not, within ``max_memory``. When those of a connected
    #: one are so many, whoever publishes more of them is held.
    max_queued_messages: int = field(default=100_000, validator=ge(0))
    max_queued_bytes: int = field(default=32 * MIB, validator=ge(0))
    #: Bytes of messages waiting for one durable Session, in the database: instead of ``max_queued_bytes``.
    max_stored_bytes: int = field(default=64 * MIB, validator=ge(0))
    #: Topic Aliases that a client of MQTT 5 may use for what it publishes, and gets at most; 0: none.
    topic_alias_maximum: int = field(default=16, validator=and_(ge(0), le(65_535)))
    #: Seconds of any 60 in which a receiver with a full queue may hold its publishers; then its messages
    #: are dropped until it has caught up. 0: it never holds anybody.
    receiver_patience: float = field(default=10.0, validator=and_(ge(0), le(60)))
    #: Messages at QoS 1 and 2 that wait for a member of their group, and how long each does before it is
    #: dropped: a member may be on its way from daemon to daemon.
    max_queued_for_groups: int = field(default=10_000, validator=ge(0))
    group_patience: float = field(default=4.0, validator=and_(ge(0), le(60)))
    #: Which of the messages for an absent client is dropped when its queue is full.
    queue_drop: str = field(default="newest", validator=in_(("newest", "oldest")))
    #: QoS 2 messages of one client whose PUBREL has not come, and how long they are remembered once there
    #: are so many; docs/adr/0012 says why so many.
    max_awaiting_pubrel: int = field(default=10_000, validator=ge(1))
    awaiting_pubrel_expiry: float = field(default=300.0, validator=ge(1))
    #: Publishes of one client, and of all, that the store has not finished; reading is held above.
    max_unfinished: int = field(default=256, validator=ge(1))
    max_unfinished_total: int = field(default=20_000, validator=ge(1))
    max_unfinished_bytes: int = field(default=64 * MIB, validator=ge(1))
    #: Messages that the handlers of one table of ``handlers`` may have begun and not finished; with so many
    #: they are called for no other. 0 is a quarter of ``max_unfinished_total``.
    max_unfinished_per_handler: int = field(default=0, validator=ge(0))
    #: Subscriptions of one client, with at most ``USUAL_LEVELS`` times as many levels.
    max_subscriptions: int = field(default=100_000, validator=ge(1))
    max_filters_per_subscribe: int = field(default=1000, validator=ge(1))
    #: Retained Messages; likewise.
    max_retained_messages: int = field(default=10_000, validator=ge(0))
    max_retained_bytes: int = field(default=64 * MIB, validator=ge(0))
    #: A Session with Clean Session 0 is kept this long after its connection ended; 0 is for ever.
    session_expiry: float = field(default=86_400.0, validator=ge(0))
    #: Sessions whose client is absent; above it the one absent longest goes.
    max_absent_sessions: int = field(default=100_000, validator=ge(0))
    #: Connects per minute that take over a living connection of their Client Identifier, before each further
    #: one is delayed.
    max_connects_per_minute: int = field(default=30, validator=ge(1))
    connect_delay: float = field(default=1.0, validator=ge(0))
    #: QoS 0 with DUP closes the connection [MQTT-3.3.1-2]; false accepts it as other brokers do.
    strict_dup: bool = True

    def is_overfull(self, messages: int, size: int, most_bytes: int) -> bool:
        """Return whether a full queue of a connected client takes no more, though nobody can be held for it.

        :param messages: how many there are in the queue.
        :param size: bytes of them, the new one included.
        :param most_bytes: the limit for these.
        """
        return messages >= OVERFULL * self.max_queued_messages or size > OVERFULL * most_bytes

    @property
    def receive_maximum(self) -> int:
        """PUBLISHes at QoS 1 and 2 that a client of MQTT 5 may have on their way to us."""
        return min(self.max_unfinished, 0xFFFF)

    @property
    def handler_room(self) -> int:
        """Messages that the handlers of one table may have begun and not finished."""
        return self.max_unfinished_per_handler or max(1, self.max_unfinished_total // 4)
