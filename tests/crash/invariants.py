"""What must be true after every test, whatever was done to the daemon and to its database.

The eight invariants: nothing acknowledged is lost; nothing is stored twice where exactly once is promised;
acknowledgements leave in order; the books balance; no internal error; presence is true; what was pending is
stored soon after the database is back; memory is back. The load and the :class:`~tests.crash.ledger.Ledger`
see to the first three as packets come and go; this module reads the tables and judges the rest.

A test of its own kind without this load tells a Ledger what it sent and what was acknowledged, and calls
:func:`assert_invariants`.
"""

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from attrs import define, frozen

from tests.crash.counters import books
from tests.crash.daemon import GRAVE, Daemon
from tests.crash.ledger import Ledger
from tests.crash.publisher import Work
from tests.crash.waiting import TooLate, poll
from tests.postgres.rolled import wrong_buckets
from tests.servers import execute

#: What the log says of messages that find no room.
FULL: Final = re.compile(r"The queue of .* is full")

#: Runs one statement and returns its rows.
Execute: TypeAlias = Callable[..., "list[Any]"]
#: The uuids of the agents that must be connected, and of all that may be.
Speaking: TypeAlias = Callable[[], tuple[set[str], set[str]]]

_BOUNDS: Final = """SELECT coalesce((SELECT max(id) FROM metrics), 0),
    coalesce((SELECT max(id) FROM rejected_messages), 0)"""
_ROWS: Final = """SELECT m.type, m.value, a.uuid FROM metrics m LEFT JOIN agents a ON a.id = m."agentId"
    WHERE m.id > %s AND m.id <= %s AND m.type <> 'count' ORDER BY m.id"""
_REJECTIONS: Final = "SELECT payload FROM rejected_messages WHERE id > %s AND id <= %s"
_CONNECTED: Final = "SELECT uuid FROM agents WHERE connected"
_ROLL_UP: Final = "SELECT platziverse_roll_up('infinity', 1000)"
_TWICE: Final = "SELECT uuid, count(*) FROM agents GROUP BY uuid HAVING count(*) > 1"


def query_with(dsn: str) -> Execute:
    """Runs statements on connections of their own."""
    return partial(execute, dsn, application_name="harness")


@define
class Tables:
    """Reads every row once, in order, into the ledger."""

    execute: Execute
    ledger: Ledger
    _read: tuple[int, int] = (0, 0)

    def bounds(self) -> tuple[int, int]:
        """The last rows there are. Nobody may be writing, or rows below them may still come."""
        ((metrics, rejections),) = self.execute(_BOUNDS)
        return metrics, rejections

    def read(self, bounds: tuple[int, int]) -> None:
        """Everything up to ``bounds`` that has not been read."""
        (metrics, rejections), (to_metrics, to_rejections) = self._read, bounds
        for kind, value, agent in self.execute(_ROWS, (metrics, to_metrics)):
            self.ledger.row(agent, kind, value)
        for (payload,) in self.execute(_REJECTIONS, (rejections, to_rejections)):
            self.ledger.rejection(bytes(payload))
        self._read = bounds


def check_presence(ledger: Ledger, execute: Execute, speaking: Speaking, patience: float = 2.0) -> float:
    """``connected`` is true of exactly those agents that ``speaking`` names; the seconds it took."""
    since = time.monotonic()
    while True:
        (wanted, allowed), there = speaking(), {uuid for (uuid,) in execute(_CONNECTED)}
        if wanted <= there <= allowed:
            return time.monotonic() - since
        if time.monotonic() - since > patience:
            text = f"missing {sorted(wanted - there)}, too many {sorted(there - allowed)}"
            ledger.violation("presence", text)
            return time.monotonic() - since


def check_log(ledger: Ledger, lines: list[str]) -> None:
    """No traceback, no internal error, no full queue."""
    for number, line in enumerate(lines):
        if GRAVE.search(line):
            ledger.violation("internal error", " | ".join(lines[number : number + 25]))
        if FULL.search(line):
            ledger.violation("dropped", line)


