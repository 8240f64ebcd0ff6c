"""Clients: who is connected, and what becomes of a Session, a Will and the observers when that changes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast
from uuid import uuid4

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.complaints import Complaints
from platziverse.broker.farewells import Farewells
from platziverse.broker.interfaces import Answer, Authority, Client, ClientObserver, NetworkConnection
from platziverse.broker.limits import Limits
from platziverse.broker.ports import Opened
from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.session import Session
from platziverse.broker.sessionrecords import SessionRecords, unavailable
from platziverse.broker.sessions import Sessions, is_persistent
from platziverse.broker.terms import Terms, is_limited, terms_of
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.broker.users import UserCounts
from platziverse.broker.wills import WillRecords
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connect, ConnectReturnCode, Publish
from platziverse.mqtt.wire import Wires

log = Logger()

T = TypeVar("T")

#: Bridges of Mosquitto say below it whether they are there, by PUBLISH and Will.
BRIDGES: Final = "$SYS/broker/connection/"


class Clients:
    """Clients knows who is connected, and opens and leaves their Sessions.

    :param publish: publishes a Will; see ``Broker.publish``.
    :param wall_clock: seconds since the epoch, for ``Client.since``.
    :param turn: what the Wills of clients that end may take of a turn of the reactor.
    :param records: what is saved of durable Sessions; ``None``: there are none.
    :ivar farewells: publish their Wills.
    :ivar connected: how many are connected now.
    :ivar users: how many of them have which user name.
    """

    def __init__(
        self,
        sessions: Sessions,
        authority: Authority,
        traffic: Traffic,
        limits: Limits,
        observers: Sequence[ClientObserver],
        publish: Callable[[Publish, Client], Answer],
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        complaints: Complaints,
        turn: Turn,
        records: SessionRecords | None = None,
    ) -> None:
        self.connected = 0
        self._records = records
        self.users = UserCounts(limits.max_connections_per_user)
        wills = WillRecords(records.save, wall_clock()) if records is not None else None
        self.farewells = Farewells(sessions, publish, traffic, clock, turn, wall_clock, wills)
        self.observers = list(observers)
        self._sessions, self._authority, self.traffic = sessions, authority, traffic
        self._complaints = complaints
        #: How clients are written to.
        self.wires = Wires(wall_clock)
        self._clock, self._wall_clock = clock, wall_clock
        #: Seconds since the epoch.
        self.now = wall_clock
        self._connections, self._most_denied = 0, limits.max_denied_publishes
        self._most_inflight, self._most_aliases = limits.max_inflight, limits.topic_alias_maximum
        # Client Identifier → fires when the Session of the last CONNECT under way is there, or is not.
        self._opening: dict[str, Deferred[None]] = {}

    def connect(
        self, packet: Connect, connection: NetworkConnection, address: str, username: str | None
    ) -> "Opened | Deferred[Opened]":
        """Begin or resume the client's Session.

        An older connection of the same Client Identifier is closed first [MQTT-3.1.4-2] [MQTT5-3.1.4-3].
        One whose Session is still being opened is waited for, so that the last one to come is the one that
        stays.

        :raises ConnectRefused: this client may not publish its Will, or there are too many of its user; or it
            needs a durable Session, which cannot begin now.
        """
        self._connections += 1
        client_id = packet.client_id or f"auto-{uuid4()}"  # [MQTT-3.1.3-6] [MQTT5-3.1.3-6]
        persistent, now, level = is_persistent(packet), self._wall_clock(), packet.protocol_level
        terms = persistent, now, packet.bridge, level, packet.clean_session
        client = Client(client_id, self._connections, address, username, *terms)
        will = packet.will
        if will is not None and not self._may_leave(will, client):
            reason = f"its Will may not be published to {will.topic!r:.100}"
            raise ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, reason, "3.1.2.5")
        if persistent and self._records is not None and not self._records.available:
            self._check_known(client_id)
        return self.in_turn(client_id, partial(self._open, packet, client, connection))

    def in_turn(self, client_id: str, function: "Callable[[], T | Deferred[T]]") -> "T | Deferred[T]":
        """Call what opens, or gives up, the Session of a client, after all that was called for it before."""
        before = self._opening.get(client_id)
        if before is None:
            result = function()
            if not isinstance(result, Deferred):
                return result
        else:
            result = cast("Deferred[T]", Deferred())
            before.addCallback(lambda _: function()).chainDeferred(result)
        done = self._opening[client_id] = Deferred()
        return cast("Deferred[T]", result.addBoth(self._opened, client_id, done))

    def _check_known(self, client_id: str) -> None:
        session = self._sessions.get(client_id)
        if session is None or not session.number:
            raise unavailable("the database is away, and the client has no durable Session yet")

    def _may_leave(self, will: Publish, client: Client) -> bool:
        """Return whether ``client`` may have this Will; one on a topic of our own is ignored when due."""
        authority, topic = self._authority, will.topic
        return authority.reserved(topic) or authority.may_publish(client, topic)

    def _open(
        self, packet: Connect, client: Client, connection: NetworkConnection
    ) -> "Opened | Deferred[Opened]":
        self._make_room(client)
        if self.farewells.due.waiting:
            self.farewells.due.publish_now(client.client_id)
        clean, kept = packet.clean_session, client.persistent
        terms = self._terms_of(packet)
        opened = self._sessions.open(client.client_id, clean, client.username, client.since, kept, terms)
        if not isinstance(opened, Deferred):
            return self._begin(opened, packet, client, connection)
        return opened.addCallbacks(self._begin, self._not_opened, (packet, client, connection), {}, (client,))

    def _terms_of(self, packet: Connect) -> Terms:
        wire = self.wires.of(packet.protocol_level, is_limited(packet))
        terms = terms_of(packet, wire, self._most_inflight)
        if packet.properties is not None:
            terms.expiry = self._sessions.expiry_of(packet)
        return terms

    def _not_opened(self, failure: Failure, client: Client) -> Failure:
        self.users.leave(client.username)
        return failure

    def _opened(self, result: object, client_id: str, done: "Deferred[None]") -> Any:
        if self._opening[client_id] is done:
            del self._opening[client_id]
        else:  # the next CONNECT has its turn, which is one of the reactor: many would need a deep stack
            self._clock.callLater(0, done.callback, None)
        return result

    def _make_room(self, client: Client) -> None:
        """End the connection of whoever has this Client Identifier now.

        A Session, and the agents of its connection, are inherited by the same login alone. ADR 0094.

        :raises ConnectRefused: the Session is another login's, or there are too many of this user.
        """
        old = self._sessions.get(client.client_id)
        connection = old.connection if old is not None else None
        if old is not None and old.owner != client.username:
            self._check_owner(old.owner)
        self.users.enter(client.username, leaving=old.client if old is not None and connection else None)
        if old is None:
            return
        if connection is not None:
            self._say_taken_over(old, client)
        if old.owner != client.username:
            self.drop(old, Reason.TAKEN_OVER, "another login has come with its Client Identifier")
        elif connection is not None:
            self._leave(old, graceful=False, taken_over=True)
            connection.close(Reason.TAKEN_OVER, "a new connection has taken over its Client Identifier")

    def _say_taken_over(self, session: Session, client: Client) -> None:
        """Count and log that a living connection ends, as two clients with one identifier do for ever."""
        self.traffic.takeovers += 1
        self._complaints.warn(
            "a Client Identifier that is connected",
            "Closing {address} {client_id!r}: {by} has connected with its Client Identifier",
            address=session.client.address if session.client is not None else "",
            client_id=client.client_id,
            by=client.address,
        )

    def _check_owner(self, owner: str | None) -> None:
        if owner is not None and self._authority.checks_names:
            rejected = ConnectReturnCode.IDENTIFIER_REJECTED
            raise ConnectRefused(rejected, f"its Client Identifier is that of another login, {owner!r}")

    def _begin(
        self, opened: Opened, packet: Connect, client: Client, connection: NetworkConnection
    ) -> Opened:
        session, will = opened[0], packet.will
        self.farewells.delayed.end(client.client_id, publish=not opened[1])
        session.owner = client.username
        terms = self._terms_of(packet)
        terms.alias(self._most_aliases, lambda: not connection.congested)
        session.agree(terms)
        session.persistent = client.persistent
        session.client, session.connection, session.will = client, connection, will  # [MQTT-3.1.2-9]
        session.denied = 0
        if self._records is not None and opened[1]:
            self._records.present(session)
        self.farewells.save(session)
        if session.shares is not None:
            session.shares.came(session)
        self.connected += 1
        self.traffic.connected[client.protocol_level] += 1
        self.traffic.connects_accepted += 1
        try:
            for observer in self.observers:
                observer.client_connected(client)
        except Exception:  # a bug; the connection does not come about
            self._leave(session, graceful=True, taken_over=False)
            raise
        return opened

    def disconnect(self, session: Session, connection: NetworkConnection, graceful: bool) -> None:
        """End what the connection began; after a take-over the Session is another's, and nothing happens.

        :param graceful: DISCONNECT came, the Will is discarded. [MQTT-3.1.2-10] [MQTT5-3.1.2-10]
        """
        if session.connection is connection:
            self._leave(session, graceful, taken_over=False)

    def drop(self, session: Session, reason: Reason, text: str) -> None:
        """Let the client go, if it is there, and with it whatever waits for it."""
        self.part(session, reason, text)
        if self._sessions.get(session.client_id) is session:
            self._sessions.end(session)

    def part(self, session: Session, reason: Reason, text: str) -> None:
        """Let the client go, if it is there; its Session stays if it outlives the connection."""
        connection = session.connection
        if connection is not None:
            self._leave(session, graceful=False, taken_over=False)
            connection.close(reason, text)

    def _leave(self, session: Session, graceful: bool, taken_over: bool) -> None:
        client, will = session.client, session.will
        assert client is not None
        session.pause()
        if session.shares is not None:
            session.shares.went(session)
        self.connected -= 1
        self.traffic.connected[client.protocol_level] -= 1
        self.users.leave(client.username)
        if will is not None:
            self.farewells.leave(will, session, client, graceful)
        for observer in self.observers:
            observer.client_disconnected(client, taken_over)
        if self._sessions.get(session.client_id) is session:
            if session.number and self._records is not None:
                self._records.absent(session)
            ended = self._sessions.leave(session, self._clock.seconds())
            if ended:
                self._say_ended(ended, client)

    def _say_ended(self, count: int, client: Client) -> None:
        self.traffic.sessions_ended_for_room += count
        self._complaints.warn(
            "too many absent Sessions",
            "{address} {client_id!r} has left, and {count} Session of those absent longest had to end"
            " (max_absent_sessions)",
            address=client.address,
            client_id=client.client_id,
            count=count,
        )

    def deny(self, message: Publish, client: Client) -> Answer:
        """Ignore and count a message that its client may not publish; too many of them end the connection.

        :return: that it is refused; ``None``: the client's protocol cannot say so.
        """
        if message.topic.startswith(BRIDGES):
            self.traffic.bridge_notifications += 1
            return None
        self._count_denied(message, client)
        if client.protocol_level < 5:
            return None
        return succeed(Refused(Reason.NOT_AUTHORIZED, "not allowed to publish there"))

    def _count_denied(self, message: Publish, client: Client) -> None:
        self.traffic.publish_denied += 1
        text = "Ignored what {address} {client_id!r}, user {username!r}, published to {topic!r}: not allowed"
        fields = {"username": client.username, "topic": message.topic[:200]}
        self._complain(client, "not allowed to publish", text, **fields)
        session = self._sessions.get(client.client_id)
        if session is None or session.client is not client or session.connection is None:
            return  # its Will, or a newer connection has the Session
        session.denied += 1
        if session.denied == self._most_denied:
            cause = "too many publishes that are not allowed"
            self.traffic.protocol_error(cause)
            text = "Closing {address} {client_id!r}: " + cause + " (max_denied_publishes)"
            self._complain(client, cause, text)
            # In the next turn: what it has sent is acknowledged, and need not come again. [MQTT-3.3.5-2]
            session.connection.soon(partial(session.connection.close, Reason.NOT_AUTHORIZED, cause))

    def _complain(self, client: Client, cause: str, text: str, **fields: object) -> None:
        self._complaints.warn(cause, text, address=client.address, client_id=client.client_id, **fields)

    def released(self, client: Client, packet_id: int) -> Answer:
        """Tell the observers that PUBREL came; PUBCOMP waits for the answer."""
        answer: Answer = None
        for observer in self.observers:
            answer = observer.message_released(client, packet_id) or answer
        return answer

    def session_ended(self, client_id: str) -> None:
        """Tell the observers that a persistent Session is gone, and publish its Will if that has waited."""
        self.farewells.delayed.end(client_id, publish=True)
        for observer in self.observers:
            observer.session_ended(client_id)
