"""Touches: entries that touch the same are never in one batch; some wait until the others are committed."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from platziverse.ingest.kinds import EVERYTHING, Touch


class Touched:
    """A Touched remembers all that the entries of one batch touch.

    One statement sees the tables as they were before it, so an entry that touches the same as an earlier one
    has to wait for the next. Entries that touch everything of one owner do the same thing, and may share.
    """

    def __init__(self) -> None:
        self._pieces: set[Touch] = set()
        self._owners: set[str] = set()
        self._whole: set[str] = set()

    def take(self, touches: Sequence[Touch]) -> bool:
        """Let an entry that touches ``touches`` join the batch; return whether it may."""
        for touch in touches:
            if self._meets(*touch):
                return False
        for touch in touches:
            owner, piece = touch
            if piece is EVERYTHING:
                self._whole.add(owner)
            else:
                self._pieces.add(touch)
                self._owners.add(owner)
        return True

    def _meets(self, owner: str, piece: Hashable) -> bool:
        if piece is EVERYTHING:
            return owner in self._owners
        return owner in self._whole or (owner, piece) in self._pieces


class UnderWay:
    """An UnderWay remembers all that entries touch until they are committed, and calls those that wait."""

    def __init__(self) -> None:
        self._unfinished: dict[str, Counter[Hashable]] = {}
        self._behind: dict[str, list[tuple[Sequence[Touch], Callable[[], None]]]] = {}

    def begun(self, touches: Sequence[Touch]) -> None:
        """Note that an entry that touches ``touches`` was saved."""
        for owner, piece in touches:
            self._unfinished.setdefault(owner, Counter())[piece] += 1

    def finished(self, touches: Sequence[Touch]) -> None:
        """Note that such an entry is committed, or never will be, and let those go on that waited for it."""
        for owner, piece in touches:
            unfinished = self._unfinished[owner]
            unfinished[piece] -= 1
            if not unfinished[piece]:
                del unfinished[piece]
            if not unfinished:
                del self._unfinished[owner]
        for owner, _ in touches:
            for waiting, proceed in self._behind.pop(owner, ()):
                self.after(waiting, proceed)

    def after(self, touches: Sequence[Touch], proceed: Callable[[], None]) -> None:
        """Call ``proceed``, at once or when nothing that is under way touches any of ``touches``."""
        for owner, piece in touches:
            unfinished = self._unfinished.get(owner)
            if unfinished is not None and (piece is EVERYTHING or piece in unfinished):
                self._behind.setdefault(owner, []).append((touches, proceed))
                return
        proceed()
