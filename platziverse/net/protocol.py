"""MQTTProtocol: one Network Connection, from its first byte to its last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.session import Session
from platziverse.mqtt.codec import PINGRESP, encode, encode_puback, encode_pubcomp, encode_pubrec
from platziverse.mqtt.errors import MQTTError
from platziverse.mqtt.packets import (
    Disconnect,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from platziverse.net.acks import AckQueue, Pending
from platziverse.net.admission import Admission, PacketTable, out_of_place
from platziverse.net.flow import CLOSED, TURN
from platziverse.net.peer import format_peer

if TYPE_CHECKING:
    from platziverse.net.factory import MQTTFactory

log = Logger()


class MQTTProtocol(Admission):
    """Feeds the decoder and looks each packet up in the table of its state."""

    _graceful = False

    def __init__(self, factory: MQTTFactory) -> None:
        super().__init__(factory)
        self._acks: AckQueue | None = None

    # -- IProtocol -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Nothing is sent before CONNECT has come; it has to be complete in time. [MQTT-3.1.0-1]"""
        owner = self._owner
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)  # or a windowed publisher waits 40 ms for each PUBACK
        transport.registerProducer(self, True)
        self.address = format_peer(transport.getPeer())
        owner.connections.add(self)
        owner.traffic.connections_opened += 1
        self._last_read = owner.deadlines.now
        owner.deadlines.add(self, self._last_read + self._limits.connect_deadline)

    def dataReceived(self, data: bytes) -> None:
        """Handle every packet that is complete, in order."""
        self._last_read = self._owner.deadlines.now
        self._traffic.bytes_received += len(data)
        self.credit_bytes -= len(data)
        self._decoder.feed(data)
        self._take_packets()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """The one place where a connection ends, whatever ended it."""
        owner = self._owner
        gone, self.closed = not self.closed, True
        if gone and self._holds and self._session is not None:
            self._take_leftovers()
        self._holds |= CLOSED
        owner.connections.discard(self)
        owner.deadlines.remove(self)
        owner.flow.forget(self)
        for call in (self._delayed, self._pacing):
            if call is not None and call.active():
                call.cancel()
        if self._acks is not None:
            self._acks.close()
        if self._session is not None:
            self._broker.disconnect(self._session, self, self._graceful)
        self._out.clear()

    # -- packets ---------------------------------------------------------------------------------

    def _take_packets(self) -> None:
        """Take packets until there is none, something holds reading, or the others have to get their turn."""
        flushes = self._flushes
        nested, flushes.turn = flushes.turn, True
        budget = self._limits.packets_per_turn
        left = self._handle_packets(budget)
        self._traffic.messages_received += budget - left
        if (pending := self._decoder.pending) or self._partial_since:
            self._note_partial(pending, left < budget)
        self.credit_packets -= budget - left
        if self.credit_packets < 0 or self.credit_bytes < 0:
            self._pace()
        if not left and not self._holds:
            self.hold_reading(TURN)
            self._owner.clock.callLater(0, self.resume_reading, TURN)
        if not nested:
            flushes.flush()

    def _handle_packets(self, left: int) -> int:
        """Handle at most ``left`` packets; returns how many more it might have been."""
        decoder = self._decoder
        try:
            while left and not self._holds:
                find = self._table.get  # of another state after CONNECT, which comes alone
                for packet in decoder.packets(left):
                    left -= 1
                    handle = find(type(packet))
                    if handle is None:
                        raise out_of_place(packet)
                    handle(self, packet)
                    if self._holds:
                        return left
                if not decoder.has_more:
                    break
        except MQTTError as error:
            self._fail(error)
        except Exception:
            self._break_down(Failure())
        return left

    def _take_leftovers(self) -> None:
        """The peer has gone while reading was held: what it had published by then still counts, if there
        is room for it."""
        try:
            while not self._graceful and (packet := self._decoder.next_packet()) is not None:
                if type(packet) is Publish and self._owner.flow.full:
                    # It comes again, as it was not acknowledged; at QoS 0 it is lost.
                    self._traffic.leftovers_dropped += packet.qos == 0
                elif type(packet) is Publish or type(packet) is Disconnect:
                    CONNECTED[type(packet)](self, packet)
        except MQTTError:
            return  # nobody is there to be told
        except Exception:
            self._break_down(Failure())

    # -- PUBLISH ---------------------------------------------------------------------------------

    def _publish(self, packet: Publish) -> None:
        traffic = self._traffic
        qos, packet_id = packet.qos, packet.packet_id
        traffic.publish_received[qos] += 1
        traffic.publish_bytes_received[qos] += len(packet.payload)
        if qos == 2:
            self._publish_once(packet)
            return
        assert self._client is not None
        answer = self._broker.publish(packet, self._client)
        if answer is not None:
            self._wait(answer, packet, b"" if packet_id is None else encode_puback(packet_id))
        elif packet_id is not None:  # [MQTT-4.3.2-2] [MQTT-2.3.1-6] [MQTT-3.3.4-1]
            if self._acks:
                self._acknowledge(encode_puback(packet_id))
            else:
                self.acknowledge(packet_id)

    def _publish_once(self, packet: Publish) -> None:
        session, client, packet_id = self._session, self._client, packet.packet_id
        assert session is not None
        assert client is not None
        assert packet_id is not None
        pubrec = encode_pubrec(packet_id)
        now = self._owner.deadlines.now
        if not session.receive(packet_id, now):
            self._repeated(session, packet_id, self._ack_queue().expect(pubrec))
            return
        answer = self._broker.publish(packet, client)
        if answer is not None:
            self._wait(answer, packet, pubrec)
        else:
            session.stored(packet_id, now)
            self._acknowledge(pubrec)  # [MQTT-4.3.3-2]

    def _repeated(self, session: Session, packet_id: int, pending: Pending) -> None:
        """A QoS 2 message came again: the outcome of the first is its outcome."""
        flow = self._owner.flow
        flow.started(self, 0)

        def known(stored: bool) -> None:
            if stored:
                pending.done()
            else:
                self.close("not stored")
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

    def _wait(self, answer: Deferred[object], packet: Publish, ack: bytes) -> None:
        """The acknowledgement, or at QoS 0 only the right to send more, waits for the handler."""
        pending = self._ack_queue().expect(ack)
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
        self.close("its message was not handled")  # MQTT 3.1.1 has no negative PUBACK

    # -- the other packets -----------------------------------------------------------------------

    def _puback(self, packet: Puback) -> None:
        assert self._session is not None
        if not self._session.puback(packet.packet_id):
            self._traffic.unknown_acknowledgements += 1

    def _pubrec(self, packet: Pubrec) -> None:
        assert self._session is not None
        if not self._session.pubrec(packet.packet_id):
            self._traffic.unknown_acknowledgements += 1

    def _pubcomp(self, packet: Pubcomp) -> None:
        assert self._session is not None
        if not self._session.pubcomp(packet.packet_id):
            self._traffic.unknown_acknowledgements += 1

    def _pubrel(self, packet: Pubrel) -> None:
        pubcomp = encode_pubcomp(packet.packet_id)  # [MQTT-4.3.3-2]
        assert self._session is not None
        answer = self._broker.released(self._session, packet.packet_id)
        if answer is None:
            self.send(pubcomp)
            return
        flow = self._owner.flow
        flow.started(self, 0)
        answer.addCallbacks(lambda _: self.send(pubcomp), lambda _: self.close("not released"))
        answer.addBoth(lambda _: flow.finished(self, 0))

    def _subscribe(self, packet: Subscribe) -> None:
        session = self._session
        assert session is not None
        codes = self._broker.subscribe(session, packet.subscriptions)
        self.send(encode(Suback(packet.packet_id, codes)))  # [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.3.1-7]
        self._broker.send_retained(session, packet.subscriptions, codes)

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        assert self._session is not None
        self._broker.unsubscribe(self._session, packet.topic_filters)
        self.send(encode(Unsuback(packet.packet_id)))  # [MQTT-3.10.4-4] [MQTT-3.10.4-5]

    def _pingreq(self, packet: Pingreq) -> None:
        self.send(PINGRESP)  # [MQTT-3.12.4-1]

    def _disconnect(self, packet: Disconnect) -> None:
        self._graceful = True  # [MQTT-3.14.4-3]
        self.close("it has disconnected")


CONNECTED: Final[PacketTable] = {
    Publish: MQTTProtocol._publish,
    Puback: MQTTProtocol._puback,
    Pubrec: MQTTProtocol._pubrec,
    Pubrel: MQTTProtocol._pubrel,
    Pubcomp: MQTTProtocol._pubcomp,
    Subscribe: MQTTProtocol._subscribe,
    Unsubscribe: MQTTProtocol._unsubscribe,
    Pingreq: MQTTProtocol._pingreq,
    Disconnect: MQTTProtocol._disconnect,
}
MQTTProtocol.connected_table = CONNECTED
