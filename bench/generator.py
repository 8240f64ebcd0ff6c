"""The load generator, a process of its own: a job as JSON on its standard input, the outcome on its output.

    echo '{"port": 1883, "qos": 1, "window": 100, "publishers": 10}' | python -m bench.generator

Loopback only. It reads the CPU clock of the broker at the beginning and at the end of the measured time.
"""

import json
import os
import select
import socket
import sys
import time
from typing import Any

from attrs import asdict, field, frozen

from bench.accounting import cpu_seconds, resident, settle, tree_cpu_seconds
from bench.clients import Client, Publisher, Subscriber, Tally, Unexpected
from bench.idle import PINGRESP, measure_idle, open_connections
from bench.rings import Ring, frame, new_topics, readings, reports, retained, same_topic, tasmota
from bench.wire5 import with_properties
from tests.crash import wire

#: Seconds without any event after which something has been lost.
STALLED = 10.0
#: Subscriptions of one client; no more than most brokers allow.
PER_CLIENT = 1000
#: Seconds for what is under way at the end.
DRAINING = 5.0
MASK = b"\x37\xfa\x21\x3d"
#: Topic Alias Maximum.
TAKES_ALIASES = b"\x22\0\x10"
DISCONNECT_FRAME = frame(wire.DISCONNECT, MASK)


@frozen
class Job:
    """One run against one broker.

    :param pids: the broker's processes.
    :param server: the process of its database; 0: it has none, or it is of no interest.
    :param subscribers: the Topic Filters of each.
    :param deliveries: of each message; 0: nobody subscribes, and acknowledgements are counted.
    :param window: messages that each publisher has under way.
    :param messages: ``same`` topic for each publisher, ``new`` topics all the time, ``reports``,
        ``tasmota``, or ``readings``: reports of the same numbers.
    :param metrics: of each report, and numbers of each message of Tasmota.
    :param retain: messages of the ``same`` topic are retained.
    :param connections: further ones that do nothing.
    :param filters: further wildcard Subscriptions that match nothing.
    :param retained: Retained Messages that are there before; with ``retain`` only.
    :param persistent: the subscribers have Clean Session 0.
    :param absent: further such subscribers of the first one's Topic Filters, that have gone before.
    :param ports: of further brokers of the same set: clients go to ``port`` and to these in turn.
    :param protocol: 4 or 5.
    :param properties: of each message, in hexadecimal; of MQTT 5 alone.
    :param delivered: what its subscribers get of them.
    :param aliased: "in": the publishers send a Topic Alias, which ``properties`` has, instead of the name;
        "out": the subscriber takes aliases. Of QoS 1 and one subscriber.
    :param subscribes: Properties of each SUBSCRIBE, in hexadecimal.
    :param rate: messages a second of all publishers together; 0: as many as the window allows.
    """

    port: int
    pids: list[int] = field(factory=list)
    server: int = 0
    kind: str = "flow"
    websocket: bool = False
    publishers: int = 1
    subscribers: list[list[str]] = field(factory=list)
    deliveries: int = 0
    qos: int = 0
    window: int = 1
    messages: str = "same"
    payload: int = 64
    metrics: int = 4
    retain: bool = False
    connections: int = 0
    filters: int = 0
    retained: int = 0
    persistent: bool = False
    absent: int = 0
    ports: list[int] = field(factory=list)
    protocol: int = 4
    properties: str = ""
    delivered: str = ""
    aliased: str = ""
    subscribes: str = ""
    rate: int = 0
    warm: float = 0.5
    seconds: float = 1.5

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def address_of(self, number: int) -> tuple[str, int]:
        """Where the publisher, or the subscriber, of this number goes."""
        ports = [self.port, *self.ports]
        return ("127.0.0.1", ports[number % len(ports)])

    def encoded(self) -> str:
        return json.dumps(asdict(self))


