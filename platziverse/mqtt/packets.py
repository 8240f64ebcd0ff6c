"""The Control Packets as plain classes: the fourteen of MQTT 3.1.1, and AUTH of MQTT 5.

What only MQTT 5 has comes last in each, and is ``None``, 0 or empty in 3.1.1.

Nothing here validates: the codec does. They are Structs of msgspec, which are made in C; instances are never
changed once they are made. ``gc=False``: none refers to anything that could refer back. See docs/adr/0066.
"""

from enum import IntEnum
from typing import Final, TypeAlias

from msgspec import Struct

__all__ = [
    "SUBSCRIPTION_REFUSED",
    "Auth",
    "Connack",
    "Connect",
    "ConnectReturnCode",
    "Disconnect",
    "Packet",
    "Pingreq",
    "Pingresp",
    "Properties",
    "Puback",
    "Pubcomp",
    "Publish",
    "PublishProperties",
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


#: Names and values, in order; a name may come several times.
UserProperties: TypeAlias = "tuple[tuple[str, str], ...]"


class PublishProperties(Struct, gc=False, frozen=True):
    """PublishProperties are what MQTT 5 sends with an Application Message (section 3.3.2.3).

    The names are those of the table in :mod:`platziverse.mqtt.properties`.

    :ivar payload_format_indicator: 1: the payload is UTF-8.
    :ivar message_expiry_interval: seconds from its arrival on.
    :ivar topic_alias: of one connection; never with a message that is kept.
    :ivar subscription_identifiers: of a received message; what is sent gets those of its receiver.
    :ivar expires: seconds since the epoch, when the message is over; set when it comes, never sent.
    :ivar subscription: Topic Filter of the one Subscription that has brought it, set and stored, never sent;
        ``None``: all of its receiver that match.
    """

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    topic_alias: int | None = None
    user_properties: UserProperties = ()
    expires: float | None = None
    subscription: str | None = None


class Properties(Struct, gc=False, frozen=True):
    """Properties are those of all other packets of MQTT 5 (section 2.2.2.2); each packet may have some."""

    session_expiry_interval: int | None = None
    subscription_identifier: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None
    user_properties: UserProperties = ()


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
    properties: PublishProperties | None = None


class Connect(Struct, gc=False):
    """CONNECT: a client asks to be connected.

    :ivar keep_alive: seconds; 0: it is off.
    :ivar clean_session: Clean Start, in MQTT 5.
    :ivar protocol_level: 5 for MQTT 5, 4 for MQTT 3.1.1, 3 for MQTT 3.1.
    :ivar bridge: it is another broker, which wants none of its own messages back, and RETAIN as it was
        published; Mosquitto sets the highest bit of the Protocol Level for that.
    :ivar will_delay: seconds that the Will waits for the client to come back.
    """

    client_id: str
    clean_session: bool = True
    keep_alive: int = 0
    will: Publish | None = None
    username: str | None = None
    password: bytes | None = None
    protocol_level: int = 4
    bridge: bool = False
    will_delay: int = 0
    properties: Properties | None = None


class Connack(Struct, gc=False):
    """CONNACK: the answer to CONNECT.

    :ivar return_code: a ``ConnectReturnCode``; in MQTT 5 a ``ReasonCode``.
    """

    session_present: bool
    return_code: int
    properties: Properties | None = None


class Puback(Struct, gc=False):
    """PUBACK: the receiver owns a QoS 1 message."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


class Pubrec(Struct, gc=False):
    """PUBREC: the receiver owns a QoS 2 message."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


class Pubrel(Struct, gc=False):
    """PUBREL: the sender has forgotten the QoS 2 message, the Packet Identifier may be released."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


class Pubcomp(Struct, gc=False):
    """PUBCOMP: the Packet Identifier is free again."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


class Subscription(Struct, gc=False):
    """A Subscription is one Topic Filter with the highest QoS that the client wants.

    :ivar no_local: nothing that the client itself has published.
    :ivar retain_as_published: RETAIN is as the publisher has set it.
    :ivar retain_handling: Retained Messages are sent: 0: always; 1: if the Subscription is new; 2: not.
    :ivar identifier: of its SUBSCRIBE, 0: it has none; see ``identified``. Never sent.
    """

    topic_filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    identifier: int = 0


class Subscribe(Struct, gc=False):
    """SUBSCRIBE: a client asks for at least one Subscription."""

    packet_id: int
    subscriptions: list[Subscription]
    properties: Properties | None = None


class Suback(Struct, gc=False):
    """SUBACK: one return code (0, 1, 2 or 0x80; more in MQTT 5) for each Subscription, in order."""

    packet_id: int
    return_codes: list[int]
    properties: Properties | None = None


class Unsubscribe(Struct, gc=False):
    """UNSUBSCRIBE: a client gives up at least one Topic Filter."""

    packet_id: int
    topic_filters: list[str]
    properties: Properties | None = None


class Unsuback(Struct, gc=False):
    """UNSUBACK: the Subscriptions are gone; in MQTT 5 with a code for each Topic Filter, in order."""

    packet_id: int
    return_codes: list[int] = []  # msgspec gives each instance its own
    properties: Properties | None = None


class Pingreq(Struct, gc=False):
    """PINGREQ: the client says that it is there."""


class Pingresp(Struct, gc=False):
    """PINGRESP: the answer to PINGREQ."""


class Disconnect(Struct, gc=False):
    """DISCONNECT: the client leaves, its Will Message is discarded; in MQTT 5 either side may send it."""

    reason_code: int = 0
    properties: Properties | None = None


class Auth(Struct, gc=False):
    """AUTH: one step of an enhanced authentication, from either side; MQTT 5 alone has it."""

    reason_code: int = 0
    properties: Properties | None = None


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
    | Auth
)
