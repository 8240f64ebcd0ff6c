"""Records: entries that a store writes about clients, not about agents, and the rows that it gives back.

They are what must outlive the process: Packet Identifiers of incoming QoS 2 messages, durable Sessions and
the messages that wait for them, Retained Messages, and Wills. Times are seconds since the epoch.
"""

from hashlib import blake2b
from typing import Final, TypeAlias

from attrs import define, frozen

from platziverse.mqtt.packets import Publish

#: Of what is granted to a Subscription the QoS and the options; above so many bits stands its Subscription
#: Identifier, 0: there is none. ADR 0191.
OPTIONS: Final = 15
IDENTIFIER: Final = 4

# -- incoming messages of QoS 2 ------------------------------------------------------------------


@frozen
class Delivery:
    """A QoS 2 PUBLISH of a Session that outlives its connection: stored once until it is released.

    So a redelivery is recognised, also after a restart. [MQTT-4.3.3-2]
    """

    client_id: str
    packet_id: int
    dup: bool
    #: 16 bytes of BLAKE2b over topic and payload.
    digest: bytes

    @classmethod
    def of(cls, message: Publish, client_id: str) -> "Delivery":
        """Return the Delivery of a QoS 2 message of this client."""
        digest = blake2b(message.topic.encode(), digest_size=16)
        digest.update(b"\0" + message.payload)
        assert message.packet_id is not None
        return cls(client_id, message.packet_id, message.dup, digest.digest())


@frozen
class Release:
    """PUBREL came: the Packet Identifier of a stored QoS 2 message may be used again."""

    client_id: str
    packet_id: int


@frozen
class Forget:
    """A persistent Session has ended: the store forgets all Packet Identifiers that it left behind."""

    client_id: str


#: What is saved on its own; a Delivery goes with the Report of its message.
Record: TypeAlias = Release | Forget


# -- messages for durable Sessions ---------------------------------------------------------------


def link(origin: int, target: int) -> int:
    """Return the number of the queue of what daemon ``origin`` owes to Sessions of daemon ``target``.

    It is below 0, where no Session has its number. Daemons have the numbers 1 to 32767.
    """
    return -(origin << 15 | target)


def ends_of(link: int) -> tuple[int, int]:
    """Return the numbers of the two daemons of a link, origin and target."""
    return divmod(-link, 1 << 15)


@define(eq=False)
class Queued:
    """A Queued is one message, with all durable Sessions that it is owed to.

    Until the store has taken it for a batch, a receiver can be withdrawn, because it has acknowledged.

    :ivar rows: number of the Session, or of a link to another daemon (see :func:`link`) → position in its
        queue and QoS.
    :ivar delivery: the Packet Identifier under which the publisher has sent it at QoS 2, or that the message
        was a Will, which is gone; committed with it.
    :ivar retain: it is a Retained Message, sent for a new Subscription.
    :ivar crossed: link and position of each row that other daemons have written for us, or for a dead daemon
        whose Sessions are ours; these rows take the place of all of them, in one transaction.
    :ivar number: of the message that several rows refer to; 0: its only row has it. Given by the store.
    :ivar taken: the store writes these rows, or has written them.
    :ivar properties: of MQTT 5, as ``store_properties`` writes them.
    """

    topic: str
    payload: bytes
    published: float
    rows: "dict[int, tuple[int, int]]"
    delivery: "Delivery | WillGone | None" = None
    retain: bool = False
    crossed: "tuple[tuple[int, int], ...]" = ()
    number: int = 0
    taken: bool = False
    properties: bytes = b""

    def withdraw(self, session: int) -> bool:
        """Leave this receiver out; return ``False`` when it is too late, and the row has to be deleted."""
        return not self.taken and self.rows.pop(session, None) is not None


@frozen
class Acknowledged:
    """The receiver owns a message that was stored for it: the row may go.

    :ivar over: number of the message that nobody else waits for now; 0: none is over.
    :ivar head: nothing waits at or below this position, nor will; 0: not said. The store notes it
        now and then.
    """

    session: int
    position: int
    over: int = 0
    head: int = 0


@frozen
class Received:
    """PUBREC came: the receiver owns this message of QoS 2, and only its PUBREL is outstanding."""

    session: int
    position: int


@frozen
class Trimmed:
    """The first ``count`` messages behind ``after`` are dropped: the queue is full (``queue_drop``)."""

    session: int
    after: int
    count: int


# -- durable Sessions ----------------------------------------------------------------------------

#: Instead of a number: the Session of this client is there, and not new. ADR 0153.
ELSEWHERE: Final = -1


@define(eq=False)
class Begun:
    """A durable Session begins.

    :ivar expiry: seconds that it is kept while its client is absent; 0 is for ever. Below 0 it is what its
        client has asked for, with MQTT 5, and no setting.
    :ivar session: its number, given on commit; or ``ELSEWHERE``: a daemon that shares our clients has a
        Session of this client, which stays as it is.
    """

    client_id: str
    username: str | None
    expiry: int
    session: int = 0


