"""The path of one ``agent/message`` at QoS 1 through our files, from its bytes to those of its PUBACK.

Whoever wants to understand it reads these files, and turns from one to another so often. After a change that
is worth its price ``python -m tests.test_path`` prints the path and its figures; see docs/adr/0108.
"""

import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final
from uuid import UUID

from msgspec.json import encode as json
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import platziverse
from platziverse.ingest.batch import Batch
from platziverse.ingest.recovery import Backoff
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.slot import Slot
from platziverse.ingest.writer import BatchWriter
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Puback, Publish
from platziverse.testing import BrokerHarness
from tests.ingest.entries import NOW, agent

FILES: Final = 28
MOVES: Final = 47

PACKAGE: Final = Path(platziverse.__file__).parent
#: Stands where a socket does.
TRANSPORT: Final = "testing.py"


class Connection:
    """A connection to a database that commits at once."""

    closed = False

    def __init__(self, reactor: Clock) -> None:
        self.reactor = reactor

    def runQuery(self, sql: str, parameters: object) -> "Deferred[list[tuple[Any, ...]]]":
        return succeed([(1, 1, None, None)])


class Database:
    """What a slot needs."""

    deadline, setup_pause, prefix, stopped = 10.0, 60.0, "", False

    def __init__(self, reactor: Clock) -> None:
        self.reactor = reactor

    def open(self) -> "Deferred[Connection]":
        return succeed(Connection(self.reactor))

    def in_trouble(self, slot: Slot, reason: str, action: object) -> None:
        raise AssertionError(reason)

    def well(self, slot: Slot) -> None:
        """It is."""

    def was_refused(self, error: BaseException) -> None:
        raise error

    def gave_up(self) -> None:
        raise AssertionError("too late")


class OneSlot:
    """A store of one slot that writes real statements."""

    slots = 1

    def __init__(self, clock: Clock) -> None:
        self.statements = ReportStatements(UUID(int=1))
        self._slot = Slot(Database(clock), Backoff(), self.statements)

    def write(self, shard: int, batch: Batch) -> "Deferred[None]":
        return self._slot.write(batch)


def path() -> list[tuple[str, str]]:
    """File and name of each function of ours that is called, in order; whatever is remembered is known."""
    clock = Clock()
    store = OneSlot(clock)
    harness = BrokerHarness(reports=BatchWriter(store, clock, KINDS), wall_clock=NOW)
    client, sender = harness.connect("sender"), agent()
    store.statements.known[sender.uuid] = 1, sender
    called: list[tuple[str, str]] = []

    def profile(frame: FrameType, event: str, argument: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in file.parents and file.name != TRANSPORT:
            called.append((file.relative_to(PACKAGE).as_posix(), frame.f_code.co_name))

    for number in range(4):
        metrics = [{"type": "load", "value": 0.5}]
        message = {"agent": sender, "metrics": metrics, "timestamp": int(NOW) * 1000 + number}
        data = encode(Publish("agent/message", json(message), 1, packet_id=1))
        called.clear()
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            client.send_bytes(data)
            clock.advance(0)
            harness.clock.advance(0)
        finally:
            sys.setprofile(before)
        assert client.received() == [Puback(1)], "it was not committed"
    return called


def figures(called: list[tuple[str, str]]) -> tuple[int, int]:
    """How many files are in a path, and how often it leads from one to another."""
    files = [file for file, _ in called]
    return len(set(files)), sum(file != following for file, following in pairwise(files))


class OneMessage(SynchronousTestCase):
    def test_its_path_leads_through_no_more_files_than_when_they_were_counted(self) -> None:
        called = path()
        self.assertEqual(called[0], ("net/connection.py", "dataReceived"))
        files, moves = figures(called)
        self.assertLessEqual(files, FILES)
        self.assertLessEqual(moves, MOVES)


if __name__ == "__main__":
    for step in path():
        print(*step)
    print("{} calls, {} files, {} moves".format(len(path()), *figures(path())))
