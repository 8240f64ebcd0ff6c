"""The fourteen Control Packets of MQTT 3.1.1 as plain classes.

Nothing here validates: the codec does. They are Structs of msgspec, which are made in C; instances are never
changed once they are made. ``gc=False``: none refers to anything that could refer back. See docs/adr/0066.
"""

from enum import IntEnum
from typing import Final, TypeAlias

from msgspec import Struct

__all__ = [
    "SUBSCRIPTION_REFUSED",
    "Connack",
    "Connect",
    "ConnectReturnCode",
    "Disconnect",
    "Packet",
    "Pingreq",
    "Pingresp",
    "Puback",
    "Pubcomp",
    "Publish",
    "Pubrec",
    "Pubrel",
    "Suback",
    "Subscribe",
    "Subscription",
    "Unsuback",
    "Unsubscribe",
]

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


class Publish(Struct, gc=False, frozen=True):
    """A Publish is the packet PUBLISH, and the Application Message itself.

    A Will is a Publish that waits, a Retained Message a Publish that is kept. Nobody can change one: handlers
    get it before it is acknowledged, and the next handler after them.

    :ivar qos: 0, 1 or 2.
    :ivar packet_id: 1 to 65,535 at QoS 1 and 2; ``None`` at QoS 0, and in a message that was never sent.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None


class Connect(Struct, gc=False):
    """CONNECT: a client asks to be connected.

    :ivar keep_alive: seconds; 0: it is off.
    :ivar protocol_level: 4 for MQTT 3.1.1, 3 for MQTT 3.1.
    :ivar bridge: it is another broker, which wants none of its own messages back, and RETAIN as it was
        published; Mosquitto sets the highest bit of the Protocol Level for that.
    """

    client_id: str
    clean_session: bool = True
    keep_alive: int = 0
    will: Publish | None = None
    username: str | None = None
    password: bytes | None = None
    protocol_level: int = 4
    bridge: bool = False


class Connack(Struct, gc=False):
    """CONNACK: the answer to CONNECT."""

    session_present: bool
    return_code: ConnectReturnCode


class Puback(Struct, gc=False):
    """PUBACK: the receiver owns a QoS 1 message."""

    packet_id: int


class Pubrec(Struct, gc=False):
    """PUBREC: the receiver owns a QoS 2 message."""

    packet_id: int


class Pubrel(Struct, gc=False):
    """PUBREL: the sender has forgotten the QoS 2 message, the Packet Identifier may be released."""

    packet_id: int


class Pubcomp(Struct, gc=False):
    """PUBCOMP: the Packet Identifier is free again."""

    packet_id: int


class Subscription(Struct, gc=False):
    """A Subscription is one Topic Filter with the highest QoS that the client wants."""

    topic_filter: str
    qos: int


class Subscribe(Struct, gc=False):
    """SUBSCRIBE: a client asks for at least one Subscription."""

    packet_id: int
    subscriptions: list[Subscription]


class Suback(Struct, gc=False):
    """SUBACK: one return code (0, 1, 2 or 0x80) for each Subscription, in order."""

    packet_id: int
    return_codes: list[int]


class Unsubscribe(Struct, gc=False):
    """UNSUBSCRIBE: a client gives up at least one Topic Filter."""

    packet_id: int
    topic_filters: list[str]


class Unsuback(Struct, gc=False):
    """UNSUBACK: the Subscriptions are gone."""

    packet_id: int


class Pingreq(Struct, gc=False):
    """PINGREQ: the client says that it is there."""


class Pingresp(Struct, gc=False):
    """PINGRESP: the answer to PINGREQ."""


class Disconnect(Struct, gc=False):
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
