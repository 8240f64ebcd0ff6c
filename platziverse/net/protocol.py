"""MQTTProtocol: one Network Connection, from its first byte to its last."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import PINGRESP, encode, encode_pubcomp
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
from platziverse.net.admission import PacketTable, out_of_place
from platziverse.net.flow import CLOSED, TURN
from platziverse.net.peer import format_peer
from platziverse.net.publishing import Publishing

log = Logger()


class MQTTProtocol(Publishing):
    """Feeds the decoder and looks each packet up in the table of its state."""

    _graceful = False

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
        if self.closed:  # TLS reads on until the client closes as well
            return
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
        taken = budget - left
        self._traffic.messages_received += taken
        if (pending := self._decoder.pending) or self._partial_since:
            self._note_partial(pending, taken > 0)
        self.credit_packets -= taken
        if self.credit_packets < 0 or self.credit_bytes < 0:
            self._pace()
        if not left and not self._holds and self._decoder.has_more:
            self.hold_reading(TURN)
            self._owner.clock.callLater(0, self.resume_reading, TURN)
        if not nested:
            flushes.flush()

    def _handle_packets(self, left: int) -> int:
        """Handle at most ``left`` packets; returns how many more it might have been."""
        decoder = self._decoder
        try:
            while left and not self._holds and (run := decoder.take(left)):
                handle = self._table.get(type(run[0]))
                if handle is None:
                    raise out_of_place(run[0])
                left -= len(run)
                if (handled := handle(self, run)) < len(run):
                    left += len(run) - handled
                    decoder.give_back(run[handled:])
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
                    CONNECTED[type(packet)](self, [packet])
        except MQTTError:
            return  # nobody is there to be told
        except Exception:
            self._break_down(Failure())

    # -- the other packets -----------------------------------------------------------------------

    def _puback(self, run: list[Puback]) -> int:
        assert self._session is not None
        self._traffic.unknown_acknowledgements += self._session.puback([each.packet_id for each in run])
        return len(run)

    def _pubrec(self, run: list[Pubrec]) -> int:
        assert self._session is not None
        for packet in run:
            if not self._session.pubrec(packet.packet_id):
                self._traffic.unknown_acknowledgements += 1
        return len(run)

    def _pubcomp(self, run: list[Pubcomp]) -> int:
        assert self._session is not None
        for packet in run:
            if not self._session.pubcomp(packet.packet_id):
                self._traffic.unknown_acknowledgements += 1
        return len(run)

    def _pubrel(self, run: list[Pubrel]) -> int:
        for handled, packet in enumerate(run, 1):
            self._release(packet)
            if self._holds:
                return handled
        return len(run)

    def _release(self, packet: Pubrel) -> None:
        pubcomp = encode_pubcomp(packet.packet_id)  # [MQTT-4.3.3-2]
        assert self._session is not None
        answer = self._broker.released(self._session, packet.packet_id)
        if answer is None:
            self.send(pubcomp)
            return
        flow = self._owner.flow
        flow.started(self, 0)
        answer.addCallbacks(
            lambda _: self.send(pubcomp), lambda _: self.close(Reason.NOT_HANDLED, "not released")
        )
        answer.addBoth(lambda _: flow.finished(self, 0))

    def _subscribe(self, run: list[Subscribe]) -> int:
        session, packet = self._session, run[0]
        assert session is not None
        codes = self._broker.subscribe(session, packet.subscriptions)
        self.send(encode(Suback(packet.packet_id, codes)))  # [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.3.1-7]
        self._broker.send_retained(session, packet.subscriptions, codes)
        return 1

    def _unsubscribe(self, run: list[Unsubscribe]) -> int:
        assert self._session is not None
        self._broker.unsubscribe(self._session, run[0].topic_filters)
        self.send(encode(Unsuback(run[0].packet_id)))  # [MQTT-3.10.4-4] [MQTT-3.10.4-5]
        return 1

    def _pingreq(self, run: list[Pingreq]) -> int:
        self.send(PINGRESP)  # [MQTT-3.12.4-1]
        return 1

    def _disconnect(self, run: list[Disconnect]) -> int:
        self._graceful = True  # [MQTT-3.14.4-3]
        self.close(Reason.GRACEFUL, "it has disconnected")
        return 1


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
