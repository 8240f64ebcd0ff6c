"""The cost of a frame on the bus, for the sender, the server and the receiver: ``python -m bench.bus``.

Frames of 300 bytes go from one process to another, 1, 20 and 100 in a turn of the reactor, as fast as they
are taken. The figures are microseconds of CPU a frame. With ``redis`` or ``notify`` only that bus is
measured; the server is a private one.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Generator
from typing import Any, Final

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater, react

from platziverse.bus.making import make_bus
from platziverse.bus.settings import BusSettings
from tests.doubles.membership import Members
from tests.redis import RedisServer
from tests.servers import Cluster

Steps = Generator["Deferred[Any]", Any, None]

FRAME: Final = bytes(300)
IN_A_TURN: Final = (1, 20, 100)
FRAMES: Final = {"redis": 300_000, "notify": 20_000}
#: Bytes under way beyond which the sender waits.
UNDER_WAY: Final = 256 * 1024
SENDER, RECEIVER = 1, 2


class Counter:
    """A Counter is the receiver of the frames.

    :param wanted: after so many ``done`` fires.
    """

    def __init__(self, wanted: int) -> None:
        self.frames = self.gaps = 0
        self.wanted, self.done = wanted, Deferred[None]()
        self.before = 0.0

    def frame(self, origin: int, frame: bytes) -> None:
        self.frames += 1
        if self.frames == 1:
            self.before = cpu()
        elif self.frames == self.wanted:
            self.done.callback(None)

    def lost(self, origin: int) -> None:
        self.gaps += 1


def cpu() -> float:
    """Return the seconds of CPU that this process has taken."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bus(reactor: Any, url: str, number: int) -> Any:
    """Return the bus of one of the two daemons, which know each other."""
    members = Members()
    ours = {one: members.join(one) for one in (SENDER, RECEIVER)}[number]
    return make_bus(BusSettings(url=url, name="bench"), reactor, ours)


@inlineCallbacks
def receive(reactor: Any, url: str, frames: int) -> Steps:
    """Receive ``frames`` frames, and print what they took."""
    counter, ours = Counter(frames), bus(reactor, url, RECEIVER)
    yield ours.start(counter)
    print("ready", flush=True)
    yield counter.done
    print(json.dumps({"us": (cpu() - counter.before) / frames * 1e6, "gaps": counter.gaps}), flush=True)
    yield ours.stop()


@inlineCallbacks
def send(reactor: Any, url: str, frames: int, in_a_turn: int) -> Steps:
    """Send ``frames`` frames, so many in a turn, and print what they took."""
    ours = bus(reactor, url, SENDER)
    yield ours.start(Counter(0))
    before = cpu()
    for _ in range(frames // in_a_turn):
        for _ in range(in_a_turn):
            ours.send(1 << RECEIVER, FRAME)
        yield deferLater(reactor, 0)
        while ours.pending > UNDER_WAY:
            yield deferLater(reactor, 0.001)
    while ours.pending:
        yield deferLater(reactor, 0.001)
    print(json.dumps({"us": (cpu() - before) / frames * 1e6, "lost": ours.lost}), flush=True)
    yield ours.stop()


def measure(kind: str, in_a_turn: int) -> dict[str, float]:
    """Return the microseconds that sender, server and receiver took for a frame."""
    frames = FRAMES[kind] // in_a_turn * in_a_turn
    server: Any = RedisServer() if kind == "redis" else Cluster()
    url = server.url if kind == "redis" else f"postgresql:///postgres?host={server.directory}&user=postgres"
    try:
        words = [sys.executable, "-m", "bench.bus"]
        receiver = subprocess.Popen([*words, "receive", url, str(frames)], stdout=subprocess.PIPE, text=True)
        assert receiver.stdout is not None
        receiver.stdout.readline()
        before = ticks(server.pid)
        sent = json.loads(subprocess.check_output([*words, "send", url, str(frames), str(in_a_turn)]))
        received = json.loads(receiver.communicate(timeout=60)[0])
        took = (ticks(server.pid) - before) / os.sysconf("SC_CLK_TCK") / frames * 1e6
    finally:
        server.remove()
    assert not sent["lost"]
    assert not received["gaps"]
    return {"sender": sent["us"], "server": took, "receiver": received["us"]}


def ticks(pid: int) -> int:
    """Return the CPU of a process and of its children that have ended, in ticks of the clock."""
    with open(f"/proc/{pid}/stat") as file:
        return sum(int(field) for field in file.read().rpartition(")")[2].split()[11:15])


def main(words: list[str]) -> None:
    if words[:1] == ["receive"]:
        react(lambda reactor: receive(reactor, words[1], int(words[2])))
    elif words[:1] == ["send"]:
        react(lambda reactor: send(reactor, words[1], int(words[2]), int(words[3])))
    for kind in words or FRAMES:
        for in_a_turn in IN_A_TURN:
            figures = measure(kind, in_a_turn)
            text = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            print(f"{kind}, {in_a_turn} in a turn: {text} µs a frame", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
