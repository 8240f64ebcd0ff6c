"""Crowd: how many connections are open, in all and by address, and whether there is room for one more."""

from twisted.internet.interfaces import IAddress

from platziverse.broker.addresses import neighbourhood
from platziverse.broker.complaints import Complaints
from platziverse.broker.limits import Limits
from platziverse.broker.traffic import Traffic
from platziverse.net.peer import format_peer

#: Where connections come from that have no address: Unix sockets, and a proxy that has not told yet.
NOWHERE = ""


def origin(address: IAddress | None) -> str:
    """Return the name under which connections from this address are counted; see :func:`neighbourhood`."""
    host = getattr(address, "host", None)
    return neighbourhood(host) if isinstance(host, str) else NOWHERE


class Crowd:
    """A Crowd counts sockets, whatever they speak, from their accept until they are closed.

    :ivar total: how many are open.
    """

    def __init__(self, limits: Limits, traffic: Traffic, complaints: Complaints) -> None:
        self._most = limits.max_connections
        self._most_of_one = limits.max_connections_per_address
        self._traffic = traffic
        self._complaints = complaints
        self._by_origin: dict[str, int] = {}
        self.total = 0

    def admits(self, address: IAddress, origin: str) -> bool:
        """Return whether one more connection may come in; a refusal is counted and logged.

        :param address: for the log.
        :param origin: under which it would be counted; see :func:`origin`.
        """
        if self._most and self.total >= self._most:
            return self._refuse("total", address, "there are too many connections (max_connections)")
        return self.admits_origin(address, origin)

    def admits_origin(self, address: IAddress, origin: str) -> bool:
        """Return whether one more may come from ``origin``; its socket is counted in the total already."""
        if origin and self._most_of_one and self._by_origin.get(origin, 0) >= self._most_of_one:
            why = "there are too many connections from its address (max_connections_per_address)"
            return self._refuse("address", address, why)
        return True

    def entered(self) -> None:
        """Count one more socket."""
        self.total += 1

    def came_from(self, origin: str) -> None:
        """Count one of the sockets as coming from ``origin``."""
        if origin:
            self._by_origin[origin] = self._by_origin.get(origin, 0) + 1

    def left(self, origin: str) -> None:
        """Count one socket less: it is closed."""
        self.total -= 1
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
