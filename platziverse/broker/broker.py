"""Broker: who gets which message, and who may be connected as whom."""

from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from platziverse.broker.backpressure import Backpressure
from platziverse.broker.clients import Clients, log_failure
from platziverse.broker.complaints import Complaints
from platziverse.broker.dispatcher import Handlers, TopicDispatcher, call, joined
from platziverse.broker.interfaces import (
    SERVER,
    Answer,
    Authority,
    Client,
    ClientObserver,
    NetworkConnection,
)
from platziverse.broker.limits import Limits
from platziverse.broker.ports import Opened, RetainedStore, SessionStore
from platziverse.broker.reasons import Reason
from platziverse.broker.retained import RetainedMessages
from platziverse.broker.routing import Router
from platziverse.broker.session import Session
from platziverse.broker.sessions import Sessions
from platziverse.broker.subscribing import Subscribing
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.packets import Connect, Publish, Subscription

log = Logger()


class Broker:
    """A Broker is one MQTT broker. It knows no transport: connections come as :class:`NetworkConnection`.

    :param dispatcher: the handler table.
    :param authority: decides who may do what.
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
        most, size = limits.max_retained_messages, limits.max_retained_bytes
        self.retained: RetainedStore = RetainedMessages(most, size)
        #: Called when it took long to find out who gets a message.
        self.strained: Callable[[], None] = _nothing
        self.subscriptions: SubscriptionTree[Session] = SubscriptionTree(strained=lambda: self.strained())
        self.sessions: SessionStore = Sessions(limits, authority, self._session_ended)
        traffic, complaints, publish = self.traffic, self.complaints, self.publish
        self.clients = Clients(
            self.sessions, authority, traffic, limits, observers, publish, clock, wall_clock, complaints
        )
        self._subscribing = Subscribing(
            self.subscriptions, self.retained, authority, limits, traffic, complaints, Turn(clock)
        )
        backpressure = Backpressure(limits, self.sessions, traffic, complaints, clock)
        self._router = Router(authority, traffic, backpressure)
        self._dispatcher = dispatcher
        self._match = self.subscriptions.match
        # A table never changes, and nor does what is reserved.
        self._destinations = Memo(self._find_destination)
        self._clock = clock

    # -- connections -----------------------------------------------------------------------------

    @property
    def connected(self) -> int:
        """How many clients are connected now."""
        return self.clients.connected

    def connect(
        self, packet: Connect, connection: NetworkConnection, address: str, username: str | None
    ) -> "Opened | Deferred[Opened]":
        """Begin or resume the client's Session; see :meth:`Clients.connect`, for what it raises too."""
        return self.clients.connect(packet, connection, address, username)

    def disconnect(self, session: Session, connection: NetworkConnection, graceful: bool) -> None:
        """End what the connection began; see :meth:`Clients.disconnect`."""
        self.clients.disconnect(session, connection, graceful)

    def drop(self, session: Session, reason: Reason, text: str) -> None:
        """Let the client go, if it is there, and with it whatever waits for it."""
        self.clients.drop(session, reason, text)

    def _session_ended(self, session: Session) -> None:
        self._subscribing.end(session)
        if session.persistent:
            self.clients.session_ended(session.client_id)

    def expire_sessions(self) -> None:
        """End the Sessions of clients that have been absent too long; called now and then."""
        expired = self.sessions.expire(self._clock.seconds())
        self.traffic.sessions_expired += expired
        if expired:
            log.info("{count} Sessions of absent clients have expired (session_expiry)", count=expired)

    # -- messages --------------------------------------------------------------------------------

    def publish(self, message: Publish, client: Client) -> Answer:
        """Keep, route and dispatch a client's message.

        A message that the client may not publish is ignored, counted, and answered as if it had been
        published [MQTT-3.3.5-2].

        :return: ``None``, or a Deferred that the acknowledgement waits for.
        """
        topic, authority = message.topic, self.authority
        handlers = self._destinations[topic]
        if handlers is None or (authority.restricts and not authority.may_publish(client, topic)):
            self._deny(message, client)
            return None
        if message.retain:  # [MQTT-3.3.1-12] [MQTT-3.1.2-16] [MQTT-3.1.2-17]
            return self._publish_retained(message, client, handlers)
        if receivers := self._match(topic):  # [MQTT-3.3.2-3]
            owed = self._router.route(message, receivers, client)
            if owed is not None:  # pragma: no cover: no receiver in memory owes anything
                return joined(owed, call(handlers, message, client))
        return call(handlers, message, client) if handlers else None

    def _find_destination(self, topic: str) -> Handlers | None:
        """Return the handlers of a Topic Name, or ``None`` if no client may ever publish there."""
        return None if self.authority.reserved(topic) else self._dispatcher.handlers(topic)

    def _publish_retained(self, message: Publish, client: Client, handlers: Handlers) -> Answer:
        refused = self.retained.refused
        kept = self.retained.set(message, client)
        if self.retained.refused > refused:
            text = (
                "Delivered, but not kept, what {address} {client_id!r} published to {topic!r}: there are too"
            )
            text += " many Retained Messages (max_retained_messages, max_retained_bytes)"
            self._complain(client, "not retained", text, topic=message.topic[:200])
        owed = self._router.route(message, self._match(message.topic), client)
        return joined(kept, owed, call(handlers, message, client))

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
            text = "Closing {address} {client_id!r}: " + cause + " (max_denied_publishes)"
            self._complain(client, cause, text)
            # In the next turn: what it has sent is acknowledged, and need not come again. [MQTT-3.3.5-2]
            session.connection.soon(partial(session.connection.close, Reason.NOT_AUTHORIZED, cause))

    def _complain(self, client: Client, cause: str, text: str, **fields: object) -> None:
        self.complaints.warn(cause, text, address=client.address, client_id=client.client_id, **fields)

    def announce(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish a message of the server's own at QoS 0; handlers get it as well."""
        message = Publish(topic, payload, 0, retain)
        kept = self.retained.set(message, SERVER) if retain else None
        owed = self._router.route(message, self._match(topic), SERVER)
        handled: Answer = None
        try:
            handled = self._dispatcher.dispatch(message, SERVER)
        except Exception:  # whoever caused the announcement has no part in it
            self.clients.break_down(SERVER)
        if (answer := joined(kept, owed, handled)) is not None:
            answer.addErrback(log_failure, SERVER)

    def received(self, session: Session, packet_id: int) -> Answer:
        """Note that PUBREC came. PUBREL waits for the returned Deferred, if there is one."""
        if not session.pubrec(packet_id):
            self.traffic.unknown_acknowledgements += 1
        return None

    def released(self, session: Session, packet_id: int) -> Answer:
        """Note that PUBREL came. PUBCOMP waits for the returned Deferred, if there is one."""
        session.release(packet_id)
        client = session.client
        assert client is not None
        return self.clients.released(client, packet_id) if client.persistent else None

    # -- subscriptions ---------------------------------------------------------------------------

    def subscribe(
        self, session: Session, subscriptions: Sequence[Subscription]
    ) -> "list[int] | Deferred[list[int]]":
        """Return the return codes for SUBACK; see :meth:`Subscribing.subscribe`."""
        return self._subscribing.subscribe(session, subscriptions)

    def send_retained(
        self, session: Session, subscriptions: Sequence[Subscription], codes: Sequence[int]
    ) -> None:
        """Send the Retained Messages of the granted Subscriptions, after SUBACK."""
        self._subscribing.send_retained(session, subscriptions, codes)

    def unsubscribe(self, session: Session, topic_filters: Sequence[str]) -> Answer:
        """Drop the Subscriptions with exactly these Topic Filters; see :meth:`Subscribing.unsubscribe`."""
        return self._subscribing.unsubscribe(session, topic_filters)


def _nothing() -> None:
    """Nobody wants to know."""
