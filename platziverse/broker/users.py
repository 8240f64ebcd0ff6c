"""UserCounts: how many clients of each user name are connected."""

from platziverse.broker.interfaces import Client
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import ConnectReturnCode


class UserCounts:
    """UserCounts counts the connected clients of each user name; clients without one are not counted.

    :param most: clients that may have the same user name; 0: any number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[str, int] = {}

    def enter(self, name: str | None, leaving: Client | None = None) -> None:
        """Count one more client.

        :param leaving: user name of the client whose place it takes, if any; ``leave`` is called for it
            later.
        :raises ConnectRefused: there are too many of this user. The return code is "server unavailable", as
            it may be better later: "not authorized" sounds final, and is what banning tools look for.
        """
        if name is None:
            return
        count = self._counts.get(name, 0)
        replaced = leaving is not None and leaving.username == name
        if self._most and count - replaced >= self._most:
            reason = f"user {name!r} has {count} connections already (max_connections_per_user)"
            raise ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, reason)
        self._counts[name] = count + 1

    def leave(self, name: str | None) -> None:
        """Count one client less."""
        if name is None:
            return
        count = self._counts[name] - 1
        if count:
            self._counts[name] = count
        else:
            del self._counts[name]
