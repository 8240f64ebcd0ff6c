"""Which pages may open a WebSocket, and who counts as being on this machine."""

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from platziverse.web.answers import Answer
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.web.browser import LOCAL, REMOTE, Connection


class Page(Answer):
    def answer(self, request: Request) -> Any:
        return {"page": True}


class GuardCase(SynchronousTestCase):
    def status(
        self,
        path: str = "/mqtt",
        address: IAddress = LOCAL,
        lets_in: Callable[[bool], bool] = lambda local: local,
        settings: WebSettings | None = None,
        **headers: str,
    ) -> int:
        """The status of one request; 200 for a WebSocket that would have been opened."""
        site = make_site(
            Clock(), settings or WebSettings(), lambda: "", [("page", Page())], Page(), lets_in=lets_in
        )
        return Connection(site, address).request(path, **headers).status


class OriginTests(GuardCase):
    """Rows 70, 191: a page in a browser on this machine uses the broker without a login."""

    def test_a_foreign_page_may_not_use_what_needs_no_login(self) -> None:
        for origin in ("https://elsewhere.example", "null", "http://localhost:8084", "http://127.0.0.1:8083"):
            self.assertEqual(self.status(Origin=origin), 403, origin)
            self.assertEqual(self.status("/", Origin=origin, Upgrade="websocket"), 403, origin)

    def test_a_page_that_comes_from_here_may(self) -> None:
        for host in ("localhost:8083", "127.0.0.1:8083", "[::1]:8083", "192.0.2.1"):
            for scheme in ("http", "https"):
                self.assertEqual(self.status(Host=host, Origin=f"{scheme}://{host}"), 200, host)

    def test_a_name_that_somebody_let_lead_here_is_not_ours(self) -> None:
        """DNS rebinding: to the browser page and broker are of one origin."""
        host, origin = "evil.example:8083", "http://evil.example:8083"
        self.assertEqual(self.status(Host=host, Origin=origin), 403)
        self.assertEqual(self.status(Host=host, Origin=origin, lets_in=lambda local: True), 403)
        named = WebSettings(hosts=("evil.example",))
        self.assertEqual(self.status(Host=host, Origin=origin, settings=named), 200)

    def test_a_program_needs_no_origin(self) -> None:
        self.assertEqual(self.status(Host="broker"), 200)

    def test_where_a_login_is_needed_every_page_may_ask_for_it(self) -> None:
        elsewhere = "https://elsewhere.example"
        self.assertEqual(self.status(Origin=elsewhere, lets_in=lambda local: False), 200)
        self.assertEqual(self.status(address=REMOTE, Origin=elsewhere), 200)
        self.assertEqual(self.status(address=REMOTE, Origin=elsewhere, lets_in=lambda local: True), 403)

    def test_listed_pages_may_connect_and_no_others(self) -> None:
        settings = WebSettings(websocket_origins=("https://panel.example",))
        for origin, status in (
            ("https://panel.example", 200),
            ("HTTPS://Panel.Example", 200),
            ("https://panel.example.evil", 403),
            ("http://panel.example", 403),
            ("null", 403),
        ):
            for lets_in in (lambda local: local, lambda local: False):
                self.assertEqual(
                    self.status(Origin=origin, settings=settings, lets_in=lets_in), status, origin
                )


class LocalTests(GuardCase):
    """Row 192: whoever comes through a proxy on this machine is a stranger."""

    def test_one_meaning_of_this_machine(self) -> None:
        for address, status in (
            (LOCAL, 200),
            (IPv4Address("TCP", "127.9.9.9", 1), 200),
            (IPv6Address("TCP", "::ffff:127.0.0.1", 1), 200),
            (IPv6Address("TCP", "::1", 1), 200),
            (UNIXAddress(None), 200),
            (REMOTE, 403),
            (IPv6Address("TCP", "fe80::1%eth0", 1), 403),
        ):
            self.assertEqual(self.status("/page", address), status, address)

    def test_a_request_that_a_proxy_passed_on_is_not_of_this_machine(self) -> None:
        """Row 192: some configurations pass on nothing but the scheme."""
        names = "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Via"
        for name in (*names, "CF-Connecting-IP", "True-Client-IP"):
            site = make_site(Clock(), WebSettings(), lambda: "", [("page", Page())])
            self.assertEqual(Connection(site).request("/page", **{name: "for=127.0.0.1"}).status, 403, name)
            self.assertEqual(Connection(site).request("/healthz", **{name: "1.1 proxy"}).status, 200, name)

    def test_a_page_behind_a_proxy_is_judged_as_a_strangers(self) -> None:
        """It would not be let in without a login, so any page may ask for one."""
        client, origin = "203.0.113.9", "https://elsewhere.example"
        self.assertEqual(self.status(X_Forwarded_For=client, Origin=origin), 200)
        self.assertEqual(self.status(X_Forwarded_For=client, Origin=origin, lets_in=lambda local: True), 403)
