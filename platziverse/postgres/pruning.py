"""Pruning: makes partitions ahead of time and deletes old rows, over one connection.

The clock of the database decides which rows are old, and only while ours agrees with it: ADR 0082. Statements
that lock a table, to add or drop a partition, get less than a tenth of a second, waiting included, so a batch
that comes meanwhile stands behind them for no longer. All others run in portions and lock only old rows.
"""

from collections import Counter
from collections.abc import Callable, Generator
from typing import Any, Final

import psycopg2
from attrs import frozen
from psycopg2.extensions import QueryCanceledError
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from platziverse.postgres.clocks import APART
from platziverse.postgres.connection import Connection, timed

log = Logger("platziverse.store")

#: In front of what locks a table. Tries of it in one run, and the seconds between them.
_BRIEFLY: Final = "SET LOCAL lock_timeout = 50; SET LOCAL statement_timeout = 90;"
TRIES, PAUSE = 3, 1.0
#: In front of everything else; and rows of one portion.
_LIMITS: Final = "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '60s';"
DEADLINE: Final = 60.0
PORTION: Final = 5000

_NOW: Final = "SELECT extract(epoch FROM clock_timestamp())"
_MISSING: Final = "SELECT * FROM platziverse_missing_partitions()"
_ADD: Final = "SELECT platziverse_add_partition(%s, %s, %s, %s, %s)"
_OLD_DAYS: Final = "SELECT platziverse_old_days()"
_OLD_PARTS: Final = "SELECT platziverse_old_parts(%s, %s, now() - make_interval(months => %s))"
#: Ids of agents are integers, as the original's; from this share of them on somebody should know.
_SPENT: Final = "SELECT coalesce(pg_sequence_last_value('agents_id_seq'), 0) / 2147483647.0"
MANY: Final = 0.8
_DROP: Final = "DROP TABLE IF EXISTS {}"
_FORGET: Final = f"SELECT platziverse_forget(now(), {PORTION})"
_FORGET_SESSIONS: Final = f"SELECT platziverse_forget_sessions({PORTION})"
# Fewer: for each of them the trigger of the table looks for metrics.
_AGENTS: Final = f"SELECT platziverse_prune_agents(now() - make_interval(months => %s), {PORTION // 25})"
_OLDEST: Final = "SELECT platziverse_oldest_kept(now() - make_interval(months => %s))"
_OLDEST_ROLL_UP: Final = "SELECT platziverse_oldest_roll_up(%s, %s, now() - make_interval(months => %s))"
_TOO_OLD: Final = "SELECT platziverse_rejected_before(%s)"
_TOO_MANY: Final = """SELECT CASE WHEN pg_total_relation_size('rejected_messages') > %s
    THEN platziverse_rejected_beyond(%s) END"""
_DELETE: Final = """WITH gone AS (DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {table} WHERE {column} {comparison} %s LIMIT {portion})) RETURNING 1)
    SELECT count(*)::integer FROM gone"""
_METRICS_BEFORE, _5M_BEFORE, _1H_BEFORE, _REJECTED_BEFORE, _REJECTED_UP_TO = (
    _DELETE.format(table=table, column=column, comparison=comparison, portion=PORTION)
    for table, column, comparison in (
        ("metrics_default", '"createdAt"', "<"),
        ("metrics_5m_default", "bucket", "<"),
        ("metrics_1h_default", "bucket", "<"),
        ("rejected_messages", '"createdAt"', "<"),
        ("rejected_messages", "id", "<="),
    )
)
_ROLL_UPS_BEFORE: Final = {"metrics_5m": _5M_BEFORE, "metrics_1h": _1H_BEFORE}

_Steps = Generator["Deferred[Any]", Any, Any]


@frozen
class Kept:
    """Kept says how long rows are kept; 0: for ever.

    :param months: of metrics, besides the current one.
    :param months_5m: of roll-ups of 5 minutes.
    :param months_1h: of roll-ups of 1 hour; a year goes when all of it is older.
    :param rejected_days: of rejected messages.
    :param rejected_bytes: of rejected messages, the newest first.
    """

    months: int = 0
    rejected_days: int = 90
    rejected_bytes: int = 1 << 30
    months_5m: int = 0
    months_1h: int = 0

    @property
    def levels(self) -> "list[tuple[str, str, str, int]]":
        """Return the setting, the table, what a partition spans, and the months, of each level that ends."""
        return [
            level
            for level in (
                ("keep_months", "metrics", "month", self.months),
                ("keep_5m_months", "metrics_5m", "month", self.months_5m),
                ("keep_1h_months", "metrics_1h", "year", self.months_1h),
            )
            if level[-1]
        ]


