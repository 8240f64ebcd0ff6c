"""Recovery: the steps after a batch that failed, by the policy of ``sqlstate``."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

from platziverse.ingest.batch import Batch
from platziverse.ingest.errors import EntryRefused
from platziverse.postgres.connection import DeadlinePassed
from platziverse.postgres.sqlstate import Action, ConnectFailed, one_line

#: Tries at once after a conflict, and tries before an unknown error is taken for a bad row.
TRIES: Final = 3


class Backoff:
    """A Backoff makes pauses that grow from ``first`` to ``longest`` seconds; half of each is by chance."""

    def __init__(
        self, first: float = 0.05, longest: float = 2.0, chance: Callable[[], float] = random.random
    ) -> None:
        self._first, self._longest, self._chance = first, longest, chance
        #: Seconds, at most, of the last pause; whoever has succeeded sets it to 0.
        self.pause = 0.0

    def next(self) -> float:
        self.pause = min(max(self._first, self.pause * 1.7), self._longest)
        return self.pause * (0.5 + self._chance() / 2)


@frozen
class Step:
    """A Step says what comes next.

    :param instead: batches to commit in its place, in order, once it is certain that it was not
        committed; ``None``: the same batch again.
    :param pause: seconds to wait before.
    :param trouble: the database is to blame, so somebody should know.
    :param refused: the database refused this one entry, for its data if it takes others.
    :param anew: the connection is of no use any more.
    """

    instead: tuple[Batch, ...] | None = None
    pause: float = 0.0
    trouble: bool = False
    refused: bool = False
    anew: bool = False


class Recovery:
    """A Recovery remembers all that has gone wrong with one batch so far.

    :param setup_pause: seconds between tries when rights, tables or logins are wrong.
    :param instead: called with an entry that the database refuses for its data, and the reason; see
        :class:`~platziverse.ingest.kinds.Kind`.
    :param fenced: returns whether an entry is left out if this daemon was fenced.
    """

    def __init__(
        self,
        batch: Batch,
        backoff: Backoff,
        setup_pause: float,
        instead: "Callable[[object, str], Sequence[object] | None]",
        fenced: Callable[[object], bool],
    ) -> None:
        self._batch, self._backoff, self._setup_pause = batch, backoff, setup_pause
        self._instead, self._fenced = instead, fenced
        self._seen: Counter[Action] = Counter()

    @property
    def unknown(self) -> bool:
        """True when a try of the batch may have been committed, or may be yet."""
        return bool(self._seen[Action.RECONNECT] or self._seen[Action.UNKNOWN])

    def forget_set_up(self) -> bool:
        """Return whether the set-up was to blame since this was asked last."""
        return self._seen.pop(Action.SETUP, 0) > 0

    def next(self, action: Action, error: BaseException) -> Step:
        """Return the next step after ``error``."""
        self._seen[action] += 1
        again = self._seen[action] <= TRIES
        if action is Action.BAD_ROW or (action is Action.UNKNOWN and not again):
            return self._narrow(error)
        if action is Action.HALVE and len(self._batch.entries) > 1:
            return Step(self._batch.halves(), trouble=True)
        if action is Action.SETUP:
            return Step(pause=self._setup_pause, trouble=True, anew=True)
        batch = self._batch  # of an incarnation that the lease does not know to be over: again, until it does
        if action is Action.FENCED and batch.incarnation.over and any(map(self._fenced, batch.entries)):
            return Step(batch.without(self._fenced))
        if action in (Action.RETRY, Action.STALE, Action.FENCED) and again:
            return Step()
        if action is Action.RECONNECT:
            return Step(pause=self._backoff.next(), trouble=not self._may_be_idle(error), anew=True)
        return Step(pause=self._backoff.next(), trouble=True)

    def _may_be_idle(self, error: BaseException) -> bool:
        """Return whether the connection may have been cut while it was idle: then another is as good."""
        first = self._seen[Action.RECONNECT] == 1
        return first and not isinstance(error, ConnectFailed | DeadlinePassed)

    def _narrow(self, error: BaseException) -> Step:
        if len(self._batch.entries) > 1:
            return Step(self._batch.halves())
        entries = self._batch.entries
        try:
            replacement = self._instead(entries[0], one_line(error)) if entries else None
        except EntryRefused as refusal:
            return Step((self._batch.refused(refusal),), refused=True)
        if replacement is not None:
            return Step((self._batch.replaced(replacement),), refused=True)
        # Not even its raw bytes in ASCII: kept, with everything behind it, until somebody comes to see.
        return Step(pause=self._setup_pause, trouble=True)
