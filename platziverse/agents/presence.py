"""Presence: which agents each connection speaks for, and for which ones a message has spoken."""

import sys
from collections.abc import Collection, Sequence
from typing import Final

from attrs import define

from platziverse.agents.interfaces import Client
from platziverse.agents.model import Agent, InvalidReport
from platziverse.mqtt.memo import Recent
from platziverse.mqtt.packets import Publish

#: Bytes of an agent that is connected, with a uuid as long as it may be.
AGENT: Final = 1024
#: Bytes that the messages take which are remembered of one QoS, roughly: 10,000 usual ones.
MAX_SPOKEN: Final = 8 * 1024 * 1024
#: Bytes of such a message, and of each agent, beside the texts.
_MESSAGE: Final = 512
_PLACE: Final = 256


@define
class _Speakers:
    """_Speakers says which connections speak for an agent, by their numbers, and which login they share."""

    numbers: set[int]
    login: str | None


class Presence:
    """A Presence knows for which agents each connection speaks, from a first valid message to its end.

    A gateway speaks for several. There is an entry for each open connection, and one for each pair of
    connection and agent.

    :param max_agents: of one connection.
    """

    def __init__(self, max_agents: int) -> None:
        self._max_agents = max_agents
        self._most = sys.maxsize
        # Number of the connection → agent → heard on this very connection (false: inherited, silent yet).
        self._heard: dict[int, dict[str, bool] | None] = {}
        self._speakers: dict[str, _Speakers] = {}
        # Between the end of a connection that was taken over and the beginning of the one that did it.
        self._inherited: dict[str, tuple[int, list[str]]] = {}

    def limit(self, memory: int) -> None:
        """Let the agents of all connections take an eighth of ``memory``, in bytes; 0: any part of it."""
        self._most = memory // 8 // AGENT or sys.maxsize

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
        number, inherited = self._inherited.pop(client.client_id, (0, []))
        uuids = [uuid for uuid in inherited if uuid in self._speakers]
        for uuid in uuids:
            numbers = self._speakers[uuid].numbers
            numbers.discard(number)
            numbers.add(client.number)
        self._heard[client.number] = dict.fromkeys(uuids, False) if uuids else None

    def end(self, client: Client, taken_over: bool) -> list[str]:
        """End a connection; return the agents for which none speaks any more.

        :param taken_over: :meth:`begin` of a connection with the same Client Identifier comes next.
        """
        heard = self._heard.pop(client.number, None)
        if not heard:
            return []
        if taken_over:
            self._inherited[client.client_id] = client.number, list(heard)
            return []
        return [uuid for uuid in heard if self._silent(uuid, client.number)]

    def forget(self) -> None:
        """Let no connection speak for any agent: another daemon has marked all of them disconnected."""
        self._speakers.clear()
        self._inherited.clear()
        self._heard = dict.fromkeys(self._heard)

    def _silent(self, uuid: str, number: int) -> bool:
        numbers = self._speakers[uuid].numbers
        numbers.discard(number)
        if not numbers:
            del self._speakers[uuid]
        return not numbers

    def depart(self, client: Client, uuid: str) -> bool:
        """Let no connection speak for an agent any more, as a message says; return whether one did.

        :raises InvalidReport: the agent is another login's.
        """
        speakers = self._speakers.get(uuid)
        if speakers is None:
            return False
        self._check_login(client, speakers)
        for number in speakers.numbers:
            heard = self._heard.get(number)
            if heard is not None:  # else it was taken over this very moment
                heard.pop(uuid, None)
        del self._speakers[uuid]
        return True

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
        if speakers is None and len(self._speakers) >= self._most:
            raise InvalidReport("agents", f"{len(self._speakers)} agents are connected already (max_memory)")
        if speakers is not None:
            self._check_login(client, speakers)

    @staticmethod
    def _check_login(client: Client, speakers: _Speakers) -> None:
        """Check a login: as long as one speaks for an agent, nobody without it does.

        :raises InvalidReport: the client has another.
        """
        if speakers.login is not None and speakers.login != client.username:
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
            self._speakers[uuid] = _Speakers({client.number}, client.username)
        else:
            speakers.numbers.add(client.number)
            speakers.login = speakers.login or client.username


@define
class _Said:
    """A _Said is one message: what recognises it, and its agents by uuid."""

    topic: str
    digest: int
    agents: dict[str, Agent]

    def weight(self) -> int:
        texts = [text for agent in self.agents.values() for text in (agent.uuid, agent.username, agent.name)]
        return _MESSAGE + _PLACE * len(self.agents) + sum(map(sys.getsizeof, texts))


class Spoken:
    """A Spoken remembers for which agents a message of a Session has spoken, while it may come again.

    Those of QoS 2 are forgotten at their PUBREL; those of QoS 1 when their Packet Identifier is used again.
    What does not fit is forgotten as well, the oldest first: then an agent that only repeats such a message
    is connected from its next one on.
    """

    def __init__(self, most: int = MAX_SPOKEN) -> None:
        self._said: dict[int, Recent[tuple[str, int], _Said]] = {
            qos: Recent(most, _Said.weight) for qos in (1, 2)
        }

    def note(self, message: Publish, client: Client, agents: Sequence[Agent]) -> None:
        """Remember the agents of a message, beside those that another handler has found in it."""
        if not client.persistent or message.packet_id is None:
            return
        said = self._said[message.qos]
        key, digest = (client.client_id, message.packet_id), hash(message.payload)
        found = said.get(key)
        given = {agent.uuid: agent for agent in agents}
        if found is not None and (found.topic, found.digest) == (message.topic, digest):
            given = found.agents | given
        said.put(key, _Said(message.topic, digest, given))

    def find(self, message: Publish, client: Client) -> Collection[Agent]:
        """Return the agents of a message that has come again."""
        assert message.packet_id is not None
        found = self._said[message.qos].get((client.client_id, message.packet_id))
        if found is None or (found.topic, found.digest) != (message.topic, hash(message.payload)):
            return ()
        return found.agents.values()

    def forget(self, client_id: str, packet_id: int) -> None:
        """Forget a message of QoS 2 whose PUBREL has come."""
        self._said[2].forget((client_id, packet_id))
