"""Kinds: all that the engine (writer, batch, slot, recovery) knows of the entries that it commits."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from attrs import frozen

from platziverse.ingest.batch import Outcome
from platziverse.postgres.literals import Column

#: What an entry touches: whose it is, and which piece of it, e.g. ``("client", 7)`` for a Packet Identifier.
Touch: TypeAlias = tuple[str, Hashable]
#: The piece of a Touch that stands for all pieces of its owner.
EVERYTHING: Final = None


def _one(entry: Any) -> int:
    return 1


def _nothing(entry: Any) -> tuple[Touch, ...]:
    return ()


def weight_of_payload(entry: Any) -> int:
    """Return how many rows an entry counts as that is one row with a payload: a KiB of that is one more."""
    return 1 + (len(entry.payload) >> 10)


def always(sql: str) -> Callable[[frozenset[str]], str]:
    """Return ``text`` of a part that is the same whatever else is in the statement."""
    return lambda present: sql


@frozen(eq=False)
class Part:
    """A Part is one part of a statement, left out of it when a batch has nothing for it.

    :param name: other parts know by it that this one is in the statement.
    :param wanted: called with the columns of a batch; true when they have something for this part.
    :param text: called with the names of all parts of the statement; returns common table expressions.
    :param parameters: called with the columns of a batch; returns what ``text`` refers to, by name. All
        literals of a statement are made together. ``None``: ``text`` refers to nothing of its own.
    """

    name: str
    wanted: Callable[[Any], object]
    text: Callable[[frozenset[str]], str]
    parameters: Callable[[Any], dict[str, Column]] | None = None


@frozen(eq=False)
class Kind:
    """A Kind says how the entries of one class are committed; every function is called with an entry.

    :param shard: returns the shard key: entries of one key are committed in the order of the calls.
    :param add: called with the columns of a batch and an entry; puts the entry into them.
    :param parts: of the statement, in the order in which they stand there; several kinds may share one.
    :param instead: called with an entry that the database refuses for its data, and the reason; returns the
        entries to commit in its place, none to leave it out, or ``None`` when nothing is left to try. It
        raises ``EntryRefused`` when the entry is to be left out and its Deferred to errback with that.
    :param weight: returns how much of a batch the entry takes, in rows.
    :param touches: returns what the entry touches: two entries that touch the same never share a batch,
        because one statement sees the tables as they were before it.
    :param last: the entry waits until all entries saved before it that touch the same are committed, in
        whichever shard they are.
    :param message: the entry is a message of a client, which the books of the writer count.
    :param departure: the entry says that somebody has gone, and between two of one shard key there is always
        another entry: so it is no load of its own.
    """

    shard: Callable[[Any], str]
    add: Callable[[Any, Any], None]
    parts: tuple[Part, ...]
    instead: "Callable[[Any, str], Sequence[object] | None]"
    weight: Callable[[Any], int] = _one
    touches: Callable[[Any], Sequence[Touch]] = _nothing
    last: bool = False
    message: bool = False
    departure: bool = False


#: Class of an entry → its kind.
Kinds: TypeAlias = Mapping[type, Kind]


class Statement(Protocol):
    """A Statement is the SQL of one batch, and its parameters."""

    @property
    def sql(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...


class Statements(Protocol):
    """Statements makes those of one slot, and remembers from one to the next which rows need no writing.

    A batch has a ticket: the name of its writer and a number. Its statement returns one row, and writes
    nothing when a batch with the same ticket, or a later one of the writer, was written before.
    """

    @property
    def fence(self) -> str:
        """Return SQL after which the batch with a ticket, of two parameters, can never be written any more.

        The SQL returns one row with one truth value: whether the batch has been written already.
        """

    def build(self, entries: Sequence[object], writer: str, batch: int) -> Statement:
        """Return the statement that commits ``entries`` under the ticket ``writer``, ``batch``."""

    def committed(self, statement: Any, answer: Sequence[Any] | None) -> Outcome:
        """Return the outcome of a statement of ``build``.

        :param answer: the row that it returned; ``None``: an earlier try of it had been committed.
        """

    def stale(self) -> None:
        """Rely on nothing that is remembered: the database has changed behind our back."""

    def trial(self) -> Statement:
        """Return a statement that any database with our tables takes; its transaction is rolled back."""

    def instead(self, entry: object, reason: str) -> "Sequence[object] | None":
        """Call ``instead`` of the entry's kind."""

    def fenced(self, entry: object) -> bool:
        """Return whether an entry is left out once the incarnation under which it was taken is over."""
