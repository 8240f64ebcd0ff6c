"""Admission: from CONNECT to CONNACK, and how a connection that breaks the rules is ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Client
from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import encode
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.errors import ConnectRefused, MalformedPacket, MQTTError, ProtocolViolation
from platziverse.mqtt.packets import Connack, Connect, ConnectReturnCode
from platziverse.net.connection import Connection
from platziverse.net.flow import LOGIN
from platziverse.net.peer import certificate_user

if TYPE_CHECKING:
    from platziverse.net.factory import MQTTFactory

log = Logger()

#: Packet class → the method that handles a run of them; it returns how many it has handled.
PacketTable: TypeAlias = "Mapping[type, Callable[[Any, Any], int]]"


class Admission(Connection):
    """The life of a connection until its client is connected."""

    #: The packets that a connected client may send.
    connected_table: ClassVar[PacketTable] = {}

    def __init__(self, factory: MQTTFactory) -> None:
        super().__init__(factory)
        self._broker = factory.broker
        self._table: PacketTable = BEFORE_CONNECT
        self._decoder = PacketDecoder(
            factory.limits.max_connect_size, factory.limits.max_topic_levels, factory.limits.strict_dup
        )
        self._client: Client | None = None
        self._client_id = ""
        self._delayed: IDelayedCall | None = None

    def _connect(self, run: list[Connect]) -> int:
        self._begin(run[0])
        return 1

    def _begin(self, packet: Connect) -> None:
        self._client_id = packet.client_id
        if len(packet.client_id.encode()) > self._limits.max_client_id_bytes:  # [MQTT-3.1.3-5] [MQTT-3.1.3-9]
            rejected = ConnectReturnCode.IDENTIFIER_REJECTED
            raise ConnectRefused(rejected, "its Client Identifier is too long", "3.1.3.1")
        if refusal := self._owner.pressure.refusal():
            raise ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, refusal)
        self._table = {}  # a second CONNECT is out of place [MQTT-3.1.0-2]
        answer = self._broker.authority.login(packet, self.address, certificate_user(self.transport))
        if answer is None:
            self._admit(packet.username, packet)
            return
        self.hold_reading(LOGIN)
        self._allow(0.0)
        answer.addCallback(self._admit, packet).addErrback(self._login_failed)

    def _allow(self, delay: float) -> None:
        """CONNECT has come in time. What follows has a time of its own, in which the client is not slow."""
        deadlines = self._owner.deadlines
        deadlines.add(self, deadlines.now + delay + self._limits.connect_deadline)

    def _login_failed(self, failure: Failure) -> None:
        if isinstance(failure.value, MQTTError):
            self._fail(failure.value)
        else:
            self._break_down(failure)

    def _admit(self, username: str | None, packet: Connect) -> None:
        if self.closed:
            return
        delay = self._owner.flapping.delay(packet.client_id, self._owner.clock.seconds())
        if delay:
            self.hold_reading(LOGIN)
            self._allow(delay)
            self._delayed = self._owner.clock.callLater(delay, self._open_late, username, packet)
        else:
            self._open(username, packet)

    def _open_late(self, username: str | None, packet: Connect) -> None:
        try:
            self._open(username, packet)
        except Exception:
            self._login_failed(Failure())

    def _open(self, username: str | None, packet: Connect) -> None:
        session, present = self._broker.connect(packet, self, self.address, username)
        self._session, self._client = session, session.client
        self._client_id = session.client_id
        self._decoder.connected(self._limits.max_packet_size, packet.protocol_level)
        self._table = self.connected_table
        self._set_keep_alive(packet.keep_alive)
        # [MQTT-3.2.0-1] [MQTT-3.1.4-4] [MQTT-3.2.2-2]
        self.send(encode(Connack(present, ConnectReturnCode.ACCEPTED)))
        if present:
            session.resume()
        self.resume_reading(LOGIN)

    def _refuse(self, error: ConnectRefused) -> None:
        self._traffic.connect_refused(error.return_code.name.lower())
        self._complain(error.return_code.name, str(error))
        self.send(encode(Connack(False, error.return_code)))  # [MQTT-3.2.2-4]
        self.close(Reason.REFUSED, str(error))  # [MQTT-3.2.2-5] [MQTT-3.1.4-5]

    def _fail(self, error: MQTTError) -> None:
        if isinstance(error, ConnectRefused):
            self._refuse(error)
            return
        self._traffic.protocol_error(error.statement)
        self._complain(error.statement, str(error))
        self.close(reason_of(error), str(error))  # [MQTT-4.8.0-1] [MQTT-3.1.4-1] [MQTT-3.2.2-6]

    def _break_down(self, failure: Failure) -> None:
        """A bug of ours: it costs this client its connection, and nobody else anything."""
        self._traffic.internal_errors += 1
        log.failure("Bug: {address} {client_id!r}", failure, address=self.address, client_id=self._client_id)
        self.close(Reason.INTERNAL_ERROR, "internal error")  # [MQTT-4.8.0-2]

    def _complain(self, cause: str, reason: str) -> None:
        self._owner.complaints.warn(
            cause,
            # The address comes first: what a client has chosen cannot be taken for it.
            "Closing {address} {client_id!r}: {reason}",
            address=self.address,
            client_id=self._client_id,
            reason=reason,
        )


BEFORE_CONNECT: PacketTable = {Connect: Admission._connect}


def reason_of(error: MQTTError) -> Reason:
    """MALFORMED, or PROTOCOL_ERROR for well-formed packets."""
    return Reason.MALFORMED if isinstance(error, MalformedPacket) else Reason.PROTOCOL_ERROR


def out_of_place(packet: object) -> ProtocolViolation:
    """What is wrong with a packet that the table of its connection's state does not have."""
    if type(packet) is Connect:
        return ProtocolViolation("a second CONNECT", "MQTT-3.1.0-2")
    return ProtocolViolation(f"a client does not send {type(packet).__name__.upper()}", "2.2.1")
