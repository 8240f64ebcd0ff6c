"""The bus inside TLS, with certificates that are right and wrong."""

from pathlib import Path
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.bus.making import make_bus
from platziverse.bus.settings import BusSettings
from platziverse.command.checkbus import check_bus
from platziverse.command.findings import OK
from platziverse.config import Config
from platziverse.errors import Unusable
from tests.bus.test_redis import BusTestCase, Steps
from tests.door.test_tls import write_certificate
from tests.doubles.membership import Members
from tests.doubles.receiver import Receiver
from tests.ports import free_port
from tests.redis import MISSING_REDIS


class TlsTests(BusTestCase):
    """A server whose certificate is for ``localhost``, signed by an authority of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.authority = write_certificate(self.folder, "authority")
        write_certificate(self.folder, "server", self.authority, hosts=["localhost"])

    def path(self, name: str) -> str:
        return str(self.folder.absolute() / name)

    def tls_server(self, demands: str = "no") -> int:
        port = free_port()
        options = {
            "tls-port": str(port),
            "tls-cert-file": self.path("server.pem"),
            "tls-key-file": self.path("server.key"),
            "tls-ca-cert-file": self.path("authority.pem"),
            "tls-auth-clients": demands,
        }
        self.server(*(word for name, value in options.items() for word in (f"--{name}", value)))
        return port

    def checked(self, url: str, **settings: Any) -> list[tuple[str, str]]:
        config = Config(bus=BusSettings(url=url, **settings))
        return [(finding.level, finding.text) for finding in check_bus(config)]

    @inlineCallbacks
    def why_away(self, url: str, **settings: Any) -> Any:
        bus = self.bus(url, self.members.join(1), **settings)
        bus.start(Receiver())
        yield self.until(lambda: bus.state.startswith("away"))
        return bus.state

    @inlineCallbacks
    def test_frames_cross_inside_tls(self) -> Steps:
        url, ca_file = f"rediss://localhost:{self.tls_server()}", self.path("authority.pem")
        first, _, receiver = yield self.two(url, ca_file=ca_file)
        first.send(4, b"secret")
        yield self.until(lambda: receiver.frames)
        self.assertEqual(self.checked(url, ca_file=ca_file)[0][0], OK)

    @inlineCallbacks
    def test_a_server_that_demands_a_certificate_gets_ours(self) -> Steps:
        write_certificate(self.folder, "ours", self.authority)
        url = f"rediss://localhost:{self.tls_server(demands='yes')}"
        files = {"ca_file": self.path("authority.pem")}
        away = yield self.why_away(url, **files)
        self.assertRegex(away, "localhost:.*(certificate required|closed the connection)")
        self.assertNotEqual(self.checked(url, **files)[0][0], OK)
        files |= {"certificate": self.path("ours.pem"), "key": self.path("ours.key")}
        first, _, receiver = yield self.two(url, **files)
        first.send(4, b"secret")
        yield self.until(lambda: receiver.frames)
        self.assertEqual(self.checked(url, **files)[0][0], OK)

    @inlineCallbacks
    def test_a_server_that_cannot_prove_who_it_is_gets_no_password(self) -> Steps:
        write_certificate(self.folder, "stranger")
        port = self.tls_server()
        ways = [
            ("localhost", "stranger.pem", "certificate verify failed"),
            ("127.0.0.1", "authority.pem", "VerificationError|IP address mismatch|closed the connection"),
        ]
        for host, ca_file, reason in ways:
            url = f"rediss://:hunter2@{host}:{port}"
            away = yield self.why_away(url, ca_file=self.path(ca_file))
            self.assertRegex(away, reason)
            ((level, text),) = self.checked(url, ca_file=self.path(ca_file))
            self.assertNotEqual(level, OK)
            self.assertRegex(text, "certificate verify failed")


class FileTests(SynchronousTestCase):
    skip = MISSING_REDIS or None

    def test_files_that_cannot_be_used_stop_the_start(self) -> None:
        path, folder = self.mktemp(), Path(self.mktemp())
        Path(path).write_text("no PEM")
        folder.mkdir()
        for name in ("one", "two"):
            write_certificate(folder, name)
        one, two = str(folder.absolute() / "one.pem"), str(folder.absolute() / "two.key")
        wrong: list[tuple[dict[str, str], str]] = [
            ({"ca_file": path}, "bus.ca_file: .* is not PEM with certificates"),
            ({"ca_file": "/nowhere"}, "bus.ca_file: /nowhere: cannot be read: No such file"),
            (
                {"certificate": path, "key": path},
                "bus.certificate: .* is not PEM with certificates",
            ),
            ({"certificate": one, "key": two}, "bus.key: .*two.key: is not the key of .*one.pem"),
            ({"password_file": "/nowhere"}, "bus.password_file: /nowhere: cannot be read: No such file"),
        ]
        for files, text in wrong:
            settings = BusSettings(url="rediss://localhost", **files)  # type: ignore[arg-type]
            error = self.assertRaises(Unusable, make_bus, settings, Clock(), Members().join(1))
            self.assertRegex(str(error), text)
