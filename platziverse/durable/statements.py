"""Statements: the kinds of records, and the statements that commit them."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from platziverse.broker.records import (
    ELSEWHERE,
    Absent,
    Acknowledged,
    Back,
    Begun,
    Cleared,
    Ended,
    Forget,
    Freed,
    Kept,
    Present,
    Queued,
    Received,
    Release,
    Settled,
    Subscribed,
    Taken,
    Trimmed,
    Unsubscribed,
    WillGone,
    WillLeft,
)
from platziverse.durable import text
from platziverse.durable.columns import SessionColumns
from platziverse.durable.trial import certainly_good
from platziverse.ingest.batch import Outcome
from platziverse.ingest.errors import EntryRefused
from platziverse.ingest.kinds import Kind, Kinds, Part, Touch, weight_of_payload
from platziverse.ingest.reports import of_client, of_delivery, of_identifier
from platziverse.ingest.statement import Statement, Template

#: Deleted messages of a Session until its ``head`` is noted, so that no read passes more of them.
HEAD_AFTER: Final = 1000
#: Number of the batch of a trial: higher than any other.
_LAST: Final = 2**62


def _refused(record: object, reason: str) -> NoReturn:
    """Leave the record out: whoever waits for it is told, and nobody else is held up.

    :raises EntryRefused: always.
    """
    raise EntryRefused(f"the database refused it: {reason}")


def _weight_of_queued(record: Queued) -> int:
    """Return how many rows a message has; a KiB of payload counts as one."""
    return len(record.rows) + (len(record.payload) >> 10)


def _touched_by_queued(record: Queued) -> Sequence[Touch]:
    return () if isinstance(record.delivery, WillGone) else of_delivery(record)


def _weight_of_filters(record: Subscribed | Unsubscribed) -> int:
    return len(record.filters)


def _weight_of_settled(record: Settled) -> int:
    return len(record.sessions)


def _kind(add: Callable[[SessionColumns, Any], None], *parts: Part, **more: Any) -> Kind:
    """Return a kind whose entries all have the same shard: one slot commits them, in order."""
    return Kind(lambda record: "", add, parts, _refused, **more)


#: Everything that the broker saves. The order of the parts is the order of the statement. A record that is
#: about the same row as another of its batch needs no touch where ``SessionColumns`` lets the last one win.
KINDS: Final[Kinds] = {
    Acknowledged: _kind(SessionColumns.add_acknowledged, text.DELETED, text.STATES),
    Trimmed: _kind(SessionColumns.add_trimmed, text.TRIMS),
    Queued: _kind(
        SessionColumns.add_queued,
        text.DELETED,
        text.MESSAGES,
        text.SHARED,
        text.QUEUED,
        text.DELIVERIES,
        text.WILLS,
        touches=_touched_by_queued,
        weight=_weight_of_queued,
    ),
    Received: _kind(SessionColumns.add_received, text.RECEIVED),
    Begun: _kind(
        SessionColumns.add_begun, text.BEGUN, touches=lambda record: ((record.client_id, "its Session"),)
    ),
    Present: _kind(SessionColumns.add_present, text.STATES),
    Absent: _kind(SessionColumns.add_absent, text.STATES),
    Freed: _kind(SessionColumns.add_freed, text.FREED),
    Back: _kind(SessionColumns.add_back, text.BACK),
    Taken: _kind(SessionColumns.add_taken, text.TAKEN),
    Settled: _kind(SessionColumns.add_settled, text.SETTLED, weight=_weight_of_settled),
    Subscribed: _kind(SessionColumns.add_subscribed, text.FILTERS, weight=_weight_of_filters),
    Unsubscribed: _kind(SessionColumns.add_unsubscribed, text.FILTERS, weight=_weight_of_filters),
    Ended: _kind(SessionColumns.add_ended, text.ENDED, text.FORGOTTEN, touches=of_client),
    Kept: _kind(SessionColumns.add_kept, text.RETAINED, weight=weight_of_payload),
    Cleared: _kind(SessionColumns.add_cleared, text.RETAINED),
    WillLeft: _kind(SessionColumns.add_will_left, text.WILLS, weight=weight_of_payload),
    WillGone: _kind(SessionColumns.add_will_gone, text.WILLS),
    Release: _kind(SessionColumns.add_release, text.RELEASES, touches=of_identifier),
    Forget: _kind(SessionColumns.add_forget, text.FORGOTTEN, touches=of_client),
}


_TEMPLATE: Final = Template(KINDS, text.TICKET, text.answer)


class SessionStatements:
    """SessionStatements makes those of the one slot that writes what outlives this daemon.

    :param holding: returns number and incarnation of this daemon, as its row of ``mqtt_daemons`` has them.
    :ivar last: the highest number that a message has; to be set before the first statement.
    """

    def __init__(self, holding: Callable[[], tuple[int, int] | None]) -> None:
        self.last = 0
        self._holding = holding
        self._deleted: dict[int, int] = {}

    @property
    def daemon(self) -> tuple[int, int]:
        """Return number and incarnation of this daemon, which is registered before anything is written."""
        holding = self._holding()
        assert holding is not None
        return holding

    @property
    def fence(self) -> str:
        """Return SQL after which a batch can never be written any more, unless it was."""
        daemon, incarnation = self.daemon
        return text.FENCE.format(daemon=daemon, incarnation=incarnation)

    def build(self, entries: Sequence[object], writer: str, batch: int) -> Statement:
        """Return the statement that commits ``entries`` as this number of the daemon's batches."""
        columns = SessionColumns(self._next, self._due)
        daemon, incarnation = self.daemon
        statement = _TEMPLATE.fill(columns, entries, daemon=daemon, incarnation=incarnation, batch=batch)
        for session in columns.ended:
            self._deleted.pop(session, None)
        return statement

    def committed(self, statement: Statement, answer: Sequence[Any] | None) -> Outcome:
        """Give the Sessions that have begun their numbers, unless an earlier try had been committed.

        One that another daemon has gets ``ELSEWHERE``.
        """
        numbers = None if answer is None else answer[0]
        if numbers is not None:
            for begun, number in zip(statement.columns.begun, numbers, strict=True):
                begun.session = number or ELSEWHERE
        return Outcome()

    def stale(self) -> None:
        """Do nothing: number and incarnation are asked for each statement."""

    def trial(self) -> Statement:
        """Return a statement that any database with our tables takes."""
        return self.build(certainly_good(), "", _LAST)

    def instead(self, entry: object, reason: str) -> "Sequence[object] | None":
        """Refuse the entry.

        :raises EntryRefused: always.
        """
        return KINDS[type(entry)].instead(entry, reason)

    def fenced(self, entry: object) -> bool:
        """Return false: with a bus the whole store is given up, and without one nobody has taken over."""
        return False

    def _next(self) -> int:
        self.last = max(self.last, self.daemon[0] << 48) + 1
        return self.last

    def _due(self, session: int) -> bool:
        deleted = self._deleted[session] = self._deleted.get(session, 0) + 1
        if deleted >= HEAD_AFTER:
            del self._deleted[session]
        return deleted >= HEAD_AFTER
