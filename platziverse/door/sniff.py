"""Sniff: one port for MQTT, HTTP and TLS, where the first byte of a connection decides.

0x10 is the CONNECT of MQTT, a letter begins an HTTP request (unless a control character comes with it),
0x16 a TLS handshake; inside TLS the first byte decides again. What a proxy says before it is taken away.
Then the connection is handed over with that byte, and the sniffer leaves: a read on a shared port costs what
it costs on a port for MQTT alone.
"""

from typing import Any, Final, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from platziverse.door.arrivals import Arrivals
from platziverse.door.handover import hand_over
from platziverse.door.interfaces import MQTTSide
from platziverse.door.proxied import BadHeader, HeaderReader
from platziverse.door.tls import ServerCertificate, TLSFactory
from platziverse.net.peer import format_peer

CONNECT_BYTE: Final = 0x10
TLS_HANDSHAKE_BYTE: Final = 0x16


class Sniffer(TwistedProtocol):
    """A Sniffer waits for one byte, then hands the connection over and is gone.

    :param inside_tls: another Sniffer has found TLS, and passes on the time that is left for that byte.
    """

    def __init__(self, factory: "SniffingFactory", inside_tls: bool = False) -> None:
        self._owner = factory
        self._inside_tls = inside_tls
        self._inner: IProtocol | None = None
        self._done = False
        # Until the proxy has said whom it speaks for.
        self._header = HeaderReader() if factory.proxied and not inside_tls else None
        #: Owned by ``Deadlines``.
        self.bucket = -1

    def connectionMade(self) -> None:
        """Wait for the first byte, at once or when the connections that came before have had their turn."""
        owner = self._owner
        owner.undecided.add(self)
        if self._inside_tls or owner.arrivals.come(self):
            self._await_byte()
        else:
            owner.traffic.connections_delayed += 1
            self._say_delayed()
            cast(Any, self.transport).pauseProducing()

    def _say_delayed(self) -> None:
        self._owner.complaints.warn(
            "too many new connections at once",
            "{address} waits for its turn: more than {rate:g} new connections in a second (max_connect_rate)",
            address=format_peer(cast(Any, self.transport).getPeer()),
            rate=self._owner.limits.max_connect_rate,
        )

    def proceed(self) -> bool:
        """Wait for the first byte now: its turn has come. Return ``False`` if it has gone."""
        if self._done:
            return False
        self._await_byte()
        cast(Any, self.transport).resumeProducing()
        return True

    def _await_byte(self) -> None:
        """Start the clock, which does not start again at a hand-over."""
        if self.bucket < 0:
            deadlines = self._owner.deadlines
            deadlines.add(self, deadlines.now + self._owner.limits.connect_deadline)

    def dataReceived(self, data: bytes) -> None:
        """Decide by the first byte; later only a transport that cannot change its protocol comes here."""
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif not self._done and (data := self._after_header(data)):
            self._decide(data)

    def _after_header(self, data: bytes) -> bytes:
        """Return what follows the header of the proxy, where one has to come; nothing when it is refused."""
        header = self._header
        if header is None:
            return data
        try:
            data = header.feed(data)
        except BadHeader as error:
            self._refuse("PROXY header", f"{error}; its endpoint in listen begins with haproxy:")
            return b""
        if header.told is not None:
            self._header = None
            if not cast(Any, self.transport).reveal(header.told):
                self.close()
                return b""
        return data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """Forget a peer that has gone before it sent anything, or before TLS was agreed on."""
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self._done:
            self._settle()
            if self._inside_tls and not reason.check(ConnectionDone):
                self._complain("TLS handshake", f"no TLS handshake: {reason.getErrorMessage()}")

    def deadline_reached(self, now: float) -> None:
        """Cut a peer that has been silent for too long."""
        self._refuse("silent", "nothing came in time", abort=True)

    def close(self) -> None:
        """Cut the connection, and say nothing."""
        self._settle()
        cast(Any, self.transport).abortConnection()

    def _decide(self, data: bytes) -> None:
        owner, first = self._owner, data[0]
        plain = owner.plain or self._inside_tls
        if first == CONNECT_BYTE and plain:
            inner = owner.mqtt.buildProtocol(None)  # it asks the transport
            owner.deadlines.pass_on(self, inner)
            self._hand_to(inner, data)
        elif first == TLS_HANDSHAKE_BYTE and owner.tls is not None and not self._inside_tls:
            self._begin_tls(owner.tls, data)
        elif _begins_request(data) and plain and owner.http is not None:
            self._hand_to(owner.http.buildProtocol(cast(Any, self.transport).getPeer()), data)
        elif first == CONNECT_BYTE:
            self._refuse("plain MQTT", "plain MQTT on a TLS port; let the client use TLS, or another port")
        else:
            self._refuse("first byte", f"its first byte is 0x{first:02x}")

    def _begin_tls(self, tls: TLSFactory, data: bytes) -> None:
        owner = self._owner
        if tls.is_full:
            owner.traffic.connection_refused("memory")
            self._refuse("no room for TLS", "there is no memory for another TLS handshake (max_memory)")
        else:
            inner = Sniffer(owner, inside_tls=True)
            owner.deadlines.pass_on(self, inner)
            self._hand_to(tls.wrap(inner), data)

    def _hand_to(self, inner: IProtocol | None, data: bytes) -> None:
        if inner is None:
            self._owner.traffic.connection_refused("http")
            self.close()
            return
        self._settle()
        transport: Any = self.transport
        self._inner = inner
        hand_over(transport, inner)
        inner.makeConnection(transport)
        inner.dataReceived(data)

    def _settle(self) -> None:
        self._done = True
        self._owner.undecided.discard(self)
        self._owner.deadlines.remove(self)

    def _refuse(self, cause: str, reason: str, abort: bool = False) -> None:
        self._settle()
        self._complain(cause, reason)
        transport = cast(Any, self.transport)
        if abort:
            transport.abortConnection()
        else:
            transport.loseConnection()

    def _complain(self, cause: str, reason: str) -> None:
        owner = self._owner
        owner.traffic.protocol_error(cause)
        address = format_peer(cast(Any, self.transport).getPeer())
        owner.complaints.warn(cause, "Closing {address}: {reason}", address=address, reason=reason)


