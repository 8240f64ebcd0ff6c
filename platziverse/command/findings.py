"""Findings: the lines that ``platziverse check`` prints."""

from typing import Final

from attrs import frozen

OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"


@frozen
class Finding:
    """A Finding is one line about one thing.

    :param level: one of ``OK``, ``WARNING`` and ``ERROR``; with the last the daemon does not do its work.
    :param text: what is, and what to do about it.
    """

    name: str
    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.name}: {self.text}"
