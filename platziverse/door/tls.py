"""TLS: the layer, and the server's certificate, which can be replaced while clients are connected."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import ServerFactory
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from platziverse.broker.complaints import Complaints
from platziverse.errors import Unusable
from platziverse.net.deadlines import LINGER
from platziverse.net.peer import format_peer
from platziverse.net.shared import Shared

log = Logger("platziverse.net")

#: Protocols that we speak inside TLS, by their registered names. No HTTP/2.
ALPN: Final = (b"mqtt", b"http/1.1")
#: Seconds between two looks at the certificate's files.
POLL: Final = 30.0
#: Bytes of TLS records that may come without bringing application data: a handshake and its
#: certificates, or some 2 400 KeyUpdates.
MAX_BARREN: Final = 64 * 1024
#: Bytes of OpenSSL for a connection, measured: 52 KiB during its handshake, 20 KiB after it.
LAYER: Final = 32 * 1024
#: Sessions that OpenSSL remembers for clients without tickets, and the bytes of one, measured.
SESSIONS: Final = 20_480
SESSION: Final = 1536
#: Share of ``max_memory`` that these, and incomplete packets, may take until no handshake is begun.
SHARE: Final = 0.75
#: What a record costs beside its data, generously.
RECORD_OVERHEAD: Final = 64


class CertificateError(Unusable):
    """A certificate, a key or a CA file cannot be used; the text names the file and the reason."""


def _reason(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "no usable PEM"
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)


class CreditingConnection(SSL.Connection):
    """A CreditingConnection notes how many bytes its records have brought.

    :ivar credit: bytes of data since it was last set to 0, with ``RECORD_OVERHEAD`` for each record.
    """

    credit = 0

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Return the data of one record, and credit it."""
        data = super().recv(bufsiz, flags)
        self.credit += len(data) + RECORD_OVERHEAD
        return data


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """A ServerCertificate is read from files, with its key and the CA of the clients, again when they change.

    New connections get the new certificate, open ones keep theirs.

    :param certificate: PEM file with the certificate and its chain.
    :param key: PEM file with the key, without pass phrase.
    :param client_ca: PEM file; clients may show a certificate signed by it. ``None``: none is asked for.
    :param require_client: clients must show one.
    :raises CertificateError: a file cannot be used, at construction.
    """

    def __init__(
        self, certificate: str, key: str, client_ca: str | None = None, require_client: bool = False
    ) -> None:
        if require_client and client_ca is None:
            raise CertificateError("client certificates are required, but no CA file is given for them")
        self.certificate = certificate
        self.key = key
        self.client_ca = client_ca
        self._require_client = require_client
        self._seen = self._signature()
        self._context = self.load()
        self._polling: LoopingCall | None = None

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Make the TLS side of one more connection, with the certificate of now."""
        return CreditingConnection(self._context, None)

    def load(self) -> SSL.Context:
        """Read the files, without using them yet; see ``use``.

        :raises CertificateError: one of them cannot be used.
        """
        # Tickets cost us no memory; small devices know session IDs only, of which OpenSSL keeps SESSIONS.
        # Both end with their context: nobody resumes what another certificate, or another client CA, let in.
        options = CertificateOptions(
            raiseMinimumTo=TLSVersion.TLSv1_2, enableSessions=True, enableSessionTickets=True
        )
        context = options.getContext()
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        context.set_alpn_select_callback(_choose_protocol)
        self._try(self.certificate, context.use_certificate_chain_file, self.certificate)
        self._try(self.key, _use_key, context, self.key)
        self._try(self.key, context.check_privatekey)
        if self.client_ca is not None:
            self._try(self.client_ca, context.load_verify_locations, self.client_ca)
            self._try(self.client_ca, context.load_client_ca, self.client_ca.encode())
            required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if self._require_client else 0
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE | required)
        return context

    def use(self, context: SSL.Context) -> None:
        """Use what ``load`` has returned for all connections to come."""
        self._context = context
        self._seen = self._signature()

    def become(self, other: "ServerCertificate") -> None:
        """Use the files and the certificate of ``other`` for all connections to come."""
        self.certificate, self.key, self.client_ca = other.certificate, other.key, other.client_ca
        self._require_client = other._require_client
        self._seen, self._context = other._seen, other._context

    def reload(self) -> None:
        """Read the files again, and use them.

        :raises CertificateError: one of them cannot be used; the old certificate stays in use.
        """
        self.use(self.load())

    def start(self, clock: IReactorTime, interval: float = POLL) -> None:
        """Look at the files every ``interval`` seconds and reload them when they have changed."""
        self._polling = LoopingCall(self._poll)
        self._polling.clock = clock
        self._polling.start(interval, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._polling is not None:
            self._polling.stop()
            self._polling = None

    def _poll(self) -> None:
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature  # a broken file is reported once, not at every look
        try:
            self.reload()
        except CertificateError as error:
            log.error("The new certificate is not used, the old one stays: {reason}", reason=str(error))
        else:
            log.info("New certificate from {path}", path=self.certificate)

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_file_signature(path) for path in (self.certificate, self.key, self.client_ca) if path)

    @staticmethod
    def _try(path: str, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except (SSL.Error, OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CertificateError(f"{path}: {_reason(error)}") from error


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    # What a client will speak is seen in its first byte; ALPN is answered because some insist.
    return next((name for name in ALPN if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def _use_key(context: SSL.Context, path: str) -> None:
    # Not through OpenSSL's own reading: that would ask for a pass phrase on the terminal.
    key = load_pem_private_key(Path(path).read_bytes(), password=None)
    context.use_privatekey(cast(Any, key))


def _file_signature(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class TLSLayer(TLSMemoryBIOProtocol):
    """A TLSLayer is TLS for one connection, with two things that Twisted leaves out.

    A peer that does not answer our close_notify is cut off. So is a peer that keeps sending records
    without data, such as TLS 1.3 KeyUpdates: each costs us a key derivation and perhaps an answer.
    """

    _barren = 0
    _lingering: IDelayedCall | None = None

    def dataReceived(self, data: bytes) -> None:
        """Decrypt, and cut a peer whose bytes bring too little data."""
        connection: CreditingConnection = self.getHandle()  # type: ignore[no-untyped-call]
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        self._barren = max(0, self._barren + len(data) - connection.credit)
        connection.credit = 0
        if self._barren > MAX_BARREN and not self._aborted:
            peer = format_peer(self.getPeer())  # type: ignore[no-untyped-call]
            cast(TLSFactory, self.factory).complaints.warn(
                "TLS records", "Closing {address}: TLS records without data", address=peer
            )
            self.abortConnection()  # type: ignore[no-untyped-call]

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Set it if the connection below is TCP: every TLS layer claims to be on TCP."""
        below: Any = self.transport
        if ITCPTransport.providedBy(below):
            below.setTcpNoDelay(enabled)

    def loseConnection(self) -> None:
        """Close, and wait for the peer's close_notify for ``LINGER`` seconds at most."""
        super().loseConnection()  # type: ignore[no-untyped-call]
        if self.connected and self._lingering is None:
            self._lingering = cast(TLSFactory, self.factory).clock.callLater(LINGER, self._cut)

    def _cut(self) -> None:
        self._lingering = None
        self.abortConnection()  # type: ignore[no-untyped-call]

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """Note the end of TLS, without the frames in which it was raised.

        They and their Failure refer to each other, and to OpenSSL's connection of 60 KB, which are but some
        objects to Python: its garbage collector came after thousands of connections. ADR 0107.
        """
        if reason is not None:
            cast(BaseException, reason.value).__traceback__ = reason.tb = None
        super()._tlsShutdownFinished(reason)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """Stop waiting for the peer: the connection below has ended."""
        cast(TLSFactory, self.factory).open -= 1
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class TLSFactory(TLSMemoryBIOFactory):
    """A TLSFactory wraps protocols in TLS layers.

    Its memory is OpenSSL's, of which Python knows nothing, so it is counted here. ADR 0107.

    :param wrapped: the factory of the listener, for its name.
    :ivar complaints: about clients that misuse TLS.
    :ivar open: TLS layers that have not ended.
    """

    noisy = False
    protocol = TLSLayer

    def __init__(
        self,
        certificate: ServerCertificate,
        wrapped: ServerFactory,
        shared: Shared,
    ) -> None:
        super().__init__(certificate, False, wrapped, shared.clock)
        self.clock = shared.clock
        self.complaints: Complaints = shared.complaints
        self.open = self._made = 0
        self._shared = shared
        shared.counted.append(self._count)

    @property
    def is_full(self) -> bool:
        """Return whether there is no memory for one more layer."""
        budget = self._shared.limits.max_memory
        return bool(budget) and self._shared.counted_bytes >= budget * SHARE

    def _count(self) -> int:
        return self.open * LAYER + min(self._made, SESSIONS) * SESSION

    def wrap(self, protocol: IProtocol) -> TLSLayer:
        """Return a layer around ``protocol``, which is still to be connected to the transport below."""
        self.open += 1
        self._made += 1
        return TLSLayer(self, protocol)  # type: ignore[no-untyped-call]
