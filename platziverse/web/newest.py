"""Newest: of what agents say between two writes of the event streams, the newest value of each type."""

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import frozen

from platziverse.web.streams import Report

#: Values of one write, and their characters; what is beyond is dropped and counted.
MAX_VALUES: Final = 5000
MAX_SIZE: Final = 1024 * 1024


@frozen
class Values:
    """A Values is what an agent has measured.

    :ivar moment: of its newest message, in milliseconds since the epoch.
    :ivar types: the newest value of each type.
    """

    moment: int
    types: Mapping[str, str]


class Newest:
    """A Newest keeps one value of each type of an agent until they are taken.

    It is told of Reports soon after they have come: those of a quarter of a second are in no cache of the
    processor any more, and to look at them then takes twice as long, or more. See docs/adr/0215.
    """

    def __init__(self) -> None:
        self._types: dict[str, dict[str, str]] = {}
        self._moments: dict[str, float] = {}

    def add(self, reports: Iterable[Report]) -> None:
        """Keep the values of some Reports, of which the last is the newest."""
        known, moments = self._types, self._moments
        for report in reports:
            uuid = report.agent.uuid
            types = known.get(uuid)
            if types is None:
                types = known[uuid] = {}
            for metric in report.metrics:
                types[metric.type] = metric.value
            moments[uuid] = report.moment

    def take(self) -> tuple[dict[str, Values], int]:
        """Return what there is, by agent, and how many values are left out; forget all of it."""
        taken: dict[str, Values] = {}
        values, size, dropped = MAX_VALUES, MAX_SIZE, 0
        for uuid, types in self._types.items():
            few = types
            if len(types) > values or sum(map(len, types.values())) > size:
                few = _first(types, values, size)
                dropped += len(types) - len(few)
            if few:
                taken[uuid] = Values(int(self._moments[uuid] * 1000), few)
                values, size = values - len(few), size - sum(map(len, few.values()))
        self.forget()
        return taken, dropped

    def forget(self) -> None:
        """Forget all of it."""
        self._types, self._moments = {}, {}


def _first(types: Mapping[str, str], values: int, size: int) -> dict[str, str]:
    """Return the first types, at most so many, with values of so many characters."""
    few: dict[str, str] = {}
    for type, value in types.items():
        size -= len(value)
        if len(few) == values or size < 0:
            break
        few[type] = value
    return few
