"""The fourteen Control Packets of MQTT 3.1.1 as plain classes.

Nothing here validates: the codec does. Instances are never changed once they are made; that is a
convention, because ``frozen`` classes cost three times as much (129 against 446 ns).
"""

from enum import IntEnum
from typing import Final, TypeAlias

from attrs import define

#: Return code of a SUBACK for a Subscription that was refused. [MQTT-3.9.3-2]
SUBSCRIPTION_REFUSED: Final = 0x80


class ConnectReturnCode(IntEnum):
    """The return codes of CONNACK (section 3.2.2.3)."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


@define
class Publish:
    """PUBLISH, and the Application Message itself.

    A Will is one that waits, a Retained Message one that is kept.

    ``packet_id`` is ``None`` exactly at QoS 0. ``qos`` is 0, 1 or 2.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None


@define
class Connect:
    """CONNECT. ``keep_alive`` is in seconds, 0 is off. ``protocol_level`` is 4, or 3 for MQTT 3.1."""

    client_id: str
    clean_session: bool = True
    keep_alive: int = 0
    will: Publish | None = None
    username: str | None = None
    password: bytes | None = None
    protocol_level: int = 4


@define
class Connack:
    """CONNACK."""

    session_present: bool
    return_code: ConnectReturnCode


@define
class Puback:
    """PUBACK: the receiver owns a QoS 1 message."""

    packet_id: int


@define
class Pubrec:
    """PUBREC: the receiver owns a QoS 2 message."""

    packet_id: int


@define
class Pubrel:
    """PUBREL: the sender has forgotten the QoS 2 message, the Packet Identifier may be released."""

    packet_id: int


@define
class Pubcomp:
    """PUBCOMP: the Packet Identifier is free again."""

    packet_id: int


@define
class Subscription:
    """One Topic Filter with the maximum QoS wanted."""

    topic_filter: str
    qos: int


@define
class Subscribe:
    """SUBSCRIBE with at least one Subscription."""

    packet_id: int
    subscriptions: list[Subscription]


@define
class Suback:
    """SUBACK: one return code (0, 1, 2 or 0x80) for each Subscription, in order."""

    packet_id: int
    return_codes: list[int]


@define
class Unsubscribe:
    """UNSUBSCRIBE with at least one Topic Filter."""

    packet_id: int
    topic_filters: list[str]


@define
class Unsuback:
    """UNSUBACK."""

    packet_id: int


@define
class Pingreq:
    """PINGREQ."""


@define
class Pingresp:
    """PINGRESP."""


@define
class Disconnect:
    """DISCONNECT: the client leaves, its Will Message is discarded."""


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
)
