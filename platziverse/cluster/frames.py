"""Frames: what daemons say to each other. Their bytes are made in :mod:`platziverse.cluster.codec`."""

from typing import Final, TypeAlias

from msgspec import Struct

#: Bits of an interest: Sessions that end with their connection, and durable ones.
LIVE: Final = 1
DURABLE: Final = 2


class Message(Struct, gc=False, frozen=True):
    """An Application Message that a client of the sender has published, or the sender itself.

    :ivar version: with RETAIN, see :class:`Kept`; without it 0.
    :ivar client_id: of the publisher; ``""``: the sender itself.
    :ivar bridge: the publisher is another broker.
    :ivar properties: of MQTT 5, as ``store_properties`` writes them.
    :ivar after: at QoS 1 and 2, the position up to which the sender had owed something to anybody by then.
    """

    topic: str
    payload: bytes
    qos: int
    version: int = 0
    client_id: str = ""
    username: str | None = None
    bridge: bool = False
    properties: bytes = b""
    after: int = 0

    @property
    def retain(self) -> bool:
        """Return whether it is kept for its topic."""
        return self.version > 0


class Several(Struct, gc=False, frozen=True):
    """Messages that one publisher has published to one topic, one after the other, none of them retained.

    :ivar message: what they have in common; its payload is empty.
    """

    message: Message
    payloads: tuple[bytes, ...]


class Changes(Struct, gc=False, frozen=True):
    """The sender's interest in these keys is another one now; the receiver answers with Ready.

    :ivar number: counts what is said about the sender's interest.
    :ivar interests: key and the bits ``LIVE`` and ``DURABLE``; 0: nobody listens any more.
    """

    number: int
    interests: tuple[tuple[str, int], ...]


class Snapshot(Struct, gc=False, frozen=True):
    """A part of all the interest of the sender; the receiver answers the last one with Ready.

    :ivar first: the first part: the interest of before is replaced when the last one has come.
    """

    number: int
    first: bool
    last: bool
    interests: tuple[tuple[str, int], ...]


class Wanted(Struct, gc=False, frozen=True):
    """The sender wants a Snapshot: it has none, or frames may be lost."""


class Ready(Struct, gc=False, frozen=True):
    """The sender routes by everything that the receiver has said up to this number."""

    number: int


class Kept(Struct, gc=False, frozen=True):
    """The Retained Message of a Topic Name, said again.

    :ivar message: with a version: of all messages of a topic the one with the highest version is kept. Its
        payload is empty when there is none any more.
    """

    message: Message


class Since(Struct, gc=False, frozen=True):
    """The sender may have missed Retained Messages with a higher version than this.

    :ivar number: counts such questions; the answers are Kepts, and a Said with this number.
    """

    number: int
    version: int


class Said(Struct, gc=False, frozen=True):
    """All that the receiver had asked for with this Since was said."""

    number: int


class Owed(Struct, gc=False, frozen=True):
    """A copy of a message that is owed to durable Sessions of the receiver; it answers with Done.

    :ivar position: of it in the link: the sender counts what it owes to anybody, so one message has the same
        position in all its links.
    :ivar previous: position of the copy before it in this link.
    """

    position: int
    topic: str
    payload: bytes
    qos: int
    previous: int = 0
    properties: bytes = b""


class Done(Struct, gc=False, frozen=True):
    """The Sessions that the message at this position was for have it, or their rows are committed."""

    position: int


class Align(Struct, gc=False, frozen=True):
    """The sender asks from which position on it gets copies, and reads the rows before.

    :ivar number: counts these questions.
    :ivar last: it has taken everything up to this position.
    :ivar pending: but for these, which are not Done yet.
    """

    number: int
    last: int
    pending: tuple[int, ...]


class Aligned(Struct, gc=False, frozen=True):
    """Copies of all that is behind ``through`` follow; the answer to the Align of this number."""

    number: int
    through: int


