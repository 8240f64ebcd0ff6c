"""Exports: rows as lines of CSV or NDJSON, which PostgreSQL writes, in pages by key.

There is no cursor: that would keep a transaction open, and with it old rows alive, for as long as a client
takes to read; see docs/adr/0166.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from platziverse.postgres.series import MOMENT, Asked

#: Columns of the answer.
PAGE: Final = ("text", "rows", "agent", "type", "moment", "id")
KNOWN: Final = "SELECT uuid FROM agents WHERE uuid = ANY(%s::text[])"


class Export(Protocol):
    """An Export says which rows are wanted, and how; see ``web.interfaces``."""

    @property
    def agents(self) -> Sequence[str]: ...
    @property
    def types(self) -> Sequence[str]: ...
    @property
    def since(self) -> int: ...
    @property
    def until(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def source(self) -> str: ...


# What belongs to a series is made once for it. The subquery is sorted, and a LATERAL is a loop over it, never
# in parallel. So LIMIT takes the first rows in the order of agent, type and time, and reads no others.
_PAGE: Final = """SET LOCAL max_parallel_workers_per_gather = 0;
WITH line AS MATERIALIZED (
    SELECT wanted.id AS agent, wanted.type, row.moment, row.id, {line} AS text, row_number() OVER () AS n
    FROM (SELECT *, {head} AS head, (id, type) = (%(agent)s, %(type)s::text) AS begun
        FROM ({wanted}) AS one
        WHERE (id, type) >= (%(agent)s, %(type)s::text) ORDER BY id, type) AS wanted
    CROSS JOIN LATERAL ({rows} LIMIT %(rows)s) AS row
    LIMIT %(rows)s),
last AS (SELECT * FROM line ORDER BY n DESC LIMIT 1)
SELECT (SELECT string_agg(text, '' ORDER BY n) FROM line), n, agent, type, moment::text, id FROM last"""
_SERIES: Final = """SELECT agents.id, uuid, series.type, unit FROM series JOIN agents ON agents.id = "agentId"
    WHERE {agents}"""
_GIVEN: Final = """SELECT agents.id, uuid, given.type, (SELECT unit FROM series
        WHERE "agentId" = agents.id AND series.type = given.type) AS unit
    FROM agents, unnest(%(types)s::text[]) AS given (type) WHERE {agents}"""
_RAW: Final = f"""SELECT "createdAt" AS moment, id, value, number FROM metrics
    WHERE "agentId" = wanted.id AND metrics.type = wanted.type
    AND "createdAt" >= {MOMENT.format("%(since)s")} AND "createdAt" < {MOMENT.format("%(until)s")}
    AND ("createdAt", id) > (
        CASE WHEN begun THEN %(moment)s::timestamptz ELSE {MOMENT.format("%(since)s")} END,
        CASE WHEN begun THEN %(id)s ELSE -1 END)
    ORDER BY "createdAt", id"""

_ROLLED: Final = f"""SELECT bucket AS moment, 0 AS id, n, min, max, sum, last FROM {{table}} AS rolled
    WHERE "agentId" = wanted.id AND rolled.type = wanted.type
    AND bucket >= {MOMENT.format("%(since)s")} AND bucket < {MOMENT.format("%(until)s")}
    AND bucket > CASE WHEN begun THEN %(moment)s::timestamptz ELSE '-infinity' END
    ORDER BY bucket"""

_TIME: Final = """to_char(row.moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
# RFC 4180; an empty text is quoted, as nothing is NULL.
_QUOTED: Final = (
    """CASE WHEN {0} ~ '[",\\r\\n]|^$|^\\s|\\s$' THEN '"' || replace({0}, '"', '""') || '"' ELSE {0} END"""
)
_HEAD: Final = {
    "csv": f"{_QUOTED.format('uuid')} || ',' || {_QUOTED.format('type')} || ',' || "
    f"coalesce({_QUOTED.format('unit')}, '') || ','",
    "ndjson": """'{"agent":' || to_json(uuid) || ',"type":' || to_json(type) || ',"unit":'
        || coalesce(to_json(unit)::text, 'null') || ',"time":"'""",
}
_LINE: Final = {
    "csv": f"""head || {_TIME} || ',' || CASE WHEN number IS NOT NULL THEN value
        ELSE {_QUOTED.format("value")} END || E'\\n'""",
    "ndjson": f"""head || {_TIME} || '","value":'
        || coalesce(number::text, to_json(value)::text) || E'}}\\n'""",
}
_ROLLED_LINE: Final = {
    "csv": f"""head || {_TIME} || ',' || n || ',' || min || ',' || max || ',' || sum / n || ',' || last
        || E'\\n'""",
    "ndjson": f"""head || {_TIME} || '","count":' || n || ',"min":' || min || ',"max":' || max
        || ',"avg":' || sum / n || ',"last":' || last || E'}}\\n'""",
}


def of_export(export: Export, place: "Sequence[Any] | None", rows: int) -> Asked:
    """Return the statement for the lines of an export behind ``place``; its row has the columns PAGE.

    :param place: of the last line before: agent, type, moment and id.
    """
    agent, type, moment, id = place or (0, "", None, None)
    wanted, raw = _GIVEN if export.types else _SERIES, export.source == "raw"
    text = _PAGE.format(
        line=(_LINE if raw else _ROLLED_LINE)[export.format],
        head=_HEAD[export.format],
        wanted=wanted.format(agents="uuid = ANY(%(agents)s::text[])" if export.agents else "true"),
        rows=_RAW if raw else _ROLLED.format(table=f"metrics_{export.source}"),
    )
    return text, {
        "agents": list(export.agents),
        "types": list(export.types),
        "since": export.since,
        "until": export.until,
        "agent": agent,
        "type": type,
        "moment": moment,
        "id": id,
        "rows": rows,
    }
