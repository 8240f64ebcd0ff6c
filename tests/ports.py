"""Ports for programs that cannot be told to choose one themselves."""

import itertools
import os
import socket

#: Each process begins somewhere else, always below the ports that the kernel gives to clients.
_candidates = itertools.count(10_000 + os.getpid() * 20 % 20_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listens, another one at each call."""
    for port in _candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is always another number")
