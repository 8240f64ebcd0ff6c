"""Publishing: the PUBLISHes of one connection, from their arrival to their acknowledgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Answer
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.mqtt.codec import encode_puback, encode_pubrec
from platziverse.mqtt.packets import Publish
from platziverse.net.acks import AckQueue, Pending
from platziverse.net.admission import Admission

if TYPE_CHECKING:
    from platziverse.net.factory import MQTTFactory


class Publishing(Admission):
    """What a client publishes; its acknowledgements leave in the order of the messages."""

    # Of the run that is being handled: ours, and not yet acknowledged. Who publishes nothing has no list.
    _done: list[Publish] | None = None

    def __init__(self, factory: MQTTFactory) -> None:
        super().__init__(factory)
        self._acks: AckQueue | None = None

    def _publish(self, run: list[Publish]) -> int:
        """At QoS 1 and 0 those that nothing has to be waited for are acknowledged together."""
        if run[0].qos == 2:
            return self._publish_once(run)
        assert self._client is not None
        publish, client = self._broker.publish, self._client
        if len(run) == 1:
            self._answer(run[0], publish(run[0], client))
            return 1
        done = self._done = []
        try:
            for handled, packet in enumerate(run, 1):
                answer = publish(packet, client)
                if answer is None and not self._acks:
                    done.append(packet)
                else:
                    self._own(done)
                    self._answer(packet, answer)
                if self._holds:
                    return handled
        finally:
            self._own(done)
        return len(run)

    def _answer(self, packet: Publish, answer: Answer) -> None:
        qos, traffic = packet.qos, self._traffic  # counted in place: most messages come alone
        traffic.publish_received[qos] += 1
        traffic.publish_bytes_received[qos] += len(packet.payload)
        if answer is not None:
            self._wait(answer, packet)
        elif packet.packet_id is not None:
            self._acknowledge(encode_puback(packet.packet_id))  # [MQTT-4.3.2-2]

    def _own(self, messages: list[Publish]) -> None:
        if messages:
            size = sum([len(message.payload) for message in messages])
            self._traffic.received(messages[0].qos, len(messages), size)
            packet_ids = [message.packet_id for message in messages if message.packet_id is not None]
            messages.clear()
            self.acknowledge(packet_ids)  # [MQTT-2.3.1-6] [MQTT-3.3.4-1]

    def close(self, reason: Reason, text: str) -> None:
        """Close without an answer, but for the messages that are ours."""
        if self._done:
            self._own(self._done)
        super().close(reason, text)

    def _publish_once(self, run: list[Publish]) -> int:
        for handled, packet in enumerate(run, 1):
            self._publish_one(packet)
            if self._holds:
                return handled
        return len(run)

    def _publish_one(self, packet: Publish) -> None:
        session, client, packet_id = self._session, self._client, packet.packet_id
        assert session is not None
        assert client is not None
        assert packet_id is not None
        self._traffic.received(2, 1, len(packet.payload))
        now = self._owner.deadlines.now
        if not session.receive(packet_id, now):
            self._repeated(session, packet_id, self._ack_queue().expect(encode_pubrec(packet_id)))
            return
        try:
            answer = self._broker.publish(packet, client)
        except Exception:  # a bug; when the message comes again it is a new one
            session.failed(packet_id)
            raise
        if answer is not None:
            self._wait(answer, packet)
        else:
            session.stored(packet_id, now)
            self._acknowledge(encode_pubrec(packet_id))  # [MQTT-4.3.3-2]

    def _repeated(self, session: Session, packet_id: int, pending: Pending) -> None:
        """A QoS 2 message came again: the outcome of the first is its outcome."""
        flow = self._owner.flow
        flow.started(self, 0)

        def known(stored: bool) -> None:
            if stored:
                pending.done()
            else:
                self.close(Reason.NOT_HANDLED, "not stored")
            flow.finished(self, 0)

        session.when_stored(packet_id, known)

    def _acknowledge(self, data: bytes) -> None:
        if self._acks:
            self._acks.expect(data).done()
            self._owner.flow.owing(self, len(self._acks))
        else:
            self.send(data)

    def _ack_queue(self) -> AckQueue:
        if self._acks is None:
            self._acks = AckQueue(self.send)
        return self._acks

    def _wait(self, answer: Deferred[object], packet: Publish) -> None:
        """The acknowledgement, or at QoS 0 only the right to send more, waits for the handler."""
        encode_ack = encode_pubrec if packet.qos == 2 else encode_puback
        pending = self._ack_queue().expect(b"" if packet.packet_id is None else encode_ack(packet.packet_id))
        self._owner.flow.started(self, len(packet.payload))
        began = self._owner.clock.seconds()
        answer.addCallbacks(
            self._stored, self._not_stored, callbackArgs=(pending, packet, began), errbackArgs=(packet,)
        )

    def _stored(self, result: object, pending: Pending, packet: Publish, began: float) -> None:
        owner = self._owner
        if packet.qos == 2 and self._session is not None and packet.packet_id is not None:
            self._session.stored(packet.packet_id, owner.deadlines.now)
        pending.done()
        if owner.observe_ack is not None:
            owner.observe_ack(owner.clock.seconds() - began)
        owner.flow.finished(self, len(packet.payload))

    def _not_stored(self, failure: Failure, packet: Publish) -> None:
        if packet.qos == 2 and self._session is not None and packet.packet_id is not None:
            self._session.failed(packet.packet_id)
        self._owner.flow.finished(self, len(packet.payload))
        if not self.closed:
            self._complain("not stored", f"its message was not handled: {failure.getErrorMessage()}")
        self.close(Reason.NOT_HANDLED, "its message was not handled")  # MQTT 3.1.1 has no negative PUBACK
