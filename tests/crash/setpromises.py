"""What must be true of daemons that share their clients while everybody is quiet.

What :mod:`tests.crash.promises` and :mod:`tests.crash.invariants` say of one daemon, here of several.
"""

import json
import socket
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.crash import wire
from tests.crash.daemonset import DaemonSet
from tests.crash.invariants import (
    Bounds,
    Tables,
    check_agents,
    check_books,
    check_bounds,
    check_log,
    check_presence,
)
from tests.crash.load import Load
from tests.crash.promises import check_nothing_dropped, check_retained
from tests.crash.waiting import TooLate, poll

_WAITING: Final = """SELECT "clientId", daemon, count(*), min(seq), max(seq), min(flags)
    FROM mqtt_queue JOIN mqtt_sessions ON id = session WHERE "clientId" = ANY(%s) GROUP BY 1, 2"""
#: Rows that daemons owe each other, by both.
_LINKS: Final = """SELECT -session / 32768, -session % 32768, count(*), min(seq), max(seq)
    FROM mqtt_queue WHERE session < 0 GROUP BY 1, 2"""
_OF_NOBODY: Final = """SELECT count(*) FROM mqtt_queue
    WHERE session > 0 AND session NOT IN (SELECT id FROM mqtt_sessions)"""
_WITHOUT_MESSAGE: Final = """SELECT count(*) FROM mqtt_queue
    WHERE message IS NOT NULL AND message NOT IN (SELECT id FROM mqtt_messages) AND flags & 8 = 0"""
_CONNECTED_BY: Final = """SELECT uuid, mqtt_daemons.id FROM agents
    JOIN mqtt_daemons ON instance::text = "connectedBy"::text WHERE connected"""


# -- what clients were promised --------------------------------------------------------------------


def check_all_delivered(load: Load, daemons: DaemonSet, patience: float) -> float:
    """Whoever is connected has got everything that is promised, and no row is left; the seconds it took."""
    names = load.settled()
    durable = [one.name for one in load.receivers if one.persistent and one.name in names]

    def waits() -> "list[Any]":
        return [*daemons.execute(_WAITING, (durable,)), *_owed(daemons)]

    def delivered() -> bool:
        # Looking through thousands of messages takes seconds, in which the load does nothing else: at last.
        if waits() or not set(names) <= set(load.settled()):
            return False
        return not load.ask(lambda: load.deliveries.missing(durable))

    try:
        # Thousands that wait for one client take what they take: nothing may stand still.
        took = poll(delivered, patience, "everything is delivered", 0.1, load.done)
    except TooLate as error:
        if rows := waits():
            load.ledger.violation("queue not empty", f"{error}: {rows[:5]}")
        if busy := set(names) - set(load.settled()):
            load.ledger.violation("never idle", f"{error}: {sorted(busy)}")
        took = patience
    load.ask(lambda: load.deliveries.settle(durable))
    for rule, sql in (("row of no Session", _OF_NOBODY), ("row without its message", _WITHOUT_MESSAGE)):
        ((count,),) = daemons.execute(sql)
        if count:
            load.ledger.violation(rule, f"{count} in mqtt_queue")
    return took


def _owed(daemons: DaemonSet) -> "list[Any]":
    """What daemons owe to each other."""
    return [("link", *row) for row in daemons.execute(_LINKS)]


# -- one owner -------------------------------------------------------------------------------------


