"""Heir: the daemon that takes over what a dead one has left behind."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger

from platziverse.durable.members import Members
from platziverse.postgres.daemons import DaemonRow
from platziverse.postgres.lease import Lease

log = Logger("platziverse.database")

#: Rows of one portion, agents and Sessions: whoever waits for one of them waits for no more.
AGENTS: Final = 500
SESSIONS: Final = 5000

_FENCE: Final = """UPDATE mqtt_daemons SET incarnation = incarnation + 1, heir = %(heir)s
    WHERE instance = %(instance)s AND incarnation = %(dead)s AND "seenAt" = %(seen)s
    AND coalesce(heir, 0) = %(before)s RETURNING 1"""
# Only while we live ourselves, which each portion says again, and while the dead daemon has not come back: it
# waits for the portion that is under way, and keeps whatever is left to it.
_IF: Final = """ours AS (UPDATE mqtt_daemons SET "seenAt" = clock_timestamp()
    WHERE id = %(heir)s AND incarnation = %(incarnation)s RETURNING 1),
theirs AS (SELECT FROM mqtt_daemons WHERE id = %(number)s AND heir = %(heir)s FOR UPDATE)"""
_AND: Final = "EXISTS (SELECT FROM ours) AND EXISTS (SELECT FROM theirs)"
_CLEAR: Final = f"""WITH {_IF}, gone AS (
    UPDATE agents SET connected = false, "connectedBy" = NULL, "updatedAt" = now() WHERE {_AND} AND id = ANY (
        ARRAY(SELECT id FROM agents WHERE connected AND "connectedBy" = %(instance)s LIMIT {AGENTS}
        FOR UPDATE SKIP LOCKED))
    RETURNING uuid) SELECT uuid FROM gone"""
# Of those that it has freed, somebody may take one at this moment: whoever is first has it. What is owed to
# the dead daemon is for them until they are settled: ADR 0220.
_TAKE: Final = f"""WITH {_IF}, taken AS (
    UPDATE mqtt_sessions SET daemon = %(heir)s, "absentSince" = coalesce("absentSince", now()),
        "inheritedFrom" = CASE WHEN %(number)s::smallint = ANY ("inheritedFrom") THEN "inheritedFrom"
            ELSE "inheritedFrom" || %(number)s::smallint END
    WHERE {_AND} AND daemon IN (%(number)s, -%(number)s) AND id = ANY (
        ARRAY(SELECT id FROM mqtt_sessions WHERE daemon IN (%(number)s, -%(number)s)
        ORDER BY id LIMIT {SESSIONS}))
    RETURNING id) SELECT id FROM taken ORDER BY id"""
_OURS: Final = "SELECT id FROM mqtt_sessions WHERE daemon = %(heir)s ORDER BY id"
# The second Will of a client, of another dead daemon, is left until the first is published.
_TAKE_WILLS: Final = f"""WITH {_IF}, taken AS (
    UPDATE mqtt_wills AS will SET daemon = -%(heir)s WHERE {_AND} AND daemon IN (%(number)s, -%(number)s)
    AND (daemon > 0 OR NOT EXISTS (SELECT FROM mqtt_wills WHERE "clientId" = will."clientId"
        AND daemon = -will.daemon))
    AND NOT EXISTS (SELECT FROM mqtt_wills WHERE "clientId" = will."clientId" AND daemon = -%(heir)s)
    RETURNING 1) SELECT count(*), (SELECT count(*) FROM mqtt_wills WHERE daemon IN (%(number)s, -%(number)s))
    FROM taken"""

_Steps = Generator["Deferred[Any]", Any, Any]


class Heir:
    """A Heir fences daemons that are dead, and takes over what they have left. See ADR 0084 and 0141.

    Every survivor tries to fence; the one whose statement finds the row as it was is the heir. It marks the
    agents that were connected there. If the dead daemon has shared our clients, the heir also gets its
    Sessions and Wills. An heir that dies is inherited from itself.

    :param lease: our own.
    :param members: tell which daemons share our clients.
    :param gone: called with the uuids of agents that were connected to a dead daemon until now.
    :param inherit: called before the first Session of a daemon is ours: clients have to wait from then on.
        The Deferred fires with the numbers of its Sessions when all of them are ours, and its Wills are to be
        published; it is cancelled when something comes between, and this is called again the next time.
        ``None``: there is no place for Sessions here, so another daemon is the heir.
    :ivar may_inherit: tells whether we may be the heir of the daemon of a number, which shares our clients;
        if not, another one may, or we may later. ADR 0229.
    :ivar daemons: how many daemons were buried.
    :ivar sessions: how many Sessions were taken over.
    :ivar wills: likewise Wills.
    """

    def __init__(
        self,
        lease: Lease,
        members: Members,
        gone: Callable[[Sequence[str]], None],
        inherit: "Callable[[DaemonRow, Deferred[Sequence[int]]], None] | None" = None,
    ) -> None:
        self.daemons = self.sessions = self.wills = 0
        self.may_inherit: Callable[[int], bool] = lambda number: True
        self._lease, self._members, self._gone, self._inherit = lease, members, gone, inherit
        # Identity → incarnation of those that are buried completely, as we left it.
        self._buried: dict[str, int] = {}
        # Identities of those whose Sessions we have begun to take: of some the answer may be lost.
        self._begun: set[str] = set()

    @inlineCallbacks
    def looked(self, rows: Sequence[DaemonRow], well: bool) -> _Steps:
        """Bury the daemons whose rows say that they are dead, or have left everything to us.

        :param well: we have reached the database for so long that one that is silent is dead.
        :raises psycopg2.Error: the database is away; the rest is done another time.
        """
        living = {row.number for row in rows if row.lives}
        for row in rows:
            if self._is_over(row, well) and row.heir not in living:
                yield self._bury(row)

    def _is_over(self, row: DaemonRow, well: bool) -> bool:
        """Return whether a daemon has left something that may be ours. Others look after their own."""
        if row.bus and (self._inherit is None or not self.may_inherit(row.number)):
            return False
        if row.bus not in ("", self._members.bus) or self._buried.get(row.instance) == row.incarnation:
            return False
        return row.left or (row.silent and well)

    @inlineCallbacks
    def _bury(self, row: DaemonRow) -> _Steps:
        holding = self._lease.holding
        assert holding is not None
        heir, incarnation = holding
        who: dict[str, object] = {"heir": heir, "incarnation": incarnation, "number": row.number}
        who["instance"], after = row.instance, row.incarnation
        if row.heir != heir:  # else we have fenced it, and something came between
            fence = {**who, "dead": row.incarnation, "seen": row.seen, "before": row.heir}
            if not (yield self._lease.ask(_FENCE, fence)):
                return
            after += 1
            self._members.buried(row.number)
        agents = yield self._clear_agents(who)
        if not row.bus or (yield self._inherit_from(row, who)):
            self._buried[row.instance] = after
            self.daemons += 1
        if agents:
            text = "{agents} agents were connected to {daemon}, which is silent since {seen}; corrected"
            log.info(text, agents=agents, daemon=row, seen=row.seen.isoformat(" ", "seconds"))

    @inlineCallbacks
    def _clear_agents(self, who: dict[str, object]) -> _Steps:
        agents = 0
        while rows := (yield self._lease.ask(_CLEAR, who)):
            agents += len(rows)
            self._gone([uuid for (uuid,) in rows])
        return agents

    @inlineCallbacks
    def _inherit_from(self, row: DaemonRow, who: dict[str, object]) -> _Steps:
        """Let clients wait, then take over: in between they would find no Session. ADR 0141.

        The Deferred fires with whether nothing is left; otherwise the rest comes with the next sign of life.
        """
        assert self._inherit is not None
        taken: Deferred[Sequence[int]] = Deferred()
        self._inherit(row, taken)
        try:
            sessions, left = yield self._take_over(row, who)
        except Exception:
            taken.cancel()
            raise
        taken.callback(sessions)
        return not left

    @inlineCallbacks
    def _take_over(self, row: DaemonRow, who: dict[str, object]) -> _Steps:
        """Make the Sessions and Wills of a daemon ours, Sessions first: a Will may be for one of them.

        The Deferred fires with the numbers of the Sessions, and with how many Wills are left.
        """
        sessions: list[int] = []
        begun = row.instance in self._begun
        self._begun.add(row.instance)
        while rows := (yield self._lease.ask(_TAKE, who)):
            sessions += [number for (number,) in rows]
        ((wills, there),) = yield self._lease.ask(_TAKE_WILLS, who)
        if begun:  # what its broker has is no news to it
            sessions = [number for (number,) in (yield self._lease.ask(_OURS, who))]
        self._begun.discard(row.instance)
        self.sessions += len(sessions)
        self.wills += wills
        if sessions or wills:
            text = "took over {sessions} Sessions and {wills} Wills of {daemon}"
            log.info(text, sessions=len(sessions), wills=wills, daemon=row)
        return sessions, there - wills
