"""Rows: the rows of one durable Session in the store, as far as its Window has to know them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from platziverse.broker.interfaces import Answer
from platziverse.broker.records import Acknowledged, Queued, Received, StoredMessage

if TYPE_CHECKING:
    from platziverse.broker.durable import Durable


class Rows:
    """Rows says what is committed of messages that were sent, and what may go.

    :param number: of the Session.
    """

    __slots__ = ("_durable", "_leaving", "_number", "_numbers", "_received")

    def __init__(self, number: int, durable: "Durable") -> None:
        self._number, self._durable = number, durable
        # Positions whose row is about to go, and whose PUBREC came; and the messages that rows refer to.
        self._leaving: dict[int, None] = {}
        self._received: dict[int, None] = {}
        self._numbers: dict[int, int] = {}

    @property
    def leaving(self) -> frozenset[int]:
        """Positions that are acknowledged: a page that is read now may still have them."""
        return frozenset(self._leaving)

    def refers(self, position: int, number: int) -> None:
        """Note that the row of this position refers to a message, which several have."""
        self._numbers[position] = number

    def forget_numbers(self) -> None:
        """Note that nothing is in memory: the client has gone."""
        self._numbers = {}

    def is_received(self, row: StoredMessage) -> bool:
        """Return whether PUBREC came for a message that was read, and note it."""
        if row.number:
            self._numbers[row.position] = row.number
        if row.received:
            self._received[row.position] = None
        return row.position in self._received

    def receive(self, position: int, committed: Callable[[object, int], None]) -> Answer:
        """Save that PUBREC came. PUBREL waits for the Deferred, if there is one.

        :param committed: called then, with the position.
        """
        if position in self._received:  # and committed
            return None
        return self._durable.save(Received(self._number, position)).addCallback(committed, position)

    def received(self, position: int) -> None:
        """Note that this is committed."""
        self._received[position] = None

    def leave(self, position: int, entry: Queued | None, head: int) -> None:
        """Delete a row: the client owns its message.

        :param entry: of the message, if it was saved in this process and is not committed yet.
        :param head: nothing waits at or below this position.
        """
        durable = self._durable
        if entry is None:
            over = durable.is_over(self._numbers.pop(position, 0))
        else:
            over = durable.is_over(entry.number, len(entry.rows))
        self._leaving[position] = None
        gone = durable.record(Acknowledged(self._number, position, over, head))
        gone.addBoth(self._left, position)

    def _left(self, result: Any, position: int) -> None:
        self._leaving.pop(position, None)

    def owned(self, position: int) -> None:
        """Note that PUBCOMP came, if PUBREC had."""
        if self._received:
            self._received.pop(position, None)
