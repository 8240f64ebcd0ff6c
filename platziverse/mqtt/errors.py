"""Errors: all that can be wrong with the bytes that a client sends.

Every error carries the normative statement it enforces, so that a log line can be checked
against the standard.
"""

from platziverse.mqtt.packets import ConnectReturnCode


class MQTTError(Exception):
    """An MQTTError is raised by the wire or the broker because of what a client does.

    :param reason: one short English sentence, safe for a log (client bytes appear as ``repr``).
    :param statement: the normative statement, e.g. ``"MQTT-3.1.0-1"``, or the section, e.g. ``"2.2.3"``.
    """

    def __init__(self, reason: str, statement: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.statement = statement

    def __str__(self) -> str:
        return f"{self.reason} [{self.statement}]" if self.statement else self.reason


class MalformedPacket(MQTTError):
    """Bytes that are no Control Packet have come; the connection is closed [MQTT-4.8.0-1]."""


class ProtocolViolation(MQTTError):
    """A well-formed Control Packet has come that may not be sent, or not now; the connection is closed."""


class ConnectRefused(MQTTError):
    """CONNECT is answered with a CONNACK carrying ``return_code``, then the connection is closed."""

    def __init__(self, return_code: ConnectReturnCode, reason: str, statement: str = "") -> None:
        super().__init__(reason, statement)
        self.return_code = return_code
