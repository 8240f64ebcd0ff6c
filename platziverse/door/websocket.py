"""WebSocket: a transport whose MQTT connection above never learns what carries its bytes."""

from collections.abc import Iterable
from typing import Any, Final, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProducer,
    IProtocol,
    IPushProducer,
    ISSLTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from wsproto.frame_protocol import CloseReason
from zope.interface import alsoProvides, implementer

from platziverse.door.frames import FrameReader, binary_message
from platziverse.door.interfaces import MQTTSide
from platziverse.net.peer import format_peer

#: A message may hold the largest Control Packet and as much again of others.
MESSAGE_FACTOR: Final = 2


@implementer(ITransport, IConsumer, IPushProducer)
class WebSocket(TwistedProtocol):
    """A WebSocket is the protocol of the connection below, and the transport of the MQTT connection above.

    Every ``write`` sends one binary message. Back-pressure is that of the connection below, both ways.

    :param forwarded: a proxy has opened it for a client, who may be anywhere.
    """

    disconnecting = False

    def __init__(self, owner: MQTTSide, inner: IProtocol, forwarded: bool = False) -> None:
        self._shared = shared = owner.shared
        self.forwarded = forwarded
        self._inner = inner
        self._reader = FrameReader(
            shared.limits.max_packet_size * MESSAGE_FACTOR, lambda: shared.deadlines.now
        )
        self._producing = False

    # -- towards the network ---------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Connect the MQTT side: the handshake is done."""
        if ISSLTransport.providedBy(self.transport):
            alsoProvides(self, ISSLTransport)
        self._inner.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """Take frames, or pieces of them."""
        if self.disconnecting:
            return
        reader = self._reader
        payload = reader.feed(data)
        if reader.answers:
            self._below.write(reader.answers)
            reader.answers = b""
        if payload:
            self._inner.dataReceived(payload)
        if reader.ended is not None and not self.disconnecting:
            self._end(reader.ended.code, reader.ended.reason)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """End the MQTT side: the connection below has ended."""
        self.disconnecting = True
        inner = self._inner
        del self._inner  # or each would keep the other until the garbage collector comes, which is rarely
        inner.connectionLost(reason)

    @property
    def _below(self) -> Any:
        return self.transport

    def _end(self, code: int | None, reason: str) -> None:
        if code is not None:
            cause = f"WebSocket {int(code)}"
            self._shared.traffic.protocol_error(cause)
            self._shared.complaints.warn(
                cause, "Closing {address}: {reason!r}", address=format_peer(self.getPeer()), reason=reason
            )
        self.unregisterProducer()  # TLS would wait for it
        self._close(code if code is not None else CloseReason.NORMAL_CLOSURE, reason)

    def _close(self, code: int, reason: str = "") -> None:
        self.disconnecting = True
        farewell = self._reader.close(code, reason)
        if farewell:
            self._below.write(farewell)
        self._below.loseConnection()

    # -- ITransport, towards MQTT ----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send ``data`` as one binary message."""
        if not self.disconnecting:
            self._below.write(binary_message(data))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send all of ``data`` as one binary message."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send a Close frame, and close once everything is written."""
        if self.disconnecting:
            self._below.loseConnection()
        else:
            self._close(CloseReason.NORMAL_CLOSURE)

    def abortConnection(self) -> None:
        """Cut the connection."""
        self.disconnecting = True
        self._below.abortConnection()

    def getPeer(self) -> IAddress:
        """Return the address of the client, or of the proxy in front of us."""
        return cast(IAddress, self._below.getPeer())

    def getHost(self) -> IAddress:
        """Return our own address."""
        return cast(IAddress, self._below.getHost())

    def getPeerCertificate(self) -> Any:
        """Return the certificate of the client; only over TLS, as ``ISSLTransport`` says."""
        return self._below.getPeerCertificate()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Set it on the connection below."""
        self._below.setTcpNoDelay(enabled)

    def acknowledge_now(self) -> None:
        """Let the kernel acknowledge what has come on the connection below."""
        hasten = getattr(self._below, "acknowledge_now", None)
        if hasten is not None:
            hasten()

    # -- IConsumer: MQTT produces ----------------------------------------------------------------

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Tell ``producer`` to pause when the client takes less than it is sent."""
        self._producing = True
        self._below.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Tell the producer nothing more."""
        if self._producing:
            self._producing = False
            self._below.unregisterProducer()

    # -- IPushProducer: MQTT holds reading -------------------------------------------------------

    def pauseProducing(self) -> None:
        """Read nothing more for now."""
        self._below.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        self._below.resumeProducing()

    def stopProducing(self) -> None:
        """Close: nothing is read ever again."""
        self.loseConnection()
