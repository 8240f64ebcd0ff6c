"""Limits that follow from the machine."""

import resource
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.daemon import machine
from platziverse.daemon.machine import MANY, fitted, memory, open_files


class OpenFilesTests(SynchronousTestCase):
    """Row 118: the database and the log always have their descriptors."""

    def allowed(self, soft: int, hard: int = 4096) -> None:
        self.patch(resource, "getrlimit", lambda _: (soft, hard))

    def test_the_reserve_is_never_given_to_clients(self) -> None:
        self.allowed(1024)
        self.assertEqual(fitted(Limits()).max_connections, 960)
        self.assertEqual(fitted(Limits(max_connections=5000)).max_connections, 960)
        self.assertEqual(fitted(Limits(max_connections=100)).max_connections, 100)
        self.assertEqual(fitted(Limits(reserved_descriptors=100)).max_connections, 924)

    def test_one_address_leaves_room_for_the_others(self) -> None:
        self.allowed(1064)
        self.assertEqual(fitted(Limits()).max_connections_per_address, 900)
        self.assertEqual(fitted(Limits(max_connections_per_address=7)).max_connections_per_address, 7)

    def test_a_fleet_of_10000_behind_one_address_fits_into_20000(self) -> None:
        self.allowed(20_000)
        self.assertGreater(fitted(Limits()).max_connections_per_address, 10_000)

    def test_no_limit_is_a_high_one(self) -> None:
        self.allowed(resource.RLIM_INFINITY)
        self.assertEqual(open_files(), MANY)

    def test_too_few_leave_room_for_one(self) -> None:
        self.allowed(50)
        self.assertEqual(fitted(Limits()).max_connections, 1)

    def test_the_process_takes_what_it_may_have(self) -> None:
        given: list[tuple[int, int]] = []
        self.allowed(1024)
        self.patch(resource, "setrlimit", lambda _, limits: given.append(limits))
        machine.raise_open_files()
        self.allowed(4096)
        machine.raise_open_files()
        self.assertEqual(given, [(4096, 4096)])


class MemoryTests(SynchronousTestCase):
    """Row 126."""

    def test_the_budget_is_half_of_what_there_is(self) -> None:
        self.assertEqual(fitted(Limits()).max_memory, memory() // 2)
        self.assertEqual(fitted(Limits(max_memory=10**6)).max_memory, 10**6)
        self.assertGreater(memory(), 10**6)

    def test_the_control_group_and_those_above_it_may_have_less(self) -> None:
        root = Path(self.mktemp())
        (root / "system.slice" / "platziverse.service").mkdir(parents=True)
        own = root / "cgroup"
        own.write_text("0::/system.slice/platziverse.service\n")
        machines = memory(root / "none", root)
        self.assertEqual(memory(own, root), machines)
        (root / "system.slice" / "platziverse.service" / "memory.max").write_text("max\n")
        (root / "system.slice" / "memory.max").write_text("1000000\n")
        self.assertEqual(memory(own, root), 1_000_000)
        (root / "system.slice" / "platziverse.service" / "memory.max").write_text("900000\n")
        self.assertEqual(memory(own, root), 900_000)
        self.assertGreater(machines, 1_000_000)
