"""What happens to daemons that share their clients, to their PostgreSQL and to their Redis."""

import random
import signal
from collections.abc import Callable
from typing import Final

from attrs import frozen

from tests.crash.daemonset import PATIENCE, DaemonSet
from tests.crash.waiting import poll

Act = Callable[[DaemonSet, int], None]
#: Whom a fault meets: nobody, the victim, or all daemons.
NOBODY, ONE, ALL = "nobody", "one", "all"
#: A fault comes after so many acknowledgements at most.
ACKS: Final = 200


@frozen
class SetFault:
    """:param strike: begins it, for a daemon by its number; ``mend`` ends it, and everything is up again.

    :param hold: seconds between the two, at least and at most.
    :param meets: which daemons do nothing meanwhile.
    :param inherits: it lasts until another daemon has taken over what the victim has left.
    :param weight: how often it comes, beside the others.
    """

    name: str
    strike: Act
    mend: Act
    hold: tuple[float, float] = (0.0, 0.0)
    meets: str = NOBODY
    inherits: bool = False
    weight: int = 4

    def struck(self, daemons: DaemonSet, victim: int) -> list[int]:
        """The daemons that it meets."""
        return {NOBODY: [], ONE: [victim], ALL: list(range(daemons.count))}[self.meets]


@frozen
class Step:
    """One fault of a schedule.

    :ivar acks: it strikes after so many further acknowledgements.
    """

    fault: SetFault
    victim: int
    hold: float
    acks: int

    def __str__(self) -> str:
        whom = f" of daemon {self.victim + 1}" if self.fault.meets == ONE else ""
        return f"{self.fault.name}{whom} for {self.hold:.1f} s after {self.acks}"


def _start(daemons: DaemonSet, victim: int) -> None:
    daemons.daemons[victim].start()


def _kill_all(daemons: DaemonSet, victim: int) -> None:
    for daemon in daemons.daemons:
        daemon.kill()
    for number in range(daemons.count):
        daemons.kill(number)


def _start_all(daemons: DaemonSet, victim: int) -> None:
    for daemon in daemons.daemons:
        daemon.start()


def _kill_with_heir(daemons: DaemonSet, victim: int) -> None:
    """The heir dies as soon as it has fenced the first one, and so must leave that to the next."""
    daemons.kill(victim)
    poll(lambda: daemons.heir_of(victim) is not None, PATIENCE, "an heir", 0.02)
    heir = daemons.heir_of(victim)
    assert heir is not None
    daemons.kill(heir)


def _start_ended(daemons: DaemonSet, victim: int) -> None:
    for daemon in daemons.daemons:
        if daemon.process.poll() is not None:
            daemon.start()


def _send(number: int) -> Act:
    return lambda daemons, victim: daemons.signal([victim], number)


def _send_to_all(number: int) -> Act:
    return lambda daemons, victim: daemons.signal(range(daemons.count), number)


def _kill_database(daemons: DaemonSet, victim: int) -> None:
    daemons.postgres.end(signal.SIGKILL)


def _start_database(daemons: DaemonSet, victim: int) -> None:
    daemons.postgres.start()


def _freeze_database(daemons: DaemonSet, victim: int) -> None:
    """The postmaster first, so that no child is born while the others are stopped."""
    daemons.postgres.process.send_signal(signal.SIGSTOP)
    daemons.postgres.signal_all(signal.SIGSTOP)


def _thaw_database(daemons: DaemonSet, victim: int) -> None:
    daemons.postgres.signal_all(signal.SIGCONT)


def _kill_redis(daemons: DaemonSet, victim: int) -> None:
    daemons.redis.stop()


def _start_redis(daemons: DaemonSet, victim: int) -> None:
    daemons.redis.start()


def _send_redis(number: int) -> Act:
    return lambda daemons, victim: daemons.redis.send_signal(number)


def _kill_with_redis(daemons: DaemonSet, victim: int) -> None:
    daemons.redis.stop()
    daemons.kill(victim)


def _start_with_redis(daemons: DaemonSet, victim: int) -> None:
    _start(daemons, victim)
    daemons.redis.start()


SET_FAULTS: Final = (
    SetFault("daemon killed", lambda daemons, victim: daemons.kill(victim), _start, meets=ONE, weight=8),
    SetFault("all daemons killed", _kill_all, _start_all, meets=ALL, weight=2),
    SetFault(
        "daemon killed, and inherited from",
        lambda daemons, victim: daemons.kill(victim),
        _start,
        meets=ONE,
        inherits=True,
        weight=3,
    ),
    SetFault(
        "daemon killed, and its heir, and inherited from",
        _kill_with_heir,
        _start_ended,
        meets=ALL,
        inherits=True,
        weight=1,
    ),
    SetFault("daemon frozen", _send(signal.SIGSTOP), _send(signal.SIGCONT), (0.1, 4.0), ONE, weight=8),
    SetFault(
        "daemon frozen, and inherited from",
        _send(signal.SIGSTOP),
        _send(signal.SIGCONT),
        (0.0, 2.0),
        ONE,
        inherits=True,
        weight=3,
    ),
    SetFault(
        "all daemons frozen", _send_to_all(signal.SIGSTOP), _send_to_all(signal.SIGCONT), (0.1, 3.0), ALL
    ),
    SetFault("PostgreSQL killed", _kill_database, _start_database, (0.0, 1.0), weight=5),
    SetFault("PostgreSQL frozen", _freeze_database, _thaw_database, (0.2, 12.0), weight=5),
    SetFault("Redis killed", _kill_redis, _start_redis, (0.0, 4.0), weight=8),
    SetFault("Redis frozen", _send_redis(signal.SIGSTOP), _send_redis(signal.SIGCONT), (0.1, 8.0), weight=6),
    SetFault("Redis and a daemon killed", _kill_with_redis, _start_with_redis, (0.0, 2.0), ONE),
)


def schedule(
    count: int,
    daemons: int,
    rng: random.Random,
    longest_hold: float = 15.0,
    only: str = "",
    without: str = "nothing",
) -> list[Step]:
    """So many faults in random order: each as often as its weight says, but once if there is room.

    :param daemons: how many there are.
    :param only: faults whose name contains this, and not ``without``.
    """
    wanted = [fault for fault in SET_FAULTS if only in fault.name and without not in fault.name]
    chosen = [*wanted, *rng.choices(wanted, [fault.weight for fault in wanted], k=count)][:count]
    rng.shuffle(chosen)
    return [
        Step(
            fault, rng.randrange(daemons), min(longest_hold, rng.uniform(*fault.hold)), rng.randrange(1, ACKS)
        )
        for fault in chosen
    ]
