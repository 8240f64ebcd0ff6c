"""Dialect: how a version of the protocol says yes, no and goodbye.

The broker speaks in Reasons. A dialect turns one into a packet, or says that its version has none.
"""

from typing import Final, Protocol

from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import encode
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connack, ConnectReturnCode, Publish


class Dialect(Protocol):
    """A Dialect is made for each version of the protocol; it holds nothing of any connection."""

    def accept(self, session_present: bool) -> bytes:
        """Return the CONNACK for a client that is connected."""

    def refuse(self, error: ConnectRefused) -> bytes:
        """Return the CONNACK for a client that is refused; the connection is closed after it."""

    def negative(self, packet: Publish, reason: Reason, text: str) -> bytes | None:
        """Return the answer to a PUBLISH that was not handled; ``None``: the connection is closed instead."""

    def goodbye(self, reason: Reason, text: str) -> bytes:
        """Return the last packet of a connection that we close; empty: it is closed without one."""


#: CONNACK with return code 0, without and with Session Present.
_ACCEPTED: Final = tuple(encode(Connack(present, ConnectReturnCode.ACCEPTED)) for present in (False, True))


class MQTT311:
    """MQTT311 is the dialect of MQTT 3.1.1, and 3.1: it has a return code in CONNACK, and no other no."""

    __slots__ = ()

    def accept(self, session_present: bool) -> bytes:
        """Return CONNACK with return code 0. [MQTT-3.2.0-1] [MQTT-3.1.4-4] [MQTT-3.2.2-2]"""
        return _ACCEPTED[session_present]

    def refuse(self, error: ConnectRefused) -> bytes:
        """Return CONNACK with the return code of the error. [MQTT-3.2.2-4]"""
        return encode(Connack(False, error.return_code))

    def negative(self, packet: Publish, reason: Reason, text: str) -> bytes | None:
        """Return ``None``: PUBACK and PUBREC have no return code."""
        return None

    def goodbye(self, reason: Reason, text: str) -> bytes:
        """Return nothing: only a client sends DISCONNECT."""
        return b""


MQTT_3_1_1: Final[Dialect] = MQTT311()
