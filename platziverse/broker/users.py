"""Users: how many clients of each user name are connected."""

from platziverse.broker.interfaces import Client
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import ConnectReturnCode


class Users:
    """Clients without a user name are not counted.

    :param most: clients with the same one; 0: any number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[str, int] = {}

    def enter(self, name: str | None, leaving: Client | None = None) -> None:
        """One more, in the place of the client that is ``leaving``, which ``leave`` will be called for.

        :raises ConnectRefused: there are too many. "Server unavailable", as it may be better later: "not
            authorized" sounds final, and is what banning tools look for.
        """
        if name is None:
            return
        count = self._counts.get(name, 0)
        replaced = leaving is not None and leaving.username == name
        if self._most and count - replaced >= self._most:
            reason = f"user {name!r} has {count} connections already"
            raise ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, reason)
        self._counts[name] = count + 1

    def leave(self, name: str | None) -> None:
        """One less."""
        if name is None:
            return
        count = self._counts[name] - 1
        if count:
            self._counts[name] = count
        else:
            del self._counts[name]
