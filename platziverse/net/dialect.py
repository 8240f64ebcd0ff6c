"""Dialect: how a version of the protocol says yes, no and goodbye.

The broker speaks in Reasons. A dialect turns one into a packet, or says that its version has none.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Protocol

from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.session import Session
from platziverse.broker.sessions import FOR_EVER
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.codec import encode
from platziverse.mqtt.codec5 import encode5, encode_acknowledgement
from platziverse.mqtt.errors import ConnectRefused, MQTTError, ProtocolViolation
from platziverse.mqtt.packets import (
    SUBSCRIPTION_REFUSED,
    Auth,
    Connack,
    Connect,
    ConnectReturnCode,
    Disconnect,
    Properties,
    Puback,
    Publish,
    Suback,
    Unsuback,
)
from platziverse.mqtt.reasoncodes import REASON_CODES, ReasonCode
from platziverse.mqtt.topics import response_prefix


class Dialect(Protocol):
    """A Dialect is chosen for each connection when its CONNECT has come."""

    def keep_alive(self, asked: int) -> int:
        """Return the Keep Alive that a client has to keep to which has asked for this one, in seconds."""

    def accept(self, present: bool, session: Session) -> bytes:
        """Return the CONNACK for a client that is connected.

        :raises ConnectRefused: it takes no packet that is so large.
        """

    def refuse(self, error: MQTTError) -> bytes:
        """Return the CONNACK for a client that is refused; the connection is closed after it.

        Empty: it is closed without one.
        """

    def negative(self, packet: Publish, refused: Refused) -> bytes | None:
        """Return the answer to a PUBLISH that is refused; ``None``: there is none in this version."""

    def suback(self, packet_id: int, codes: list[int]) -> bytes:
        """Return the SUBACK; from 0x80 on a code is a ``ReasonCode``."""

    def unsuback(self, packet_id: int, codes: list[int]) -> bytes:
        """Return the UNSUBACK."""

    def goodbye(self, reason: Reason, text: str, code: ReasonCode | None) -> bytes:
        """Return the last packet of a connection that we close; empty: it is closed without one.

        :param code: more exactly than ``reason`` says it.
        """


#: CONNACK with return code 0, without and with Session Present.
_ACCEPTED: Final = tuple(encode(Connack(present, ConnectReturnCode.ACCEPTED)) for present in (False, True))


class MQTT311:
    """MQTT311 is the dialect of MQTT 3.1.1, and 3.1: it has a return code in CONNACK, and no other no."""

    __slots__ = ()

    def keep_alive(self, asked: int) -> int:
        """Return what was asked for: CONNACK has no place for another one."""
        return asked

    def accept(self, present: bool, session: Session) -> bytes:
        """Return CONNACK with return code 0. [MQTT-3.2.0-1] [MQTT-3.1.4-4] [MQTT-3.2.2-2]"""
        return _ACCEPTED[present]

    def refuse(self, error: MQTTError) -> bytes:
        """Return CONNACK with the return code of the error. [MQTT-3.2.2-4]"""
        assert isinstance(error, ConnectRefused)
        return encode(Connack(False, error.return_code))

    def negative(self, packet: Publish, refused: Refused) -> bytes | None:
        """Return ``None``: PUBACK and PUBREC have no return code."""
        return None

    def suback(self, packet_id: int, codes: list[int]) -> bytes:
        """Return the SUBACK; there is one code for all refusals."""
        return encode(Suback(packet_id, [min(code, SUBSCRIPTION_REFUSED) for code in codes]))

    def unsuback(self, packet_id: int, codes: list[int]) -> bytes:
        """Return the UNSUBACK, which has no codes."""
        return encode(Unsuback(packet_id))

    def goodbye(self, reason: Reason, text: str, code: ReasonCode | None) -> bytes:
        """Return nothing: only a client sends DISCONNECT."""
        return b""


MQTT_3_1_1: Final[Dialect] = MQTT311()

#: What MQTT 5 says for a Reason; of those that are not here, nothing.
CODES: Final = {
    Reason.MALFORMED: ReasonCode.MALFORMED_PACKET,
    Reason.PROTOCOL_ERROR: ReasonCode.PROTOCOL_ERROR,
    Reason.NOT_AUTHORIZED: ReasonCode.NOT_AUTHORIZED,
    Reason.PAYLOAD_INVALID: ReasonCode.PAYLOAD_FORMAT_INVALID,
    Reason.QUOTA: ReasonCode.QUOTA_EXCEEDED,
    Reason.NOT_HANDLED: ReasonCode.UNSPECIFIED_ERROR,
    Reason.INTERNAL_ERROR: ReasonCode.UNSPECIFIED_ERROR,
    Reason.TAKEN_OVER: ReasonCode.SESSION_TAKEN_OVER,
    Reason.SHUTTING_DOWN: ReasonCode.SERVER_SHUTTING_DOWN,
    Reason.KEEP_ALIVE: ReasonCode.KEEP_ALIVE_TIMEOUT,
    Reason.TOO_SLOW: ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.ADMINISTRATIVE: ReasonCode.ADMINISTRATIVE_ACTION,
}
#: Codes that a Server Reference goes with, if there is one.
ELSEWHERE: Final = (ReasonCode.SERVER_SHUTTING_DOWN, ReasonCode.SERVER_UNAVAILABLE)
#: Characters of a Reason String.
MAX_REASON: Final = 500
_NOTHING: Final = Properties()


def encode_auth(code: ReasonCode, method: str, data: bytes, largest: int) -> bytes:
    """Return AUTH, with neither Reason String nor User Properties. [MQTT5-3.15.2-1] [MQTT5-3.15.2-2]

    [MQTT5-3.15.2-3] [MQTT5-4.12.0-5]

    :param largest: bytes of a packet that the client takes.
    :raises ConnectRefused: that is less.
    """
    told = Properties(authentication_method=method, authentication_data=data)
    packet = encode5(Auth(code, told))
    if len(packet) > largest:
        raise _too_large("AUTH", packet, largest)
    return packet


def _too_large(name: str, packet: bytes, largest: int) -> ConnectRefused:
    text, code = (
        f"{name} has {len(packet)} bytes, and the client takes {largest}",
        ReasonCode.PACKET_TOO_LARGE,
    )
    return ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, text, "MQTT5-3.1.2-24", code)


def _limited(receive_maximum: int, aliases: int, largest: int) -> dict[str, Any]:
    """Return those Properties of CONNACK that tell of our limits."""
    return {
        "receive_maximum": receive_maximum,
        "topic_alias_maximum": aliases or None,
        "maximum_packet_size": largest,
    }


@lru_cache(maxsize=16)
def _usual_connack(present: bool, receive_maximum: int, aliases: int, largest: int) -> bytes:
    """Return the CONNACK of clients that are told of our limits alone: they all get the same."""
    told = Properties(**_limited(receive_maximum, aliases, largest))
    return encode5(Connack(present, ReasonCode.SUCCESS, told))


class MQTT5:
    """MQTT5 is the dialect of one client of MQTT 5.

    :param connect: what it wants; ``None``: nobody knows, as something is wrong with it.
    :param limits: what it is told of ours.
    :param traffic: counts the Reason Codes that say no.
    :param reference: another server, for when this one cannot serve it; empty: there is none.
    """

    __slots__ = (
        "_asked",
        "_client_id",
        "_expiry",
        "_largest",
        "_limits",
        "_reference",
        "_traffic",
        "_wants_reasons",
        "_wants_responses",
        "proof",
    )

    def __init__(
        self, connect: Connect | None, limits: Limits, traffic: Traffic, reference: str = ""
    ) -> None:
        asked = (connect.properties if connect is not None else None) or _NOTHING
        self._limits, self._traffic, self._reference = limits, traffic, reference
        self._client_id = connect.client_id if connect is not None else ""
        self._asked = connect.keep_alive if connect is not None else 0
        self._expiry = asked.session_expiry_interval or 0
        self._largest = asked.maximum_packet_size or 1 << 30
        self._wants_reasons = asked.request_problem_information != 0
        #: Authentication Method, and the last that the server says by it; ``None``: there was none.
        self.proof: tuple[str, bytes] | None = None
        self._wants_responses = asked.request_response_information == 1  # [MQTT5-3.1.2-28]

    def keep_alive(self, asked: int) -> int:
        """Return what was asked for, or less; 0, which is no Keep Alive at all, is more than any."""
        most = self._limits.max_keep_alive
        return most if most and not 0 < asked <= most else asked

    def accept(self, present: bool, session: Session) -> bytes:
        """Return CONNACK with what differs from what the client asked for, and what it has to keep to.

        Where that is too large, what we would only like it to know is left out. QoS 2 and RETAIN are there.

        [MQTT5-3.2.0-1] [MQTT5-3.1.4-5] [MQTT5-3.2.2-2] [MQTT5-3.2.2-3] [MQTT5-3.2.2-16] [MQTT5-3.1.3-7]
        [MQTT5-3.2.2-8] [MQTT5-3.2.2-9] [MQTT5-3.2.2-10] [MQTT5-3.2.2-12] [MQTT5-3.2.2-13] [MQTT5-3.2.2-20]
        """
        limits = self._limits
        ours = limits.receive_maximum, limits.topic_alias_maximum, limits.max_packet_size
        if self._is_usual(session):
            data = _usual_connack(present, *ours)
        else:
            data = self._connack(present, session, _limited(*ours))
        if len(data) > self._largest:
            data = self._connack(present, session, {})
        if len(data) > self._largest:
            raise _too_large("CONNACK", data, self._largest)
        return data

    def _is_usual(self, session: Session) -> bool:
        """Return whether the client gets what it has asked for, and needs to know nothing else of itself."""
        return (
            bool(self._client_id)
            and self._expiry_of(session) == self._expiry
            and self.keep_alive(self._asked) == self._asked
            and self.proof is None
            and not self._wants_responses
        )

    def _connack(self, present: bool, session: Session, more: dict[str, Any]) -> bytes:
        method, proof = self.proof or (None, None)  # [MQTT5-4.12.0-6] [MQTT5-4.12.0-5]
        expiry = self._expiry_of(session)
        keep_alive = self.keep_alive(self._asked)  # [MQTT5-3.2.2-22]
        told = Properties(
            session_expiry_interval=expiry if expiry != self._expiry else None,
            assigned_client_identifier=None if self._client_id else session.client_id,
            authentication_method=method,
            authentication_data=proof or None,
            response_information=response_prefix(session.client_id) if self._wants_responses else None,
            server_keep_alive=keep_alive if keep_alive != self._asked else None,
            **more,
        )
        return encode5(Connack(present, ReasonCode.SUCCESS, told))

    def _expiry_of(self, session: Session) -> int:
        if not session.persistent:
            return 0
        if session.terms.expiry is not None:
            return int(session.terms.expiry)
        return int(self._limits.session_expiry) or FOR_EVER

    def refuse(self, error: MQTTError) -> bytes:
        """Return CONNACK with the Reason Code of the error. [MQTT5-3.2.2-6] [MQTT5-3.2.2-8]"""
        allowed = error.code in REASON_CODES[Connack]
        code = error.code if allowed else ReasonCode.UNSPECIFIED_ERROR
        self._traffic.refused("server", "CONNACK", code)
        reference = self._reference_with(code)
        return self._reasoned(str(error), lambda why: encode5(Connack(False, code, why)), reference)

    def negative(self, packet: Publish, refused: Refused) -> bytes | None:
        """Return PUBACK or PUBREC with a Reason Code; nothing at QoS 0."""
        if not packet.qos or packet.packet_id is None:
            return b""
        code, packet_id = CODES.get(refused.reason, ReasonCode.UNSPECIFIED_ERROR), packet.packet_id
        if code not in REASON_CODES[Puback]:  # and PUBREC [MQTT5-3.4.2-1] [MQTT5-3.5.2-1]
            code = ReasonCode.UNSPECIFIED_ERROR
        first, name = (0x50, "PUBREC") if packet.qos == 2 else (0x40, "PUBACK")
        answer = refused.text
        self._traffic.refused("server", name, code)
        return self._reasoned(answer, lambda why: encode_acknowledgement(first, packet_id, code, name, why))

    def suback(self, packet_id: int, codes: list[int]) -> bytes:
        """Return the SUBACK, which has no Properties. [MQTT5-3.9.3-1] [MQTT5-3.9.2-1] [MQTT5-3.9.2-2]"""
        for code in codes:
            self._traffic.refused("server", "SUBACK", code)
        return encode5(Suback(packet_id, codes))

    def unsuback(self, packet_id: int, codes: list[int]) -> bytes:
        """Return the UNSUBACK, which has no Properties. [MQTT5-3.11.3-1] [MQTT5-3.11.2-1] [MQTT5-3.11.2-2]"""
        for code in codes:
            self._traffic.refused("server", "UNSUBACK", code)
        return encode5(Unsuback(packet_id, codes))

    def goodbye(self, reason: Reason, text: str, code: ReasonCode | None) -> bytes:
        """Return DISCONNECT, unless the client has sent one. [MQTT5-3.14.4-3] [MQTT5-3.14.2-2]"""
        code = CODES.get(reason) if code is None else code
        if code is None:
            return b""
        if code not in REASON_CODES[Disconnect]:  # [MQTT5-3.14.2-1]
            code = ReasonCode.UNSPECIFIED_ERROR
        self._traffic.refused("server", "DISCONNECT", code)
        reference = self._reference_with(code)
        return self._reasoned(text, lambda why: encode5(Disconnect(code, why)), reference)

    def _reasoned(
        self, text: str, make: Callable[[Properties | None], bytes], reference: str | None = None
    ) -> bytes:
        """Return a packet with a Reason String, if the client wants some and it fits; or none that would fit.

        No packet of ours but PUBLISH has User Properties.

        [MQTT5-3.1.2-29] [MQTT5-3.2.2-19] [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] [MQTT5-3.5.2-2] [MQTT5-3.5.2-3]
        [MQTT5-3.14.2-3] [MQTT5-3.14.2-4]

        :param reference: a Server Reference, which is worth more than the Reason String.
        """
        reason = text[:MAX_REASON] if self._wants_reasons and text else None
        for why, where in ((reason, reference), (None, reference), (None, None)):
            told = Properties(reason_string=why, server_reference=where)
            data = make(told if why or where else None)
            if len(data) <= self._largest:
                return data
        return b""

    def _reference_with(self, code: ReasonCode) -> str | None:
        """Return the Server Reference where another server may help (section 4.11)."""
        return self._reference or None if code in ELSEWHERE else None


def out_of_place(packet: object) -> ProtocolViolation:
    """Return the error for a packet that is not in the table of its connection's state."""
    if type(packet) is Connect:
        return ProtocolViolation("a second CONNECT", "MQTT-3.1.0-2")  # [MQTT5-3.1.0-2]
    return ProtocolViolation(f"a client does not send {type(packet).__name__.upper()}", "2.2.1")
