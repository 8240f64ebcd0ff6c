"""Ports for programs that cannot be told to choose one themselves."""

import itertools
import os
import socket

#: Each process begins somewhere else, always below the ports that the kernel gives to clients.
_candidates = itertools.count(10_000 + os.getpid() * 20 % 20_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listens, another one at each call, in any process."""
    return next(port for port in _candidates if _is_ours(port) and _is_free(port))


def _is_ours(port: int) -> bool:
    """Whether no other process of tests has been given the port, and none will be while this one lives.

    A name in Linux's abstract namespace of Unix sockets is taken as long as its descriptor is open, and
    nobody closes it: between our look at a port and the program that listens there others may look too.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0platziverse-test-port-{port}")
    except OSError:
        claim.close()
        return False
    claim.detach()
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
