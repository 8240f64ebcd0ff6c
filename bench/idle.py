"""Connections that do nothing but keep alive."""

import os
import select
import socket
import time

from bench import wire5
from bench.accounting import cpu_seconds, resident, settle
from tests.crash.wire import PINGREQ, connect

#: On their way at a time; the backlog of most brokers is 100.
AT_ONCE = 64
KEEP_ALIVE = 60
#: Connections of one source address: each has some 28,000 ports.
PER_SOURCE = 10_000
CONNACK = b"\x20\x02\x00\x00"
PINGRESP = b"\xd0\x00"


def open_connections(
    address: tuple[str, int], count: int, keep_alive: int, protocol: int = 4
) -> list[socket.socket]:
    """Connected clients, ``AT_ONCE`` of them on their way at a time; :raises OSError: one did not make it."""
    poll, prefix, begun = select.epoll(), f"{os.getpid():x}-i", 0
    waiting: dict[int, socket.socket] = {}
    names: dict[int, bytes] = {}
    held: list[socket.socket] = []
    write = wire5.connect if protocol == 5 else connect
    while len(held) < count:
        while begun < count and len(waiting) < AT_ONCE:
            client = _begin(address, begun)
            waiting[client.fileno()] = client
            names[client.fileno()] = write(f"{prefix}{begun}", True, keep_alive)
            poll.register(client, select.EPOLLOUT)
            begun += 1
        events = poll.poll(30)
        if not events:
            raise TimeoutError(f"{len(held)} of {count} connections were accepted")
        for descriptor, event in events:
            client = waiting[descriptor]
            if event & select.EPOLLOUT:
                client.send(names.pop(descriptor))
                poll.modify(descriptor, select.EPOLLIN)
                continue
            answer = client.recv(200 if protocol == 5 else 4)
            if (answer[:1] + answer[3:4] if protocol == 5 else answer) != (
                b"\x20\0" if protocol == 5 else CONNACK
            ):
                raise ConnectionError(f"{answer!r} for CONNECT {len(held)}")
            poll.unregister(descriptor)
            held.append(waiting.pop(descriptor))
    poll.close()
    return held


def _begin(address: tuple[str, int], number: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    client.bind((f"127.0.0.{2 + number // PER_SOURCE}", 0))
    client.connect_ex(address)
    return client


def measure_idle(
    address: tuple[str, int], pids: list[int], count: int, seconds: float, protocol: int = 4
) -> dict[str, float]:
    """Connecting, memory, and CPU time while every client sends a PINGREQ once in ``KEEP_ALIVE`` seconds."""
    memory, cpu, began = sum(map(resident, pids)), cpu_seconds(pids), time.perf_counter()
    clients = open_connections(address, count, KEEP_ALIVE, protocol)
    connecting, connect_cpu = time.perf_counter() - began, cpu_seconds(pids) - cpu
    memory = sum(map(resident, pids)) - memory
    settle(pids)
    cpu, began, pings = cpu_seconds(pids), time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        due = int(passed * count / KEEP_ALIVE)
        for client in clients[pings:due]:
            client.send(PINGREQ)
        pings = max(pings, due)
        time.sleep(0.005)
    idle_cpu, passed = cpu_seconds(pids) - cpu, time.perf_counter() - began
    for client in clients[:pings]:
        client.settimeout(10)
        if (answer := client.recv(2)) != PINGRESP:
            raise ConnectionError(f"{answer!r} for a PINGREQ")
    for client in clients:
        client.close()
    return {
        "connections": count,
        "seconds": connecting,
        "cpu": connect_cpu,
        "memory": memory,
        "idle_seconds": passed,
        "idle_cpu": idle_cpu,
        "pings": pings,
    }
