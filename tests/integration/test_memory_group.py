"""The attacks on memory against a daemon in a control group of 300 MB, with every setting at its default.

Needs the right to make a control group, of version 1 or 2: root has it, outside of most containers.
"""

import contextlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from unittest import SkipTest

from platziverse.broker.limits import KIB, MIB
from platziverse.daemon.machine import tcp_memory
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Publish, Subscribe, Subscription
from tests.integration.attackers import ACCEPTED, AttackCase
from tests.integration.daemon import Daemon

LIMIT: Final = 300 * MIB
ROOT: Final = Path("/sys/fs/cgroup")
#: A name of 64 KiB whose characters take four bytes each.
WIDE: Final = "x" * 60_000 + "\U0001f600"


def make_group() -> Path:
    """Make a control group that may have ``LIMIT`` bytes; return its folder.

    :raises SkipTest: nobody may here.
    """
    name = f"platziverse-test-{os.getpid()}"
    own = Path("/proc/self/cgroup").read_text()
    if re.search(r"^\d+:(?:\S+,)?memory(?:,\S+)?:", own, re.MULTILINE):
        group, file = ROOT / "memory" / name, "memory.limit_in_bytes"
    else:
        above = ROOT / own.rpartition("::")[2].strip().lstrip("/")
        group, file = above / name, "memory.max"
    try:
        group.mkdir()
        (group / file).write_text(str(LIMIT))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise SkipTest(f"no control group can be made: {error}") from None
    return group


class Attacks(AttackCase):
    """Row 296: no attack ends the process, or keeps an innocent client from its answers."""

    def setUp(self) -> None:
        group = make_group()
        # Cleanups run the other way round: the group is removed when its process has gone.
        self.addCleanup(group.rmdir)
        join = ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
        server = Daemon(
            "--listen",
            "tcp:0:interface=127.0.0.1",
            "--database",
            "host=/nonexistent dbname=x",
            state_dir=self.state_dir(),
            before=join,
            environ={"PLATZIVERSE_WEB_READERS": "everyone"},
        )
        self.addCleanup(server.kill)
        server.wait_for("150 MiB of sessions and messages")
        self.begin(server)

    def attacker(self, client_id: str, **fields: Any) -> socket.socket | None:
        """Connect a client; ``None`` when it is refused."""
        opened = self.open()
        with contextlib.suppress(OSError):
            opened.sendall(encode(Connect(client_id, **fields)))
            if opened.recv(4) == ACCEPTED:
                return opened
        return None

    def flood(self, opened: socket.socket | None, data: bytes) -> None:
        """Send what is taken within a second; to be closed, or held, is fine."""
        if opened is not None:
            opened.settimeout(1)
            super().flood(opened, data)

    def deaf(self, count: int, topic: Callable[[int], str], qos: int) -> None:
        """Connect clients that subscribe and take nothing."""
        for number in range(count):
            receiver = self.connected(f"deaf-{number}")
            receiver.sendall(encode(Subscribe(1, [Subscription(topic(number), qos)])))
            receiver.recv(5)

    def assert_all_is_well(self) -> None:
        """And without an error."""
        super().assert_all_is_well()
        self.assertNotIn("Traceback", self.server.output)

    def test_incomplete_packets(self) -> None:
        large = encode(Publish("t", bytes(MIB)))[:-1]
        for number in range(400):
            self.flood(self.attacker(f"attacker-{number}"), large)
        self.assert_all_is_well()

    def test_connects_without_an_end(self) -> None:
        half = encode(Connect("x" * 1000, username="u", password=bytes(60 * 1000)))[:-1]
        for _ in range(3000):
            self.flood(self.open(), half)
        self.assert_all_is_well()

    def test_long_and_deep_topic_filters(self) -> None:
        deep = "/".join(["+"] * 15)
        for client in range(20):
            attacker = self.attacker(f"attacker-{client}")
            for packet in range(1, 30):
                names = [f"{client}-{packet}-{number}" for number in range(8)]
                long = [Subscription(name.ljust(60_000, "x"), 0) for name in names]
                self.flood(attacker, encode(Subscribe(packet, long)))
                filters = [Subscription(f"{name}-{n}/{deep}", 0) for name in names for n in range(20)]
                self.flood(attacker, encode(Subscribe(packet, filters)))
        self.assert_all_is_well()

    def test_long_user_names_and_wills(self) -> None:
        for number in range(2000):
            self.attacker(f"user-{number}", username=f"{number}{WIDE}")
            self.attacker(f"will-{number}", will=Publish(f"{number}{WIDE}", b"x"))
        self.assert_all_is_well()

    def test_long_topic_names_that_are_retained(self) -> None:
        attacker = self.attacker("attacker")
        for number in range(1000):
            self.flood(attacker, encode(Publish(f"{number}{WIDE}", b"x", 0, True)))
        self.assert_all_is_well()

    def send_one_to_many(self, qos: int) -> None:
        self.deaf(40, lambda number: "t", qos)
        self.flood(self.attacker("attacker"), encode(Publish("t", bytes(15 * MIB), 1, packet_id=1)))
        self.assert_all_is_well()

    def test_one_large_message_for_many_who_do_not_read(self) -> None:
        self.send_one_to_many(1)

    def test_one_large_message_at_qos_0_for_many_who_do_not_read(self) -> None:
        self.send_one_to_many(0)

    def test_small_messages_for_many_who_do_not_read_and_the_kernel_takes(self) -> None:
        """Row 355: of each it took all of 0.8 MB, which version 2 counts as the group's."""
        self.deaf(1500, lambda number: "t", 0)
        attacker = self.attacker("attacker")
        for _ in range(100):
            self.flood(attacker, encode(Publish("t", bytes(8 * KIB), 0)))
        self.server.wait_for("has not taken")
        self.assertLess(tcp_memory(), 2 * LIMIT)  # both ends are on this machine
        self.assert_all_is_well()

    def test_queues_of_many_that_fill_at_once(self) -> None:
        self.deaf(20, lambda number: f"t/{number}", 1)
        attackers = [self.attacker(f"attacker-{number}") for number in range(20)]
        for packet in range(1, 60):
            for number, attacker in enumerate(attackers):
                self.flood(attacker, encode(Publish(f"t/{number}", bytes(500 * KIB), 1, packet_id=packet)))
        self.assert_all_is_well()

    def test_answers_that_nobody_reads(self) -> None:
        self.ask_for_answers(1500)
        self.assert_all_is_well()
