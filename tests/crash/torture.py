"""The run: kills and faults in random order, and a look at everything in between."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final, Protocol

from attrs import define, field, frozen

from tests.crash.daemon import Daemon
from tests.crash.faults import OURS, Fault
from tests.crash.invariants import (
    Bounds,
    Tables,
    assert_invariants,
    check_log,
    check_roll_ups,
    check_stored_soon,
)
from tests.crash.ledger import Ledger
from tests.crash.load import Load
from tests.crash.promises import (
    check_delivered,
    check_left_behind,
    check_nothing_dropped,
    check_retained,
)
from tests.crash.waiting import TooLate, poll

#: Steps between two looks at everything.
QUIET_EVERY: Final = 10
MIB: Final = 2**20
#: Connections that are just being closed, and files that are open for a moment.
SPARE_DESCRIPTORS: Final = 10


class Database(Protocol):
    """Where the rows are."""

    def execute(self, sql: str, parameters: Any = ()) -> list[Any]:
        """The rows of one statement."""


@frozen
class Plan:
    """:param acks: a kill comes after so many acknowledgements at most.

    :param longest_hold: seconds that a fault lasts at most.
    :param kill_within: how often the daemon is killed in the midst of a fault.
    :param soon: seconds within which everything is stored once the database is back.
    :param undisturbed: seconds that a message between two clients may take while the database is in trouble.
    :param idle: seconds within which everything is acknowledged when nothing new is sent.
    :param present: seconds within which presence is right, some time after a start.
    :param growth: bytes by which the daemon may be larger than at the beginning.
    :param seconds: no further step is begun after so many.
    :param quiet_every: steps between two looks at everything.
    """

    acks: int = 400
    longest_hold: float = 15.0
    kill_within: float = 0.2
    soon: float = 5.0
    undisturbed: float = 1.5
    idle: float = 20.0
    present: float = 2.0
    growth: int = 48 * MIB
    seconds: float = float("inf")
    quiet_every: int = QUIET_EVERY


@define
class Figures:
    """What the run is proud of, or not."""

    kills: int = 0
    kills_at_start: int = 0
    kills_within_faults: int = 0
    quiets: int = 0
    faults: Counter[str] = field(factory=Counter)
    skipped: dict[str, str] = field(factory=dict)
    #: The worst of everything that is measured, mostly seconds.
    worst: "dict[str, float]" = field(factory=lambda: defaultdict(float))

    def measured(self, what: str, value: float) -> None:
        self.worst[what] = max(self.worst[what], value)


@define
class Torture:
    """One daemon under one load, on one database."""

    database: Database
    daemon: Daemon
    load: Load
    ledger: Ledger
    rng: random.Random
    plan: Plan = field(factory=Plan)
    figures: Figures = field(factory=Figures)
    tables: Tables = field(init=False)
    _first: Bounds | None = None

    def __attrs_post_init__(self) -> None:
        self.tables = Tables(self.database.execute, self.ledger)

    def begin(self) -> None:
        """The daemon listens, everybody is connected, and everything is well."""
        self.daemon.start()
        self.figures.measured("start to listening", self.daemon.wait_until_listening())
        self.load.start()
        everybody = len(self.load.visitors)
        poll(lambda: self.load.acks() > everybody, 60, "the first acknowledgements")
        poll(lambda: all(one.ready for one in self.load.receivers), 60, "all Subscriptions")
        self.quiet()

    def run(self, steps: "list[Fault | None]") -> None:
        """Each step is a fault of the database, or a kill of the daemon (``None``)."""
        until = time.monotonic() + self.plan.seconds
        for number, step in enumerate(steps, 1):
            if time.monotonic() > until:
                break
            if step is None:
                self.kill()
            else:
                self.fault(step)
            if number % self.plan.quiet_every == 0:
                self.quiet()
        self.load.everybody_back()
        self.quiet()

    # -- the daemon ------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL after some acknowledgement, between two packets; one in four at any moment of its life."""
        self.figures.kills += 1
        if self.rng.random() < 0.25:
            self.figures.kills_at_start += 1
            instant = self.daemon.started_at + self.rng.uniform(0.05, 1.2)
            poll(lambda: time.monotonic() >= instant, 5, "the moment to kill", 0.001)
            self.daemon.kill()
        else:
            self.load.after_acks(self.rng.randrange(1, self.plan.acks), self.daemon.kill)
        self.daemon.wait(60)
        self._count_dead()
        messages = self.ledger.open_messages(acknowledged=True)
        poll(lambda: not self.database.execute(f"SELECT {OURS}"), 60, "the end of the daemon's backends")
        bounds = self.tables.bounds()
        self.daemon.start()
        self.tables.read(bounds)
        self.ledger.settle(messages)
        self.figures.measured("start to listening", self.daemon.wait_until_listening())

    def _count_dead(self) -> None:
        poll(lambda: not self.load.live(), 60, "the clients notice the end of the daemon")
        self.ledger.daemon_killed()

    # -- the database ----------------------------------------------------------------------------

    def fault(self, fault: Fault) -> None:
        """Strike, hold, mend; then everything pending must be stored soon, without a restart."""
        if why := fault.needs(self.database):
            self.figures.skipped[fault.name] = why
            return
        self.figures.faults[fault.name] += 1
        killing = self.rng.random() < self.plan.kill_within
        poll(lambda: self.load.live() > len(self.load.visitors) // 2, 60, "the clients are back")
        cut_off, since = self.load.cut_off(), time.monotonic()
        struck = fault.strike(self.database)
        try:
            self._hold(fault.during(self.rng, self.plan.longest_hold), killing)
        finally:
            fault.mend(self.database, struck)
        self._recovered(fault, killing, since)
        if not killing and self.load.cut_off() > cut_off:
            self.ledger.violation("cut off", f"{self.load.cut_off() - cut_off} clients during {fault.name}")

    def _hold(self, seconds: float, killing: bool) -> None:
        until = time.monotonic() + seconds
        if killing:
            instant = time.monotonic() + self.rng.uniform(0, seconds)
            poll(lambda: time.monotonic() >= instant, seconds + 5, "the moment to kill")
            self.figures.kills_within_faults += 1
            self.daemon.kill()
            self.daemon.wait(60)
            self._count_dead()
            self.daemon.start()
            self.figures.measured("start to listening, no database", self.daemon.wait_until_listening())
        poll(lambda: time.monotonic() >= until, seconds + 5, "the end of the fault")

    def _recovered(self, fault: Fault, killing: bool, since: float) -> None:
        took = check_stored_soon(self.ledger, self.load.unfinished(), self.plan.soon)
        if took is not None:
            self.figures.measured(f"stored after {fault.name}", took)
        if not killing:
            worst = self.load.bystander.worst(since)
            self.figures.measured("bystander's round trip", worst)
            if worst > self.plan.undisturbed:
                self.ledger.violation("disturbed", f"{worst:.2f} s for a message during {fault.name}")

    # -- in between ------------------------------------------------------------------------------

    def quiet(self) -> None:
        """Nothing new is sent; everything has to come to its end, and all invariants to hold."""
        self.figures.quiets += 1
        self.load.pause()
        try:
            self.figures.measured(
                "until idle", poll(self.load.idle, self.plan.idle, "all is acknowledged", 0.02)
            )
        except TooLate as error:
            names = [(visitor.name, visitor.state) for visitor in self.load.busy()]
            self.ledger.violation("never idle", f"{error}: {names[:5]}")
            self.ledger.raise_violations()
        self._kept()
        young = time.monotonic() - self.daemon.started_at < 5
        self.figures.measured("MiB resident", self.daemon.resident() / MIB)
        self.figures.measured("descriptors", self.daemon.descriptors())
        seconds = assert_invariants(
            self.database.execute,
            self.ledger,
            self.load.speaking,
            self.daemon,
            presence_within=max(self.plan.present, 5.0 if young else 0.0),
            tables=self.tables,
            bounds=self._bounds(),
        )
        self.figures.measured("presence after a restart" if young else "presence", seconds)
        self.load.resume()

    def _kept(self) -> None:
        """What clients were promised: messages for durable Sessions, and Retained Messages."""
        load, execute = self.load, self.database.execute
        if not load.receivers:
            return
        self.figures.measured("until the queues are empty", check_delivered(load, execute, self.plan.idle))
        check_left_behind(load, execute, self.plan.idle)
        check_nothing_dropped(self.ledger, self.daemon.scrape())
        check_retained(load, self.daemon.port, self.plan.idle)

    def _bounds(self) -> Bounds:
        """A little more than there was at the beginning."""
        if self._first is None:
            self._first = Bounds(self.daemon.resident(), self.daemon.descriptors())
        return Bounds(self._first.resident + self.plan.growth, self._first.descriptors + SPARE_DESCRIPTORS)

    def end(self) -> None:
        """SIGTERM under load: exit code 0, nothing acknowledged lost, nobody connected."""
        self.stop()
        messages = self.ledger.open_messages(acknowledged=True)
        self.tables.read(self.tables.bounds())
        self.ledger.settle(messages)
        left = self.database.execute("SELECT uuid FROM agents WHERE connected")
        if left:
            self.ledger.violation("presence", f"{len(left)} agents connected after the end")
        check_roll_ups(self.ledger, self.database.execute)
        self.ledger.raise_violations()

    def stop(self) -> None:
        """SIGTERM under load: exit code 0, and everybody notices."""
        since = time.monotonic()
        code = self.daemon.stop()
        self.figures.measured("SIGTERM to exit", time.monotonic() - since)
        if code:
            self.ledger.violation("exit code", f"{code} after SIGTERM")
        self._count_dead()
        self.load.stop()
        check_log(self.ledger, self.daemon.new_lines())
        self.ledger.raise_violations()


def steps(kills: int, faults: "list[Fault]", rng: random.Random) -> "list[Fault | None]":
    """All of it in random order."""
    mixed: list[Fault | None] = [*faults, *(None for _ in range(kills))]
    rng.shuffle(mixed)
    return mixed


def report(torture: Torture, seconds: float) -> Iterator[str]:
    """The table at the end."""
    figures, ledger = torture.figures, torture.ledger
    yield f"{'daemon kills':34}{figures.kills + figures.kills_within_faults:>10}"
    yield f"{'  at any moment, its start too':34}{figures.kills_at_start:>10}"
    yield f"{'  in the midst of a fault':34}{figures.kills_within_faults:>10}"
    yield f"{'database faults':34}{sum(figures.faults.values()):>10}"
    for name, count in sorted(figures.faults.items()):
        yield f"{'  ' + name:34}{count:>10}"
    for name, why in figures.skipped.items():
        yield f"  {name} skipped: {why}"
    for name in ("sent", "acked", "found_rows", "found_rejections", "repeated", "unavailable"):
        yield f"{NAMES[name]:34}{getattr(ledger, name):>10}"
    for name, text in DELIVERIES.items():
        yield f"{text:34}{getattr(torture.load.deliveries, name):>10}"
    for name, value in sorted(figures.worst.items()):
        yield f"{'worst, ' + name:44}{value:>10.2f}"
    yield f"{'looks at everything':34}{figures.quiets:>10}"
    yield f"{'violations':34}{sum(ledger.violated.values()):>10}"
    yield f"{'seconds':34}{seconds:>10.0f}"


NAMES: Final = {
    "sent": "messages sent",
    "acked": "messages acknowledged",
    "found_rows": "metrics stored",
    "found_rejections": "rejections stored",
    "repeated": "rows more than once, unpromised",
    "unavailable": "CONNECTs answered 0x03",
}
DELIVERIES: Final = {
    "sent": "messages between clients sent",
    "acked": "  acknowledged",
    "delivered": "  delivered",
    "repeated": "  delivered again, as allowed",
    "replayed": "  retained, to new Subscriptions",
    "judged": "  promised, and looked for",
}
