"""Broker: who gets which message, and who may be connected as whom."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.complaints import Complaints
from platziverse.broker.dispatcher import Destinations, TopicDispatcher, call
from platziverse.broker.interfaces import Answer, Authority, Client, ClientObserver, NetworkConnection
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.broker.replay import Replay
from platziverse.broker.retained import RetainedMessages
from platziverse.broker.routing import Router
from platziverse.broker.session import Session
from platziverse.broker.sessions import Sessions
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.broker.traffic import Traffic
from platziverse.broker.users import Users
from platziverse.broker.wills import UnfinishedWills
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import SUBSCRIPTION_REFUSED, Connect, ConnectReturnCode, Publish, Subscription

log = Logger()

#: The broker itself, as the origin of messages of its own.
SERVER = Client("", 0, "server")


class Broker:
    """One MQTT broker. It knows no transport: connections come as :class:`NetworkConnection`.

    :param dispatcher: the handler table.
    :param authority: who may what.
    :param clock: steady time.
    :param wall_clock: seconds since the epoch, for ``Client.since``.
    """

    def __init__(
        self,
        limits: Limits,
        dispatcher: TopicDispatcher,
        authority: Authority,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        observers: Sequence[ClientObserver] = (),
    ) -> None:
        self.limits = limits
        self.authority = authority
        self.traffic = Traffic()
        self.complaints = Complaints(clock)
        self.retained = RetainedMessages(limits.max_retained_messages, limits.max_retained_bytes)
        self.subscriptions: SubscriptionTree[Session] = SubscriptionTree()
        self.sessions = Sessions(limits, authority, self._session_ended)
        #: Clients connected now, and those with a user name by that.
        self.connected = 0
        self.users = Users(limits.max_connections_per_user)
        self.unfinished_wills = UnfinishedWills()
        self.observers = list(observers)
        self._router = Router(authority, self.traffic)
        self._dispatcher = dispatcher
        self._match = self.subscriptions.match
        self._destinations = Destinations(dispatcher, authority.reserved)
        self._clock = clock
        self._wall_clock = wall_clock
        self._connections = 0

    # -- connections -----------------------------------------------------------------------------

    def connect(
        self, packet: Connect, connection: NetworkConnection, address: str, username: str | None
    ) -> "tuple[Session, bool] | Deferred[tuple[Session, bool]]":
        """Begin or resume the client's Session; a second flag is Session Present.

        An older connection of the same Client Identifier is closed first [MQTT-3.1.4-2].

        :raises ConnectRefused: this client may not publish its Will, or there are too many of its user.
        """
        self._connections += 1
        client_id = packet.client_id or f"auto-{uuid4()}"  # [MQTT-3.1.3-6]
        persistent, now = not packet.clean_session, self._wall_clock()
        client = Client(client_id, self._connections, address, username, persistent, now)
        will = packet.will
        if will is not None and not self.authority.may_publish(client, will.topic):
            reason = f"its Will may not be published to {will.topic!r:.100}"
            raise ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, reason, "3.1.2.5")
        self._make_room(client)
        session, present = self.sessions.open(client.client_id, packet.clean_session)
        session.client, session.connection, session.will = client, connection, will  # [MQTT-3.1.2-9]
        session.denied = 0
        self.connected += 1
        self.traffic.connects_accepted += 1
        try:
            for observer in self.observers:
                observer.client_connected(client)
        except Exception:  # a bug; the connection does not come about
            self._leave(session, graceful=True, taken_over=False)
            raise
        return session, present

    def _make_room(self, client: Client) -> None:
        old = self.sessions.get(client.client_id)
        connection = old.connection if old is not None else None
        if old is None or connection is None:
            self.users.enter(client.username)
            return
        self.users.enter(client.username, leaving=old.client)
        self._leave(old, graceful=False, taken_over=True)
        connection.close(Reason.TAKEN_OVER, "a new connection has taken over its Client Identifier")

    def disconnect(self, session: Session, connection: NetworkConnection, graceful: bool) -> None:
        """The connection has ended; after a take-over the Session is another's, and nothing happens.

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
        if self.sessions.get(session.client_id) is session:
            self.sessions.end(session)

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
        if self.sessions.get(session.client_id) is session:
            self.sessions.leave(session, self._clock.seconds())

    def _publish_will(self, will: Publish, client: Client) -> None:
        try:
            answer = self.publish(will, client)
        except Exception:  # of a handler; the rest of the farewell goes on
            self._break_down(client)
        else:
            if answer is not None:
                self.unfinished_wills.watch(answer.addErrback(_log_failure, client), len(will.payload))

    def _break_down(self, client: Client) -> None:
        self.traffic.internal_errors += 1
        text = "Bug: a handler, with a message of {address} {client_id!r}"
        log.failure(text, address=client.address, client_id=client.client_id)

    def _session_ended(self, session: Session) -> None:
        # Its Retained Messages stay. [MQTT-3.1.2-7]
        for topic_filter in session.subscriptions:
            self.subscriptions.remove(topic_filter, session)
        session.subscriptions.clear()
        if session.persistent:
            for observer in self.observers:
                observer.session_ended(session.client_id)

    def expire_sessions(self) -> None:
        """Called now and then: end the Sessions of clients that have been absent too long."""
        self.traffic.sessions_expired += self.sessions.expire(self._clock.seconds())

    # -- messages --------------------------------------------------------------------------------

    def publish(self, message: Publish, client: Client) -> Answer:
        """Keep, route and dispatch a client's message.

        What the client may not publish is ignored, counted, and answered as if it had been [MQTT-3.3.5-2].

        :return: ``None``, or a Deferred that the acknowledgement waits for.
        """
        topic, authority = message.topic, self.authority
        handlers = self._destinations[topic]
        if handlers is None or (authority.restricts and not authority.may_publish(client, topic)):
            self._deny(message, client)
            return None
        if message.retain:  # [MQTT-3.3.1-12] [MQTT-3.1.2-16] [MQTT-3.1.2-17]
            self.retained.set(message, client)
        if receivers := self._match(topic):  # [MQTT-3.3.2-3]
            self._router.route(message, receivers)
        return call(handlers, message, client) if handlers else None

    def _deny(self, message: Publish, client: Client) -> None:
        self.traffic.publish_denied += 1
        text = "Ignored what {address} {client_id!r} published to {topic!r}: not allowed"
        self._complain(client, "not allowed to publish", text, topic=message.topic[:200])
        session = self.sessions.get(client.client_id)
        if session is None or session.client is not client or session.connection is None:
            return  # its Will, or a newer connection has the Session
        session.denied += 1
        if session.denied == self.limits.max_denied_publishes:
            cause = "too many publishes that are not allowed"
            self.traffic.protocol_error(cause)
            self._complain(client, cause, "Closing {address} {client_id!r}: " + cause)
            # In the next turn: what it has sent is acknowledged, and need not come again. [MQTT-3.3.5-2]
            session.connection.soon(partial(session.connection.close, Reason.NOT_AUTHORIZED, cause))

    def _complain(self, client: Client, cause: str, text: str, **fields: object) -> None:
        self.complaints.warn(cause, text, address=client.address, client_id=client.client_id, **fields)

    def announce(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish a message of the server's own at QoS 0; handlers get it as well."""
        message = Publish(topic, payload, 0, retain)
        if retain:
            self.retained.set(message, SERVER)
        self._router.route(message, self._match(topic))
        try:
            answer = self._dispatcher.dispatch(message, SERVER)
        except Exception:  # whoever caused the announcement has no part in it
            self._break_down(SERVER)
        else:
            if answer is not None:
                answer.addErrback(_log_failure, SERVER)

    def received(self, session: Session, packet_id: int) -> Answer:
        """PUBREC came. PUBREL waits for the returned Deferred, if there is one."""
        if not session.pubrec(packet_id):
            self.traffic.unknown_acknowledgements += 1
        return None

    def released(self, session: Session, packet_id: int) -> Answer:
        """PUBREL came. PUBCOMP waits for the returned Deferred, if there is one."""
        session.release(packet_id)
        client = session.client
        assert client is not None
        if not client.persistent:
            return None
        answer: Answer = None
        for observer in self.observers:
            answer = observer.message_released(client, packet_id) or answer
        return answer

    # -- subscriptions ---------------------------------------------------------------------------

    def subscribe(
        self, session: Session, subscriptions: Sequence[Subscription]
    ) -> "list[int] | Deferred[list[int]]":
        """The return codes for SUBACK, in order: the QoS granted, or 0x80. [MQTT-3.8.4-5]"""
        codes: list[int] = []
        for number, subscription in enumerate(subscriptions):  # [MQTT-3.8.4-4]
            topic_filter = subscription.topic_filter
            if number >= self.limits.max_filters_per_subscribe or not self._may_hold(session, topic_filter):
                codes.append(SUBSCRIPTION_REFUSED)
                continue
            session.subscribe(topic_filter, subscription.qos)
            self.subscriptions.add(topic_filter, session, subscription.qos)
            codes.append(subscription.qos)  # [MQTT-3.9.3-1]
        return codes

    def _may_hold(self, session: Session, topic_filter: str) -> bool:
        if not session.has_room_for(topic_filter):
            return False
        if topic_filter.startswith("$share/"):  # no shared Subscriptions in MQTT 3.1.1: say so
            return False
        assert session.client is not None
        return self.authority.may_subscribe(session.client, topic_filter)

    def send_retained(
        self, session: Session, subscriptions: Sequence[Subscription], codes: list[int]
    ) -> None:
        """After SUBACK: the Retained Messages of the granted Subscriptions. [MQTT-3.3.1-6]"""
        granted = [
            (subscription.topic_filter, code)
            for subscription, code in zip(subscriptions, codes, strict=True)
            if code != SUBSCRIPTION_REFUSED and self.retained.may_match(subscription.topic_filter)
        ]
        if granted:
            may_get = partial(self._may_get_retained, session)
            session.replay(granted, partial(Replay, self.retained, self.traffic, may_get))

    def _may_get_retained(self, session: Session, topic: str) -> bool:
        """The rules may have changed since: for the receiver, and for whoever published what is kept."""
        if not self.authority.restricts:
            return True
        publisher, client = self.retained.publisher(topic), session.client
        may_stay = publisher is SERVER or self.authority.may_publish(publisher, topic)
        return may_stay and client is not None and self.authority.may_receive(client, topic)

    def unsubscribe(self, session: Session, topic_filters: Sequence[str]) -> Answer:
        """Drop the Subscriptions with exactly these Topic Filters; messages in flight go on.

        [MQTT-3.10.4-2] [MQTT-3.10.4-3]
        """
        for topic_filter in topic_filters:  # [MQTT-3.10.4-6]
            if session.unsubscribe(topic_filter):
                self.subscriptions.remove(topic_filter, session)
        return None


def _log_failure(failure: Failure, client: Client) -> None:
    log.error(
        "A message of {address} {client_id!r} could not be handled: {reason}",
        address=client.address,
        client_id=client.client_id,
        reason=failure.getErrorMessage(),
    )
