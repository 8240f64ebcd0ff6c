"""How long it takes one daemon to take over the Sessions of another that is dead.

``python -m bench.heirs [SESSIONS]``: 20,000 of them, each with ten Subscriptions and five messages that wait.
Told are the statements that make them the heir's, and the time until they are in its running broker.
"""

import sys
import time
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import react

from bench.loading import attend
from platziverse.broker.broker import Broker
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.limits import Limits
from platziverse.durable.heir import Heir
from platziverse.durable.members import Members
from platziverse.durable.store import PostgresSessionStore
from platziverse.postgres.daemons import LOOK, DaemonRow
from platziverse.postgres.lease import Lease
from platziverse.postgres.migrate import migrate
from platziverse.testing import OpenAuthority
from tests.servers import Cluster, execute, lone_lease

_Steps = Generator["Deferred[Any]", Any, None]

DEAD: Final = 99
_FILL: Final = """
INSERT INTO mqtt_daemons (id, instance, bus, "seenAt")
VALUES ({dead}, gen_random_uuid(), 'bench', now() - interval '1 hour');
INSERT INTO mqtt_sessions ("clientId", username, daemon, expiry)
SELECT 'client-' || n, 'ana', {dead}, 0 FROM generate_series(1, {sessions}) n;
INSERT INTO mqtt_subscriptions (session, filter, options)
SELECT id, 'device/' || id || '/channel/' || n, 1 FROM mqtt_sessions, generate_series(1, 10) n;
INSERT INTO mqtt_queue (session, seq, flags, topic, payload, "publishedAt")
SELECT id, n, 1, 'device/' || id || '/channel/1', repeat('x', 300)::bytea, now()
FROM mqtt_sessions, generate_series(1, 5) n;
INSERT INTO mqtt_wills ("clientId", daemon, connection, topic, payload, flags)
SELECT 'client-' || n, {dead}, n, 'gone/' || n, '', 0 FROM generate_series(1, {sessions} / 10) n;
ANALYZE"""


@inlineCallbacks
def taken_over(reactor: Any, lease: Lease, broker: Broker) -> _Steps:
    """Take over, and print how long that took and the longest turn of the reactor meanwhile."""
    inherited: "list[Deferred[Sequence[int]]]" = []
    members = Members("bench", lambda: lease.holding)
    heir = Heir(lease, members, lambda uuids: None, lambda row, taken: inherited.append(taken))
    rows = [evolve(DaemonRow(*row), silent=True) for row in (yield lease.ask(LOOK, (None,)))]
    turns: list[float] = []
    attend(reactor, turns)
    began, cpu = time.perf_counter(), time.process_time()
    yield heir.looked([row for row in rows if row.number == DEAD], True)
    owned = time.perf_counter()
    yield broker.inherit(inherited[0])
    done, cpu = time.perf_counter(), time.process_time() - cpu
    print(f"{heir.sessions:,} Sessions and {heir.wills:,} Wills are the heir's after {owned - began:.2f} s,")
    print(f"in its broker {done - owned:.2f} s later, for {cpu:.2f} s of our CPU in all; ", end="")
    print(f"the longest turn took {max(turns) * 1000:.1f} ms of it")
    assert len(broker.sessions) == heir.sessions


@inlineCallbacks
def main(reactor: Any, sessions: str = "20000") -> _Steps:
    server = Cluster()
    lease = lone_lease(reactor, bus="bench")
    store = PostgresSessionStore(reactor, lambda: lease.holding, lease.start)
    try:
        dsn = server.database("template1")
        yield migrate(dsn, reactor)
        yield store.start(dsn)
        execute(dsn, _FILL.format(dead=DEAD, sessions=int(sessions)))
        limits = Limits(max_absent_sessions=10_000_000)
        make = partial(Broker, limits, TopicDispatcher(), OpenAuthority(), reactor, time.time)
        broker = make(store=store)
        yield broker.load()
        yield taken_over(reactor, lease, broker)
        yield store.drain()
    finally:
        yield store.stop()
        yield lease.stop()
        server.remove()


if __name__ == "__main__":
    react(main, sys.argv[1:])