class Stored(Struct, gc=False, frozen=True):
    """Every row up to the position of that answer is committed, or is not needed."""

    number: int


class Unsure(Struct, gc=False, frozen=True):
    """The sender may have missed answers: the receiver is to ask with Align."""


class Mine(Struct, gc=False, frozen=True):
    """A client has connected to the sender with this Client Identifier.

    :ivar since: when, in seconds since the epoch by the clock that all daemons share.
    :ivar durable: its Session is in the store, which alone says whose it is.
    :ivar clean: the Session that it had before has ended with that.
    """

    client_id: str
    username: str | None
    since: float
    durable: bool = False
    clean: bool = False


class NotYours(Struct, gc=False, frozen=True):
    """The Session of this Client Identifier is another login's: the client that came with it may not stay.

    :ivar since: when that client has connected, as its Mine said.
    """

    client_id: str
    owner: str
    since: float


#: Added to the number of a daemon. Daemons before schema 11 know none of that number, and do nothing for it;
#: a frame of another sort they would take for a broken one. ADR 0220.
OPEN: Final = 1 << 15


class Mark(Struct, gc=False, frozen=True):
    """The sender asks how much it is owed by now; the receiver answers with Marked.

    :ivar inherited: daemons whose Sessions the sender has inherited: nothing more is owed to them. With
        ``OPEN`` added: it is, as the sender has not taken everything; what is owed by now is stored first.
    """

    number: int
    inherited: tuple[int, ...]


class Marked(Struct, gc=False, frozen=True):
    """The sender owes to anybody what has positions up to ``serial``, and to the receiver up to ``last``."""

    number: int
    serial: int
    last: int


class LetGo(Struct, gc=False, frozen=True):
    """A client has come to the sender, and the receiver is to let its durable Session go. ADR 0153.

    :ivar number: counts what the sender wants to have; all that is said about it has this number.
    :ivar since: when it has connected, as in Mine.
    """

    number: int
    client_id: str
    username: str | None
    since: float


class Closed(Struct, gc=False, frozen=True):
    """The client is gone here, and its Subscriptions are those in the store; the answer to LetGo."""

    number: int


class Followed(Struct, gc=False, frozen=True):
    """All daemons owe to the sender too what the Subscriptions match; the answer to Closed."""

    number: int


class Free(Struct, gc=False, frozen=True):
    """The Session is nobody's, until the receiver takes it or the sender has it back; the answer to Followed.

    :ivar cuts: daemons, each with the position up to which the Session has all that the daemon has published.
    :ivar identifiers: Packet Identifiers of incoming QoS 2 messages whose PUBREL has not come.
    """

    number: int
    cuts: tuple[tuple[int, int], ...]
    identifiers: tuple[int, ...]


class Moved(Struct, gc=False, frozen=True):
    """The Session is the sender's; the answer to Free."""

    number: int


class Aborted(Struct, gc=False, frozen=True):
    """The sender does not want the Session any more; it may have written that it has it."""

    number: int


class Refused(Struct, gc=False, frozen=True):
    """The sender does not let the Session go; the answer to LetGo.

    :ivar reason: ``BUSY``, ``NEWER`` or ``ANOTHER``.
    :ivar owner: user name of the login that it belongs to, with ``ANOTHER``.
    """

    number: int
    reason: int
    owner: str = ""


#: Why a Session is not let go: the sender does not have it at the moment; its client has come to the sender
#: later; it is another login's.
BUSY: Final = 0
NEWER: Final = 1
ANOTHER: Final = 2

Frame: TypeAlias = (
    Message
    | Several
    | Changes
    | Snapshot
    | Wanted
    | Ready
    | Kept
    | Since
    | Said
    | Mine
    | NotYours
    | Owed
    | Done
    | Align
    | Aligned
    | Stored
    | Unsure
    | Mark
    | Marked
    | LetGo
    | Closed
    | Followed
    | Free
    | Moved
    | Aborted
    | Refused
)