def page(port: int, path: str) -> Any:
    """A page of the API of the daemon at this port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)


def check_owners(load: Load, daemons: DaemonSet, patience: float) -> None:
    """Every client is connected to one daemon, which has its Session, and to which its agent belongs."""
    found: list[tuple[str, str]] = []

    def right() -> bool:
        found[:] = _wrong_owners(load, daemons)
        return not found

    try:
        poll(right, patience, "one owner of everything", 0.2)
    except TooLate:
        for rule, text in found:
            load.ledger.violation(rule, text)


def _wrong_owners(load: Load, daemons: DaemonSet) -> "list[tuple[str, str]]":
    connected: dict[str, list[int]] = defaultdict(list)
    for number, port in enumerate(daemons.ports):
        for client in page(port, "/api/clients?limit=1000"):
            connected[client["id"]].append(number)
    wrong = [
        ("two owners", f"{name} is connected to daemons {numbers}")
        for name, numbers in connected.items()
        if len(numbers) > 1
    ]
    for name, owner in daemons.owners().items():
        if name in connected and connected[name] != [owner]:
            wrong.append(
                ("two owners", f"{name} is connected to {connected[name]}, its Session is {owner}'s")
            )
    for uuid, number in daemons.execute(_CONNECTED_BY):
        if connected.get(uuid) not in (None, [number - 1]):
            wrong.append(("presence", f"{uuid} is connected to {connected[uuid]}, its row says {number - 1}"))
    return [*wrong, *_wrong_sessions(daemons, connected)]


def _wrong_sessions(daemons: DaemonSet, connected: "dict[str, list[int]]") -> "Iterator[tuple[str, str]]":
    """Sessions in memory that the database has given to somebody else, or that nobody knows of."""
    owners = daemons.owners()
    expected = Counter(
        [*owners.values(), *(n for name, there in connected.items() for n in there if name not in owners)]
    )
    for number, daemon in enumerate(daemons.daemons):
        held = (daemon.scrape() or {}).get("platziverse_sessions")
        if held != expected[number]:
            yield "two owners", f"daemon {number} has {held} Sessions, and should have {expected[number]}"


# -- daemons that hear each other --------------------------------------------------------------------


def meet(ports: "list[int]", patience: float) -> float:
    """A new Subscription at each daemon is known to all others; the seconds until that was so.

    :raises TooLate: a message did not come from one daemon to another one.
    """
    since = time.monotonic()
    for listening in ports:
        for speaking in ports:
            topic = f"meeting/{since:.6f}/{listening}/{speaking}"
            while not _heard(listening, speaking, topic):
                if time.monotonic() > since + patience:
                    raise TooLate(f"no message from the daemon on port {speaking} to {listening}")
    return time.monotonic() - since


def _heard(listening: int, speaking: int, topic: str) -> bool:
    """Publish at one daemon for a moment; whether another one has delivered it."""
    buffer = bytearray()
    try:
        with connected(listening, "listener") as listener, connected(speaking, "speaker") as speaker:
            listener.sendall(wire.subscribe(topic, 1, 1))
            for _ in range(10):
                speaker.sendall(wire.publish(topic, b"x", 0))
                try:
                    buffer += listener.recv(65536)
                except TimeoutError:
                    continue
                if any(first >> 4 == wire.PUBLISH for first, _ in wire.split(buffer)):
                    return True
    except OSError:  # a daemon that begins anew lets its clients go
        return False
    return False


def connected(port: int, name: str) -> socket.socket:
    """A client with Clean Session 1, whose CONNACK has still to come."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=0.3)
    sock.sendall(wire.connect(f"{name}-{port}", True, 60))
    return sock


# -- all of it ---------------------------------------------------------------------------------------


def check_set(
    load: Load, daemons: DaemonSet, tables: Tables, bounds: "list[Bounds]", patience: float
) -> float:
    """Everything, while nothing is on its way; the seconds until presence was true."""
    ledger = load.ledger
    check_owners(load, daemons, patience)
    seconds = check_presence(ledger, daemons.execute, load.speaking, patience)
    open_messages = ledger.open_messages(acknowledged=False)
    tables.read(tables.bounds())
    ledger.settle(open_messages)
    check_agents(ledger, daemons.execute)
    for daemon, bound in zip(daemons.daemons, bounds, strict=True):
        scraped = daemon.scrape()
        check_log(ledger, daemon.new_lines())
        check_books(ledger, scraped)
        check_nothing_dropped(ledger, scraped)
        check_bounds(ledger, daemon, bound)
        check_retained(load, daemon.port, patience)
    ledger.raise_violations()
    return seconds
