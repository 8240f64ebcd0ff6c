"""Publications: the PUBLISHes of one connection, from their arrival to their acknowledgement."""

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Answer
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.mqtt.codec import encode_puback, encode_pubrec
from platziverse.mqtt.packets import Publish
from platziverse.net.acks import AckQueue, Pending
from platziverse.net.dialect import Dialect
from platziverse.net.outbox import Outbox
from platziverse.net.reading import Reading


class Publications:
    """Publications hands on what a client publishes, and acknowledges it in the order of the messages.

    It is made at the first PUBLISH, as most clients of some fleets only receive.
    """

    __slots__ = ("_acks", "_client", "_dialect", "_done", "_outbox", "_reading", "_session", "_shared")

    def __init__(self, session: Session, outbox: Outbox, reading: Reading, dialect: Dialect) -> None:
        assert session.client is not None
        self._session, self._client = session, session.client
        self._outbox, self._shared = outbox, outbox.shared
        self._reading = reading
        self._dialect = dialect
        self._acks: AckQueue | None = None
        # Of the run that is being handled: ours, and not yet acknowledged.
        self._done: list[Publish] | None = None

    def handle(self, run: list[Publish]) -> int:
        """Publish a run of messages, all of one QoS, until one holds reading; return how many those were.

        Messages of QoS 0 and 1 whose answer is ``None`` are acknowledged together.
        """
        packet = run[0]
        if packet.qos == 2:
            return self._handle_exactly_once(run)
        publish, client = self._shared.broker.publish, self._client
        if len(run) == 1:
            self._answer(packet, publish(packet, client))
            return 1
        done: list[Publish] = []
        self._done, reading = done, self._reading
        try:
            for handled, packet in enumerate(run, 1):
                answer = publish(packet, client)
                if answer is None and not self._acks:
                    done.append(packet)
                else:
                    self.settle()
                    self._answer(packet, answer)
                if reading.holds:
                    return handled
        finally:
            self.settle()
        return len(run)

    def settle(self) -> None:
        """Acknowledge the messages that are ours by now."""
        messages = self._done
        if messages:
            size = sum([len(message.payload) for message in messages])
            self._shared.traffic.received(messages[0].qos, len(messages), size)
            packet_ids = [message.packet_id for message in messages if message.packet_id is not None]
            messages.clear()
            self._outbox.acknowledge(packet_ids)  # [MQTT-2.3.1-6] [MQTT-3.3.4-1]

    def end(self) -> None:
        """Owe no acknowledgement any more: the client has gone."""
        if self._acks is not None:
            self._acks.end()

    def _answer(self, packet: Publish, answer: Answer) -> None:
        qos, traffic = packet.qos, self._shared.traffic  # counted in place: most messages come alone
        traffic.publish_received[qos] += 1
        traffic.publish_bytes_received[qos] += len(packet.payload)
        if answer is not None:
            self._wait(answer, packet)
        elif packet.packet_id is not None:
            puback = encode_puback(packet.packet_id)  # [MQTT-4.3.2-2]
            if self._acks:
                self._acknowledge_behind(self._acks, puback)
            else:
                self._outbox.send(puback)

    def _handle_exactly_once(self, run: list[Publish]) -> int:
        for handled, packet in enumerate(run, 1):
            self._publish_once(packet)
            if self._reading.holds:
                return handled
        return len(run)

    def _publish_once(self, packet: Publish) -> None:
        session, packet_id = self._session, packet.packet_id
        assert packet_id is not None
        self._shared.traffic.received(2, 1, len(packet.payload))
        now = self._shared.deadlines.now
        if not session.receive(packet_id, now):
            self._repeat(packet_id, self._queue().expect(encode_pubrec(packet_id)))
            return
        try:
            answer = self._shared.broker.publish(packet, self._client)
        except Exception:  # a bug; when the message comes again it is a new one
            session.failed(packet_id)
            raise
        if answer is not None:
            self._wait(answer, packet)
        else:
            session.stored(packet_id, now)
            pubrec = encode_pubrec(packet_id)  # [MQTT-4.3.3-2]
            if self._acks:
                self._acknowledge_behind(self._acks, pubrec)
            else:
                self._outbox.send(pubrec)

    def _repeat(self, packet_id: int, pending: Pending) -> None:
        """A QoS 2 message came again: the outcome of the first is its outcome."""

        def known(stored: bool) -> None:
            if stored:
                pending.done()
            else:
                self._outbox.close(Reason.NOT_HANDLED, "not stored")
            self._end_waiting(pending, 0)

        self._session.when_stored(packet_id, known)
        self._begin_waiting(pending, 0)

    def _acknowledge_behind(self, acks: AckQueue, data: bytes) -> None:
        acks.expect(data).done()
        self._shared.flow.owing(self._reading, len(acks))

    def _queue(self) -> AckQueue:
        if self._acks is None:
            self._acks = AckQueue(self._outbox.send)
        return self._acks

    def _wait(self, answer: Deferred[object], packet: Publish) -> None:
        """Acknowledge when ``answer`` has fired; at QoS 0 only the right to send more waits for it."""
        encode_ack = encode_pubrec if packet.qos == 2 else encode_puback
        pending = self._queue().expect(b"" if packet.packet_id is None else encode_ack(packet.packet_id))
        began = self._shared.clock.seconds()
        answer.addCallbacks(
            self._stored,
            self._not_stored,
            callbackArgs=(pending, packet, began),
            errbackArgs=(pending, packet),
        )
        self._begin_waiting(pending, len(packet.payload))

    def _begin_waiting(self, pending: Pending, size: int) -> None:
        """Tell FlowControl, unless the answer has come meanwhile.

        Told before, FlowControl might hold reading and, the answer being there, resume it at once: the
        packets behind this one would be handled in its midst, and counted twice.
        """
        if pending.waits is None:
            pending.waits = True
            self._shared.flow.started(self._reading, size)

    def _end_waiting(self, pending: Pending, size: int) -> None:
        if pending.waits:
            self._shared.flow.finished(self._reading, size)
        else:
            pending.waits = False

    def _stored(self, result: object, pending: Pending, packet: Publish, began: float) -> None:
        shared = self._shared
        if packet.qos == 2 and packet.packet_id is not None:
            self._session.stored(packet.packet_id, shared.deadlines.now)
        pending.done()
        if shared.observe_ack is not None:
            shared.observe_ack(shared.clock.seconds() - began)
        self._end_waiting(pending, len(packet.payload))

    def _not_stored(self, failure: Failure, pending: Pending, packet: Publish) -> None:
        if packet.qos == 2 and packet.packet_id is not None:
            self._session.failed(packet.packet_id)
        self._end_waiting(pending, len(packet.payload))
        text, client = "its message was not handled", self._client
        refusal = self._dialect.negative(packet, Reason.NOT_HANDLED, text)
        if refusal is not None:
            pending.data = refusal
            pending.done()
            return
        if not self._outbox.closed:
            reason = f"{text}: {failure.getErrorMessage()}"
            self._shared.complain("not stored", reason, client.address, client.client_id)
        self._outbox.close(Reason.NOT_HANDLED, text)
