"""Bursts: how many messages of one reach a subscriber that keeps reading, with every setting as it comes.

The figures are stored in bench/results/bursts.json.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

from bench.peers import Aedes, Mosquitto, Peer, Platziverse
from bench.results import NAMES, NONE, Results, provenance, simple_table
from bench.rings import Ring, reports, same_topic
from tests.crash import wire
from tests.integration.daemon import NODE, ROOT, clean_environment, find_program
from tests.servers import Cluster

#: Seconds without a message after which the rest of a burst has been lost, and those for one burst.
STALLED: Final = 5.0
LONGEST: Final = 120.0
READ: Final = 64 * 1024
#: Where Mosquitto listens, and who may come; everything else as it is by default.
MOSQUITTO_DEFAULTS: Final = "user root\nallow_anonymous true\nlistener {mqtt} 127.0.0.1\n"


class NotTaken(Exception):
    """A broker has not taken all of a burst; the text says how many."""


@frozen
class Burst:
    """One load: ``senders`` clients send ``each`` messages as fast as they can.

    :param send: sends all to a port, and returns how many the subscriber got.
    """

    key: str
    title: str
    senders: int
    each: int
    send: "Callable[[Burst, int], int]"
    qos: int
    granted: int

    @property
    def published(self) -> int:
        return self.senders * self.each


def loop(burst: Burst, port: int) -> int:
    """MQTT.js publishes in a loop; the subscriber shares its process."""
    arguments = (str(number) for number in (port, burst.qos, burst.each, STALLED))
    command = [str(find_program("node")), str(ROOT / "bench" / "burst.js"), *arguments]
    environ = clean_environment(NODE_PATH=str(NODE.parent))
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LONGEST, check=True)
    counted = json.loads(done.stdout)
    check_taken(burst, counted["acknowledged"])
    return int(counted["delivered"])


def lines(burst: Burst, port: int) -> int:
    """As many mosquitto_pub as there are senders read lines; the subscriber is our own."""
    return asyncio.run(_lines(burst, port))


async def _lines(burst: Burst, port: int) -> int:
    subscriber = await Subscriber.begin(port, "burst/#", burst.granted)
    text = b"%s\n" % (b"x" * 64) * burst.each
    arguments = ("-p", str(port), "-l", "-q", str(burst.qos), "-t", "burst/lines")
    senders = [
        await asyncio.create_subprocess_exec(
            str(find_program("mosquitto_pub")), *arguments, stdin=subprocess.PIPE
        )
        for _ in range(burst.senders)
    ]
    ended = asyncio.gather(*(sender.communicate(text) for sender in senders))
    delivered = await subscriber.count(burst.published)
    await ended
    check_taken(burst, sum(burst.each for sender in senders if sender.returncode == 0))
    return delivered


def sockets(burst: Burst, port: int) -> int:
    """Plain sockets, written to as fast as they take it."""
    rings = [same_topic(f"burst/{number}", 64, burst.qos) for number in range(burst.senders)]
    return asyncio.run(_sockets(burst, port, "burst/#", rings))


def agents(burst: Burst, port: int) -> int:
    """Agents report as fast as their sockets take it; the subscriber is a dashboard."""
    prefix = f"burst-{time.time():.0f}"
    rings = [reports(f"{prefix}-{number}", 4, burst.qos) for number in range(burst.senders)]
    return asyncio.run(_sockets(burst, port, "agent/message", rings))


async def _sockets(burst: Burst, port: int, topic_filter: str, rings: Sequence[Ring]) -> int:
    subscriber = await Subscriber.begin(port, topic_filter, burst.granted)
    senders = asyncio.gather(
        *(_send(port, f"burst-{number}", burst, ring) for number, ring in enumerate(rings))
    )
    delivered = await subscriber.count(burst.published)
    check_taken(burst, sum(await senders))
    return delivered


async def _send(port: int, name: str, burst: Burst, ring: Ring) -> int:
    """Send what one sender has to; return how many were acknowledged, or sent at QoS 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire.connect(name, True, 60))
    await reader.readexactly(4)
    acknowledged = asyncio.ensure_future(_acknowledged(reader, burst.each)) if burst.qos else None
    left = burst.each
    while left:
        packets = ring.take(left)
        left -= len(packets) // ring.size
        writer.write(bytes(packets))
        await writer.drain()
    count = burst.each if acknowledged is None else await acknowledged
    writer.write(wire.DISCONNECT)
    writer.close()
    await writer.wait_closed()
    return count


