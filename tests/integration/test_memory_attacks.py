"""What clients can make grow, in a real daemon with a small budget: its memory, and an innocent client."""

import os
import resource
from typing import Final

from platziverse.broker.limits import MIB
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Publish, Subscribe, Subscription
from tests.integration.attackers import AttackCase

#: What sessions and messages may take; the rest of the process, and what malloc keeps, comes on top.
BUDGET: Final = 64 * MIB
MARGIN: Final = 96 * MIB


def resident(pid: int) -> int:
    """Bytes of the process that are in memory."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Attacks(AttackCase):
    """Rows 170, 172, 173, 174."""

    def setUp(self) -> None:
        environ = {"PLATZIVERSE_LIMITS_MAX_MEMORY": str(BUDGET), "PLATZIVERSE_WEB_READERS": "everyone"}
        self.begin(self.daemon("--database", "host=/nonexistent dbname=x", environ=environ))
        self.before = resident(self.server.process.pid)

    def assert_all_is_well(self) -> None:
        """And within its budget."""
        super().assert_all_is_well()
        grown = resident(self.server.process.pid) - self.before
        self.assertLess(grown, BUDGET + MARGIN)

    def test_incomplete_packets(self) -> None:
        large = encode(Publish("t", bytes(MIB)))[:-1]
        for number in range(300):
            self.flood(self.connected(f"attacker-{number}"), large)
        self.assert_all_is_well()

    def test_half_connects(self) -> None:
        half = encode(Connect("x" * 1000, username="u", password=bytes(60_000)))[:-1]
        for _ in range(min(1500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 200)):
            self.flood(self.open(), half)
        self.assert_all_is_well()

    def test_deep_filters(self) -> None:
        for client in range(20):
            attacker = self.connected(f"attacker-{client}")
            for packet in range(10):
                filters = [
                    Subscription("/".join([f"{client}-{packet}-{number}", *["+"] * 15]), 0)
                    for number in range(200)
                ]
                self.flood(attacker, encode(Subscribe(packet + 1, filters)))
        self.assert_all_is_well()

    def test_answers_that_nobody_reads(self) -> None:
        self.ask_for_answers(200)
        self.assert_all_is_well()


assert os.path.exists("/proc/self/statm"), "these tests read /proc"
