"""Hands: what operators may do to clients, whichever way they ask; the log says who it was."""

from collections.abc import Callable, Mapping, Sequence
from json import dumps, loads
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from platziverse.broker.broker import Broker
from platziverse.broker.reasons import Reason
from platziverse.net.shared import Shared
from platziverse.net.tracing import trace
from platziverse.postgres.requests import KICK

log = Logger("platziverse.service")

#: Characters of a request to another daemon, which is in an index; no client has a name as long.
LONGEST: Final = 2000


class Hands:
    """Hands end connections, and listen to them.

    :param ask_others: see ``Database.ask_others``.
    """

    def __init__(
        self, broker: Broker, shared: Shared, ask_others: Callable[[str, str], "Deferred[Sequence[str]]"]
    ) -> None:
        self._broker, self._shared = broker, shared
        self._ask_others = ask_others

    def is_connected(self, client_id: str) -> bool:
        """Return whether a client is connected to this daemon."""
        session = self._broker.sessions.get(client_id)
        return session is not None and session.connection is not None

    def kick(self, client_id: str, by: str) -> bool:
        """End the connection of a client; its Session stays if it outlives the connection, its Will is due.

        :param by: who asks, for the log.
        :return: whether there was one.
        """
        session = self._broker.sessions.get(client_id)
        if session is None or session.connection is None or session.client is None:
            return False
        text = "{by} ends the connection of {address} {client_id!r}"
        log.info(text, by=by, address=session.client.address, client_id=client_id)
        self._broker.clients.part(session, Reason.ADMINISTRATIVE, "an operator has ended its connection")
        return True

    def ask_others(self, client_id: str, by: str) -> "Deferred[Sequence[str]]":
        """Ask the daemons on other machines to do so; fires with their names, or errbacks ``Unavailable``."""
        text = "{by} wants the connection of {client_id!r} ended, which is not here"
        log.info(text, by=by, client_id=client_id)
        argument = dumps({"client": client_id, "by": by})
        return self._ask_others(KICK, argument) if len(argument) <= LONGEST else succeed(())

    def asked(self, argument: str) -> None:
        """Do so for another daemon, which has been asked."""
        given = loads(argument)
        self.kick(given["client"], given["by"])

    def trace(
        self, client_id: str, hear: Callable[[str, Mapping[str, object]], None], by: str
    ) -> Callable[[], None]:
        """Let ``hear`` be told of each packet of a client from now on; return what ends that."""
        log.info("{by} traces {client_id!r}", by=by, client_id=client_id)
        return trace(self._shared, client_id, hear)
