"""Series: what the API asks about numbers over time, and about the newest of them, as statements.

PostgreSQL writes the JSON of points: a list of tuples would take ten times as long in the reactor. All times
are milliseconds since the epoch.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

#: Columns of the answers.
SERIES: Final = ("agent", "id", "type", "unit", "known", "points")
LATEST: Final = (
    "uuid",
    "name",
    "connected",
    "type",
    "unit",
    "value",
    "number",
    "time",
    "spark",
    "id",
    "steps",
)

#: A statement, and what it refers to.
Asked: TypeAlias = "tuple[str, dict[str, Any]]"


class Range(Protocol):
    """A Range is a stretch of time, and what is wanted of each step of it; see ``web.interfaces``."""

    @property
    def since(self) -> int: ...
    @property
    def until(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def aggregates(self) -> Sequence[str]: ...
    @property
    def source(self) -> str: ...
    @property
    def limit(self) -> int: ...
    @property
    def now(self) -> int: ...


MOMENT: Final = "to_timestamp({} / 1000.0)"
# date_part is twice as fast as extract, which counts in decimals; date_bin would need PostgreSQL 14.
_MILLISECONDS: Final = "(date_part('epoch', {}) * 1000)"


def milliseconds(moment: str) -> str:
    """Return the expression for a moment, as a whole number."""
    return f"floor({_MILLISECONDS.format(moment)})::bigint"


# Rows of one series lie on a page each, in the order of the index: a bitmap of them costs a fifth of the
# time, and brings nothing. See docs/adr/0188.
_AGENTS: Final = """SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off; WITH agent AS (
    SELECT given.uuid, given.n, agents.id
    FROM unnest(%(uuids)s::text[]) WITH ORDINALITY AS given (uuid, n)
    LEFT JOIN agents ON agents.uuid = given.uuid),
wanted AS MATERIALIZED ({wanted})
SELECT uuid, id, type, (SELECT unit FROM series WHERE "agentId" = wanted.id AND series.type = wanted.type),
    EXISTS (SELECT FROM series WHERE "agentId" = wanted.id AND series.type = wanted.type)
        OR EXISTS (SELECT FROM metrics WHERE "agentId" = wanted.id AND metrics.type = wanted.type),
    ({points})
