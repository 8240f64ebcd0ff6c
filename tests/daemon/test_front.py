"""What is behind the ports."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from platziverse.config import Tls
from platziverse.daemon.front import Front, server_certificate
from platziverse.daemon.listening import CannotListen
from platziverse.door.arrivals import Arrivals
from platziverse.errors import Unusable
from platziverse.testing import BrokerHarness
from platziverse.web.settings import WebSettings
from platziverse.web.site import GuardedSite
from tests.door.test_tls import write_certificate


class FrontTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        write_certificate(self.folder)
        self.files = str(self.folder / "server.pem"), str(self.folder / "server.key")
        harness = BrokerHarness()
        self.factory, clock = harness.factory, harness.clock
        self.site = GuardedSite(Resource(), None, WebSettings(), clock)

    def front(self, certificate: str = "", key: str = "") -> Front:
        return Front(self.factory, self.site, Tls(certificate, key), Arrivals(0, self.factory.shared.clock))

    def test_a_port_takes_everything_there_is(self) -> None:
        factory = self.front(*self.files).behind("tcp:1883", "any")
        self.assertIs(factory.http, self.site)
        self.assertTrue(factory.plain)
        self.assertIsNotNone(factory.tls)

    def test_a_port_may_be_narrowed(self) -> None:
        front = self.front(*self.files)
        found = [front.behind("tcp:1883", protocol) for protocol in ("mqtt", "tls", "mqtts")]
        self.assertEqual([factory.plain for factory in found], [True, False, False])
        self.assertEqual([factory.http for factory in found], [None, self.site, None])

    def test_tls_without_a_certificate_is_an_error(self) -> None:
        """Row 82: never an open door instead."""
        self.assertRaises(CannotListen, self.front().behind, "ssl:8883", "tls")

    def test_half_of_the_settings_is_an_error(self) -> None:
        """Row 81: an option that would be ignored."""
        certificate, key = self.files
        halves = [Tls(certificate), Tls("", key), Tls("", "", certificate), Tls("", "", "", True)]
        for tls in [*halves, Tls(certificate, key, "", True)]:
            self.assertRaises(Unusable, server_certificate, tls)

    def test_a_certificate_that_cannot_be_read_is_an_error(self) -> None:
        """Row 82."""
        error = self.assertRaises(Unusable, self.front, self.files[0], str(self.folder / "none.key"))
        self.assertIn("none.key: No such file", str(error))
