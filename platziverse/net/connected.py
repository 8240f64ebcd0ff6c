"""Connected: the packets of a client from its CONNACK on."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Answer
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.mqtt.codec import PINGRESP, encode_pubcomp, encode_pubrec, encode_pubrel
from platziverse.mqtt.packets import (
    Disconnect,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from platziverse.net.acks import AckQueue
from platziverse.net.dialect import Dialect
from platziverse.net.flow import ANSWER, is_due
from platziverse.net.outbox import Outbox
from platziverse.net.publications import Publications
from platziverse.net.reading import Reading

#: Packet class → the function that handles a run of such packets for the state of their connection, and
#: returns how many it has handled.
PacketTable: TypeAlias = "Mapping[type, Callable[[Any, Any], int]]"

#: Topic Filters of one SUBSCRIBE, from which on it takes a millisecond or more.
MANY_FILTERS: Final = 100

_T = TypeVar("_T")


class Connected:
    """A Connected is the state of a connection whose client has a Session; there is none before CONNACK."""

    __slots__ = ("_answers", "_dialect", "_publications", "graceful", "outbox", "reading", "session")

    def __init__(self, session: Session, outbox: Outbox, reading: Reading, dialect: Dialect) -> None:
        self.session = session
        self.outbox = outbox
        self.reading = reading
        #: DISCONNECT has come.
        self.graceful = False
        self._dialect = dialect
        self._publications: Publications | None = None
        # PUBREL and PUBCOMP, while one of them has to wait.
        self._answers: AckQueue | None = None

    # -- for the connection ----------------------------------------------------------------------

    def settle(self) -> None:
        """Acknowledge the messages that are ours by now: the connection is about to be closed."""
        if self._publications is not None:
            self._publications.settle()

    def end(self) -> None:
        """Give the Session back: the connection has ended."""
        for owing in (self._publications, self._answers):
            if owing is not None:
                owing.end()
        self.outbox.shared.broker.disconnect(self.session, self.outbox, self.graceful)

    # -- packets ---------------------------------------------------------------------------------

    def publish(self, run: list[Publish]) -> int:
        """Publish a run of messages; see :class:`Publications`."""
        publications = self._publications or self._published()
        if self.outbox.shared.was_strained and not self.outbox.closed:
            run = self.outbox.shared.before_search(self.reading, run)
            if not run:
                return 0
        if self.session.subscriptions:
            return publications.handle_own(run)
        return publications.handle(run)

    def _published(self) -> Publications:
        """Return what hands on the messages of this connection; it is made for the first of them."""
        if self._publications is None:
            self._publications = self._make_publications()
        return self._publications

    def _make_publications(self) -> Publications:
        return Publications(self.session, self.outbox, self.reading, self._dialect)

    def puback(self, run: list[Puback]) -> int:
        """Take a run of PUBACKs together: each makes room for a message that waits."""
        unknown = self.session.puback([packet.packet_id for packet in run])
        self.outbox.shared.traffic.unknown_acknowledgements += unknown
        return len(run)

    def pubrec(self, run: list[Pubrec]) -> int:
        """Answer each PUBREC with PUBREL, in the order of the PUBRECs. [MQTT-4.3.3-1] [MQTT-4.6.0-4]"""
        received, session = self.outbox.shared.broker.received, self.session
        for handled, packet in enumerate(run, 1):
            packet_id = packet.packet_id
            self._answer(encode_pubrel(packet_id), received(session, packet_id))
            if self.reading.holds:
                return handled
        return len(run)

    def pubrel(self, run: list[Pubrel]) -> int:
        """Answer each PUBREL with PUBCOMP, when its PUBREC has left. [MQTT-4.3.3-2]"""
        released, publications = self.outbox.shared.broker.released, self._publications
        owed = publications.acks if publications is not None else None
        for handled, packet in enumerate(run, 1):
            packet_id = packet.packet_id
            answer = self._release(packet_id, owed) if owed else released(self.session, packet_id)
            self._answer(encode_pubcomp(packet_id), answer)
            if self.reading.holds:
                return handled
        return len(run)

    def _release(self, packet_id: int, owed: AckQueue) -> Answer:
        released, left = self.outbox.shared.broker.released, owed.when_left(encode_pubrec(packet_id))
        if left is None:
            return released(self.session, packet_id)
        return left.addCallback(lambda _: released(self.session, packet_id))

    def pubcomp(self, run: list[Pubcomp]) -> int:
        """Take a run of PUBCOMPs together, like PUBACKs."""
        unknown = self.session.pubcomp([packet.packet_id for packet in run])
        self.outbox.shared.traffic.unknown_acknowledgements += unknown
        return len(run)

    def subscribe(self, run: list[Subscribe]) -> int:
        """Answer with SUBACK, then the Retained Messages; the next packet finds the Subscriptions made."""
        packet = run[0]
        if len(packet.subscriptions) >= MANY_FILTERS and not self.outbox.shared.may_strain(self.reading):
            return 0
        silent = self._silent(packet.subscriptions)
        codes = self.outbox.shared.broker.subscribe(self.session, packet.subscriptions, silent)
        if isinstance(codes, Deferred):
            self._wait(codes, lambda codes: self._subscribed(packet, codes, silent), "not subscribed")
        else:
            self._subscribed(packet, codes, silent)
        return 1

    def _silent(self, subscriptions: list[Subscription]) -> Collection[str]:
        """Return the Topic Filters without Retained Messages: none. [MQTT5-3.3.1-9] [MQTT5-3.8.4-4]"""
        return ()

    def _subscribed(self, packet: Subscribe, codes: list[int], silent: Collection[str]) -> None:
        # [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.3.1-7]
        self.outbox.send(self._dialect.suback(packet.packet_id, codes))
        subscriptions = packet.subscriptions
        if silent:
            both = zip(subscriptions, codes, strict=True)
            loud = [(one, code) for one, code in both if one.topic_filter not in silent]
            subscriptions, codes = [one for one, _ in loud], [code for _, code in loud]
        self.outbox.shared.broker.send_retained(self.session, subscriptions, codes)

    def unsubscribe(self, run: list[Unsubscribe]) -> int:
        """Answer with UNSUBACK. [MQTT-3.10.4-4] [MQTT-3.10.4-5]"""
        unsuback = self._dialect.unsuback(run[0].packet_id, self._codes_of(run[0].topic_filters))
        answer = self.outbox.shared.broker.unsubscribe(self.session, run[0].topic_filters)
        if answer is None:
            self.outbox.send(unsuback)
        else:
            self._wait(answer, lambda _: self.outbox.send(unsuback), "not unsubscribed")
        return 1

    def _codes_of(self, topic_filters: list[str]) -> list[int]:
        """Return the codes of an UNSUBACK: none."""
        return []

    def pingreq(self, run: list[Pingreq]) -> int:
        """Answer with PINGRESP. [MQTT-3.12.4-1]"""
        self.outbox.send(PINGRESP)
        return 1

    def disconnect(self, run: list[Disconnect]) -> int:
        """Close: the client leaves, and its Will is discarded. [MQTT-3.14.4-3]"""
        self.graceful = True
        self.outbox.close(Reason.GRACEFUL, "it has disconnected")
        return 1

    # -- answers that wait -----------------------------------------------------------------------

    def _answer(self, data: bytes, answer: Answer) -> None:
        """Send PUBREL or PUBCOMP when ``answer`` is there, and behind those that came before it.

        :param data: the packet.
        """
        if answer is None and not self._answers:
            self.outbox.send(data)
            return
        if self._answers is None:
            self._answers = AckQueue(self.outbox)
        pending, flow = self._answers.expect(data), self.outbox.shared.flow
        if answer is None:
            answer = succeed(None)
        waits = is_due(answer)
        if waits:
            flow.started(self.reading, 0)
        answer.addCallbacks(
            lambda _: pending.done(), lambda _: self.outbox.close(Reason.NOT_HANDLED, "not released")
        )
        if waits:
            answer.addBoth(lambda _: flow.finished(self.reading, 0))
        else:
            flow.owing(self.reading, len(self._answers))

    def _wait(self, answer: Deferred[_T], then: Callable[[_T], None], failed: str) -> None:
        """Handle no further packet of this client until ``answer`` is there: the next one may rely on it.

        :param then: called with the answer, unless the connection has ended by then.
        :param failed: why the connection is closed if there is none.
        """
        waits = is_due(answer)
        if waits:
            self.outbox.shared.flow.started(self.reading, 0)
            self.reading.hold_reading(ANSWER)
        answer.addCallbacks(
            lambda result: None if self.outbox.closed else then(result), self._failed, errbackArgs=(failed,)
        )
        answer.addErrback(self._broke_down)
        if waits:
            answer.addBoth(self._go_on)

    def _go_on(self, _: object) -> None:
        self.outbox.shared.flow.finished(self.reading, 0)
        self.reading.resume_reading(ANSWER)

    def _failed(self, failure: Failure, text: str) -> None:
        if not self.outbox.closed:
            client = self.session.client
            assert client is not None
            reason = f"{text}: {failure.getErrorMessage()}"
            self.outbox.shared.complain(text, reason, client.address, client.client_id)
        self.outbox.close(Reason.NOT_HANDLED, text)

    def _broke_down(self, failure: Failure) -> None:
        client = self.session.client
        address = client.address if client is not None else ""
        self.outbox.shared.broke_down(failure, address, self.session.client_id)
        self.outbox.close(Reason.INTERNAL_ERROR, "internal error")


CONNECTED: Final[PacketTable] = {
    Publish: Connected.publish,
    Puback: Connected.puback,
    Pubrec: Connected.pubrec,
    Pubrel: Connected.pubrel,
    Pubcomp: Connected.pubcomp,
    Subscribe: Connected.subscribe,
    Unsubscribe: Connected.unsubscribe,
    Pingreq: Connected.pingreq,
    Disconnect: Connected.disconnect,
}
