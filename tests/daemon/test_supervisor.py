"""What systemd is told, over a real socket."""

import os
import socket
import time
from uuid import uuid4

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.supervisor import LOOK, Supervisor


class SupervisorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.status = "well"
        self.environ = {"HOME": "/"}

    def listen(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def supervisor(self, **variables: str) -> Supervisor:
        self.environ |= variables
        supervisor = Supervisor(self.clock, lambda: self.status, self.environ)
        self.addCleanup(supervisor.stop)
        return supervisor

    def told(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def test_ready_and_then_every_change_of_the_status(self) -> None:
        self.listen(path := self.mktemp())
        self.supervisor(NOTIFY_SOCKET=path).ready()
        self.assertEqual(self.told(), ["READY=1\nSTATUS=well"])
        self.clock.advance(LOOK)
        self.assertEqual(self.told(), [])
        self.status = "not so well"
        self.clock.advance(LOOK)
        self.assertEqual(self.told(), ["STATUS=not so well"])

    def test_a_status_says_nothing_but_itself(self) -> None:
        """Row 127: it may quote the database."""
        self.listen(path := self.mktemp())
        self.status = "away: so\nMAINPID=1\ud800"
        self.supervisor(NOTIFY_SOCKET=path).ready()
        self.assertEqual(self.told(), ["READY=1\nSTATUS=away: so MAINPID=1?"])

    def test_signs_of_life_come_twice_as_often_as_they_have_to(self) -> None:
        """Row 122."""
        self.listen(path := self.mktemp())
        mine = str(os.getpid())
        supervisor = self.supervisor(NOTIFY_SOCKET=path, WATCHDOG_USEC="30000000", WATCHDOG_PID=mine)
        supervisor.ready()
        self.told()
        self.clock.pump([1.0] * 60)
        self.assertEqual(self.told(), ["WATCHDOG=1"] * 4)
        self.clock.advance(45)  # a reactor that was blocked makes up for nothing
        self.assertEqual(self.told(), ["WATCHDOG=1"])

    def test_a_reload_is_told_with_the_time_on_the_monotonic_clock(self) -> None:
        self.listen(path := self.mktemp())
        supervisor = self.supervisor(NOTIFY_SOCKET=path)
        before = time.monotonic()
        supervisor.reloading()
        first, _, stamp = self.told()[0].partition("\nMONOTONIC_USEC=")
        self.assertEqual(first, "RELOADING=1")
        self.assertTrue(before <= int(stamp) / 1e6 + 1e-6 and int(stamp) / 1e6 <= time.monotonic())
        supervisor.ready()
        self.assertTrue(self.told()[0].startswith("READY=1\n"))

    def test_whoever_stops_still_gives_signs_of_life(self) -> None:
        self.listen(path := self.mktemp())
        supervisor = self.supervisor(NOTIFY_SOCKET=path, WATCHDOG_USEC="2000000")
        supervisor.ready()
        supervisor.stopping()
        self.told()
        self.status = "stopping"
        self.clock.pump([1.0] * 3)
        self.assertEqual(self.told(), ["WATCHDOG=1"] * 3)
        supervisor.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_abstract_socket(self) -> None:
        name = f"platziverse-{uuid4()}"
        self.listen(f"\0{name}")
        self.supervisor(NOTIFY_SOCKET=f"@{name}").ready()
        self.assertEqual(len(self.told()), 1)

    def test_the_variables_are_for_nobody_else(self) -> None:
        """A server that we start would call itself ready in our name."""
        self.listen(path := self.mktemp())
        self.supervisor(NOTIFY_SOCKET=path, WATCHDOG_USEC="1", WATCHDOG_PID="1")
        self.assertEqual(self.environ, {"HOME": "/"})

    def test_another_process_is_watched(self) -> None:
        self.listen(path := self.mktemp())
        for variables in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}):
            given = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"} | variables
            self.assertIsNone(self.supervisor(**given).watchdog)

    def test_without_systemd_nothing_runs(self) -> None:
        supervisor = self.supervisor()
        supervisor.ready()
        supervisor.reloading()
        supervisor.stopping()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_listener_that_has_gone_or_does_not_read_harms_nobody(self) -> None:
        self.listen(path := self.mktemp())
        supervisor = self.supervisor(NOTIFY_SOCKET=path)
        for _ in range(10_000):
            supervisor.reloading()
        os.unlink(path)
        supervisor.ready()
