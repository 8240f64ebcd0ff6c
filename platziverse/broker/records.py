"""Records of QoS 2: entries that a store writes about Packet Identifiers, not about agents.

The store keeps the Packet Identifier of a QoS 2 PUBLISH until the client releases it, so that a redelivery
is recognised, also after a restart. [MQTT-4.3.3-2]
"""

from typing import TypeAlias

from attrs import frozen


@frozen
class Delivery:
    """A QoS 2 PUBLISH of a Session that outlives its connection: stored once until it is released."""

    client_id: str
    packet_id: int
    dup: bool
    #: 16 bytes of BLAKE2b over topic and payload.
    digest: bytes


@frozen
class Release:
    """PUBREL came: the Packet Identifier of a stored QoS 2 message may be used again."""

    client_id: str
    packet_id: int


@frozen
class Forget:
    """A persistent Session has ended: the store forgets all Packet Identifiers that it left behind."""

    client_id: str


#: What is saved on its own; a Delivery goes with the Report of its message.
Record: TypeAlias = Release | Forget
