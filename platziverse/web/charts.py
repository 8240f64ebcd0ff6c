"""Charts: numbers over time, summed up in equal steps, and the newest value of every series."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import frozen
from msgspec import Raw
from twisted.internet.defer import Deferred

from platziverse.web.answers import HTTPError
from platziverse.web.interfaces import Range, ReadStore, Row
from platziverse.web.query import LONGEST, Query

#: Milliseconds of a step: a chart has one of these.
STEPS: Final = (
    *(1000 * seconds for seconds in (1, 2, 5, 10, 15, 30)),
    *(60_000 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3_600_000 * hours for hours in (1, 2, 3, 6, 12, 24)),
)
#: Points of a series, by default and at most.
POINTS: Final = 500
MAX_POINTS: Final = 2000
#: Series of one answer.
MAX_SERIES: Final = 20
#: What may be asked of each step, and what is answered if nothing is.
AGGREGATES: Final = ("avg", "min", "max", "last", "count")
DEFAULT_AGGREGATES: Final = "avg,min,max"
#: Milliseconds from ``from`` to ``to`` if the first is not there.
HOUR: Final = 3_600_000
#: Milliseconds of a step from which on roll-ups answer, and which.
LEVELS: Final = ((HOUR, "1h"), (300_000, "5m"))
#: One point for each row, in the place of steps.
ROWS: Final = ("time", "value")


class Charts:
    """Charts answers ``/api/series`` and ``/api/latest``.

    :param now: seconds since the epoch.
    """

    def __init__(self, store: ReadStore, now: Callable[[], float]) -> None:
        self._store, self._now = store, now

    def series(self, query: Query) -> "Deferred[Row]":
        """Answer with up to ``MAX_SERIES`` series. :raises HTTPError: the query makes no sense."""
        query.only("from", "to", "step", "agg", "points", "limit", several=("agent", "type"))
        agents, types = query.texts("agent"), query.texts("type")
        if not agents:
            raise HTTPError(400, "agent must be the uuid of an agent")
        _check_names(agents, types)
        asked = self._range(query)
        aggregates = asked.aggregates
        columns = ["time", *aggregates] if aggregates else ROWS
        answer = self._store.series(agents, types, asked)
        return answer.addCallback(partial(_series, asked, list(columns), types))

    def _range(self, query: Query) -> Range:
        """Return what is asked. :raises HTTPError: it makes no sense."""
        now = int(self._now() * 1000)
        until = query.milliseconds("to")
        until = now if until is None else until
        since = query.milliseconds("from")
        since = max(0, until - HOUR) if since is None else since
        if since >= until:
            raise HTTPError(400, "from must be before to")
        step, points = query.number("step", 1, 0, STEPS[-1]), query.number("points", POINTS, 1, MAX_POINTS)
        aggregates = _aggregates(query.text("agg"))
        if step == 0:
            return Range(since, until, 0, limit=query.limit())
        if query.text("limit") is not None:
            raise HTTPError(400, "limit is for step=0; points says how many steps there may be")
        step = _step(since, until, step, points)
        since, until = since // step * step, -(-until // step) * step
        source = next((name for least, name in LEVELS if step >= least), "raw")
        return Range(since, until, step, aggregates, source, now=now)

    def latest(self, query: Query) -> "Deferred[Row]":
        """Answer with a page of the newest values. :raises HTTPError: the query makes no sense."""
        query.only("username", "connected", "limit", "after", several=("agent",))
        agents, username, limit = query.texts("agent"), query.text("username"), query.limit()
        _check_names(agents, [])
        which, after = query.connected("all"), _Place.read(query.text("after"))
        now = int(self._now() * 1000)
        found = self._store.latest(agents, username, which, after.agent, after.type, limit, now)
        return found.addCallback(_latest, limit)


def _check_names(agents: list[str], types: list[str]) -> None:
    """Check the names of agents and types. :raises HTTPError: there can be none of such a name."""
    for uuid in agents:
        if not 0 < len(uuid) <= LONGEST:
            raise HTTPError(404, f"Agent not found with uuid {uuid}")
    for type in types:
        if not 0 < len(type) <= LONGEST:
            raise HTTPError(404, f"Metrics ({type}) not found")
    if len(agents) * len(types) > MAX_SERIES:
        raise HTTPError(400, f"agents times types must be {MAX_SERIES} at most")


def _aggregates(text: str | None) -> tuple[str, ...]:
    """Return the names that a list has. :raises HTTPError: it has one twice, or one that there is not."""
    names = (DEFAULT_AGGREGATES if text is None else text).split(",")
    if len(set(names)) < len(names) or not set(names) <= set(AGGREGATES):
        raise HTTPError(400, f"agg must be some of {','.join(AGGREGATES)}")
    return tuple(names)


def _step(since: int, until: int, least: int, points: int) -> int:
    """Return the shortest step of which there are so many at most. :raises HTTPError: there is none."""
    for step in STEPS:
        if step >= least and -(-until // step) - since // step <= points:
            return step
    days = -(-until // STEPS[-1]) - since // STEPS[-1]
    if days > MAX_POINTS:
        raise HTTPError(400, f"from and to must be {MAX_POINTS} days apart at most")
    raise HTTPError(400, f"points must be {days} or more, a step is a day at most")


def _series(asked: Range, columns: list[str], types: list[str], rows: list[Row]) -> Row:
    """Return the whole answer. :raises HTTPError: an agent, or a series, is unknown, or they are too many."""
    for row in rows:
        if row["id"] is None:
            raise HTTPError(404, f"Agent not found with uuid {row['agent']}")
        if types and not row["known"]:
            raise HTTPError(404, f"Metrics ({row['type']}) not found for agent with uuid {row['agent']}")
    if len(rows) > MAX_SERIES:
        raise HTTPError(400, f"these agents have more than {MAX_SERIES} series; name a type")
    return {
        "from": asked.since,
        "to": asked.until,
        "step": asked.step,
        "source": asked.source,
        "series": [
            {
                "agent": row["agent"],
                "type": row["type"],
                "unit": row["unit"],
                "columns": columns,
                "points": Raw((row["points"] or "[]").encode()),
            }
            for row in rows
            if row["type"] is not None  # an agent without metrics
        ],
    }


@frozen
class _Place:
    """A _Place is behind which series a page begins: the id of its agent, and its type."""

    agent: int = 0
    type: str = ""

    @classmethod
    def read(cls, text: str | None) -> "_Place":
        """Return what :meth:`__str__` has written. :raises HTTPError: it has not."""
        if text is None:
            return cls()
        try:
            found = re.fullmatch(r"(\d{1,10})/(.{0,255})", urlsafe_b64decode(text).decode(), re.DOTALL)
        except ValueError:
            found = None
        if found is None or "\0" in found[2]:
            raise HTTPError(400, "after must be the next of the page before")
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return urlsafe_b64encode(f"{self.agent}/{self.type}".encode()).decode()


def _latest(rows: list[Row], limit: int) -> Row:
    following = str(_Place(rows[-1]["id"], rows[-1]["type"])) if len(rows) == limit else None
    return {"rows": [_newest(row) for row in rows], "next": following}


def _newest(row: Row) -> Row:
    """Return one row as JSON shows it: the value is a number if it is one."""
    number: Any = row["number"]
    return {
        "uuid": row["uuid"],
        "name": row["name"],
        "connected": row["connected"],
        "type": row["type"],
        "unit": row["unit"],
        "value": row["value"] if number is None else number,
        "time": row["time"],
        "spark": Raw((row["spark"] or "null").encode()),
    }