@frozen
class Present:
    """The client of a durable Session has come back, with this login.

    :ivar expiry: as of :class:`Begun`; ``None``: as it was.
    """

    session: int
    username: str | None
    expiry: int | None = None


@frozen
class Absent:
    """The client of a durable Session has gone; nothing waits for it at or below ``head``.

    :ivar expiry: as of :class:`Present`.
    """

    session: int
    head: int
    expiry: int | None = None


@frozen
class Freed:
    """A durable Session whose client is absent is nobody's any more, until somebody takes it. ADR 0153.

    :ivar head: nothing waits for it at or below this position.
    """

    session: int
    head: int


@frozen
class Back:
    """A durable Session that was Freed is ours again, if nobody has taken it."""

    session: int


@frozen
class Taken:
    """A durable Session is ours from now on, if it is still as it was Freed.

    :ivar before: number of the daemon that has freed it.
    :ivar since: since when its client is absent, as the StoredPlace says.
    """

    session: int
    before: int
    since: float


@frozen
class Settled:
    """These Sessions of ours are owed nothing any more that was owed to daemons that have died with them.

    From now on they are owed what is owed to us, like any other. ADR 0220.
    """

    sessions: tuple[int, ...]


@frozen
class Subscribed:
    """Subscriptions of a durable Session: Topic Filters, each with what was granted; see ``granted_of``.

    :ivar owed: those of them whose Retained Messages are still to be sent. ADR 0128.
    """

    session: int
    filters: tuple[tuple[str, int], ...]
    owed: tuple[str, ...] = ()


@frozen
class Unsubscribed:
    """These Subscriptions of a durable Session are gone."""

    session: int
    filters: tuple[str, ...]


@frozen
class Ended:
    """A durable Session has ended, with its Subscriptions, its Packet Identifiers and what waits for it."""

    session: int
    client_id: str


# -- Retained Messages and Wills -----------------------------------------------------------------


@frozen
class Kept:
    """The Retained Message of a Topic Name, with the login that has published it.

    :ivar version: nothing is written where the store has one with a higher version; 0: this is the newest.
    """

    topic: str
    payload: bytes
    qos: int
    client_id: str
    username: str | None
    version: int = 0
    properties: bytes = b""


@frozen
class Cleared:
    """There is no Retained Message of this Topic Name any more; ``version`` as of :class:`Kept`."""

    topic: str
    version: int = 0
    #: As it is over, of MQTT 5: only a message with these Properties goes.
    over: bytes = b""


@frozen
class WillLeft:
    """The Will that a connection has left; published when it is ``due``, if its client has gone already."""

    client_id: str
    username: str | None
    connection: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: bytes = b""
    due: float | None = None


@frozen
class WillGone:
    """The Will of this connection was published, or discarded."""

    client_id: str
    connection: int


SessionRecord: TypeAlias = (
    Queued
    | Acknowledged
    | Received
    | Trimmed
    | Begun
    | Present
    | Absent
    | Freed
    | Back
    | Taken
    | Settled
    | Subscribed
    | Unsubscribed
    | Ended
    | Kept
    | Cleared
    | WillLeft
    | WillGone
    | Release
    | Forget
)


# -- what a store gives back ---------------------------------------------------------------------


@frozen
class StoredMessage:
    """A message that waits for a Session.

    :ivar received: PUBREC came; topic and payload are gone.
    :ivar number: see :class:`Queued`.
    """

    position: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    received: bool
    number: int
    properties: bytes = b""


@frozen
class StoredSession:
    """A durable Session as it was committed.

    :ivar absent_since: when its client has gone; ``None``: it was connected when the daemon ended.
    :ivar subscriptions: Topic Filter → QoS.
    :ivar first: position of the first message that waits; 0: none waits.
    :ivar last: the highest position that was ever given, as far as anybody knows.
    :ivar messages: how many wait, ``size`` bytes of Topic Names and payloads together.
    :ivar identifiers: Packet Identifiers of incoming QoS 2 messages that were not released.
    :ivar owed: Topic Filters whose Retained Messages are still to be sent.
    :ivar inherited_from: daemons that have died with it, the first one first, as long as something that is
        for it may be owed to them.
    """

    session: int
    client_id: str
    username: str | None
    expiry: int
    absent_since: float | None
    subscriptions: dict[str, int]
    first: int
    last: int
    messages: int
    size: int
    identifiers: tuple[int, ...]
    owed: tuple[str, ...] = ()
    inherited_from: tuple[int, ...] = ()


#: A Retained Message as it was committed; without a version 0, or the one of the store, below 0.
StoredRetained: TypeAlias = Kept
#: A Will as it was committed.
StoredWill: TypeAlias = WillLeft
