"""Dialect: what a version of the protocol can tell a client, and in which bytes.

The broker speaks in Reasons. A dialect turns one into a packet, or says that its version has none.
"""

from typing import Final, Protocol

from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import encode
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connack, ConnectReturnCode, Publish


class Dialect(Protocol):
    """One for each version; it holds nothing of any connection."""

    def accept(self, session_present: bool) -> bytes:
        """The CONNACK for a client that is connected."""

    def refuse(self, error: ConnectRefused) -> bytes:
        """The CONNACK for one that is not; the connection is closed after it."""

    def negative(self, packet: Publish, reason: Reason, text: str) -> bytes | None:
        """The answer to a PUBLISH that was not handled; ``None``: there is none, the connection is closed."""

    def goodbye(self, reason: Reason, text: str) -> bytes:
        """The last packet of a connection that we close; empty: it is closed without one."""


class MQTT311:
    """MQTT 3.1.1, and 3.1: a return code in CONNACK, and nothing to say after that."""

    __slots__ = ()

    def accept(self, session_present: bool) -> bytes:
        """[MQTT-3.2.0-1] [MQTT-3.1.4-4] [MQTT-3.2.2-2]"""
        return encode(Connack(session_present, ConnectReturnCode.ACCEPTED))

    def refuse(self, error: ConnectRefused) -> bytes:
        """[MQTT-3.2.2-4]"""
        return encode(Connack(False, error.return_code))

    def negative(self, packet: Publish, reason: Reason, text: str) -> bytes | None:
        """PUBACK and PUBREC have no code."""
        return None

    def goodbye(self, reason: Reason, text: str) -> bytes:
        """DISCONNECT is the client's alone."""
        return b""


MQTT_3_1_1: Final[Dialect] = MQTT311()
