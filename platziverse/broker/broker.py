"""Broker: who gets which message, and who may be connected as whom."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IReactorTime

from platziverse.broker.backpressure import Backpressure
from platziverse.broker.clients import Clients
from platziverse.broker.complaints import Complaints
from platziverse.broker.dispatcher import Handlers, TopicDispatcher, call, joined, repeat
from platziverse.broker.durable import GRACE, Durable
from platziverse.broker.estates import leave_behind
from platziverse.broker.expiring import expire_retained, expire_sessions
from platziverse.broker.farewells import log_failure
from platziverse.broker.interfaces import (
    SERVER,
    Answer,
    Authority,
    Client,
    ClientObserver,
    NetworkConnection,
)
from platziverse.broker.limits import Limits
from platziverse.broker.loading import Loading
from platziverse.broker.moving import Moving
from platziverse.broker.owing import Owing
from platziverse.broker.ports import Elsewhere, Former, Listening, Opened, RetainedStore, SessionStore
from platziverse.broker.reasons import Reason
from platziverse.broker.restoring import Restoring
from platziverse.broker.retaining import OF_THE_PROCESS, DurableRetained, retained_store
from platziverse.broker.routing import Router
from platziverse.broker.session import Session
from platziverse.broker.sessionrecords import SessionRecords
from platziverse.broker.sessions import Sessions
from platziverse.broker.shares import Shares
from platziverse.broker.sharing import Alone, Sharing
from platziverse.broker.subscribing import Subscribing, granted_of
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.packets import Connect, Publish, Subscription
from platziverse.mqtt.properties import arrived


class Broker:
    """A Broker is one MQTT broker. It knows no transport: connections come as :class:`NetworkConnection`.

    :param dispatcher: the handler table.
    :param authority: decides who may do what.
    :param clock: steady time.
    :param wall_clock: seconds since the epoch, for ``Client.since``; with a store, by the clock of the store.
    :param store: where durable Sessions, Retained Messages and Wills are saved; ``None``: they end with the
        process.
    :param grace: seconds that a message waits for durable Sessions before it is stored; see :class:`Durable`.
    :ivar destinations: Topic Name → its handlers; ``None``: no client may publish there. Neither changes.
    :ivar loading: what the store has is not in memory yet; ``None``: it is. Its text says how much is.
    :ivar moving: durable Sessions on their way from or to other daemons; ``None``: there are none.
    :ivar pass_on: see :meth:`Elsewhere.pass_on`; ``None``: there are no other daemons.
    """

    moving: Moving | None = None
    pass_on: Callable[[Sequence[Publish], Client], int] | None = None
    _listening: Listening | None = None
    _former: Former = Alone()

    def __init__(
        self,
        limits: Limits,
        dispatcher: TopicDispatcher,
        authority: Authority,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        observers: Sequence[ClientObserver] = (),
        store: SessionStore | None = None,
        grace: float = GRACE,
    ) -> None:
        self.limits, self.authority, turn = limits, authority, Turn(clock)
        self.traffic, self.complaints = traffic, complaints = Traffic(), Complaints(clock)
        self.retained: RetainedStore = retained_store(limits, store)
        #: Called when it took long to find out who gets a message.
        self.strained: Callable[[], None] = _nothing
        self.subscriptions: SubscriptionTree[Session] = SubscriptionTree(strained=lambda: self.strained())
        self.shares = Shares(self.begin_sharing, self.subscriptions)
        self.sessions = sessions = Sessions(limits, authority, self._session_ended)
        durable = partial(Durable, clock, grace, limits, authority, wall_clock, complaints)
        self.durable = durable(store) if store is not None else None
        self._records = records = self._record(store, self.durable)
        clients = partial(Clients, sessions, authority, traffic, limits, observers, self._publish_will, clock)
        self.clients = clients(wall_clock, complaints, turn, records)
        sent = records.retained_sent if records is not None else _nothing
        parts = authority, limits, traffic, complaints
        self._subscribing = Subscribing(self.subscriptions, self.shares, self.retained, *parts, turn, sent)
        pressure = Backpressure(limits, sessions, traffic, complaints, clock)
        self.router = router = Router(authority, traffic, pressure, self.durable)
        self._route, self._route_retained = router.route, cast("Callable[..., Answer]", router.route_retained)
        self.sharing = Sharing(self.shares, router, sessions.make("", False), clock, *parts)
        self._dispatcher, self._clock, self._match = dispatcher, clock, self.subscriptions.match
        self._load, self._reads, self.destinations = succeed(0), DeferredLock(), Memo(self._find_destination)
        self._reads.acquire()  # the start is the first that reads
        self.clients.farewells.handlers = self.destinations.__getitem__
        self.loading = self._prepare(store, wall_clock) if store is not None else None

    def _record(self, store: SessionStore | None, durable: Durable | None) -> SessionRecords | None:
        if store is None or durable is None:
            return None
        records = SessionRecords(store, durable, int(self.limits.session_expiry))
        self.sessions.begin = records.begin
        return records

    def _restoring(self, wall_clock: Callable[[], float]) -> Restoring:
        retained, records = cast(DurableRetained, self.retained), cast(SessionRecords, self._records)
        parts = self.sessions, self._subscribing, retained, self.clients, records
        return Restoring(*parts, self.authority, self._clock, wall_clock)

    def _prepare(self, store: SessionStore, wall_clock: Callable[[], float]) -> Loading:
        self._prepare_again = partial(self._prepare, store, wall_clock)
        restoring, most = self._restoring(wall_clock), self.limits.max_unfinished_total
        steps = self.publish, self._loaded, lambda: self._former
        loading = Loading(store, restoring, most, *steps, self._clock)
        # While it loads, this stands before the method of that name, and is deleted afterwards: so publishing
        # never asks whether everything is loaded. ADR 0116.
        self.publish = loading.publish  # type: ignore[method-assign]
        return loading

    def _hold(self) -> None:
        """Let clients wait, from now on until what is about to be read is in memory."""
        if self.loading is None:
            self.loading = self._prepare_again()

    def _loaded(self) -> None:
        self.loading = None
        del self.publish
        if self._reads.waiting:  # clients go on waiting, without a moment in between
            self._hold()

    def share(self, elsewhere: Elsewhere, listening: Listening, former: Former) -> None:
        """Share the clients of this broker with those of other daemons. ADR 0135.

        :param former: see :class:`Loading`.
        """
        self._former = former
        self.subscriptions.extend(elsewhere.receivers)
        self._match = self.subscriptions.match
        self._route, self._route_retained = elsewhere.route, elsewhere.route_retained
        self.pass_on = elsewhere.pass_on
        self._listening = self._subscribing.let_know(listening, self.sessions)
        if self._records is not None:
            restoring = partial(self._restoring, self._records.durable.wall_clock)
            self.moving = Moving(self.sessions, self._subscribing, self.clients, self._records, restoring)

    def begin_sharing(self) -> None:
        """Hand messages to groups too, from the first one on that there ever is. ADR 0192."""
        if self._route != self.sharing.route:
            routes = self.sharing.stand_before(self._route, self._route_retained)
            self._route, self._route_retained = routes
            self.subscriptions.extend(self.sharing.receivers)
            self._match = self.subscriptions.match

    def load(self) -> "Deferred[int]":
        """Read what the store has; see :meth:`Loading.load`. Until that is done some clients have to wait."""
        if self.loading is not None:
            self._load = self.loading.load().addBoth(self._has_read)
        return self._load

    def _has_read(self, result: object) -> Any:
        self._reads.release()
        return result

    def inherit(
        self, taken: "Deferred[Sequence[int]]", restored: Callable[[], None] = lambda: None
    ) -> "Deferred[None]":
        """Read Sessions of a dead daemon when they are ours; see :meth:`Loading.inherit`. ADR 0141.

        From now on some clients wait: one that came before its Session is in memory would begin another.

        :param taken: fires with their numbers when they are ours; cancelled: nobody knows which are, so
            clients that wait are refused, and the Deferred that is returned is cancelled too.
        """
        self._hold()
        return self._reads.run(self._read_again, lambda loading: loading.inherit(taken, restored))

    def begin_anew(self) -> "Deferred[int]":
        """Forget everything, let all clients go, and load what is still ours: others have taken over.

        The Sessions of before are no more than memory: nothing is saved, and their Wills are the others'.
        """
        assert self.durable is not None
        self.durable.save_all()
        for session in self.sessions:
            session.number, session.will = 0, None
            self.durable.abandon(session)
        return self._reads.run(self._read_again, Loading.load_anew)

    def _read_again(self, read: "Callable[[Loading], Deferred[Any]]") -> "Deferred[Any]":
        self._hold()
        assert self.loading is not None
        self._load = read(self.loading)
        return self._load

    def stop(self) -> None:
        """Load nothing more, and save what waits for durable Sessions at once."""
        if self.loading is not None:
            self.loading.stop(self._load)
        if self.durable is not None:
            self.durable.stop()

    # -- connections -----------------------------------------------------------------------------

    @property
    def connected(self) -> int:
        """How many clients are connected now."""
        return self.clients.connected

    def connect(
        self, packet: Connect, connection: NetworkConnection, address: str, username: str | None
    ) -> "Opened | Deferred[Opened]":
        """Begin or resume the client's Session; see :meth:`Clients.connect`, for what it raises too."""
        if self.loading is None:
            return self.clients.connect(packet, connection, address, username)
        connect = partial(self.clients.connect, packet, connection, address, username)
        return self.loading.connect(packet, username, connect)

    def disconnect(self, session: Session, connection: NetworkConnection, graceful: bool) -> None:
        """End what the connection began; see :meth:`Clients.disconnect`."""
        self.clients.disconnect(session, connection, graceful)

    def drop(self, session: Session, reason: Reason, text: str) -> None:
        """Let the client go, if it is there, and with it whatever waits for it."""
        self.clients.drop(session, reason, text)

    def _session_ended(self, session: Session) -> None:
        self._subscribing.end(session)
        handed = leave_behind(session, self.durable, self.sharing)
        if self.loading is not None:
            self.loading.forget(session)
        if session.number and self._records is not None:
            self._records.ended(session, handed)
        if session.persistent:
            self.clients.session_ended(session.client_id)

    def expire(self) -> None:
        """End Sessions of clients absent too long, and Retained Messages; of many the rest in later turns."""
        sessions = expire_sessions(self.sessions, self.traffic, self._clock.seconds())
        retained = expire_retained(self.retained, self.durable, self.traffic, self.clients.now())
        if sessions or retained:
            self._clock.callLater(0, self.expire)

    # -- messages --------------------------------------------------------------------------------

    def publish(self, message: Publish, client: Client) -> Answer:
        """Keep, route and dispatch a client's message.

        A message that the client may not publish goes nowhere [MQTT-3.3.5-2]; see :meth:`Clients.deny`.

        :return: ``None``, or a Deferred that the acknowledgement waits for.
        """
        topic = message.topic
        handlers = self.destinations[topic]
        if handlers is None or (self.authority.restricts and not self.authority.may_publish(client, topic)):
            return self.clients.deny(message, client)
        if message.retain:  # [MQTT-3.3.1-12] [MQTT-3.1.2-16] [MQTT-3.1.2-17]
            return self._publish_retained(message, client, handlers)
        if receivers := self._match(topic):  # [MQTT-3.3.2-3]
            owed = self._route(message, receivers, client, handlers)
            if owed is not None:
                return joined(owed, call(handlers, message, client)) if handlers else owed
        return call(handlers, message, client) if handlers else None

    def join(self, owing: Owing, topic: str, run: Sequence[Publish]) -> int:
        """Publish messages behind one that durable Sessions owe, with it; see :meth:`Router.join`."""
        return 0 if self.destinations[topic] else self.router.join(owing, self._match(topic), topic, run)

    def handle(self, message: Publish, client: Client) -> Answer:
        """Dispatch, as ``publish`` does, a message that comes again: an earlier process has routed it."""
        return call(self._handlers(message, client), message, client)

    def repeat(self, message: Publish, client: Client) -> Answer:
        """Tell the handlers of a QoS 2 message that was published before, and comes again."""
        return repeat(self._handlers(message, client), message, client)

    def _handlers(self, message: Publish, client: Client) -> Handlers:
        """Return the handlers of what the client may publish."""
        allowed = not self.authority.restricts or self.authority.may_publish(client, message.topic)
        return self.destinations[message.topic] or () if allowed else ()

    def _find_destination(self, topic: str) -> Handlers | None:
        """Return the handlers of a Topic Name; ``None``: no client may ever publish there."""
        return None if self.authority.reserved(topic) else self._dispatcher.handlers(topic)

    def _publish_retained(self, message: Publish, client: Client, handlers: Handlers) -> Answer:
        refused = self.retained.refused
        kept = self.retained.set(message, client)
        if self.retained.refused > refused:
            text = "Delivered, but not kept, what {address} {client_id!r} published to {topic!r}: there are"
            text += " too many Retained Messages (max_retained_messages, max_retained_bytes)"
            who = {"address": client.address, "client_id": client.client_id, "topic": message.topic[:200]}
            self.complaints.warn("not retained", text, **who)
        owed = self._route_retained(message, self._match(message.topic), client)
        return joined(kept, owed, call(handlers, message, client))

    def _publish_will(self, will: Publish, client: Client) -> Answer:
        will = arrived(will, will.topic, self.clients.now())
        if self.durable is None:
            return self.publish(will, client)
        # The next connection of this client overwrites what is stored of its Will.
        return self.durable.at_once(self.publish, will, client)

    def use_handlers(self, dispatcher: TopicDispatcher) -> None:
        """Hand messages to other handlers from now on; those under way end at the old ones."""
        self._dispatcher = dispatcher
        self.destinations.clear()

    def tell(self, topic: str, make: Callable[[], bytes]) -> None:
        """Send what ``make`` makes to subscribers alone, at QoS 0 and if there are any; handlers get none."""
        if receivers := self._match(topic):
            self._route(Publish(topic, make(), 0), receivers, SERVER)

    def announce(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish a message of the server's own at QoS 0; handlers get it as well."""
        if not retain or self.loading is None or topic.startswith(OF_THE_PROCESS):
            self._announce(topic, payload, retain)
            return
        waits = self.loading.later(SERVER, partial(self._announce, topic, payload, True))
        if waits is not None:
            self.clients.farewells.unfinished.watch(waits, len(topic) + len(payload))

    def _announce(self, topic: str, payload: bytes, retain: bool) -> None:
        message = Publish(topic, payload, 0, retain)
        kept = self.retained.set(message, SERVER) if retain else None
        owed = (self._route_retained if retain else self._route)(message, self._match(topic), SERVER)
        handled: Answer = None
        try:
            handled = self._dispatcher.dispatch(message, SERVER)
        except Exception:  # whoever caused the announcement has no part in it
            self.clients.farewells.break_down(SERVER)
        if (answer := joined(kept, owed, handled)) is not None:
            answer.addErrback(log_failure, SERVER)

    def received(self, session: Session, packet_id: int) -> Answer:
        """Note that PUBREC came. PUBREL waits for the returned Deferred, if there is one."""
        if not session.pubrec(packet_id):
            self.traffic.unknown_acknowledgements += 1
            return None
        return session.window.received(packet_id) if session.window is not None else None

    def released(self, session: Session, packet_id: int) -> Answer:
        """Note that PUBREL came. PUBCOMP waits for the returned Deferred, if there is one."""
        if (waits := session.release(packet_id)) is not None:  # for what an older connection has sent
            return waits.addCallback(lambda _: self.released(session, packet_id))
        client = session.client
        assert client is not None
        answer = self.clients.released(client, packet_id) if client.persistent else None
        if session.number and self._records is not None:
            return joined(answer, self._records.released(session, packet_id))
        return answer

    # -- subscriptions ---------------------------------------------------------------------------

    def subscribe(
        self, session: Session, subscriptions: Sequence[Subscription], silent: Collection[str] = ()
    ) -> "list[int] | Deferred[list[int]]":
        """Return the codes for SUBACK when they are committed, and other daemons know of the Subscriptions.

        :param silent: Topic Filters whose Retained Messages are not wanted.
        """
        codes = self._subscribing.subscribe(session, subscriptions)
        answer: Answer = None
        if session.number and self._records is not None and (granted := granted_of(subscriptions, codes)):
            answer = self._records.subscribed(session, granted, self._subscribing.owed(granted, silent))
        if self._listening is not None:
            answer = joined(answer, self._listening.told())
        return codes if answer is None else answer.addCallback(lambda _: codes)

    def send_retained(
        self, session: Session, subscriptions: Sequence[Subscription], codes: Sequence[int]
    ) -> None:
        """Send the Retained Messages of the granted Subscriptions, after SUBACK."""
        granted = granted_of(subscriptions, codes)
        if self.loading is not None:
            self.loading.owe(session, granted)
        else:
            self._subscribing.send_retained(session, granted)

    def unsubscribe(self, session: Session, topic_filters: Sequence[str]) -> Answer:
        """Drop the Subscriptions with exactly these Topic Filters; see :meth:`Subscribing.unsubscribe`.

        :return: a Deferred that UNSUBACK waits for, or ``None``.
        """
        self._subscribing.unsubscribe(session, topic_filters)
        if session.number and self._records is not None:
            return self._records.unsubscribed(session, topic_filters)
        return None


def _nothing(*_: object) -> None:
    """Nobody wants to know."""
