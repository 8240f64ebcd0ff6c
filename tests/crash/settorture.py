"""The run with three daemons: faults in the order of a schedule, and a look at everything in between."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from attrs import define, field

from tests.crash.daemonset import PATIENCE, DaemonSet
from tests.crash.invariants import Bounds, Tables, check_log, check_roll_ups, check_stored_soon
from tests.crash.ledger import Ledger
from tests.crash.load import CLEAN_HABITS, HABITS, MOVING_PUBLISHERS, Load
from tests.crash.places import Places
from tests.crash.publisher import Profile
from tests.crash.receiver import Habit
from tests.crash.setfaults import Step
from tests.crash.setpromises import check_all_delivered, check_set, meet
from tests.crash.torture import DELIVERIES, MIB, NAMES, SPARE_DESCRIPTORS, Plan
from tests.crash.waiting import TooLate, poll

#: Seconds after which clients give up a connection that says nothing: more than a CONNECT waits for others.
GIVE_UP: Final = 6.0
#: Seconds of undisturbed traffic after each fault.
CALM: Final = 0.5


@define
class SetFigures:
    """What the run is proud of, or not."""

    faults: Counter[str] = field(factory=Counter)
    quiets: int = 0
    #: The worst of everything that is measured, mostly seconds.
    worst: "dict[str, float]" = field(factory=lambda: defaultdict(float))

    def measured(self, what: str, value: float) -> None:
        self.worst[what] = max(self.worst[what], value)


def load_of(
    daemons: DaemonSet,
    places: Places,
    ledger: Ledger,
    seed: int,
    agents: int,
    rate: float = 1.0,
    profiles: Sequence[Profile] = MOVING_PUBLISHERS,
    habits: Sequence[Habit] = (*HABITS, *CLEAN_HABITS),
) -> Load:
    """Clients of all sorts at all daemons."""
    first, *others = daemons.ports
    load = Load(
        first,
        ledger,
        seed,
        agents,
        rate,
        publishers=len(profiles),
        habits=habits,
        others=others,
        profiles=profiles,
        choose=places,
        patience=GIVE_UP,
    )
    load.deliveries.crossing = ledger.crossing = True
    return load


@define
class SetTorture:
    """Several daemons under one load.

    :param plan: all of it but ``acks``, ``longest_hold`` and ``kill_within``.
    :param say: is told of each step that begins.
    """

    daemons: DaemonSet
    places: Places
    load: Load
    ledger: Ledger
    plan: Plan = field(factory=Plan)
    say: Callable[[str], object] = lambda text: None
    figures: SetFigures = field(factory=SetFigures)
    tables: Tables = field(init=False)
    _first: "list[Bounds]" = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.tables = Tables(self.daemons.execute, self.ledger)

    def begin(self) -> None:
        """The daemons know each other, everybody is connected, and everything is well."""
        self.daemons.start()
        self.load.deliveries.doubt()
        self.load.start()
        everybody = len(self.load.visitors)
        poll(lambda: self.load.acks() > everybody, PATIENCE, "the first acknowledgements")
        poll(lambda: all(one.ready for one in self.load.receivers if one.persistent), PATIENCE, "SUBACK")
        self.certain()
        self.quiet()

    def run(self, steps: "list[Step]") -> None:
        """One fault after the other."""
        until = time.monotonic() + self.plan.seconds
        for number, step in enumerate(steps, 1):
            if time.monotonic() > until:
                break
            self.say(f"{time.strftime('%H:%M:%S', time.gmtime())} {number} {step}")
            self.fault(step)
            self.ledger.raise_violations()
            if number % self.plan.quiet_every == 0:
                self.quiet()
        self.load.everybody_back()
        self.quiet()

    # -- faults ------------------------------------------------------------------------------------

    def fault(self, step: Step) -> None:
        """Strike, hold, mend; then all daemons meet again, and everything pending is acknowledged soon."""
        fault, struck = step.fault, step.fault.struck(self.daemons, step.victim)
        self.figures.faults[fault.name] += 1
        self.load.ask(lambda: self.load.deliveries.doubt(order=fault.inherits))
        if fault.inherits:
            self._close(struck)
        reached: list[bool] = []
        self.load.after_acks(step.acks, lambda: reached.append(True))
        poll(lambda: reached, PATIENCE, "acknowledgements before the fault")
        since = time.monotonic()
        fault.strike(self.daemons, step.victim)
        try:
            self._hold(step, struck)
        finally:
            fault.mend(self.daemons, step.victim)
        self._recovered(step, struck, since)

    def _close(self, struck: "list[int]") -> None:
        """Nobody with a durable Session is about to connect where it may be taken over."""
        ports = {self.daemons.ports[number] for number in struck}
        self.load.ask(lambda: self.places.closed.update(struck))

        def none_is_coming() -> bool:
            return not any(
                one.persistent and one.address[1] in ports and one.state in ("dialing", "greeting")
                for one in self.load.visitors
            )

        if not self.places.moving:
            poll(lambda: self.load.ask(none_is_coming), PATIENCE, "nobody is about to connect")

    def _hold(self, step: Step, struck: "list[int]") -> None:
        until = time.monotonic() + step.hold
        if step.fault.inherits:
            since = time.monotonic()
            gone = {step.victim, *(n for n in struck if self.daemons.daemons[n].process.poll() is not None)}
            for victim in gone:
                self.daemons.wait_for_heir(victim)
            self.figures.measured("until an heir has everything", time.monotonic() - since)
            homes = self.daemons.owners()
            self.load.ask(lambda: self.places.homes.update(homes))
        poll(lambda: time.monotonic() >= until, step.hold + 5, "the end of the fault")

    def _recovered(self, step: Step, struck: "list[int]", since: float) -> None:
        name, began = step.fault.name, time.monotonic()
        for number, daemon in enumerate(self.daemons.daemons):
            try:
                daemon.wait_until_listening(PATIENCE)
            except AssertionError as error:
                self.ledger.violation("ended", f"daemon {number + 1} after {step}: {error}")
                self.ledger.raise_violations()
        if struck:
            self.load.ask(self.ledger.daemon_killed)
        self.load.ask(self.places.closed.clear)
        self.certain()
        self.figures.measured(f"met again after {name}", time.monotonic() - began)
        check_stored_soon(self.ledger, self.load.unfinished(), self.plan.soon)
        if len(struck) < self.daemons.count:
            others = [one for n, one in enumerate(self.load.bystanders) if n not in struck]
            worst = max(one.worst(since) for one in others)
            self.figures.measured("bystander's round trip", worst)
            if worst > self.plan.undisturbed:
                self.ledger.violation("disturbed", f"{worst:.2f} s for a message to oneself during {step}")
        until = time.monotonic() + CALM
        poll(lambda: time.monotonic() >= until, CALM + 5, "some calm")

    def certain(self) -> None:
        """All daemons meet; from then on everything is promised."""
        for daemon in self.daemons.daemons:
            daemon.prepare()
        self.daemons.wait_until_acquainted()
        meet(self.daemons.ports, PATIENCE)
        self.load.ask(self.load.deliveries.certain)

    # -- in between --------------------------------------------------------------------------------

    def quiet(self) -> None:
        """Nothing new is sent; everything has to come to its end, and all invariants to hold."""
        self.figures.quiets += 1
        self.load.pause()
        try:
            took = poll(self.load.idle, self.plan.idle, "all is acknowledged", 0.02, self.load.done)
            self.figures.measured("until idle", took)
        except TooLate as error:
            names = [(one.name, one.state, one.address[1]) for one in self.load.busy()]
            self.ledger.violation("never idle", f"{error}: {names[:5]}")
            self.ledger.raise_violations()
        took = check_all_delivered(self.load, self.daemons, self.plan.idle)
        self.figures.measured("until the queues are empty", took)
        for daemon in self.daemons.daemons:
            self.figures.measured("MiB resident", daemon.resident() / MIB)
            self.figures.measured("descriptors", daemon.descriptors())
        seconds = check_set(self.load, self.daemons, self.tables, self._bounds(), self.plan.idle)
        self.figures.measured("presence", seconds)
        self.load.resume()

    def _bounds(self) -> "list[Bounds]":
        """A little more than there was at the beginning."""
        if not self._first:
            most = max(daemon.resident() for daemon in self.daemons.daemons)
            files = max(daemon.descriptors() for daemon in self.daemons.daemons)
            # All clients may be at one daemon later.
            bound = Bounds(most + self.plan.growth, files + len(self.load.visitors) + SPARE_DESCRIPTORS)
            self._first = [bound] * self.daemons.count
        return self._first

    def end(self) -> None:
        """SIGTERM for all under load: exit code 0, nothing acknowledged lost, nobody connected."""
        codes = self.daemons.stop()
        for number, code in enumerate(codes, 1):
            if code:
                self.ledger.violation("exit code", f"{code} of daemon {number} after SIGTERM")
        self.load.stop()
        self.ledger.daemon_killed()
        messages = self.ledger.open_messages(acknowledged=True)
        self.tables.read(self.tables.bounds())
        self.ledger.settle(messages)
        for daemon in self.daemons.daemons:
            check_log(self.ledger, daemon.new_lines())
        if left := self.daemons.execute("SELECT uuid FROM agents WHERE connected"):
            self.ledger.violation("presence", f"{len(left)} agents connected after the end")
        check_roll_ups(self.ledger, self.daemons.execute)
        self.ledger.raise_violations()


def places_of(daemons: DaemonSet, seed: int, moving: bool) -> Places:
    return Places(daemons.ports, random.Random(seed), moving)


def set_report(torture: SetTorture, seconds: float) -> Iterator[str]:
    """The table at the end."""
    figures, ledger = torture.figures, torture.ledger
    yield f"{'faults':44}{sum(figures.faults.values()):>10}"
    for name, count in sorted(figures.faults.items()):
        yield f"{'  ' + name:44}{count:>10}"
    for name in NAMES:
        yield f"{NAMES[name]:44}{getattr(ledger, name):>10}"
    for name, text in DELIVERIES.items():
        yield f"{text:44}{getattr(torture.load.deliveries, name):>10}"
    for name, value in sorted(figures.worst.items()):
        yield f"{'worst, ' + name:54}{value:>10.2f}"
    yield f"{'looks at everything':44}{figures.quiets:>10}"
    yield f"{'violations':44}{sum(ledger.violated.values()):>10}"
    yield f"{'seconds':44}{seconds:>10.0f}"
