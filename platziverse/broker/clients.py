"""Clients: who is connected, and what becomes of a Session, a Will and the observers when that changes."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.complaints import Complaints
from platziverse.broker.interfaces import Answer, Authority, Client, ClientObserver, NetworkConnection
from platziverse.broker.limits import Limits
from platziverse.broker.ports import Opened, SessionStore
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.broker.traffic import Traffic
from platziverse.broker.users import UserCounts
from platziverse.broker.wills import UnfinishedWills
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connect, ConnectReturnCode, Publish

log = Logger()


class Clients:
    """Clients knows who is connected, and opens and leaves their Sessions.

    :param publish: publishes a Will; see ``Broker.publish``.
    :param wall_clock: seconds since the epoch, for ``Client.since``.
    :ivar connected: how many are connected now.
    :ivar users: how many of them have which user name.
    """

    def __init__(
        self,
        sessions: SessionStore,
        authority: Authority,
        traffic: Traffic,
        limits: Limits,
        observers: Sequence[ClientObserver],
        publish: Callable[[Publish, Client], Answer],
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        complaints: Complaints,
    ) -> None:
        self.connected = 0
        self.users = UserCounts(limits.max_connections_per_user)
        self.unfinished_wills = UnfinishedWills()
        self.observers = list(observers)
        self._sessions, self._authority, self._traffic = sessions, authority, traffic
        self._publish, self._complaints = publish, complaints
        self._clock, self._wall_clock = clock, wall_clock
        self._connections = 0
        # Client Identifier → fires when the Session of the last CONNECT under way is there, or is not.
        self._opening: dict[str, Deferred[None]] = {}

    def connect(
        self, packet: Connect, connection: NetworkConnection, address: str, username: str | None
    ) -> "Opened | Deferred[Opened]":
        """Begin or resume the client's Session.

        An older connection of the same Client Identifier is closed first [MQTT-3.1.4-2]. One whose Session is
        still being opened is waited for, so that the last one to come is the one that stays.

        :raises ConnectRefused: this client may not publish its Will, or there are too many of its user.
        """
        self._connections += 1
        client_id = packet.client_id or f"auto-{uuid4()}"  # [MQTT-3.1.3-6]
        persistent, now = not packet.clean_session, self._wall_clock()
        client = Client(client_id, self._connections, address, username, persistent, now)
        will = packet.will
        if will is not None and not self._authority.may_publish(client, will.topic):
            reason = f"its Will may not be published to {will.topic!r:.100}"
            raise ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, reason, "3.1.2.5")
        before = self._opening.get(client_id)
        if before is None:
            opened = self._open(client, connection, will)
            if not isinstance(opened, Deferred):
                return opened
        else:
            opened = Deferred()
            before.addCallback(lambda _: self._open(client, connection, will)).chainDeferred(opened)
        done = self._opening[client_id] = Deferred()
        return opened.addBoth(self._opened, client_id, done)

    def _open(
        self, client: Client, connection: NetworkConnection, will: Publish | None
    ) -> "Opened | Deferred[Opened]":
        self._make_room(client)
        opened = self._sessions.open(client.client_id, not client.persistent)
        if not isinstance(opened, Deferred):
            return self._begin(opened, client, connection, will)
        return opened.addCallbacks(self._begin, self._not_opened, (client, connection, will), {}, (client,))

    def _not_opened(self, failure: Failure, client: Client) -> Failure:
        self.users.leave(client.username)
        return failure

    def _opened(self, result: "Opened | Failure", client_id: str, done: "Deferred[None]") -> Any:
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
        self._traffic.takeovers += 1
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
        self, opened: Opened, client: Client, connection: NetworkConnection, will: Publish | None
    ) -> Opened:
        session = opened[0]
        session.owner = client.username
        session.client, session.connection, session.will = client, connection, will  # [MQTT-3.1.2-9]
        session.denied = 0
        self.connected += 1
        self._traffic.connects_accepted += 1
        try:
            for observer in self.observers:
                observer.client_connected(client)
        except Exception:  # a bug; the connection does not come about
            self._leave(session, graceful=True, taken_over=False)
            raise
        return opened

    def disconnect(self, session: Session, connection: NetworkConnection, graceful: bool) -> None:
        """End what the connection began; after a take-over the Session is another's, and nothing happens.

        :param graceful: DISCONNECT came, the Will is discarded. [MQTT-3.1.2-10]
        """
        if session.connection is connection:
            self._leave(session, graceful, taken_over=False)

    def drop(self, session: Session, reason: Reason, text: str) -> None:
        """Let the client go, if it is there, and with it whatever waits for it."""
        connection = session.connection
        if connection is not None:
            self._leave(session, graceful=False, taken_over=False)
            connection.close(reason, text)
        if self._sessions.get(session.client_id) is session:
            self._sessions.end(session)

    def _leave(self, session: Session, graceful: bool, taken_over: bool) -> None:
        client, will = session.client, session.will
        assert client is not None
        session.pause()
        self.connected -= 1
        self.users.leave(client.username)
        if will is not None and not graceful:
            self._publish_will(will, client)  # [MQTT-3.1.2-8] [MQTT-3.1.2-12]
        for observer in self.observers:
            observer.client_disconnected(client, taken_over)
        if self._sessions.get(session.client_id) is session:
            ended = self._sessions.leave(session, self._clock.seconds())
            if ended:
                self._say_ended(ended, client)

    def _say_ended(self, count: int, client: Client) -> None:
        self._traffic.sessions_ended_for_room += count
        self._complaints.warn(
            "too many absent Sessions",
            "{address} {client_id!r} has left, and {count} Session of those absent longest had to end"
            " (max_absent_sessions)",
            address=client.address,
            client_id=client.client_id,
            count=count,
        )

    def _publish_will(self, will: Publish, client: Client) -> None:
        try:
            answer = self._publish(will, client)
        except Exception:  # of a handler; the rest of the farewell goes on
            self.break_down(client)
        else:
            if answer is not None:
                self.unfinished_wills.watch(answer.addErrback(log_failure, client), len(will.payload))

    def break_down(self, client: Client) -> None:
        """Count and log the exception that a handler has raised, with a message that nobody waits for."""
        self._traffic.internal_errors += 1
        text = "Bug: a handler, with a message of {address} {client_id!r}"
        log.failure(text, address=client.address, client_id=client.client_id)

    def released(self, client: Client, packet_id: int) -> Answer:
        """Tell the observers that PUBREL came; PUBCOMP waits for the answer."""
        answer: Answer = None
        for observer in self.observers:
            answer = observer.message_released(client, packet_id) or answer
        return answer

    def session_ended(self, client_id: str) -> None:
        """Tell the observers that a persistent Session is gone."""
        for observer in self.observers:
            observer.session_ended(client_id)


def log_failure(failure: Failure, client: Client) -> None:
    """Log why a message of ``client`` could not be handled, which nobody waits for."""
    log.error(
        "A message of {address} {client_id!r} could not be handled: {reason}",
        address=client.address,
        client_id=client.client_id,
        reason=failure.getErrorMessage(),
    )