FROM wanted ORDER BY n, m"""
_OF_TYPES: Final = """SELECT agent.*, given.type, given.n AS m
    FROM agent, unnest(%(types)s::text[]) WITH ORDINALITY AS given (type, n)"""
# One more than there may be, so that the question is seen to be too large.
_OF_ALL_TYPES: Final = """SELECT agent.*, series.type, row_number() OVER (ORDER BY agent.n, series.type) AS m
    FROM agent LEFT JOIN series ON "agentId" = agent.id ORDER BY agent.n, series.type LIMIT 21"""

_ROWS: Final = f"""SELECT '[' || string_agg(
        '[' || {milliseconds('"createdAt"')} || ',' || number || ']', ','
        ORDER BY "createdAt", id) || ']'
    FROM (SELECT "createdAt", id, number FROM metrics WHERE {{raw}}
        ORDER BY "createdAt", id LIMIT %(limit)s) AS row"""

# Of several numbers of 10^308 the sum would be none, and the statement fails; roll-ups have the same bound.
_BOUNDED: Final = "greatest(least(number, 1e290), -1e290)"
# A step without rows is there, with null: lines have gaps where nothing was measured.
_STEPS: Final = f"""SELECT '[' || string_agg(
        '[' || %(since)s + k * %(step)s::bigint {{columns}} || ']', ',' ORDER BY k) || ']'
    FROM generate_series(0, %(last)s) AS k LEFT JOIN (
        SELECT floor(({_MILLISECONDS.format("t")} - %(since)s) / %(step)s)::integer AS k, {{aggregates}}
        FROM ({{rows}}) AS row GROUP BY 1) AS step USING (k)"""
_RAW: Final = f"""SELECT "createdAt" AS t, 1 AS n, number AS low, number AS high, {_BOUNDED} AS total,
        number AS final
    FROM metrics WHERE {{raw}}"""
_ROLLED: Final = f"""SELECT bucket AS t, n, min AS low, max AS high, sum AS total, last AS final
    FROM {{table}} AS rolled WHERE "agentId" = wanted.id AND rolled.type = wanted.type
    AND bucket >= {MOMENT.format("%(since)s")} AND bucket < {MOMENT.format("%(rolled)s")}
    UNION ALL {_RAW}"""
#: Milliseconds of a bucket of each table of roll-ups; ``web.charts`` chooses among them.
BUCKETS: Final = {"5m": 300_000, "1h": 3_600_000}
_NUMBERS: Final = """"agentId" = wanted.id AND metrics.type = wanted.type AND number IS NOT NULL
    AND "createdAt" >= {since} AND "createdAt" < {until}"""

_AGGREGATES: Final = {
    "avg": "sum(total) / sum(n) AS avg",
    "min": "min(low) AS min",
    "max": "max(high) AS max",
    "last": "(array_agg(final ORDER BY t DESC))[1] AS last",
    "count": "sum(n) AS count",
}
_NOTHING: Final = {"count": "0"}


def of_range(uuids: Sequence[str], types: Sequence[str], asked: Range) -> Asked:
    """Return the statement for numbers over time of every agent and type; its columns are SERIES."""
    values = {
        "uuids": list(uuids),
        "types": list(types),
        "since": asked.since,
        "until": asked.until,
        "rolled": _rolled_up_to(asked),
        "step": asked.step,
        "limit": asked.limit,
    }
    raw = _NUMBERS.format(since=MOMENT.format("%(rolled)s"), until=MOMENT.format("%(until)s"))
    if asked.step:
        values["last"] = (asked.until - asked.since) // asked.step - 1
        names = asked.aggregates
        columns = "".join(
            f"|| ',' || coalesce({name}::text, '{_NOTHING.get(name, 'null')}')" for name in names
        )
        aggregates = ", ".join(_AGGREGATES[name] for name in names)
        rows = (_RAW if asked.source == "raw" else _ROLLED).format(raw=raw, table=f"metrics_{asked.source}")
        points = _STEPS.format(columns=columns, aggregates=aggregates, rows=rows)
    else:
        points = _ROWS.format(raw=raw)
    return _AGENTS.format(wanted=_OF_TYPES if types else _OF_ALL_TYPES, points=points), values


def _rolled_up_to(asked: Range) -> int:
    """Return up to where roll-ups answer: the last two buckets are not made yet, or not for long."""
    bucket = BUCKETS.get(asked.source)
    if bucket is None:
        return asked.since
    return max(asked.since, min(asked.until, (asked.now // bucket - 1) * bucket))


#: Buckets of five minutes of a small line, and the bits of all of them.
STEPS: Final = 12
_ALL: Final = (1 << STEPS) - 1
# The last buckets that may be whole, in their order, and a bit for each: which are missing is told from the
# bits, since a window in the statement would take as long again. The moments are constants, so that one
# partition is read; see docs/adr/0165 and 0188.
_SPARK: Final = """SELECT string_agg(avg::text, ',') AS averages, bit_or(1 << k) AS steps FROM (
    SELECT (date_part('epoch', bucket) / 300)::integer - %(first)s - 1 AS k, sum / n AS avg
    FROM metrics_5m WHERE "agentId" = page.id AND metrics_5m.type = page.type
    AND bucket > to_timestamp(%(first)s * 300) AND bucket < to_timestamp((%(first)s + 13) * 300)
    ORDER BY bucket) AS rolled"""
_LATEST: Final = f"""WITH page AS MATERIALIZED (
    SELECT uuid, name, connected, series.type, series.unit, agents.id
    FROM series JOIN agents ON agents.id = "agentId"
    WHERE ("agentId", series.type) > (%(agent)s, %(type)s){{conditions}}
    ORDER BY "agentId", series.type LIMIT %(limit)s)
SELECT page.uuid, name, connected, page.type, unit, newest.value, newest.number,
    {milliseconds('newest."createdAt"')}, averages, page.id, steps
FROM page LEFT JOIN LATERAL (
    SELECT value, number, "createdAt" FROM metrics WHERE "agentId" = page.id AND metrics.type = page.type
    ORDER BY "createdAt" DESC LIMIT 1) AS newest ON true
LEFT JOIN LATERAL ({_SPARK}) AS line ON true
ORDER BY page.id, page.type"""


def of_latest(
    uuids: Sequence[str],
    username: str | None,
    connected: bool | None,
    agent: int,
    type: str,
    limit: int,
    now: int,
) -> Asked:
    """Return the statement for the newest value of each series; its columns are LATEST.

    :param uuids: of the agents; empty: of all.
    :param agent: id of the agent behind whose type the page begins.
    """
    conditions = " AND uuid = ANY(%(uuids)s::text[])" if uuids else ""
    if username is not None:
        conditions += " AND username = %(username)s"
    if connected is not None:
        conditions += " AND connected" if connected else " AND NOT connected"
    values = {
        "uuids": list(uuids),
        "username": username,
        "agent": agent,
        "type": type,
        "limit": limit,
        "first": now // BUCKETS["5m"] - 13,
    }
    return _LATEST.format(conditions=conditions), values


def with_spark(row: dict[str, Any]) -> dict[str, Any]:
    """Put the JSON of a list, with ``null`` for each step that is missing, into a row of LATEST."""
    averages, steps = row["spark"], row.pop("steps")
    if averages is not None:
        if steps != _ALL:
            found = iter(averages.split(","))
            averages = ",".join(next(found) if steps >> k & 1 else "null" for k in range(STEPS))
        row["spark"] = f"[{averages}]"
    return row
