"""Errors: all that can be wrong with the bytes that a client sends.

Every error carries the normative statement it enforces, so that a log line can be checked
against the standard.
"""

from typing import ClassVar

from platziverse.mqtt.packets import ConnectReturnCode
from platziverse.mqtt.reasoncodes import ReasonCode


class MQTTError(Exception):
    """An MQTTError is raised by the wire or the broker because of what a client does.

    :param reason: one short English sentence, safe for a log (client bytes appear as ``repr``).
    :param statement: the normative statement, e.g. ``"MQTT-3.1.0-1"``, or the section, e.g. ``"2.2.3"``.
    :param code: what MQTT 5 tells the client; ``None``: the usual one of the class.
    :ivar protocol_level: 5: it is about a CONNECT of MQTT 5, which is to be answered as one.
    """

    usual: ClassVar[ReasonCode] = ReasonCode.UNSPECIFIED_ERROR
    protocol_level = 4

    def __init__(self, reason: str, statement: str = "", code: ReasonCode | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.statement = statement
        self.code = self.usual if code is None else code

    def __str__(self) -> str:
        return f"{self.reason} [{self.statement}]" if self.statement else self.reason


class MalformedPacket(MQTTError):
    """Bytes that are no Control Packet have come; the connection is closed [MQTT-4.8.0-1]."""

    usual = ReasonCode.MALFORMED_PACKET


class ProtocolViolation(MQTTError):
    """A well-formed Control Packet has come that may not be sent, or not now; the connection is closed."""

    usual = ReasonCode.PROTOCOL_ERROR


#: What MQTT 5 says in place of a return code of 3.1.1.
_REFUSALS = {
    ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION: ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ConnectReturnCode.IDENTIFIER_REJECTED: ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
    ConnectReturnCode.SERVER_UNAVAILABLE: ReasonCode.SERVER_UNAVAILABLE,
    ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD: ReasonCode.BAD_USER_NAME_OR_PASSWORD,
    ConnectReturnCode.NOT_AUTHORIZED: ReasonCode.NOT_AUTHORIZED,
}


class ConnectRefused(MQTTError):
    """CONNECT is answered with a CONNACK carrying ``return_code``, then the connection is closed."""

    def __init__(
        self,
        return_code: ConnectReturnCode,
        reason: str,
        statement: str = "",
        code: ReasonCode | None = None,
    ) -> None:
        super().__init__(reason, statement, _REFUSALS[return_code] if code is None else code)
        self.return_code = return_code
