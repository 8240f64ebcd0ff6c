"""Crowd: how many connections are open, in all and by address, and whether there is room for one more."""

from typing import Any, Final

from twisted.internet.interfaces import IAddress

from platziverse.broker.addresses import neighbourhood
from platziverse.broker.complaints import Complaints
from platziverse.broker.limits import Limits
from platziverse.broker.traffic import Traffic
from platziverse.net.peer import format_peer

#: Where connections come from that have no address: Unix sockets, and a proxy that has not told yet.
NOWHERE = ""
#: Part of ``max_memory`` that the kernel may take for one connection, and its bounds in bytes: 128 KiB is
#: what Twisted gives it in a turn, and 4 MiB what Linux takes by default.
UNSENT: Final = 1024
LEAST_UNSENT: Final = 128 * 1024
MOST_UNSENT: Final = 4 * 1024 * 1024


def origin(address: IAddress | None) -> str:
    """Return the name under which connections from this address are counted; see :func:`neighbourhood`."""
    host = getattr(address, "host", None)
    return neighbourhood(host) if isinstance(host, str) else NOWHERE


class Crowd:
    """A Crowd counts sockets, whatever they speak, from their accept until they are closed.

    :ivar sockets: those that are open.
    :ivar most_unsent: bytes that the kernel takes for each of them before it can send them; 0: as many as it
        likes, which is 4 MiB for a client that reads nothing. What is under way has no limit. ADR 0087.
    """

    def __init__(self, limits: Limits, traffic: Traffic, complaints: Complaints) -> None:
        self._most = limits.max_connections
        self._most_of_one = limits.max_connections_per_address
        self._traffic = traffic
        self._complaints = complaints
        self._by_origin: dict[str, int] = {}
        self.sockets: set[Any] = set()
        memory = limits.max_memory
        self.most_unsent = min(max(LEAST_UNSENT, memory // UNSENT), MOST_UNSENT) if memory else 0

    @property
    def total(self) -> int:
        """How many are open."""
        return len(self.sockets)

    def admits(self, address: IAddress, origin: str) -> bool:
        """Return whether one more connection may come in; a refusal is counted and logged.

        :param address: for the log.
        :param origin: under which it would be counted; see :func:`origin`.
        """
        if self._most and self.total >= self._most:
            return self._refuse(
                "total", address, "there are too many connections (max_connections, reserved_descriptors)"
            )
        return self.admits_origin(address, origin)

    def admits_origin(self, address: IAddress, origin: str) -> bool:
        """Return whether one more may come from ``origin``; its socket is counted in the total already."""
        if origin and self._most_of_one and self._by_origin.get(origin, 0) >= self._most_of_one:
            why = "there are too many connections from its address (max_connections_per_address)"
            return self._refuse("address", address, why)
        return True

    def entered(self, socket: object) -> None:
        """Count one more socket."""
        self.sockets.add(socket)

    def came_from(self, origin: str) -> None:
        """Count one of the sockets as coming from ``origin``."""
        if origin:
            self._by_origin[origin] = self._by_origin.get(origin, 0) + 1

    def left(self, socket: object, origin: str) -> None:
        """Count one socket less: it is closed."""
        self.sockets.discard(socket)
        count = self._by_origin.get(origin, 0)
        if count > 1:
            self._by_origin[origin] = count - 1
        elif count:
            del self._by_origin[origin]

    def _refuse(self, reason: str, address: IAddress, why: str) -> bool:
        self._traffic.connection_refused(reason)
        self._complaints.warn(
            f"too many connections, {reason}",
            "Closing {address}: {reason}",
            address=format_peer(address),
            reason=why,
        )
        return False
