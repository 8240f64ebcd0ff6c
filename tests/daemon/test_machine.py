"""Limits that follow from the machine."""

import contextlib
import resource
import socket
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.daemon import machine
from platziverse.daemon.machine import MANY, fitted, memory, open_files, tcp_memory


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

    def group(self, *limits: str, own: str = "/a.slice/b.scope", root: str = "") -> int:
        """Return the memory of a process in ``own``, with limits such as ``a.slice/memory.max=1``."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for limit in limits:
            file, _, value = limit.partition("=")
            path = folder / root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        (folder / "own").write_text(f"9:name=systemd:/\n0::{own}\n")
        return memory(folder / "own", folder)

    def test_memory_high_is_as_good_as_a_limit(self) -> None:
        """The kernel kills nobody above it, but lets everything wait."""
        self.assertEqual(
            self.group("a.slice/b.scope/memory.max=900000", "a.slice/memory.high=800000"), 800_000
        )
        self.assertEqual(
            self.group("a.slice/b.scope/memory.high=700000", "a.slice/memory.max=800000"), 700_000
        )
        self.assertEqual(self.group("a.slice/memory.high=max", "a.slice/memory.max=800000"), 800_000)
        # With 0 somebody reclaims the group for a moment; a budget of 0 would be none.
        self.assertEqual(self.group("a.slice/memory.high=0", "a.slice/memory.max=800000"), 800_000)

    def test_a_container_of_version_2_sees_its_own_group_as_the_root(self) -> None:
        """In a namespace of its own, in that of the host, and moved out of its namespace."""
        for own in "/", "/docker/not-seen-from-inside", "/../sibling", "/a.slice/gone (deleted)":
            self.assertEqual(self.group("memory.max=900000", "a.slice/x=1", own=own), 900_000)

    def test_version_2_may_be_mounted_beside_version_1(self) -> None:
        self.assertEqual(self.group("a.slice/memory.max=900000", root="unified"), 900_000)

    def test_what_is_no_group_or_cannot_be_read_is_no_limit(self) -> None:
        machines = self.group()
        self.assertGreater(machines, 1_000_000)
        self.assertEqual(self.group("a.slice/b.scope/memory.max/a=directory"), machines)
        self.assertEqual(self.group("a.slice/memory.max=many"), machines)

    def test_what_the_kernel_takes_for_tcp(self) -> None:
        """Row 355."""
        sockstat = Path(self.mktemp())
        self.assertEqual(tcp_memory(sockstat), 0)
        sockstat.write_text(
            "sockets: used 201\nTCP: inuse 152 orphan 0 tw 302 alloc 154 mem 125\nUDP: inuse 0 mem 7\n"
        )
        self.assertEqual(tcp_memory(sockstat), 125 * resource.getpagesize())
        sockstat.write_text("TCP: inuse 152\n")
        self.assertEqual(tcp_memory(sockstat), 0)

    def test_the_kernel_says_it_of_this_machine(self) -> None:
        """Row 355: it counts in steps of up to a MiB for each processor, so one socket may not show."""
        if sys.platform != "linux":
            raise SkipTest("only Linux says how much it takes")
        taken = 0
        with socket.create_server(("127.0.0.1", 0)) as server:
            while not tcp_memory() and taken < 1 << 28:
                one = socket.create_connection(server.getsockname())
                self.addCleanup(one.close)
                self.addCleanup(server.accept()[0].close)
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        taken += one.send(bytes(1 << 16))
            self.assertGreater(tcp_memory(), 0)

    def test_control_groups_of_version_1_are_seen(self) -> None:
        root = Path(self.mktemp())
        (root / "memory" / "docker" / "abc").mkdir(parents=True)
        own = root / "cgroup"
        own.write_text("9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n")
        (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
        self.assertEqual(memory(own, root), memory(root / "none", root))
        (root / "memory" / "docker" / "abc" / "memory.limit_in_bytes").write_text("314572800\n")
        self.assertEqual(memory(own, root), 314_572_800)

    def test_a_container_of_version_1_sees_its_own_group_as_the_root(self) -> None:
        root = Path(self.mktemp())
        (root / "memory").mkdir(parents=True)
        own = root / "cgroup"
        own.write_text("4:memory:/docker/not-seen-from-inside\n")
        (root / "memory" / "memory.limit_in_bytes").write_text("314572800\n")
        self.assertEqual(memory(own, root), 314_572_800)