def _begins_request(data: bytes) -> bool:
    """Return whether an HTTP method may begin like this: with a letter, and then no control character.

    0x50, 0x62 and 0x70 (PUBREC, PUBREL, PUBCOMP) are letters as well; the Remaining Length
    behind them is a control character.
    """
    return data[:1].isalpha() and (len(data) == 1 or data[1] >= 0x20)


class SniffingFactory(ServerFactory):
    """A SniffingFactory is behind a listener that takes MQTT, HTTP and TLS.

    :param mqtt: the ``MQTTFactory``; its limits, counters and timer are used here as well.
    :param http: usually a ``twisted.web.server.Site``; ``None``: no HTTP here.
    :param certificate: of the server; ``None``: no TLS here.
    :param plain: ``False``: nothing but TLS is accepted, with MQTT and HTTP inside it.
    :param arrivals: connections that wait for their turn, of several listeners; ``None``: of this one.
    :param proxied: connections begin with the header of a proxy.
    """

    noisy = False

    def __init__(
        self,
        mqtt: MQTTSide,
        http: IProtocolFactory | None = None,
        certificate: ServerCertificate | None = None,
        plain: bool = True,
        arrivals: Arrivals | None = None,
        proxied: bool = False,
    ) -> None:
        shared = mqtt.shared
        self.mqtt = mqtt
        self.http = http
        self.tls: TLSFactory | None = None
        if certificate is not None:
            self.tls = TLSFactory(certificate, self, shared)
        self.plain = plain
        self.proxied = proxied
        self.limits = shared.limits
        self.traffic = shared.traffic
        self.complaints = shared.complaints
        self.deadlines = shared.deadlines
        if arrivals is None:  # an empty one is false
            arrivals = Arrivals(shared.limits.max_connect_rate, shared.clock)
        self.arrivals = arrivals
        #: Connections whose first byte, or TLS handshake, is still to come.
        self.undecided: set[Sniffer] = set()

    def doStart(self) -> None:
        """Start the factories behind it; each counts how often."""
        self.mqtt.doStart()
        if self.http is not None:
            self.http.doStart()
        super().doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        """Stop the factories behind it."""
        super().doStop()  # type: ignore[no-untyped-call]
        if self.http is not None:
            self.http.doStop()
        self.mqtt.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Sniffer:
        """Make a sniffer for one connection."""
        sniffer = Sniffer(self)
        sniffer.factory = self
        return sniffer

    def close_all(self) -> None:
        """Cut every connection that has not decided what it is."""
        for sniffer in list(self.undecided):
            sniffer.close()
