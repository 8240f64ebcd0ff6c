"""The short version of the torture of several daemons, and its parts."""

import itertools
import os
import random
import shutil
import tempfile
from unittest import TestCase

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.daemonset import DaemonSet
from tests.crash.ledger import Ledger
from tests.crash.postgres import private_postgres
from tests.crash.setfaults import SET_FAULTS, Step, schedule
from tests.crash.settorture import SetTorture, load_of, places_of, set_report
from tests.crash.torture import Plan
from tests.crash.waiting import TooLate, poll
from tests.redis import MISSING_REDIS, RedisServer

DAEMONS, AGENTS, RATE = 3, 10, 0.5
#: These take a few seconds each; what an heir takes over is in tests/integration/test_heirs.py.
FAULTS = ("daemon killed", "all daemons killed", "daemon frozen", "Redis killed")
LONGEST = 0.7
#: Patient, as the machine may be busy: ``make torture`` has the bounds that are promised.
PLAN = Plan(growth=64 * 2**20, soon=60.0, undisturbed=30.0, idle=60.0)


class TheSchedule(TestCase):
    def test_the_same_seed_makes_the_same_schedule(self) -> None:
        first, again, other = (
            [str(step) for step in schedule(100, DAEMONS, random.Random(seed))] for seed in (1, 1, 2)
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_every_fault_is_in_it(self) -> None:
        steps = schedule(len(SET_FAULTS), DAEMONS, random.Random(1))
        self.assertEqual({step.fault for step in steps}, set(SET_FAULTS))
        steps = schedule(5, DAEMONS, random.Random(1), only="Redis frozen")
        self.assertEqual({step.fault.name for step in steps}, {"Redis frozen"})


class Patience(TestCase):
    def test_it_begins_anew_while_there_is_progress(self) -> None:
        asked = itertools.count()
        took = poll(lambda: next(asked) > 9, 1.0, "", 0.3, lambda: next(asked))
        self.assertGreater(took, 1.0)

    def test_it_ends_when_nothing_goes_on(self) -> None:
        self.assertRaises(TooLate, poll, lambda: False, 0.01, "nothing", progress=lambda: 7)


class ThreeDaemons(SynchronousTestCase):
    skip = MISSING_REDIS or None

    def setUp(self) -> None:
        self.seed = random.SystemRandom().getrandbits(32)
        self.home = tempfile.mkdtemp(prefix="platziverse-crash-daemons-")
        os.chmod(self.home, 0o711)
        self.addCleanup(shutil.rmtree, self.home, True)
        self.postgres = private_postgres(self)
        self.postgres.start()

    def steps(self, rng: random.Random) -> list[Step]:
        """Each of the short faults once."""
        chosen = schedule(len(SET_FAULTS), DAEMONS, rng, LONGEST)
        return [step for step in chosen if step.fault.name in FAULTS]

    def test_nothing_acknowledged_is_lost_whatever_dies_or_freezes(self) -> None:
        """Row 425."""
        daemons = DaemonSet(self.home, self.postgres, RedisServer(), DAEMONS)
        self.addCleanup(daemons.end)
        ledger, places = Ledger(), places_of(daemons, self.seed, moving=False)
        load = load_of(daemons, places, ledger, self.seed, AGENTS, RATE)
        self.addCleanup(load.stop)
        torture = SetTorture(daemons, places, load, ledger, PLAN)
        try:
            torture.begin()
            torture.run(self.steps(random.Random(self.seed)))
            torture.end()
        except AssertionError as error:
            raise AssertionError(
                "\n".join([f"seed {self.seed:x}", str(error), *set_report(torture, 0)])
            ) from None
        self.assertEqual(sum(torture.figures.faults.values()), len(FAULTS))
