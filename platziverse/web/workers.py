"""Workers: ``/api/broker`` of all workers of a machine, whichever of them is asked."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred

from platziverse.web.interfaces import Row
from platziverse.web.query import Query
from platziverse.web.siblings import Siblings

_OWN: Final = "/api/broker?worker=own"
#: What is the same in all of them, or the worst of them says more than the sum; and how it is made one.
_OTHERWISE: Final[Mapping[str, Callable[[Iterable[Any]], Any]]] = {
    "time": max,
    "uptime": max,
    "daemons": max,
    "retainedMessages": max,
    "p50": max,
    "p99": max,
}


class BrokerPage:
    """A BrokerPage is how the broker is: of this daemon, or of all workers together.

    :param own: of this worker.
    """

    def __init__(self, own: Callable[[], Row], siblings: Siblings) -> None:
        self._own, self._siblings = own, siblings
        self._others: list[Row] = []
        self._asking = False

    def answer(self, query: Query) -> Any:
        """Answer ``/api/broker``. :raises HTTPError: the query makes no sense."""
        query.only("worker")
        if query.is_own() or not self._siblings.number:
            return self._own() | self._siblings.named
        return self._ask().addCallback(lambda _: self._together())

    def page(self) -> Row:
        """Return how the broker is at once; the other workers as they were when this was asked last."""
        if not self._siblings.number:
            return self._own()
        if not self._asking:
            self._ask()
        return self._together()

    def _ask(self) -> "Deferred[None]":
        self._asking = True
        return self._siblings.ask(_OWN).addCallback(self._heard)

    def _heard(self, pages: list[Row]) -> None:
        self._others, self._asking = pages, False

    def _together(self) -> Row:
        own = self._own()
        others = [{key: value for key, value in page.items() if key != "worker"} for page in self._others]
        return {**_joined("", [own, *others]), "version": own["version"], "workers": 1 + len(others)}


def _joined(key: str, values: list[Any]) -> Any:
    """Return several values of a key as one."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _joined(name, [value[name] for value in values if name in value]) for name in first}
    if isinstance(first, list):
        return _by_name(row for rows in values for row in rows)
    if isinstance(first, str):
        return next((text for text in values if text != "ready"), first)
    there = [value for value in values if value is not None]
    if not there:
        return None
    if key == "clockDifference":
        return max(there, key=abs)
    return _OTHERWISE.get(key, sum)(there)


def _by_name(rows: Iterable[Row]) -> list[Row]:
    """Return one row of each name, with the sums of the others."""
    found: dict[str, Row] = {}
    for row in rows:
        sums = found.setdefault(row["name"], {"name": row["name"]})
        for key, value in row.items():
            if key != "name":
                sums[key] = sums.get(key, 0) + value
    return list(found.values())