def ring(job: Job, number: int, name: str, mask: bytes) -> Ring:
    """What publisher ``number`` sends."""
    properties = bytes.fromhex(job.properties) if job.protocol == 5 else None
    if job.messages == "new":
        return new_topics(job.payload, number, job.publishers, sum(map(len, job.subscribers)), properties)
    if job.messages == "reports":
        return reports(name, job.metrics, job.qos)
    if job.messages == "readings":
        return readings(name, job.metrics, job.qos)
    if job.messages == "tasmota":
        return tasmota(name, job.metrics, job.qos)
    topic = "" if job.aliased == "in" else topic_of(number)
    return same_topic(topic, job.payload, job.qos, mask, job.retain, properties)


def topic_of(publisher: int) -> str:
    """What publisher ``number`` sends the ``same`` topic to."""
    return f"bench/{publisher:03}"


class Flow:
    """Publishers and subscribers of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._poll, self._paced = select.epoll(), 0
        self.tally = Tally(job.deliveries, job.publishers)
        mask, prefix = MASK if job.websocket else b"", _prefix()
        rings = [ring(job, number, f"{prefix}-p{number}", mask) for number in range(job.publishers)]
        size, behind = rings[0].size - (6 if mask else 0), job.payload
        if job.protocol == 5:
            size -= (len(job.properties) - len(job.delivered)) // 2
            size += {"": 0, "in": len(topic_of(0)), "out": -len(topic_of(0))}[job.aliased]
            behind += 1 + len(job.delivered) // 2
        # The fixed header has two bytes, and Topic Name, Properties and payload are what else there is.
        id_at = size - behind - 2
        self._subscribers = [
            Subscriber(
                job.address_of(number),
                f"{prefix}-s{number}",
                self.tally,
                size,
                id_at,
                job.qos,
                mask,
                clean=not job.persistent,
                protocol=job.protocol,
                asks=TAKES_ALIASES if job.aliased == "out" else b"",
            )
            for number in range(len(job.subscribers))
        ]
        for subscriber, topic_filters in zip(self._subscribers, job.subscribers, strict=True):
            subscriber.subscribe(topic_filters, job.qos, bytes.fromhex(job.subscribes))
        self._publishers = [
            Publisher(
                job.address_of(number),
                f"{prefix}-p{number}",
                self.tally,
                rings[number],
                job.qos,
                job.window,
                mask,
                job.protocol,
            )
            for number in range(job.publishers)
        ]
        everybody: list[Publisher | Subscriber] = [*self._subscribers, *self._publishers]
        self._say_aliases()
        self._clients = {client.socket.fileno(): client for client in everybody}

    def _say_aliases(self) -> None:
        """Publish as often as it takes until both sides know each other's aliases."""
        said = {"": [], "in": [bytes.fromhex(self._job.properties)], "out": [b"", b""]}[self._job.aliased]
        for number, publisher in enumerate(self._publishers):
            for properties in said:
                packet = with_properties(wire.publish(topic_of(number), b"x", 1, 1), properties)
                publisher.ask(packet, wire.puback(1))
        for subscriber in self._subscribers:
            subscriber.receive(len(said) * len(self._publishers))

    def start(self) -> None:
        for client in self._clients.values():
            client.start(self._poll)
        for publisher in self._publishers:
            publisher.allow(0) if self._job.rate else publisher.publish()

    def run(self, seconds: float) -> None:
        """Go on for so long; :raises Unexpected: nothing moves any more."""
        if self._job.rate:
            self._run_paced(seconds)
            return
        poll, publishers = self._poll, self._publishers
        throttled = bool(self._job.deliveries)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            events = poll.poll(STALLED)
            if not events:
                raise Unexpected(f"it stalled after {self.tally.count()} messages: some were lost")
            self._handle(events)
            if throttled:
                for publisher in publishers:
                    publisher.publish()

    def _run_paced(self, seconds: float) -> None:
        publishers, sent = self._publishers, self._paced
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            for number in range(self._paced, sent + int(passed * self._job.rate)):
                publishers[number % len(publishers)].allow(number // len(publishers) + 1)
                self._paced = number + 1
            self._handle(self._poll.poll(0.0005))

    def stop(self) -> None:
        """Let what is under way arrive, then disconnect: not every broker survives a crowd that just goes."""
        for publisher in self._publishers:
            publisher.pause()
        end = time.perf_counter() + DRAINING
        while time.perf_counter() < end and (events := self._poll.poll(0.1)):
            self._handle(events)
        for client in self._clients.values():
            client.socket.send(DISCONNECT_FRAME if client.mask else wire.DISCONNECT)
            client.socket.close()
        self._poll.close()

    def _handle(self, events: list[tuple[int, int]]) -> None:
        for descriptor, event in events:
            if event & ~select.EPOLLOUT:
                self._clients[descriptor].readable()
            if event & select.EPOLLOUT:
                self._clients[descriptor].writable()


def measure_flow(job: Job) -> dict[str, float]:
    """Messages, seconds, CPU time of broker and generator, latencies, memory."""
    bystanders = [*open_connections(job.address, job.connections, 0), *furnish(job)]
    absent = leave_absent(job)
    flow = Flow(job)
    settle(job.pids)
    flow.start()
    flow.run(job.warm)
    flow.tally.latencies.clear()
    before = reading(job, flow)
    flow.run(job.seconds)
    after = reading(job, flow)
    outcome = {name: after[name] - value for name, value in before.items()}
    outcome["resident"] = sum(map(resident, job.pids))
    flow.stop()
    for bystander in bystanders:
        bystander.close()
    end_sessions(job, absent)
    return outcome | percentiles(flow.tally.latencies)


def furnish(job: Job) -> list[socket.socket]:
    """Further Subscriptions, a thousand for each client, and Retained Messages; the sockets to keep."""
    sockets = []
    for first in range(0, job.filters, PER_CLIENT):
        client = Client(job.address, f"{os.getpid():x}-f{first}")
        numbers = range(first, min(first + PER_CLIENT, job.filters))
        client.subscribe([f"other/{number:06}/+" for number in numbers], 0)
        sockets.append(client.socket)
    if job.retain:
        client = Client(job.address, f"{os.getpid():x}-r")
        packets = [wire.publish(f"kept/{number:06}", b"x" * 64, 0) for number in range(job.retained)]
        # What an earlier run has left would come before the first delivery.
        packets += [wire.publish(f"bench/{number:03}", b"", 0) for number in range(job.publishers)]
        client.ask(b"".join(map(retained, packets)) + wire.PINGREQ, PINGRESP)
        sockets.append(client.socket)
    return sockets


def leave_absent(job: Job) -> list[str]:
    """Subscribe with Sessions that outlive their connections, and go; their names."""
    names = [f"{_prefix()}-a{number}" for number in range(job.absent)]
    for name in names:
        client = Client(job.address, name, clean=False)
        client.subscribe(job.subscribers[0] if job.subscribers else ["bench/+"], job.qos)
        client.leave()
    return names


def end_sessions(job: Job, absent: list[str]) -> None:
    """Leave no Session to the next run."""
    present = [f"{_prefix()}-s{number}" for number in range(len(job.subscribers))]
    for name in absent + (present if job.persistent else []):
        Client(job.address, name).leave()


def _prefix() -> str:
    """The names of the clients of this run begin with it."""
    return f"{os.getpid():x}"


def reading(job: Job, flow: Flow) -> dict[str, float]:
    """What has been used so far."""
    return {
        "messages": flow.tally.count(),
        "seconds": time.perf_counter(),
        "cpu": cpu_seconds(job.pids),
        "server_cpu": tree_cpu_seconds(job.server) if job.server else 0.0,
        "generator_cpu": time.process_time(),
    }


def percentiles(latencies: list[float]) -> dict[str, float]:
    """``p50`` and ``p99`` in seconds; empty when there is nothing."""
    if not latencies:
        return {}
    latencies = sorted(latencies)
    return {"p50": latencies[len(latencies) // 2], "p99": latencies[len(latencies) * 99 // 100]}


def main() -> None:
    given: dict[str, Any] = json.load(sys.stdin)
    job = Job(**given)
    if job.kind == "idle":
        outcome = measure_idle(job.address, job.pids, job.connections, job.seconds, job.protocol)
    else:
        outcome = measure_flow(job)
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    try:
        main()
    except Unexpected as error:
        raise SystemExit(f"the load generator: {error}") from None
