"""Identifiers: a Client Identifier is connected once in all daemons; the newest connection stays."""

from typing import Final

from platziverse.broker.broker import Broker
from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.cluster.frames import Mine, NotYours
from platziverse.cluster.peers import Peer, Peers

#: Why a connection ends.
MOVED: Final = "a connection to daemon {number} has taken over its Client Identifier"


class Identifiers:
    """Identifiers is a ``ClientObserver`` that tells the others who has come, and ends who has moved.

    There is no registry: whoever has the client closes it. Of two connections the one that began later stays,
    and of two that began at once the one to the daemon with the higher number. [MQTT-3.1.4-2]
    """

    def __init__(self, broker: Broker, peers: Peers) -> None:
        self._broker, self._peers = broker, peers
        broker.clients.observers.append(self)

    def client_connected(self, client: Client) -> None:
        """Tell all others that a client has come."""
        self._peers.send(self._peers.everybody, self._mine(client))

    def _mine(self, client: Client) -> Mine:
        session = self._broker.sessions.get(client.client_id)
        durable = session is not None and session.number > 0
        return Mine(client.client_id, client.username, client.since, durable, client.clean)

    def client_disconnected(self, client: Client, taken_over: bool) -> None:
        """Say nothing: who is connected nowhere is nobody's business."""

    def message_released(self, client: Client, packet_id: int) -> Answer:
        """Say nothing: no other daemon has the message."""

    def session_ended(self, client_id: str) -> None:
        """Say nothing: no other daemon has the Session."""

    def came(self, peer: Peer, frame: Mine) -> None:
        """End the Session of a client that has connected to another daemon."""
        broker = self._broker
        session = broker.sessions.get(frame.client_id)
        if session is None or (frame.durable and session.number):  # the store says whose it is
            # Of a Session that has moved: its client is back, or has ended it. [MQTT5-3.1.3-9]
            ended = frame.clean or not frame.durable
            broker.clients.farewells.delayed.end(frame.client_id, publish=ended)
            return
        if self._is_newer(session, peer, frame):
            assert session.client is not None
            self._peers.tell(peer.number, self._mine(session.client))
        elif session.owner not in (None, frame.username) and broker.authority.checks_names:
            owner = session.owner or ""
            self._peers.tell(peer.number, NotYours(frame.client_id, owner, frame.since))
        else:
            self._end(session, peer)

    def _is_newer(self, session: Session, peer: Peer, frame: Mine) -> bool:
        client = session.client
        if session.connection is None or client is None:
            return False
        return (client.since, self._peers.number) > (frame.since, peer.number)

    def _end(self, session: Session, peer: Peer) -> None:
        broker, client = self._broker, session.client
        if session.connection is not None and client is not None:
            broker.traffic.takeovers += 1
            cause, text = "a Client Identifier that is connected", "Closing {address} {client_id!r}: " + MOVED
            fields = {"client_id": client.client_id, "number": peer.number}
            broker.complaints.warn(cause, text, address=client.address, **fields)
        if session.number and (waiting := session.queued + session.inflight):
            broker.traffic.publish_dropped += waiting
            text = "The Session of {client_id!r} ends with {count} messages: its client has"
            text += " begun one at daemon {number}"
            fields = {"client_id": session.client_id, "number": peer.number, "count": waiting}
            broker.complaints.warn("a Session that ends with messages", text, address="", **fields)
        broker.drop(session, Reason.TAKEN_OVER, MOVED.format(number=peer.number))

    def refused(self, frame: NotYours) -> None:
        """End a connection whose Client Identifier is another login's on another daemon. ADR 0094."""
        session = self._broker.sessions.get(frame.client_id)
        if session is None or session.connection is None or session.client is None:
            return
        if session.client.since == frame.since:
            text = f"its Client Identifier is that of another login, {frame.owner!r}"
            self._broker.drop(session, Reason.NOT_AUTHORIZED, text)
