"""Sharing: what ``/metrics`` reads of a daemon that shares its clients with others."""

from collections.abc import Mapping
from typing import Protocol


class Sharing(Protocol):
    """A Sharing counts what a daemon shares with others, which it knows by their numbers.

    :ivar events: how many frames were sent, lost and so on, by what became of them.
    :ivar moved: how many durable Sessions have come with their clients, and gone.
    :ivar delayed: how many messages waited for Sessions on their way, or behind what was lost on the bus.
    :ivar received: how many messages came from each of them.
    :ivar gaps: how often frames of each were missing.
    :ivar unanswered: how many messages for durable Sessions of each it has not answered, and no row has yet.
    :ivar keys: how many keys they listen to.
    :ivar unheard: how many of them live, and are not heard on the bus.
    """

    @property
    def events(self) -> Mapping[str, int]: ...
    @property
    def moved(self) -> Mapping[str, int]: ...
    @property
    def delayed(self) -> int: ...
    @property
    def received(self) -> Mapping[int, int]: ...
    @property
    def gaps(self) -> Mapping[int, int]: ...
    @property
    def unanswered(self) -> Mapping[int, int]: ...
    @property
    def keys(self) -> int: ...
    @property
    def unheard(self) -> int: ...