class Pruning:
    """A Pruning is one run.

    :param wall_clock: returns seconds since the epoch, as this machine has them.
    :param deleted: is added to: how many rejected messages, and partitions, went, by the setting's name.
    """

    def __init__(
        self, connection: Connection, kept: Kept, wall_clock: Callable[[], float], deleted: "Counter[str]"
    ) -> None:
        self._connection, self._kept = connection, kept
        self._wall_clock, self._deleted = wall_clock, deleted

    @inlineCallbacks
    def run(self) -> _Steps:
        """Do all that is due. Statements that lock a table come last, since a long reader can make them fail.

        :raises psycopg2.Error: the database is away, or another connection holds a lock.
        """
        yield self._spent()
        agree = yield self._agree()
        if agree:
            yield self._old_rows()
        for partition in (yield self._ask(_MISSING)):
            yield self._briefly(_ADD, partition)
        if agree:
            yield self._old_partitions()

    @inlineCallbacks
    def _spent(self) -> _Steps:
        """Warn when the numbers of ``agents_id_seq`` run out: each agent that ever came has used one."""
        ((spent,),) = yield self._ask(_SPENT)
        if spent > MANY:
            text = "agents_id_seq has given out {percent:.0f} % of its numbers; see docs/operations.rst"
            log.warn(text, percent=100 * spent)

    @inlineCallbacks
    def _agree(self) -> _Steps:
        """Fire with whether our clock and that of the database agree."""
        before = self._wall_clock()
        ((theirs,),) = yield self._ask(_NOW)
        apart = (before + self._wall_clock()) / 2 - float(theirs)
        if abs(apart) > APART:
            text = (
                "nothing old is deleted: our clock is {apart:+.0f} s from the database's; let NTP keep both"
            )
            log.warn(text, apart=apart)
        return abs(apart) <= APART

    @inlineCallbacks
    def _old_rows(self) -> _Steps:
        yield self._in_portions(_FORGET)
        yield self._in_portions(_FORGET_SESSIONS)
        if self._kept.rejected_days:
            yield self._old_rejected(self._kept.rejected_days)
        yield self.too_many_rejected()
        if months := self._kept.months:
            ((oldest,),) = yield self._ask(_OLDEST, (months,))
            rows = yield self._in_portions(_METRICS_BEFORE, (oldest,))
            agents = yield self._in_portions(_AGENTS, (months,))
            if rows or agents:
                text = "{rows} metrics beside their months were deleted, and {agents} agents that have none"
                text += " and have gone for as long: keep_months = {months}"
                log.info(text, rows=rows, agents=agents, months=months)
        yield self._old_roll_ups()

    @inlineCallbacks
    def _old_roll_ups(self) -> _Steps:
        """Delete roll-ups beside their partitions, of which there are few."""
        for _, table, span, months in self._kept.levels:
            if table != "metrics":
                ((oldest,),) = yield self._ask(_OLDEST_ROLL_UP, (table, span, months))
                yield self._in_portions(_ROLL_UPS_BEFORE[table], (oldest,))

    @inlineCallbacks
    def _old_partitions(self) -> _Steps:
        for (part,) in (yield self._ask(_OLD_DAYS)):
            yield self._briefly(_DROP.format(part))
        for setting, table, span, months in self._kept.levels:
            for (part,) in (yield self._ask(_OLD_PARTS, (table, span, months))):
                yield self._briefly(_DROP.format(part))
                self._deleted[setting] += 1
                log.info(
                    "{part} was dropped: {setting} = {months}", part=part, setting=setting, months=months
                )

    @inlineCallbacks
    def too_many_rejected(self) -> _Steps:
        """Delete the oldest rejected messages when all together take more than ``rejected_bytes``."""
        most = self._kept.rejected_bytes
        if not most:
            return
        # Down to nine tenths, so that it is not due again at once.
        ((last,),) = yield self._ask(_TOO_MANY, (most, most * 9 // 10))
        if last is None:
            return
        count = yield self._in_portions(_REJECTED_UP_TO, (last,))
        self._deleted["keep_rejected_bytes"] += count
        text = "{count} of the oldest rejected messages were deleted: they took more than keep_rejected_bytes"
        log.warn(text, count=count)

    @inlineCallbacks
    def _old_rejected(self, days: int) -> _Steps:
        ((before,),) = yield self._ask(_TOO_OLD, (days,))
        count = yield self._in_portions(_REJECTED_BEFORE, (before,))
        if count:
            self._deleted["keep_rejected_days"] += count
            text = "{count} rejected messages were deleted: older than keep_rejected_days = {days}"
            log.info(text, count=count, days=days)

    @inlineCallbacks
    def _in_portions(self, sql: str, parameters: tuple[Any, ...] = ()) -> _Steps:
        """Repeat a statement that returns a number of rows until that is 0; fire with the sum."""
        total, rows = 0, -1
        while rows:
            ((rows,),) = yield self._ask(sql, parameters)
            total += rows
        return total

    @inlineCallbacks
    def _briefly(self, sql: str, parameters: tuple[Any, ...] = ()) -> _Steps:
        """Run a statement that locks a table, in a moment when nothing holds it up; try some times."""
        for left in reversed(range(TRIES)):
            try:
                yield self._run(_BRIEFLY + sql, parameters)
                return
            except (QueryCanceledError, psycopg2.errors.LockNotAvailable):
                if not left:
                    raise
                yield deferLater(self._connection.reactor, PAUSE)

    def _ask(self, sql: str, parameters: tuple[Any, ...] = ()) -> "Deferred[list[Any]]":
        connection = self._connection
        return timed(connection, connection.runQuery(_LIMITS + sql, parameters), DEADLINE)

    def _run(self, sql: str, parameters: tuple[Any, ...]) -> "Deferred[None]":
        connection = self._connection
        return timed(connection, connection.runOperation(sql, parameters), DEADLINE)
