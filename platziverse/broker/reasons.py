"""Reason: why a Network Connection ends.

The broker and the connections speak in these; the dialect of a connection turns one into bytes, where its
protocol has any for it. MQTT 3.1.1 has none: it closes.
"""

from enum import Enum, unique

__all__ = ["Reason", "Refused"]


@unique
class Reason(Enum):
    """A Reason is one for each answer that a protocol could give; the text beside it is for the log."""

    #: The client has sent DISCONNECT.
    GRACEFUL = "graceful"
    #: CONNACK has told the client why.
    REFUSED = "refused"
    #: The bytes are no Control Packet.
    MALFORMED = "malformed"
    #: The packet is well formed, and not allowed here or now.
    PROTOCOL_ERROR = "protocol error"
    #: The client does what its rights do not allow.
    NOT_AUTHORIZED = "not authorized"
    #: A message cannot be stored, whenever it comes again.
    PAYLOAD_INVALID = "payload invalid"
    #: There is no room: memory is short, or too much waits.
    QUOTA = "quota"
    #: A handler, or the store behind it, has failed; the message may come again.
    NOT_HANDLED = "not handled"
    #: A bug of ours.
    INTERNAL_ERROR = "internal error"
    #: A newer connection has the same Client Identifier. [MQTT-3.1.4-2]
    TAKEN_OVER = "taken over"
    #: The daemon stops.
    SHUTTING_DOWN = "shutting down"
    #: Nothing has come for one and a half times the Keep Alive. [MQTT-3.1.2-24]
    KEEP_ALIVE = "keep alive"
    #: The client sends a packet, or takes what it is sent, more slowly than the limits allow.
    TOO_SLOW = "too slow"
    #: Whoever runs the daemon has ended the connection.
    ADMINISTRATIVE = "administrative"


class Refused(Exception):
    """A Refused says that a message will not be taken, and why; it need not come again.

    A handler of a table returns or raises one, or its Deferred fires, or fails, with one: the message is
    acknowledged, and a publisher of MQTT 5 is told why.

    With the handlers of an embedder's own table, behind which there is no recorder, it matters which: where
    the Deferred fires the message is done with; where it fails a connection of MQTT 3.1.1 is closed.

    :param text: one line, for the publisher and the log.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason, text)
        self.reason, self.text = reason, text

    def __str__(self) -> str:
        return self.text