def check_agents(ledger: Ledger, execute: Execute) -> None:
    """One row for each agent."""
    for uuid, count in execute(_TWICE):
        ledger.violation("agent twice", f"{uuid}, {count} rows")


def check_roll_ups(ledger: Ledger, execute: Execute) -> None:
    """Roll-ups are what the metrics say, whatever has come between a batch, its marks and the job.

    No daemon may run, or it could be its job that makes them.
    """
    while execute(_ROLL_UP) != [(0,)]:
        pass
    if execute("SELECT count(*) FROM metrics_5m") == [(0,)]:
        ledger.violation("roll-up", "there is none")
    for row in wrong_buckets(execute)[:3]:
        ledger.violation("roll-up", f"{row}")


def check_books(ledger: Ledger, scraped: "Mapping[str, float] | None") -> None:
    """received = stored + duplicates + rejected + given_up + pending, and nothing is pending.

    :param scraped: ``None`` where the daemon has no page with its counters.
    """
    if scraped is None:
        return
    found = books(scraped)
    if None in found.values():
        ledger.violation("books", f"counters are missing: {found}")
        return
    received, *others = (value or 0.0 for value in found.values())
    if received != sum(others):
        ledger.violation("books", f"they do not balance: {found}")
    if found["pending"]:
        ledger.violation("books", f"nothing should be pending: {found}")
    if errors := scraped.get("platziverse_internal_errors_total"):
        ledger.violation("internal error", f"{errors:.0f} counted")


@frozen
class Bounds:
    """What a daemon may have in use while everybody is connected and quiet: bytes, and file descriptors."""

    resident: int = 160 * 2**20
    descriptors: int = 1000


def check_bounds(ledger: Ledger, daemon: Daemon, bounds: Bounds) -> None:
    """Memory and descriptors have come back."""
    resident, descriptors = daemon.resident(), daemon.descriptors()
    if resident > bounds.resident:
        ledger.violation("memory", f"{resident / 2**20:.0f} MiB, {bounds.resident / 2**20:.0f} allowed")
    if descriptors > bounds.descriptors:
        ledger.violation("descriptors", f"{descriptors}, {bounds.descriptors} allowed")


def check_stored_soon(
    ledger: Ledger, pending: "list[tuple[Work, int]]", patience: float = 5.0
) -> "float | None":
    """Everything that was pending when the database came back is acknowledged; the seconds it took."""

    def done() -> bool:
        nonlocal pending
        pending = [(work, n) for work, n in pending if not work.is_settled(n)]
        return not pending

    try:
        return poll(done, patience, "what was pending is stored")
    except TooLate as error:
        some = [f"{work.name}:{n}" for work, n in pending[:3]]
        ledger.violation("stored late", f"{error}: {len(pending)} messages, such as {some}")
        return None


DEFAULT_BOUNDS: Final = Bounds()


def assert_invariants(
    execute: Execute,
    ledger: Ledger,
    speaking: Speaking,
    daemon: Daemon,
    *,
    presence_within: float = 2.0,
    tables: "Tables | None" = None,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> float:
    """All of them, while everybody is quiet: nothing is sent, everything is acknowledged.

    :param tables: the reader used so far, if the rows were read before.
    :raises AssertionError: with every violation so far.
    """
    seconds = check_presence(ledger, execute, speaking, presence_within)
    tables = tables or Tables(execute, ledger)
    open_messages = ledger.open_messages(acknowledged=False)
    tables.read(tables.bounds())
    ledger.settle(open_messages)
    check_agents(ledger, execute)
    check_log(ledger, daemon.new_lines())
    check_books(ledger, daemon.scrape())
    check_bounds(ledger, daemon, bounds)
    ledger.raise_violations()
    return seconds
