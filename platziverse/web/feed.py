"""Feed: what event streams are told from."""

from collections.abc import Iterable, Sequence
from typing import Protocol


class Metric(Protocol):
    """A Metric is one reading, as text."""

    @property
    def type(self) -> str: ...
    @property
    def value(self) -> str: ...


class Feed(Protocol):
    """A Feed knows what agents say while it is open; who comes and goes it tells ``Events`` at once."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def take(self) -> Iterable[tuple[str, float, Sequence[Metric]]]:
        """Return what agents have measured since the last call, and when, in seconds since the epoch."""
