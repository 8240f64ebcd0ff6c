"""Publications: the PUBLISHes of one connection, from their arrival to their acknowledgement."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import length_hint
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Answer
from platziverse.broker.owing import Owing
from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.receiving import NEW, REPEATED
from platziverse.broker.session import Session
from platziverse.errors import ComesAgain, NotStorable
from platziverse.mqtt.codec import encode_puback, encode_pubacks, encode_pubrec
from platziverse.mqtt.packets import Publish
from platziverse.net.acks import AckQueue, Bundle, Pending
from platziverse.net.dialect import Dialect
from platziverse.net.flow import is_due
from platziverse.net.outbox import Outbox
from platziverse.net.reading import Reading


class Publications:
    """Publications hands on what a client publishes, and acknowledges it in the order of the messages.

    It is made at the first PUBLISH, as most clients of some fleets only receive.
    """

    __slots__ = (
        "_bundle",
        "_client",
        "_dialect",
        "_done",
        "_durable",
        "_outbox",
        "_place",
        "_reading",
        "_session",
        "_shared",
        "acks",
    )

    def __init__(self, session: Session, outbox: Outbox, reading: Reading, dialect: Dialect) -> None:
        assert session.client is not None
        self._session, self._client = session, session.client
        self._outbox, self._shared = outbox, outbox.shared
        outbox.publishes = True
        self._reading = reading
        self._dialect = dialect
        #: Acknowledgements that are still owed; made when the first has to wait.
        self.acks: AckQueue | None = None
        # Of the run that is being handled: ours, and not yet acknowledged.
        self._done: list[Publish] | None = None
        # Of that run, too: those that wait for the same answer, and are not yet counted.
        self._bundle: Bundle | None = None
        self._durable = outbox.shared.broker.durable
        # In the outbox, for the next acknowledgement; ``None``: at the end.
        self._place: int | None = None

    def handle(self, run: list[Publish]) -> int:
        """Publish a run of messages, all of one QoS, until one holds reading; return how many those were.

        Messages of QoS 0 and 1 whose answer is ``None`` are acknowledged together.
        """
        packet = run[0]
        if packet.qos == 2:
            return self._handle_exactly_once(run)
        if len(run) > 1:
            return self._pass_on(run) or self._handle_run(run)
        answer = self._shared.broker.publish(packet, self._client)
        if answer is not None and (owing := self._owed(answer)) is not None:
            self._count(self._begin(packet, owing))
        else:
            self._answer(packet, answer)
        return 1

    def _pass_on(self, run: list[Publish]) -> int:
        """Publish in one step what other daemons get and nobody here; return how many messages. ADR 0223."""
        pass_on = self._shared.broker.pass_on
        if pass_on is None or self.acks or not (count := pass_on(run, self._client)):
            return 0
        self._done = run[:count]
        self.settle()
        return count

    def _handle_run(self, run: list[Publish]) -> int:
        publish, client = self._shared.broker.publish, self._client
        done: list[Publish] = []
        self._done, reading, rest = done, self._reading, iter(run)
        together, before, durable = done, None, self._durable
        try:
            for packet in rest:
                answer = publish(packet, client)
                if answer is None and not self.acks:
                    done.append(packet)
                elif before is not None and answer is before:
                    together.append(packet)
                else:
                    self.settle()
                    owing = durable.latest if durable is not None else None
                    if owing is not None and answer is owing.answer:
                        before, together = answer, self._begin(packet, owing).messages
                        self._join(together, owing, run, rest)
                    else:
                        before = None
                        self._answer(packet, answer)
                if reading.holds:
                    return len(run) - len(list(rest))
        finally:
            self.settle()
        return len(run)

    def _owed(self, answer: Deferred[object]) -> Owing | None:
        """Return what durable Sessions owe for the last message, if ``answer`` waits for that alone."""
        owing = self._durable.latest if self._durable is not None else None
        return owing if owing is not None and owing.answer is answer else None

    def _begin(self, packet: Publish, owing: Owing) -> Bundle:
        """Answer a message together with those behind it that get the same answer. ADR 0124."""
        assert self._durable is not None
        acks = self._queue()
        bundle = self._bundle = Bundle(self, acks, owing, packet)
        acks.append(bundle)
        self._durable.share(owing, bundle)
        return bundle

    def _join(
        self, together: list[Publish], owing: Owing, run: list[Publish], rest: Iterator[Publish]
    ) -> None:
        """Publish as many messages of a run as can be handed on in one step with the one before them.

        :param together: that one; those are added.
        :param rest: of the run; those are left out of it.
        """
        behind = run[len(run) - length_hint(rest) :]
        count = self._shared.broker.join(owing, together[0].topic, behind)
        together += behind[:count]
        deque(islice(rest, count), 0)

    def handle_own(self, run: list[Publish]) -> int:
        """Publish messages that may come back to this client, behind their acknowledgements. ADR 0103."""
        self._place = self._outbox.pieces
        try:
            return self.handle(run)
        finally:
            self._place = None

    def settle(self) -> None:
        """Acknowledge the messages that are ours by now."""
        if self._bundle is not None:
            self._count(self._bundle)
        messages = self._done
        if messages:
            size, qos = sum([len(message.payload) for message in messages]), messages[0].qos
            self._shared.traffic.received(qos, len(messages), size)
            ours, messages[:] = messages[:], []  # an end of the connection meanwhile settles as well
            if qos:
                self._acknowledge(ours)

    def _acknowledge(self, messages: list[Publish]) -> None:
        """Acknowledge messages at QoS 1 that are ours. [MQTT-2.3.1-6] [MQTT-3.3.4-1]"""
        packet_ids = [message.packet_id for message in messages]
        self._place = self._outbox.acknowledge(cast("list[int]", packet_ids), self._place)

    def _ack(self, packet: Publish, packet_id: int) -> bytes:
        """Return PUBACK or PUBREC for what is ours. [MQTT-4.3.2-2] [MQTT5-4.3.2-5] [MQTT-4.3.3-2]"""
        return (encode_pubrec if packet.qos == 2 else encode_puback)(packet_id)

    @property
    def unacknowledged(self) -> int:
        """How many messages at QoS 1 have come whose PUBACK has not left."""
        return sum([pending.pubacks for pending in self.acks or ()])

    def _count(self, bundle: Bundle) -> None:
        """Count messages that wait together: no further one joins them."""
        assert self._durable is not None
        self._bundle = self._durable.open = None
        messages, shared = bundle.messages, self._shared
        bundle.size = size = sum([len(message.payload) for message in messages])
        count = len(messages)
        if count > 1:
            shared.broker.router.joined(bundle.owing, size - len(messages[0].payload))
        shared.traffic.received(1, count, size)
        shared.flow.started(self._reading, size, count)

    def end(self) -> None:
        """Owe no acknowledgement any more: the client has gone."""
        self._queue().end()

    def _answer(self, packet: Publish, answer: Answer) -> None:
        qos, traffic = packet.qos, self._shared.traffic
        traffic.publish_received[qos] += 1
        traffic.publish_bytes_received[qos] += len(packet.payload)
        if answer is not None:
            self._wait(answer, packet)
        elif (packet_id := packet.packet_id) is not None:
            self._send_ack(packet, packet_id)

    def _handle_exactly_once(self, run: list[Publish]) -> int:
        for handled, packet in enumerate(run, 1):
            self._publish_once(packet)
            if self._reading.holds:
                return handled
        return len(run)

    def _publish_once(self, packet: Publish) -> None:
        session, packet_id, shared = self._session, packet.packet_id, self._shared
        assert packet_id is not None
        shared.traffic.received(2, 1, len(packet.payload))
        outcome, broker = session.receive(packet_id, shared.deadlines.now, self._missed), shared.broker
        if outcome == REPEATED:
            self._repeat(packet, packet_id, self._queue().expect(encode_pubrec(packet_id)))
            return
        try:
            answer = (broker.publish if outcome == NEW else broker.handle)(packet, self._client)
        except Exception:  # a bug; when the message comes again it is a new one
            session.failed(packet_id)
            raise
        if answer is not None:
            self._wait(answer, packet)
            return
        session.stored(packet_id, shared.deadlines.now)
        self._send_ack(packet, packet_id)

    def _send_ack(self, packet: Publish, packet_id: int) -> None:
        """Acknowledge one message, behind those that wait."""
        ack = self._ack(packet, packet_id)
        if self.acks:
            self.acks.expect(ack).done()
            self._owe()
        elif self._place is None:
            self._outbox.send(ack)
        else:
            self._place = self._outbox.send_at(ack, self._place)

    def _missed(self, count: int) -> None:
        shared, client, cause = self._shared, self._client, "PUBREL has not come"
        shared.traffic.pubrels_missed += count
        text = "Forgot {count} QoS 2 messages of {address} {client_id!r} without PUBREL (max_awaiting_pubrel,"
        text += " awaiting_pubrel_expiry)"
        name, address = client.client_id, client.address
        shared.complaints.warn(cause, text, address=address, client_id=name, count=count)

    def _repeat(self, packet: Publish, packet_id: int, pending: Pending) -> None:
        """Give a QoS 2 message that came again the outcome of the first; handlers are told of it."""
        stored: Deferred[bool] = Deferred()
        self._session.when_stored(packet_id, stored.callback)
        stored.addCallback(self._tell, packet).addErrback(self._not_told)
        if waits := is_due(stored):
            self._shared.flow.started(self._reading, 0)
        stored.addCallback(self._repeated, pending, waits)
        if not waits:
            self._owe()

    def _tell(self, stored: bool, packet: Publish) -> "bool | Deferred[bool]":
        answer = self._shared.broker.repeat(packet, self._client) if stored else None
        return stored if answer is None else answer.addCallback(lambda _: True)

    def _not_told(self, failure: Failure) -> bool:
        self._complain(failure, "its message came again and was not handled")
        return False

    def _repeated(self, stored: bool, pending: Pending, waits: bool) -> None:
        if stored:
            pending.done()
        else:
            self._outbox.close(Reason.NOT_HANDLED, "not stored")
        if waits:
            self._shared.flow.finished(self._reading, 0)

    def _owe(self) -> None:
        """Hold reading when too many acknowledgements that are there stand behind one that is not."""
        if self.acks:
            self._shared.flow.owing(self._reading, len(self.acks))

    def _queue(self) -> AckQueue:
        if self.acks is None:
            self.acks = AckQueue(self._outbox)
        return self.acks

    def _wait(self, answer: Deferred[object], packet: Publish) -> None:
        """Acknowledge when ``answer`` has fired; at QoS 0 only the right to send more waits for it."""
        encode_ack = encode_pubrec if packet.qos == 2 else encode_puback
        pending = self._queue().expect(b"" if packet.packet_id is None else encode_ack(packet.packet_id))
        shared = self._shared
        if waits := is_due(answer):
            shared.flow.started(self._reading, len(packet.payload))
        arguments = pending, packet, waits, shared.clock.seconds()
        answer.addCallbacks(self._stored, self._not_stored, callbackArgs=arguments, errbackArgs=arguments)
        if not waits:
            self._owe()

    def _stored(self, result: object, pending: Pending, packet: Publish, waits: bool, began: float) -> None:
        shared = self._shared
        if isinstance(result, Refused):
            self._answer_no(result, pending, packet)
        elif packet.qos == 2 and packet.packet_id is not None:
            self._session.stored(packet.packet_id, shared.deadlines.now)
        pending.done()
        if shared.observe_ack is not None:
            shared.observe_ack(shared.clock.seconds() - began, 1)
        if waits:
            shared.flow.finished(self._reading, len(packet.payload))

    def _answer_no(self, refused: Refused, pending: Pending, packet: Publish) -> None:
        """Let the answer say that a message is refused, where the protocol can; it is done with."""
        data, packet_id, session = self._dialect.negative(packet, refused), packet.packet_id, self._session
        if data is not None:
            pending.data = data
        if packet.qos == 2 and packet_id is not None:
            if data is None:
                session.stored(packet_id, self._shared.deadlines.now)
            else:  # no PUBREL comes [MQTT5-4.3.3-9]
                session.failed(packet_id)
                self._shared.broker.released(session, packet_id)

    def refuse(self, packet: Publish, refused: Refused) -> None:
        """Refuse a message that nobody is handed."""
        if not self._outbox.closed:
            client = self._client
            text = "Refused what {address} {client_id!r} published to {topic!r}: {reason}"
            more = {"topic": packet.topic[:200], "reason": refused.text}
            warn, address, name = self._shared.complaints.warn, client.address, client.client_id
            warn("refused to publish", text, address=address, client_id=name, **more)
        self._answer(packet, succeed(refused))

    def all_stored(self, bundle: Bundle) -> None:
        """Acknowledge messages of one run together."""
        shared, count = self._shared, len(bundle.messages)
        shared.traffic.messages_sent += count - 1
        packet_ids = [message.packet_id for message in bundle.messages]
        bundle.data = encode_pubacks(cast("list[int]", packet_ids))
        bundle.done()
        if shared.observe_ack is not None:
            shared.observe_ack(shared.clock.seconds() - bundle.owing.since, count)
        shared.flow.finished(self._reading, bundle.size, count)

    def none_stored(self, bundle: Bundle, failure: Failure) -> None:
        """Acknowledge none of the messages of one run."""
        self._shared.flow.finished(self._reading, bundle.size, len(bundle.messages))
        self._refuse(failure, bundle, bundle.messages)

    def _not_stored(
        self, failure: Failure, pending: Pending, packet: Publish, waits: bool, began: float
    ) -> None:
        if packet.qos == 2 and packet.packet_id is not None:
            self._session.failed(packet.packet_id)
        if waits:
            self._shared.flow.finished(self._reading, len(packet.payload))
        self._refuse(failure, pending, [packet])

    def _refuse(self, failure: Failure, pending: Pending, messages: list[Publish]) -> None:
        text, error = "its message was not handled", failure.value
        refused = error if isinstance(error, Refused) else Refused(Reason.NOT_HANDLED, text)
        if isinstance(error, NotStorable):
            refused = Refused(Reason.PAYLOAD_INVALID, str(error))
        again = failure.check(ComesAgain) is not None
        answers = [None if again else self._dialect.negative(packet, refused) for packet in messages]
        if None not in answers:
            pending.data = b"".join([answer for answer in answers if answer is not None])
            pending.done()
            self._mention(failure)
            return
        self._complain(failure, text)
        self._outbox.close(Reason.NOT_HANDLED, text)

    def _mention(self, failure: Failure) -> None:
        """Log what the client is told, as it goes on."""
        client, warn = self._client, self._shared.complaints.warn
        text, reason = "Refused a message of {address} {client_id!r}: {reason}", failure.getErrorMessage()
        warn("not stored", text, address=client.address, client_id=client.client_id, reason=reason)

    def _complain(self, failure: Failure, text: str) -> None:
        if not self._outbox.closed:
            client, reason = self._client, f"{text}: {failure.getErrorMessage()}"
            self._shared.complain("not stored", reason, client.address, client.client_id)
