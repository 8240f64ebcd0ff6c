"""``python -m tests.crash 1000``: the long run, and a table at its end; exit code 1 on any violation.

With ``--daemons 3`` there are three on one PostgreSQL and one Redis, and N faults meet any of the five.
"""

import argparse
import itertools
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from tests.crash.daemon import Daemon
from tests.crash.daemonset import DaemonSet
from tests.crash.embedded import EmbeddedServer
from tests.crash.faults import EMBEDDED, FAULTS, Fault
from tests.crash.ledger import Ledger
from tests.crash.load import HABITS, Load
from tests.crash.postgres import Postgres, Unavailable
from tests.crash.setfaults import schedule
from tests.crash.settorture import SetTorture, load_of, places_of, set_report
from tests.crash.torture import QUIET_EVERY, Database, Plan, Torture, report, steps
from tests.crash.waiting import TooLate
from tests.redis import RedisServer

#: Visitors come and go faster than any client should.
SETTINGS = {"PLATZIVERSE_LIMITS_MAX_CONNECTS_PER_MINUTE": "1000000"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("n", nargs="?", type=int, default=1000, help="kills; and a fifth as many faults")
    parser.add_argument(
        "--daemons", type=int, default=1, help="that share their clients: n faults of any sort"
    )
    parser.add_argument("--moving", action="store_true", help="durable Sessions move with their clients")
    parser.add_argument("--kills", type=int, help="how often the daemon is killed")
    parser.add_argument("--faults", type=int, help="how many faults the database has")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    parser.add_argument("--without", default="nothing", help="only faults whose name does not contain this")
    parser.add_argument("--look", type=int, default=QUIET_EVERY, help="steps between two looks at everything")
    parser.add_argument("--embedded", action="store_true", help="with the daemon's own PostgreSQL")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no further step after so many")
    parser.add_argument("--seed", type=lambda text: int(text, 16), help="as printed, to do it again")
    parser.add_argument("--agents", type=int, default=32)
    parser.add_argument("--publishers", type=int, default=16, help="clients that publish on other topics")
    parser.add_argument("--rate", type=float, default=1.0, help="factor for the messages per second")
    parser.add_argument("--hold", type=float, default=15.0, help="longest fault in seconds")
    parser.add_argument(
        "--busy", type=float, default=1.0, help="with --daemons: factor for what may take so long"
    )
    parser.add_argument(
        "--undisturbed",
        type=float,
        default=1.5,
        help="seconds that a message between two clients may take meanwhile; more on a busy machine",
    )
    given = parser.parse_args()
    given.kills = given.n if given.kills is None else given.kills
    given.faults = given.kills // 5 if given.faults is None else given.faults
    given.seed = secrets.randbits(32) if given.seed is None else given.seed
    return given


def main() -> int:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # puts everything away
    what = f"{given.n} faults" if given.daemons > 1 else f"{given.kills} kills, {given.faults} faults"
    print(f"seed {given.seed:x}: {what}", flush=True)
    home = tempfile.mkdtemp(prefix="platziverse-crash-daemon-")
    os.chmod(home, 0o711)
    try:
        way = several if given.daemons > 1 else on_embedded if given.embedded else on_private
        failed = way(given, home)
    except Unavailable as error:
        print(error)
        return 2
    if failed:
        print(f"the daemon's log is in {home}")
    else:
        shutil.rmtree(home)
    return int(failed)


def on_private(given: argparse.Namespace, home: str) -> bool:
    """With a server of the harness, which can be ill-treated in every way."""
    postgres = Postgres()
    try:
        postgres.start()
        return run(given, postgres, Daemon(home, "--database", postgres.dsn, **SETTINGS), FAULTS, Torture.end)
    finally:
        postgres.destroy()


def on_embedded(given: argparse.Namespace, home: str) -> bool:
    """With the server that the daemon starts, and finds again when it was killed."""
    daemon = Daemon(home, **SETTINGS)
    server = EmbeddedServer(daemon.state_dir)
    try:
        return run(given, server, daemon, EMBEDDED, Torture.stop)
    finally:
        server.kill(signal.SIGQUIT)


def several(given: argparse.Namespace, home: str) -> bool:
    """Daemons that share their clients, with servers of the harness."""
    postgres = Postgres()
    try:
        postgres.start()
        daemons = DaemonSet(home, postgres, RedisServer(), given.daemons)
        places, ledger = places_of(daemons, given.seed, given.moving), Ledger()
        load = load_of(daemons, places, ledger, given.seed, given.agents, given.rate)
        plan = Plan(
            longest_hold=given.hold,
            seconds=given.seconds,
            quiet_every=given.look,
            soon=20.0 * given.busy,
            undisturbed=3.0 * given.busy,
            idle=45.0 * given.busy,
        )
        torture = SetTorture(daemons, places, load, ledger, plan, partial(print, flush=True))
        return run_several(given, torture)
    finally:
        postgres.destroy()


def run_several(given: argparse.Namespace, torture: SetTorture) -> bool:
    """Whether anything was violated."""
    rng, since = random.Random(given.seed), time.monotonic()
    try:
        torture.begin()
        torture.run(schedule(given.n, given.daemons, rng, given.hold, given.only, given.without))
        torture.end()
    except (AssertionError, TooLate) as error:
        torture.ledger.violation("stopped", str(error).splitlines()[0])
    finally:
        torture.daemons.end()
        torture.load.stop()
        for line in [*torture.ledger.violations, *set_report(torture, time.monotonic() - since)]:
            print(line)
    return bool(torture.ledger.violated)


def run(
    given: argparse.Namespace,
    database: Database,
    daemon: Daemon,
    faults: tuple[Fault, ...],
    end: Callable[[Torture], None],
) -> bool:
    """Whether anything was violated."""
    rng, ledger, since = random.Random(given.seed), Ledger(), time.monotonic()
    load = Load(
        daemon.port, ledger, given.seed, given.agents, given.rate, publishers=given.publishers, habits=HABITS
    )
    plan = Plan(longest_hold=given.hold, seconds=given.seconds, undisturbed=given.undisturbed)
    torture = Torture(database, daemon, load, ledger, rng, plan)
    wanted = [fault for fault in faults if given.only in fault.name]
    chosen = list(itertools.islice(itertools.cycle(wanted), given.faults))
    try:
        torture.begin()
        torture.run(steps(given.kills, chosen, rng))
        end(torture)
    except (AssertionError, TooLate) as error:
        ledger.violation("stopped", str(error).splitlines()[0])
    finally:
        daemon.end()
        load.stop()
        for line in [*ledger.violations, *report(torture, time.monotonic() - since)]:
            print(line)
    return bool(ledger.violated)


if __name__ == "__main__":
    sys.exit(main())
