"""Routing: messages go to the daemons whose clients listen, and come from them."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime

from platziverse.broker.broker import Broker
from platziverse.broker.farewells import log_failure
from platziverse.broker.interfaces import SERVER, Answer, Client
from platziverse.broker.records import Acknowledged, ends_of
from platziverse.broker.session import Session
from platziverse.broker.sharing import GROUPS, is_copy
from platziverse.broker.subscriptions import Match
from platziverse.broker.together import Together
from platziverse.cluster.delaying import Delaying
from platziverse.cluster.frames import Kept, Message, Owed, Said, Several, Since
from platziverse.cluster.heirs import Heirs, Place
from platziverse.cluster.interest import SYS, Interest
from platziverse.cluster.linking import Linking
from platziverse.cluster.peers import Peer, Peers, message_of
from platziverse.cluster.retaining import Retaining
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import restored

#: Publishers of other daemons that are remembered.
PUBLISHERS: Final = 16_384
#: Messages of others that may wait until the Sessions of this daemon are loaded.
MOST_WAITING: Final = 10_000


class Routing:
    """A Routing is what stands ``Elsewhere`` for a broker.

    A match that concerns others ends with a *marker*, which has their mask in the place of a QoS. So a
    message that concerns nobody else costs no more than a look at the last receiver. ADR 0135.

    :ivar delaying: keeps messages for Sessions that are on their way.
    :ivar heirs: Sessions that were a dead daemon's.
    :ivar dropped: messages of others that did not find room while Sessions were loaded.
    """

    def __init__(
        self,
        broker: Broker,
        interest: Interest,
        peers: Peers,
        retaining: Retaining,
        linking: Linking | None,
        clock: IReactorTime,
    ) -> None:
        self.dropped = self._waiting = 0
        self._linking = linking
        self._broker, self._interest = broker, interest
        self._peers, self._retaining = peers, retaining
        self.delaying = Delaying(interest, peers, clock, broker.limits.max_unfinished_total)
        self.heirs = linking.legacies.heirs if linking is not None else Heirs(lambda: 0)
        self._marker, self._durable = (broker.sessions.make("", persistent) for persistent in (False, True))
        self._publishers: Memo[tuple[str, str | None, bool], Client] = Memo(
            _publisher, PUBLISHERS, lambda key, client: 1
        )

    # -- to the others ---------------------------------------------------------------------------

    def receivers(self, topic: str) -> "Match[Session]":
        """Return the markers with the masks of the daemons that listen to a topic; nothing: nobody does.

        The last one is for all, and the one before, if there is one, for those with durable Sessions.
        """
        if topic.startswith(SYS):
            return ()
        live, durable = self._interest.daemons(topic)
        mask = live | durable
        if durable and self._linking is not None:
            return (self._durable, durable), (self._marker, mask)
        return ((self._marker, mask),) if mask else ()

    def pass_on(self, run: Sequence[Publish], client: Client) -> int:
        """Hand messages to the daemons of the marker in one step, if nobody here gets them. ADR 0223.

        What is found out about one of a topic holds for those behind it.
        """
        handled, after = 0, self._linking.serials.last if run[0].qos and self._linking is not None else 0
        while handled < len(run) and (mask := self._only_others(first := run[handled], client)):
            payloads = []
            for message in islice(run, handled, None):
                if message.topic != first.topic or message.retain or message.properties is not None:
                    break
                payloads.append(message.payload)
            if not payloads:
                break
            self._peers.pass_on(mask, first, client, after, payloads)
            handled += len(payloads)
        return handled

    def _only_others(self, message: Publish, client: Client) -> int:
        """Return the mask of daemons that get a message which nobody here gets, and nothing holds; or 0."""
        broker, linking, topic = self._broker, self._linking, message.topic
        receivers = broker.subscriptions.match(topic)
        if len(receivers) != 1 or receivers[0][0] is not self._marker or broker.destinations[topic] != ():
            return 0
        if broker.authority.restricts and not broker.authority.may_publish(client, topic):
            return 0
        waits = message.qos and linking is not None and topic in linking.serials.unsent
        return 0 if waits or broker.loading is not None else receivers[0][1]

    def route(
        self, message: Publish, receivers: "Match[Session]", client: Client, more: object = True
    ) -> Answer:
        """Hand a message to the daemons of the marker, if there is one, and to our own receivers."""
        if not receivers or receivers[-1][0] is not self._marker:
            return self._broker.router.route(message, receivers, client, more)
        if message.qos and self._is_delayed(receivers):
            return self.delaying.keep(message.topic, partial(self._route_late, message, client))
        return self._route(message, receivers, client, more)

    def _is_delayed(self, receivers: "Match[Session]") -> bool:
        return bool(self._divided(receivers)[1] & self.delaying.bit)

    def _route_late(self, message: Publish, client: Client) -> Answer:
        return self._route(message, self._broker.subscriptions.match(message.topic), client, True)

    def _route(self, message: Publish, receivers: "Match[Session]", client: Client, more: object) -> Answer:
        mask, durable, receivers = self._divided(receivers)
        durable &= ~self.delaying.bit
        if not message.qos or self._linking is None:
            self._peers.pass_on(mask, message, client)
            return self._broker.router.route(message, receivers, client, more)
        after = self._linking.serials.last
        others = partial(self._peers.pass_on, message=message, client=client, after=after)
        others(self._linking.pass_behind(mask & ~durable, message.topic, others))
        if not durable:
            return self._broker.router.route(message, receivers, client, more)
        links = self._linking.owed(durable, message.qos)
        return self._broker.router.route_owed(message, receivers, client, links)

    def _divided(self, receivers: "Match[Session]") -> "tuple[int, int, Match[Session]]":
        """Return the masks of all daemons that listen, and of those with durable Sessions, and our own."""
        mask = durable = 0
        if receivers and receivers[-1][1] == GROUPS:  # which get copies of their own
            receivers = receivers[:-1]
        if receivers and receivers[-1][0] is self._marker:
            mask, receivers = receivers[-1][1], receivers[:-1]
        if receivers and receivers[-1][0] is self._durable:
            durable, receivers = receivers[-1][1], receivers[:-1]
        return mask, durable, receivers

    def route_retained(self, message: Publish, receivers: "Match[Session]", client: Client) -> Answer:
        """Hand a message with RETAIN to all daemons, as each of them keeps it, and to our own receivers."""
        router = self._broker.router
        if message.topic.startswith(SYS):
            return router.route_retained(message, receivers, client)
        said = message_of(message, client, version=self._retaining.version_of(message.topic))
        if message.qos and self._is_delayed(receivers):
            late = partial(self._route_retained_late, message, client, said)
            return self.delaying.keep(message.topic, late)
        return self._route_retained(message, receivers, client, said)

    def _route_retained_late(self, message: Publish, client: Client, said: Message) -> Answer:
        receivers = self._broker.subscriptions.match(message.topic)
        return self._route_retained(message, receivers, client, said)

    def _route_retained(
        self, message: Publish, receivers: "Match[Session]", client: Client, said: Message
    ) -> Answer:
        router = self._broker.router
        _, durable, receivers = self._divided(receivers)
        durable &= ~self.delaying.bit
        if not message.qos or self._linking is None:
            durable = 0
        else:
            said = replace(said, after=self._linking.serials.last)
        others = partial(self._peers.send, frame=said)
        mask = self._peers.everybody & ~durable
        if message.qos and self._linking is not None:
            mask = self._linking.pass_behind(mask, message.topic, others)
        others(mask)
        if not durable or self._linking is None:
            return router.route_retained(message, receivers, client)
        self._peers.send(durable, Kept(said))
        links = self._linking.owed(durable, message.qos)
        return router.route_retained(message, receivers, client, links)

    # -- from the others -------------------------------------------------------------------------

    def came(self, peer: Peer, frame: Message) -> None:
        """Route a message of another daemon to our clients; its handlers were called there."""
        peer.received += 1
        linking = self._linking
        if not frame.after or linking is None or not linking.is_late(peer.number):
            self._take(frame)
        elif not linking.keep_behind(peer.number, frame, partial(self._take, frame)) and frame.retain:
            self.came_again(Kept(frame))  # nobody gets it, but all of the set keep it

    def _take(self, frame: Message) -> None:
        client = self._publisher(frame)
        deliver = partial(self._deliver, frame, client)
        loading = self._broker.loading
        if frame.qos and self.delaying.delivers(frame.topic):
            answer = self.delaying.keep(frame.topic, deliver)
        elif loading is None or not self._waits_for_loading(frame):
            answer = deliver()
        elif self._waiting >= MOST_WAITING:
            self.dropped += 1
            return
        else:
            self._waiting += 1
            answer = loading.later(client, partial(self._waited, deliver))
        if answer is not None:
            answer.addErrback(log_failure, client)

    def _waits_for_loading(self, frame: Message) -> bool:
        """Return whether a message has to do with what is being loaded.

        At QoS 1 and 2 it is for no durable Session (ADR 0199), so it does not wait for those of a dead
        daemon: what is owed behind it would overtake it. ADR 0228.
        """
        if frame.qos:
            return self._linking is None or not self._linking.is_loaded
        return frame.retain

    def came_together(self, peer: Peer, frame: Several) -> None:
        """Route messages of another daemon, all of one publisher for one topic, to our clients."""
        like, broker = frame.message, self._broker
        if like.properties or (like.qos and self._waits(peer, like.topic)):
            for payload in frame.payloads:
                self.came(peer, replace(like, payload=payload))
            return
        peer.received += len(frame.payloads)
        client, topic, qos = self._publisher(like), like.topic, like.qos
        found, messages = broker.subscriptions.match(topic), Together(topic, frame.payloads, qos)
        left = self._receivers(found, qos)
        if left and messages.is_short:
            left = broker.router.route_together(messages, left, client)
        for payload in frame.payloads if left else ():
            if (now := broker.subscriptions.match(topic)) is not found:  # a Session has ended meanwhile
                found, there = now, self._receivers(now, qos)
                left = tuple(one for one in left if one in there)
            broker.router.route(Publish(topic, payload, qos), left, client)

    def _waits(self, peer: Peer, topic: str) -> bool:
        """Return whether messages of a daemon are not for their receivers at once."""
        if self._broker.loading is not None or self.delaying.delivers(topic):
            return True
        return self._linking is not None and self._linking.is_late(peer.number)

    def _receivers(self, found: "Match[Session]", qos: int) -> "Match[Session]":
        """Return our receivers of a message without a position.

        At QoS 1 and 2 a durable Session gets what is owed to it: one that is here by now, and was not when
        this was published, has got it where it was. ADR 0199.
        """
        receivers = self._divided(found)[2]
        return tuple([one for one in receivers if not one[0].number]) if qos else receivers

    def _waited(self, deliver: "partial[Answer]") -> Answer:
        self._waiting -= 1
        return deliver()

    def _deliver(self, frame: Message, client: Client) -> Answer:
        broker = self._broker
        properties = restored(frame.properties)
        message = Publish(frame.topic, frame.payload, frame.qos, frame.retain, properties=properties)
        if is_copy(message):
            return broker.sharing.take(message, client)
        receivers = self._receivers(broker.subscriptions.match(frame.topic), frame.qos)
        if not frame.retain:
            return broker.router.route(message, receivers, client)
        self._retaining.came(message, client, frame.version, live=True)
        return broker.router.route_retained(message, receivers, client)

    def _ours(self, topic: str) -> "Match[Session]":
        return self._divided(self._broker.subscriptions.match(topic))[2]

    def cross(self, frame: Owed, row: Place) -> Answer:
        """Hand a message that is owed to our durable Sessions to them, and to all others of our clients.

        :param row: link and position; what is written for ours takes the place of it.
        """
        message = Publish(frame.topic, frame.payload, frame.qos, properties=restored(frame.properties))
        if is_copy(message):
            rows = self.heirs.of_row(row, ())[1]
            return self._crossed(frame, self._broker.sharing.take(message, SERVER, rows), rows)
        _, durable, receivers = self._divided(self._broker.subscriptions.match(frame.topic))
        if durable & self.delaying.bit:
            return self.delaying.keep(frame.topic, partial(self._cross_late, frame, row), *_origin(row))
        return self._cross(frame, row, receivers)

    def _cross_late(self, frame: Owed, row: Place) -> Answer:
        return self._cross(frame, row, self._ours(frame.topic))

    def _cross(self, frame: Owed, row: Place, receivers: "Match[Session]") -> Answer:
        message = Publish(frame.topic, frame.payload, frame.qos, properties=restored(frame.properties))
        receivers, rows = self.heirs.of_row(row, receivers)
        return self._crossed(
            frame, self._broker.router.route_owed(message, receivers, SERVER, (), rows), rows
        )

    def _crossed(self, frame: Owed, answer: Answer, rows: "tuple[Place, ...]") -> Answer:
        if answer is None and frame.qos == 2:
            # Before a Session that has this message comes to us, the row must be gone. ADR 0153.
            return self._delete(None, rows)
        if len(rows) == 1:
            return answer
        # What was acknowledged within the grace has taken the place of no row.
        return self._delete(None, rows[1:]) if answer is None else answer.addCallback(self._delete, rows[1:])

    def _delete(self, _: object, rows: "tuple[Place, ...]") -> "Deferred[Any]":
        assert self._broker.durable is not None
        record = self._broker.durable.record
        return DeferredList([record(Acknowledged(*row)) for row in rows])

    def came_again(self, frame: Kept) -> None:
        """Keep a Retained Message that we may have missed."""
        message = frame.message
        properties = restored(message.properties)
        kept = Publish(message.topic, message.payload, message.qos, True, properties=properties)
        self._retaining.came(kept, self._publisher(message), message.version, live=False)

    def _publisher(self, frame: Message) -> Client:
        return self._publishers[frame.client_id, frame.username, frame.bridge]

    def say_again(self, number: int, asked: Since) -> Iterator[None]:
        """Send a daemon the Retained Messages that it may have missed, in steps."""
        for topic, known in self._retaining.since(asked.version):
            kept = self._broker.retained.get(topic)
            message, client = Publish(topic, b""), SERVER
            if kept is not None:
                message, client = kept, self._broker.retained.publisher(topic)
            self._peers.tell(number, Kept(message_of(message, client, version=known)))
            yield
        self._peers.tell(number, Said(asked.number))


def _origin(row: Place) -> tuple[int, int]:
    """Return the daemon that a message was published to, and the position that it has given it."""
    return ends_of(row[0])[0], row[1]


def _publisher(key: tuple[str, str | None, bool]) -> Client:
    client_id, username, bridge = key
    return Client(client_id, 0, username=username, bridge=bridge) if client_id else SERVER