async def _acknowledged(reader: asyncio.StreamReader, most: int) -> int:
    """Count PUBACKs until there are ``most``, or none comes."""
    count, rest = 0, bytearray()
    while count < most and (data := await _soon(reader)):
        rest += data
        count += sum(first == 0x40 for first, _ in wire.split(rest))
    return count


async def _soon(reader: asyncio.StreamReader) -> bytes:
    """What comes next; nothing when the connection has ended or stalls."""
    try:
        return await asyncio.wait_for(reader.read(READ), STALLED)
    except asyncio.TimeoutError:
        return b""


@frozen
class Subscriber:
    """A client that reads as fast as it can, and acknowledges what it has read."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def begin(cls, port: int, topic_filter: str, qos: int) -> "Subscriber":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire.connect("burst-subscriber", True, 60) + wire.subscribe(topic_filter, qos, 1))
        await reader.readexactly(9)
        return cls(reader, writer)

    async def count(self, most: int) -> int:
        """How many messages came until there were ``most``, or none came any more."""
        count, rest = 0, bytearray()
        while count < most and (data := await _soon(self.reader)):
            rest += data
            answers = bytearray()
            for first, body in wire.split(rest):
                if first >> 4 == wire.PUBLISH:
                    count += 1
                    if first & 6:
                        answers += wire.puback(wire.received(first, body).packet_id)
            self.writer.write(bytes(answers))
        self.writer.close()
        return count


def check_taken(burst: Burst, count: int) -> None:
    """:raises NotTaken: the broker has not taken all that was published."""
    if count != burst.published:
        raise NotTaken(f"{count:,} of {burst.published:,} were taken")


BURSTS: Final = (
    Burst("loop-1", "MQTT.js in a loop, QoS 1", 1, 5000, loop, 1, 1),
    Burst("loop-0", "the same, QoS 0", 1, 5000, loop, 0, 0),
    Burst("lines-1", "10 × mosquitto_pub -l -q 1", 10, 5000, lines, 1, 1),
    Burst("lines-0", "10 × mosquitto_pub -l -q 0", 10, 5000, lines, 0, 0),
    Burst("agents-1", "50 agents, dashboard at QoS 1", 50, 1000, agents, 1, 1),
    Burst("agents-0", "50 agents, dashboard at QoS 0", 50, 1000, agents, 1, 0),
    Burst("sockets-0", "10 sockets without a pause, QoS 0", 10, 5000, sockets, 0, 0),
)


@frozen
class Bursts:
    """What the bursts are measured with."""

    cluster: Cluster
    rounds: int

    def measure(self) -> Results:
        """The fewest deliveries of all rounds; printed as they come."""
        dsn = self.cluster.database("template1")
        everybody: list[Peer] = [
            Platziverse("platziverse", dsn, {}),
            Mosquitto("mosquitto", MOSQUITTO_DEFAULTS),
            Aedes("aedes"),
        ]
        there = [peer for peer in everybody if not peer.missing()]
        loads = {}
        for burst in BURSTS:
            delivered = {peer.name: self._fewest(burst, peer) for peer in there}
            loads[burst.key] = {"title": burst.title, "published": burst.published, "delivered": delivered}
            print(f"{burst.title}: {delivered}", flush=True)
        return {"versions": {peer.name: peer.version() for peer in there}, "loads": loads}

    def _fewest(self, burst: Burst, peer: Peer) -> int | None:
        """Each time from a broker that was just started; ``None``: it did not take the burst."""
        counts = []
        for _ in range(self.rounds):
            with peer.running() as running:
                try:
                    counts.append(burst.send(burst, running.ports["mqtt"]))
                except NotTaken as error:
                    print(f"  {running.name}: {error} {running.obituary()}", flush=True)
                    return None
        return min(counts)


def table(results: Results) -> str:
    """Deliveries, a line for each burst."""
    names = list(results["versions"])
    rows = []
    for load in results["loads"].values():
        counts = [load["delivered"].get(name) for name in names]
        cells = [NONE if count is None else f"{count:,}" for count in counts]
        rows.append([load["title"], f"{load['published']:,}", *cells])
    return simple_table(["delivered of a burst", "published", *(NAMES[name] for name in names)], rows)


def section(results: Results) -> str:
    """The table, and where it is from."""
    return f"{provenance(results, 'The fewest')}\n\n{table(results)}"
