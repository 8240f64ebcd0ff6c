"""Presence: which agents each connection speaks for."""

from attrs import define

from platziverse.agents.interfaces import Client
from platziverse.agents.model import InvalidReport


@define
class _Speakers:
    """_Speakers says how many connections speak for an agent, and which login they share."""

    count: int
    login: str | None


class Presence:
    """A Presence knows for which agents each connection speaks, from a first valid message to its end.

    A gateway speaks for several. There is an entry for each open connection, and one for each pair of
    connection and agent.

    :param max_agents: of one connection.
    """

    def __init__(self, max_agents: int) -> None:
        self._max_agents = max_agents
        # Number of the connection → agent → heard on this very connection (false: inherited, silent yet).
        self._heard: dict[int, dict[str, bool] | None] = {}
        self._speakers: dict[str, _Speakers] = {}
        # Between the end of a connection that was taken over and the beginning of the one that did it.
        self._inherited: dict[str, list[str]] = {}

    @property
    def agents(self) -> int:
        """How many agents are connected now."""
        return len(self._speakers)

    def is_open(self, client: Client) -> bool:
        """Return whether the connection has not ended yet."""
        return client.number in self._heard

    def is_connected(self, uuid: str) -> bool:
        """Return whether a connection speaks for the agent."""
        return uuid in self._speakers

    def begin(self, client: Client) -> None:
        """Begin a connection, which speaks at once for the agents of the one that it has taken over."""
        inherited = self._inherited.pop(client.client_id, None)
        self._heard[client.number] = dict.fromkeys(inherited, False) if inherited else None

    def end(self, client: Client, taken_over: bool) -> list[str]:
        """End a connection; return the agents for which none speaks any more.

        :param taken_over: :meth:`begin` of a connection with the same Client Identifier comes next.
        """
        heard = self._heard.pop(client.number, None)
        if not heard:
            return []
        if taken_over:
            self._inherited[client.client_id] = list(heard)
            return []
        return [uuid for uuid in heard if self._silent(uuid)]

    def _silent(self, uuid: str) -> bool:
        speakers = self._speakers[uuid]
        speakers.count -= 1
        if speakers.count == 0:
            del self._speakers[uuid]
        return speakers.count == 0

    def has_heard(self, client: Client, uuid: str) -> bool:
        """Return whether a valid message of the agent came on this very connection, and it is open."""
        heard = self._heard.get(client.number)
        return heard is not None and heard.get(uuid, False)

    def check(self, client: Client, uuid: str) -> None:
        """Make sure that :meth:`heard` may be called.

        :raises InvalidReport: the connection speaks for too many agents, or the agent is another login's.
        """
        heard = self._heard.get(client.number)
        if heard is not None:
            if uuid in heard:
                return
            if len(heard) >= self._max_agents:
                reason = f"the connection speaks for {len(heard)} agents already (max_agents)"
                raise InvalidReport("agents", reason)
        speakers = self._speakers.get(uuid)
        # As long as a login speaks for an agent, nobody without this login does.
        if speakers is not None and speakers.login is not None and speakers.login != client.username:
            raise InvalidReport("login", "the agent is connected with another login - at `$.agent.uuid`")

    def heard(self, client: Client, uuid: str) -> bool:
        """Note a valid message of the agent; return whether it is the first on this connection.

        Nothing changes when the connection has ended.
        """
        heard = self._heard.get(client.number)
        if heard is None:
            if client.number not in self._heard:
                return False
            heard = self._heard[client.number] = {}
        known = heard.get(uuid)
        if not known:
            heard[uuid] = True
            if known is None:
                self._add(client, uuid)
        return not known

    def _add(self, client: Client, uuid: str) -> None:
        speakers = self._speakers.get(uuid)
        if speakers is None:
            self._speakers[uuid] = _Speakers(1, client.username)
        else:
            speakers.count += 1
            speakers.login = speakers.login or client.username
