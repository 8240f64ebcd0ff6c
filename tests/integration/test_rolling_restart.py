"""Three daemons are restarted one after the other under load, and their clients hardly notice."""

import os
import random
import shutil
import tempfile
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.daemonset import DaemonSet
from tests.crash.ledger import Ledger
from tests.crash.load import CLEAN_HABITS, HABITS, PUBLISHERS
from tests.crash.postgres import private_postgres
from tests.crash.settorture import SetTorture, load_of, places_of
from tests.crash.torture import Plan
from tests.crash.waiting import poll
from tests.redis import MISSING_REDIS, RedisServer

PATIENCE: Final = 60.0
PLAN: Final = Plan(growth=64 * 2**20, soon=60.0, undisturbed=20.0, idle=60.0)
#: Those that do not leave by themselves; the first four sorts of agents do not either. None at QoS 2: what is
#: published while an heir takes over may come twice (ADR 0155).
STAYING: Final = [profile for profile in PUBLISHERS if not profile.stay and 2 not in profile.qos]
LISTENING: Final = [habit for habit in (*HABITS, *CLEAN_HABITS) if not habit.stay and not habit.changing]
AGENTS: Final = 4


class RollingRestart(SynchronousTestCase):
    skip = MISSING_REDIS or None

    def setUp(self) -> None:
        home = tempfile.mkdtemp(prefix="platziverse-rolling-")
        os.chmod(home, 0o711)
        self.addCleanup(shutil.rmtree, home, True)
        postgres = private_postgres(self)
        postgres.start()
        seed = random.SystemRandom().getrandbits(32)
        self.daemons = DaemonSet(home, postgres, RedisServer())
        self.addCleanup(self.daemons.end)
        self.places = places_of(self.daemons, seed, moving=False)
        ledger = Ledger()
        self.load = load_of(
            self.daemons, self.places, ledger, seed, AGENTS, 0.5, profiles=STAYING, habits=LISTENING
        )
        self.addCleanup(self.load.stop)
        self.torture = SetTorture(self.daemons, self.places, self.load, ledger, PLAN)

    def connections(self) -> dict[str, tuple[int, int]]:
        """Client Identifier → the port of its daemon, and how many connections it has had."""
        return self.load.ask(lambda: {one.name: (one.address[1], one.accepted) for one in self.load.visitors})

    def all_live(self) -> bool:
        return self.load.live() == len(self.load.visitors)

    def restart(self, number: int) -> None:
        """As a balancer does: nobody new, then it stops; its clients connect elsewhere, and it is back."""
        daemon, load, places = self.daemons.daemons[number], self.load, self.places
        poll(self.all_live, PATIENCE, "everybody is connected")
        before, acked = self.connections(), load.acks()
        load.ask(lambda: load.deliveries.doubt(order=True))
        load.ask(lambda: places.out.add(number))
        self.assertEqual(daemon.stop(PATIENCE), 0)
        load.ask(load.ledger.daemon_killed)
        self.daemons.wait_for_heir(number)
        homes = self.daemons.owners()
        load.ask(lambda: places.homes.update(homes))
        poll(self.all_live, PATIENCE, "everybody is connected again")
        daemon.start()
        daemon.wait_until_listening(PATIENCE)
        load.ask(lambda: places.out.discard(number))
        self.torture.certain()
        poll(lambda: load.acks() > acked + 300, PATIENCE, "the load goes on")
        after = self.connections()
        moved = {name for name, (port, _) in before.items() if port == daemon.port}
        self.assertGreater(len(moved), 0)
        more = {name: accepted - before[name][1] for name, (_, accepted) in after.items()}
        self.assertEqual(more, {name: int(name in moved) for name in before})

    def test_nothing_acknowledged_is_lost_and_each_client_reconnects_once(self) -> None:
        self.torture.begin()
        for number in range(self.daemons.count):
            self.restart(number)
        self.torture.quiet()
        self.torture.end()
