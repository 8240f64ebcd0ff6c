"""TLS on the shared port: handshake, renewal, client certificates, and what may not be done with it."""

import contextlib
import ctypes
import ctypes.util
import gc
import ssl
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.door.tls import LAYER, SESSION, CertificateError, ServerCertificate, TLSLayer
from platziverse.mqtt.errors import ConnectRefused
from platziverse.net.peer import certificate_user
from tests.door.test_sniff import CONNACK, CONNECT, Abortable, Shared, deliver
from tests.logs import observe_log


def write_certificate(
    folder: Path,
    name: str = "server",
    issuer: Any = None,
    common_names: Any = None,
    hosts: Sequence[str] = (),
) -> Any:
    """``name.pem`` and ``name.key`` in ``folder``; returns (certificate, key) to sign others with.

    :param hosts: names that a client may know the server by.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = [name] if common_names is None else common_names
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in names])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder()
    if hosts:
        names_of_hosts = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = builder.add_extension(names_of_hosts, critical=False)
    certificate = (
        builder.subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, key


class TLSClient:
    """The client's end of a TLS connection, over a transport in memory."""

    def __init__(self, transport: Abortable, context: SSL.Context | None = None) -> None:
        self.transport = transport
        self.connection = SSL.Connection(context or SSL.Context(SSL.TLS_METHOD), None)
        self.connection.set_connect_state()
        self.received = b""
        self.failure = ""

    def pump(self) -> "TLSClient":
        """Carry bytes to and fro until neither side has any."""
        for _ in range(20):
            self.step()
            try:
                sent = self.connection.bio_read(1 << 20)
            except SSL.WantReadError:
                sent = b""
            if sent:
                deliver(self.transport, sent)
            answer = self.transport.value()
            self.transport.clear()
            if answer:
                self.connection.bio_write(answer)
            if not sent and not answer:
                break
        return self

    def step(self) -> None:
        try:
            self.connection.do_handshake()
            while True:
                self.received += self.connection.recv(65536)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.failure = "closed"
        except SSL.Error as error:
            self.failure = repr(error)

    def send(self, data: bytes) -> "TLSClient":
        self.connection.send(data)
        return self.pump()

    def server_name(self) -> str:
        certificate: Any = self.connection.get_peer_certificate()
        return str(certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


class TLSCase(SynchronousTestCase):
    """A shared port with a certificate."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.ca = write_certificate(self.folder)
        self.certificate = ServerCertificate(str(self.folder / "server.pem"), str(self.folder / "server.key"))
        self.shared = Shared(certificate=self.certificate)

    def events(self) -> list[Any]:
        events: list[Any] = []
        observe_log(self, events.append)
        return events


class TestHandshake(TLSCase):
    def test_mqtt_inside_tls(self) -> None:
        client = TLSClient(self.shared.open()).pump().send(CONNECT)
        self.assertEqual(client.received, CONNACK)

    def test_http_inside_tls(self) -> None:
        TLSClient(self.shared.open()).pump().send(b"GET /")
        self.assertEqual(self.shared.http.built[0].received, b"GET /")

    def test_the_layer_speaks_to_the_mqtt_connection_directly(self) -> None:
        transport = self.shared.open()
        TLSClient(transport).pump().send(CONNECT)
        layer: Any = transport.protocol
        self.assertIsInstance(layer, TLSLayer)
        self.assertIn(layer.wrappedProtocol, self.shared.harness.shared.connections)

    def test_the_client_hello_may_come_byte_by_byte(self) -> None:
        transport = self.shared.open()
        client = TLSClient(transport)
        client.step()
        hello = client.connection.bio_read(65536)
        deliver(transport, *(hello[i : i + 1] for i in range(len(hello))))
        client.connection.bio_write(transport.value())
        transport.clear()
        self.assertEqual(client.pump().send(CONNECT).received, CONNACK)

    def test_clients_may_insist_on_a_protocol_by_name(self) -> None:
        offers = (
            ([b"h2", b"http/1.1"], b"http/1.1"),
            ([b"mqtt"], b"mqtt"),
            ([b"h2"], b""),
            ([b"x-mine"], b""),
        )
        for offered, chosen in offers:
            context = SSL.Context(SSL.TLS_METHOD)
            context.set_alpn_protos(offered)
            client = TLSClient(self.shared.open(), context).pump().send(CONNECT)
            self.assertEqual(client.received, CONNACK, offered)
            self.assertEqual(client.connection.get_alpn_proto_negotiated(), chosen)

    def test_tls_inside_tls_is_refused(self) -> None:
        TLSClient(self.shared.open()).pump().send(b"\x16\x03\x01")
        self.assertEqual(self.shared.errors, {"first byte": 1})

    def test_tls_1_1_is_refused(self) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        client = TLSClient(self.shared.open(), context).pump()
        self.assertTrue(client.failure)

    def test_row_72_renegotiation_is_refused(self) -> None:
        self.assertTrue(self.certificate.load().set_options(0) & SSL.OP_NO_RENEGOTIATION)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = TLSClient(self.shared.open(), context).pump().send(CONNECT)
        self.assertEqual(client.received, CONNACK)
        client.connection.renegotiate()
        client.pump()
        self.assertTrue(client.failure)
        self.assertTrue(client.connection.renegotiate_pending())

    def test_row_74_a_handshake_that_is_never_finished_is_cut_at_the_deadline(self) -> None:
        transport = self.shared.open()
        client = TLSClient(transport)
        client.step()
        deliver(transport, client.connection.bio_read(65536))
        self.shared.harness.advance(5)
        self.assertTrue(transport.connected)
        self.shared.harness.advance(6)
        self.assertFalse(transport.connected)
        self.assertEqual(self.shared.errors, {"silent": 1})

    def test_row_74_silence_after_the_handshake_is_cut_at_the_same_deadline(self) -> None:
        transport = self.shared.open()
        self.shared.harness.advance(6)
        TLSClient(transport).pump()
        self.shared.harness.advance(5)
        self.assertFalse(transport.connected)

    def test_row_74_garbage_after_the_first_byte_gives_one_log_line(self) -> None:
        events = self.events()
        transport = self.shared.open()
        deliver(transport, b"\x16garbage that is no handshake")
        self.assertFalse(transport.connected)
        self.assertEqual(self.shared.errors, {"TLS handshake": 1})
        self.assertEqual(len(events), 1)

    def test_row_74_plain_bytes_to_a_port_for_tls_alone_give_one_log_line(self) -> None:
        events = self.events()
        shared = Shared(certificate=self.certificate, plain=False)
        deliver(shared.open(), b"GET / HTTP/1.1\r\n")
        self.assertEqual(len(events), 1)

    def test_row_256_plain_mqtt_on_a_port_for_tls_alone_is_said_to_be_that(self) -> None:
        events = self.events()
        shared = Shared(certificate=self.certificate, plain=False)
        deliver(shared.open(), b"\x10\x0c\x00\x04MQTT")
        [event] = events
        self.assertIn("plain MQTT on a TLS port", event["reason"])

    def test_a_peer_that_does_not_answer_close_notify_is_cut(self) -> None:
        transport = self.shared.open()
        TLSClient(transport).pump().send(b"\x00")
        self.assertTrue(transport.connected)
        self.shared.harness.advance(6)
        self.assertFalse(transport.connected)


class ResumingClient:
    """A client of the standard library, which comes back with the session that it had.

    :ivar resumed: whether the server has taken that session at the last visit.
    """

    def __init__(self, version: ssl.TLSVersion, options: int = 0) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.minimum_version = self.context.maximum_version = version
        self.context.options |= options
        self.session: ssl.SSLSession | None = None

    def visit(self, shared: Shared) -> Abortable:
        """Send CONNECT, read the answer, and keep the session; return the server's transport, still open."""
        self._transport = shared.open()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._client = self.context.wrap_bio(self._incoming, self._outgoing, session=self.session)
        self._complete(self._shake_hands)
        self._complete(lambda: self._client.write(CONNECT))
        self.received = self._complete(lambda: self._client.read(64))
        self.session, self.resumed = self._client.session, bool(self._client.session_reused)
        return self._transport

    def _shake_hands(self) -> bool:
        self._client.do_handshake()
        return True

    def leave(self) -> None:
        """Send DISCONNECT, and close as the server does."""
        self._complete(lambda: self._client.write(b"\xe0\x00"))
        self._transport.loseConnection()

    def _complete(self, step: Callable[[], Any]) -> Any:
        """Call ``step`` until it has what it needs of the server; return what it returns."""
        result = None
        for _ in range(10):
            with contextlib.suppress(ssl.SSLWantReadError):
                result = step()
            if sent := self._outgoing.read():
                deliver(self._transport, sent)
            self._incoming.write(self._transport.value())
            self._transport.clear()
            if result is not None:
                return result
        raise AssertionError("the server does not answer")


class TestResumption(TLSCase):
    def resumed(self, client: ResumingClient) -> bool:
        client.visit(self.shared)
        client.leave()
        self.assertEqual(client.received, CONNACK)
        return client.resumed

    def test_row_242_sessions_resume_by_ticket(self) -> None:
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            client = ResumingClient(version)
            self.assertEqual([self.resumed(client) for _ in range(3)], [False, True, True])

    def test_row_242_sessions_resume_by_their_id_for_clients_without_tickets(self) -> None:
        client = ResumingClient(ssl.TLSVersion.TLSv1_2, ssl.OP_NO_TICKET)
        self.assertEqual([self.resumed(client) for _ in range(3)], [False, True, True])

    def test_row_242_a_new_certificate_ends_the_sessions(self) -> None:
        client = ResumingClient(ssl.TLSVersion.TLSv1_3)
        self.resumed(client)
        write_certificate(self.folder)
        self.certificate.reload()
        self.assertEqual([self.resumed(client) for _ in range(2)], [False, True])


class TestMemory(TLSCase):
    """Row 293: OpenSSL's memory was counted as nothing, and that of connections that were cut stayed."""

    def setUp(self) -> None:
        super().setUp()
        self.shared = Shared(certificate=self.certificate, limits=Limits(max_memory=10 * LAYER))

    def test_what_openssl_takes_is_counted(self) -> None:
        shared = self.shared.harness.shared
        transport = self.shared.open()
        TLSClient(transport).pump()
        self.assertEqual(shared.counted_bytes, LAYER + SESSION)
        transport.loseConnection()
        self.assertEqual(shared.counted_bytes, SESSION)

    def test_no_handshake_is_begun_when_there_is_no_room_for_it(self) -> None:
        events = self.events()
        transports = [self.shared.open() for _ in range(12)]
        clients = [TLSClient(transport).pump() for transport in transports]
        answered = [client.connection.get_peer_certificate() is not None for client in clients]
        self.assertEqual(answered, [True] * 8 + [False] * 4)
        self.assertEqual(self.shared.harness.broker.traffic.connections_refused, {"memory": 4})
        self.assertIn("max_memory", events[0]["reason"])
        for transport in transports[:4]:
            transport.loseConnection()
        self.assertEqual(TLSClient(self.shared.open()).pump().send(CONNECT).received, CONNACK)

    def test_nothing_of_a_connection_that_was_cut_waits_for_the_garbage_collector(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)
        for end in b"\x16garbage", b"":
            transport = self.shared.open()
            client = TLSClient(transport)
            client.step()
            deliver(transport, client.connection.bio_read(65536))
            layer: Any = transport.protocol
            kept = weakref.ref(layer.getHandle())
            del layer
            if end:
                deliver(transport, end)
            transport.loseConnection()
            del transport, client
            self.assertIsNone(kept())


class TestRenewal(TLSCase):
    def test_new_connections_get_the_new_certificate_and_old_ones_stay(self) -> None:
        old = TLSClient(self.shared.open()).pump().send(CONNECT)
        write_certificate(self.folder, common_names=["renewed"])
        self.certificate.reload()
        self.assertEqual(TLSClient(self.shared.open()).pump().server_name(), "renewed")
        self.assertEqual(old.send(b"\xc0\x00").received, CONNACK + b"\xd0\x00")

    def test_row_76_garbage_keeps_the_old_certificate_and_says_so(self) -> None:
        for name in ("server.pem", "server.key"):
            kept = (self.folder / name).read_bytes()
            for broken in (b"", b"garbage", kept[: len(kept) // 2], kept.replace(b"M", b"\0")):
                (self.folder / name).write_bytes(broken)
                error = self.assertRaises(CertificateError, self.certificate.reload)
                self.assertIn(name, str(error))
                self.assertEqual(TLSClient(self.shared.open()).pump().server_name(), "server")
            (self.folder / name).write_bytes(kept)

    def test_row_76_a_key_of_another_certificate_keeps_the_old_pair(self) -> None:
        write_certificate(self.folder, "other")
        (self.folder / "server.key").write_bytes((self.folder / "other.key").read_bytes())
        self.assertRaises(CertificateError, self.certificate.reload)
        self.assertEqual(TLSClient(self.shared.open()).pump().server_name(), "server")

    def test_row_78_a_file_that_cannot_be_read_keeps_the_old_certificate(self) -> None:
        (self.folder / "server.pem").unlink()
        error = self.assertRaises(CertificateError, self.certificate.reload)
        self.assertIn("server.pem", str(error))
        self.assertEqual(TLSClient(self.shared.open()).pump().server_name(), "server")

    def test_a_key_with_a_pass_phrase_is_refused_without_asking(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        self.assertRaises(CertificateError, self.certificate.reload)

    def test_changed_files_are_noticed(self) -> None:
        clock, events = Clock(), self.events()
        self.certificate.start(clock, 30)
        clock.advance(30)
        self.assertEqual(events, [])
        write_certificate(self.folder, common_names=["renewed"])
        clock.advance(30)
        self.assertEqual(TLSClient(self.shared.open()).pump().server_name(), "renewed")
        (self.folder / "server.key").write_bytes(b"garbage")
        clock.pump([30, 30, 30])
        self.assertEqual([event["log_level"].name for event in events], ["info", "error"])
        self.assertEqual(TLSClient(self.shared.open()).pump().server_name(), "renewed")
        self.certificate.stop()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_nothing_usable_at_start_is_an_error(self) -> None:
        self.assertRaises(CertificateError, ServerCertificate, "/nonexistent.pem", "/nonexistent.key")


class TestClientCertificates(TLSCase):
    def setUp(self) -> None:
        super().setUp()
        files = [str(self.folder / name) for name in ("server.pem", "server.key", "server.pem")]
        self.shared = Shared(certificate=ServerCertificate(files[0], files[1], client_ca=files[2]))
        self.strict = Shared(certificate=ServerCertificate(files[0], files[1], files[2], require_client=True))

    def user(self, common_names: list[str] | None) -> str | None:
        transport = self.shared.open()
        client = TLSClient(transport, self.context(common_names)).pump().send(CONNECT)
        self.assertIn(client.received, (CONNACK, b"\x20\x02\x00\x05"))
        self.refused = client.received != CONNACK
        return certificate_user(transport.protocol)

    def context(self, common_names: list[str] | None, issuer: Any = "ours") -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        if common_names is not None:
            write_certificate(self.folder, "client", self.ca if issuer == "ours" else issuer, common_names)
            context.use_certificate_file(str(self.folder / "client.pem"))
            context.use_privatekey_file(str(self.folder / "client.key"))
        return context

    def test_the_common_name_is_the_user_name(self) -> None:
        self.assertEqual(self.user(["agent-7"]), "agent-7")

    def test_without_a_certificate_there_is_no_name(self) -> None:
        self.assertIsNone(self.user(None))
        self.assertIsNone(certificate_user(StringTransport()))

    def test_row_77_unusable_names_are_refused(self) -> None:
        for names in ([], ["#"], ["a+b"], ["a\0b"], ["a\nb"], ["one", "two"], ["\u202egnp"]):
            error = self.assertRaises(ConnectRefused, self.user, names)
            self.assertTrue(self.refused)
            self.assertIn(repr(names[0]) if len(names) == 1 else "''", error.reason)

    def test_a_certificate_of_another_ca_is_refused(self) -> None:
        stranger = write_certificate(self.folder, "stranger")
        client = TLSClient(self.shared.open(), self.context(["agent-7"], stranger)).pump()
        self.assertTrue(client.failure)

    def test_a_certificate_can_be_required(self) -> None:
        self.assertTrue(TLSClient(self.strict.open(), self.context(None)).pump().failure)
        client = TLSClient(self.strict.open(), self.context(["agent-7"])).pump().send(CONNECT)
        self.assertEqual(client.received, CONNACK)

    def test_row_242_a_session_that_is_resumed_keeps_its_user(self) -> None:
        write_certificate(self.folder, "client", self.ca, ["agent-7"])
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            client = ResumingClient(version)
            client.context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
            for resumed in False, True:
                transport = client.visit(self.strict)
                self.assertEqual((client.resumed, client.received), (resumed, CONNACK))
                self.assertEqual(certificate_user(transport.protocol), "agent-7")
                client.leave()

    def test_required_without_a_ca_is_a_mistake(self) -> None:
        path = str(self.folder / "server.pem")
        self.assertRaises(CertificateError, ServerCertificate, path, path, None, True)


class KeyUpdater:
    """A TLS 1.3 client on OpenSSL itself: pyOpenSSL cannot send a KeyUpdate."""

    def __init__(self) -> None:
        path = ctypes.util.find_library("ssl")
        if path is None:
            raise SkipTest("no shared OpenSSL library here")
        self.lib = ctypes.CDLL(path)
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_new", "BIO_s_mem"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        pointer = ctypes.c_void_p
        self.ssl = pointer(
            self.lib.SSL_new(pointer(self.lib.SSL_CTX_new(pointer(self.lib.TLS_client_method()))))
        )
        memory = pointer(self.lib.BIO_s_mem())
        self.incoming, self.outgoing = pointer(self.lib.BIO_new(memory)), pointer(self.lib.BIO_new(memory))
        self.lib.SSL_set_bio(self.ssl, self.incoming, self.outgoing)
        self.lib.SSL_set_connect_state(self.ssl)

    def exchange(self, transport: Abortable) -> None:
        buffer = ctypes.create_string_buffer(1 << 16)
        for _ in range(4):
            self.lib.SSL_read(self.ssl, buffer, len(buffer))
            while (size := self.lib.BIO_read(self.outgoing, buffer, len(buffer))) > 0:
                deliver(transport, buffer.raw[:size])
            answer = transport.value()
            transport.clear()
            self.lib.BIO_write(self.incoming, answer, len(answer))

    def send(self, data: bytes) -> None:
        self.lib.SSL_write(self.ssl, data, len(data))

    def update_key(self) -> None:
        assert self.lib.SSL_key_update(self.ssl, 1) == 1
        self.lib.SSL_do_handshake(self.ssl)


class TestKeyUpdates(TLSCase):
    def connect(self) -> tuple[KeyUpdater, Abortable]:
        client, transport = KeyUpdater(), self.shared.open()
        client.exchange(transport)
        client.send(CONNECT)
        client.exchange(transport)
        self.assertEqual(len(self.shared.harness.shared.connections), 1)
        return client, transport

    def test_row_73_a_key_update_flood_is_cut(self) -> None:
        client, transport = self.connect()
        sent = 0
        while transport.connected and sent < 20_000:
            for _ in range(100):
                client.update_key()
            client.exchange(transport)
            sent += 100
        self.assertFalse(transport.connected)
        self.assertLess(sent, 5_000)

    def test_row_73_a_client_with_data_may_update_its_key_for_ever(self) -> None:
        client, transport = self.connect()
        for _ in range(4_000):
            client.update_key()
            client.send(b"\xc0\x00")
        client.exchange(transport)
        self.assertTrue(transport.connected)

    def test_many_small_records_are_no_flood(self) -> None:
        client, transport = self.connect()
        publish = b"\x30\x03\x00\x01t"
        for _ in range(500):
            for byte in publish:
                client.send(bytes([byte]))
            client.exchange(transport)
        self.assertTrue(transport.connected)
