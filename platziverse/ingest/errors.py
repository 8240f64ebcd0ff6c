"""Errors: the ones that a store raises on its own account."""

from typing import Final

from platziverse.errors import ComesAgain, NotStorable


class StoreStopped(ComesAgain):
    """The store was stopped before an entry was committed, so its message must not be acknowledged."""

    def __init__(self) -> None:
        super().__init__("the daemon is stopping, or was taken for dead, and this was not committed")


class Fenced(ComesAgain):
    """Another daemon has taken this one for dead: its client sends the message again, to whoever has it now.

    :ivar pgcode: what the database says to a statement of such a daemon.
    """

    pgcode: Final = "PV003"

    def __init__(self) -> None:
        super().__init__("other daemons have taken over from this one, and this was not committed")


class EntryRefused(NotStorable):
    """The database takes other entries, but not this one, for the data that is in it."""
