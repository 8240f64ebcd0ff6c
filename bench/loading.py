"""How long a start takes with 100,000 Sessions, 1,000,000 Subscriptions and 100,000 Retained Messages.

``python -m bench.loading`` reads them from memory, so it says what the broker itself takes, and how long it
holds the reactor; with ``wildcard`` each Topic Filter has a wildcard. With ``postgres`` they come from a
PostgreSQL that is started for it; with ``json`` the figures are printed as that.
"""

import gc
import json
import sys
import time
from collections.abc import Generator
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, succeed
from twisted.internet.task import react

from platziverse.broker.broker import Broker
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.limits import Limits
from platziverse.broker.ports import SessionStore
from platziverse.broker.records import SessionRecord, StoredRetained, StoredSession
from platziverse.daemon.machine import memory
from platziverse.durable.memory import MemorySessionStore
from platziverse.durable.store import PostgresSessionStore
from platziverse.embedded.cluster import tuned
from platziverse.testing import OpenAuthority
from tests.servers import Cluster, lone_lease

SESSIONS: Final = 100_000
SUBSCRIPTIONS: Final = 10
RETAINED: Final = 100_000
#: Pages of as many rows as the broker asks for.
PAGE: Final = 2000


class Pages(MemorySessionStore):
    """A store that has every page ready.

    :param last: the last level of every Topic Filter.
    """

    def __init__(self, last: str) -> None:
        super().__init__()
        ids = range(1, SESSIONS + 1)
        self._ready = [[_session(at + more, last) for more in range(PAGE)] for at in ids[::PAGE]]
        self._ready_retained = [
            [StoredRetained(f"kept/{at + more:06}", b"x" * 200, 1, "one", "ana") for more in range(PAGE)]
            for at in range(0, RETAINED, PAGE)
        ]

    def save(self, record: SessionRecord) -> "Deferred[None]":
        return succeed(None)

    def sessions(self, after: int, limit: int) -> "Deferred[list[StoredSession]]":
        return succeed(self._ready.pop(0) if self._ready else [])

    def retained(self, after: str, limit: int) -> "Deferred[list[StoredRetained]]":
        return succeed(self._ready_retained.pop(0) if self._ready_retained else [])


def _session(number: int, last: str) -> StoredSession:
    filters = {f"device/{number}/channel/{channel}{last}": 1 for channel in range(SUBSCRIPTIONS)}
    since = time.time() - number * 7919 % 80_000
    return StoredSession(number, f"client-{number}", "ana", 86_400, since, filters, 0, 0, 0, 0, ())


_FILL: Final = """
INSERT INTO mqtt_sessions ("clientId", username, daemon, expiry, "absentSince")
SELECT 'client-' || n, 'ana', {daemon}, 86400, now() - interval '1 s' * (n * 7919 % 80000)
FROM generate_series(1, {sessions}) n;
INSERT INTO mqtt_subscriptions (session, filter, options)
SELECT id, 'device/' || id || '/channel/' || n || '{last}', 1
FROM mqtt_sessions, generate_series(0, {subscriptions} - 1) n;
INSERT INTO mqtt_retained (topic, payload, flags, "clientId", username)
SELECT 'kept/' || lpad(n::text, 6, '0'), decode(repeat('78', 200), 'hex'), 1, 'one', 'ana'
FROM generate_series(0, {retained} - 1) n;
"""


class Tables:
    """A PostgreSQL with the same rows, and the store of the daemon before it."""

    def __init__(self, reactor: Any, last: str) -> None:
        durable = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB"}
        self._server = Cluster(**tuned(memory()), **durable, autovacuum="on", jit="off")
        self._dsn, self._last = self._server.database(), last
        self._lease = lone_lease(reactor)
        self.store = PostgresSessionStore(reactor, lambda: self._lease.holding, self._lease.start)

    def start(self) -> "Deferred[None]":
        """Fires when the rows are there."""
        return self.store.start(self._dsn).addCallback(self._fill)

    def _fill(self, _: None) -> None:
        assert self._lease.holding is not None
        sizes = {"sessions": SESSIONS, "subscriptions": SUBSCRIPTIONS, "retained": RETAINED}
        self._server.execute(
            _FILL.format(daemon=self._lease.holding[0], last=self._last, **sizes), dsn=self._dsn
        )
        self._server.execute("VACUUM ANALYZE", dsn=self._dsn)

    def stop(self) -> "Deferred[Any]":
        """Fires when nothing of it is left."""
        ended = gatherResults([self.store.stop(), self._lease.stop()])
        return ended.addBoth(lambda _: self._server.remove())


def measured(reactor: Any, store: SessionStore) -> "Deferred[dict[str, float]]":
    """Fires with how long a broker takes to load all of a store."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 100)  # as the daemon does
    limits = Limits(max_retained_messages=RETAINED)
    broker = Broker(limits, TopicDispatcher(), OpenAuthority(), reactor, time.time, store=store)
    turns: list[float] = []
    began, began_cpu = time.perf_counter(), time.process_time()
    attend(reactor, turns)

    def loaded(_: object) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - began_cpu,
            "sessions": len(broker.sessions),
            "subscriptions": len(broker.subscriptions),
            "retained": len(broker.retained),
            "longest_ms": max(turns) * 1000,
            "turns": len(turns),
        }

    return broker.load().addCallback(loaded)


def attend(reactor: Any, turns: list[float]) -> None:
    """Note the CPU time of every turn of the reactor from now on: of its timers and of its sockets."""
    iteration = reactor.doIteration

    def timed(timeout: float) -> None:
        now = time.thread_time()
        turns.append(now - last[0])
        last[0] = now
        iteration(timeout)

    last = [time.thread_time()]
    reactor.doIteration = timed


def told(figures: dict[str, float]) -> None:
    """Print what :func:`measured` has found."""
    print(f"{figures['sessions']:,} Sessions, {figures['subscriptions']:,} Subscriptions and")
    print(f"{figures['retained']:,} Retained Messages in {figures['seconds']:.2f} s,")
    print(f"{figures['cpu']:.2f} s of CPU")
    print(f"{figures['turns']:,} turns, the longest {figures['longest_ms']:.1f} ms of CPU")


@inlineCallbacks
def main(reactor: Any) -> Generator["Deferred[Any]", Any, None]:
    """Load, and print how long that took."""
    last = "/+" if "wildcard" in sys.argv else ""
    tables = Tables(reactor, last) if "postgres" in sys.argv else None
    try:
        if tables is not None:
            yield tables.start()
        figures = yield measured(reactor, Pages(last) if tables is None else tables.store)
        print(json.dumps(figures)) if "json" in sys.argv else told(figures)
    finally:
        if tables is not None:
            yield tables.stop()


if __name__ == "__main__":
    react(main)
