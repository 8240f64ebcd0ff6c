"""Errors: how a rule that cannot be used says so, and a message that no rule looks at."""

from platziverse.agents.model import InvalidReport
from platziverse.errors import Unusable


class RuleError(Unusable):
    """A rule cannot be used: one line with the file, the line in it, number and key of the rule, and why."""


class BadKey(Exception):
    """The value of a key of a rule cannot be used.

    :param key: dotted, e.g. ``"presence.path"``.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def too_many_values(most: int) -> InvalidReport:
    """Return what a message is refused with that has more values than could become metrics."""
    return InvalidReport("size", f"more than {most} values, six times max_metrics")
