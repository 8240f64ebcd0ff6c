"""``readers = "users"``: the users and the access rules of MQTT decide who may read."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from platziverse.access.acl import AccessRules
from platziverse.access.authority import AccessAuthority
from platziverse.access.passwords import LoginsUnavailable, PasswordFile
from platziverse.broker.complaints import Complaints
from platziverse.broker.traffic import Traffic
from platziverse.daemon.readers import MQTTLogins
from platziverse.testing import BrokerHarness
from platziverse.web.api import Api
from platziverse.web.events import SLOWLY, Events
from platziverse.web.guard import Guard
from platziverse.web.readers import credentials
from platziverse.web.rejections import Rejections
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.access.test_passwords import HASHED, SECRET, Threads, make_checker
from tests.logs import observe_lines
from tests.web.browser import LOCAL, REMOTE, Connection, Response
from tests.web.tables import TableStore, clients_of
from tests.web.test_streams import Client


def basic(username: str, password: str) -> str:
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


ANA, EVE = basic("ana", SECRET.decode()), basic("eve", SECRET.decode())
WRONG = basic("ana", "wrong")


class Away:
    """A table of users in a database that is away."""

    def password_hash(self, username: str) -> "Deferred[str | None]":
        return fail(LoginsUnavailable("refused"))


class ReadersCase(SynchronousTestCase):
    rules: "Sequence[str] | None" = None
    anonymous = "never"
    users = True
    origins = ("https://panel.example",)

    def setUp(self) -> None:
        self.clock, self.threads, self.said = Clock(), Threads(), observe_lines(self)
        users = PasswordFile({"ana": HASHED, "eve": HASHED})
        self.checker = make_checker(self.threads, users) if self.users else None
        rules = AccessRules.parse("acl", self.rules) if self.rules is not None else None
        self.authority = AccessAuthority(self.clock, self.checker, rules, self.anonymous)
        self.store, self.traffic = TableStore(), Traffic()
        complaints = Complaints(self.clock, "net")
        self.addCleanup(complaints.stop)
        self.events = Events(self.clock, self.store, dict, 10, 30.0, self.traffic, complaints)
        more = {"events": self.events.answer}
        self.harness = BrokerHarness()
        rejections = Rejections(self.store, self.store)
        clients = clients_of(self.harness, self.store)
        api = Api(self.store, self.clock.seconds, clients, rejections, more)
        self.logins = MQTTLogins(self.authority)
        self.site = make_site(
            self.clock,
            WebSettings(readers="users", origins=self.origins),
            lambda: "",
            [("api", api)],
            lets_in=self.authority.lets_in,
            traffic=self.traffic,
            complaints=complaints,
            logins=self.logins,
        )

    def ask(
        self, path: str, address: IAddress = LOCAL, secure: bool = False, **headers: Any
    ) -> "Response | None":
        """The answer, if there is one when threads have worked and no time has passed."""
        connection = Connection(self.site, address)
        if secure:
            directlyProvides(connection.transport, ISSLTransport)
            connection.transport.getPeerCertificate = lambda: None
        given = {"Host": "localhost:8083", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        connection.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        self.threads.run()
        found = connection.responses()
        return found[0] if found else None

    def status(self, authorization: str = "", path: str = "/api/agents", **more: object) -> int:
        headers = {"Authorization": authorization} if authorization else {}
        response = self.ask(path, **headers, **more)  # type: ignore[arg-type]
        assert response is not None
        return response.status


class LoginTests(ReadersCase):
    def test_the_password_of_a_user_is_asked_for(self) -> None:
        response = self.ask("/api/agents")
        assert response is not None
        self.assertEqual(response.status, 401)
        self.assertEqual(response.headers["www-authenticate"], 'Basic realm="platziverse", charset="UTF-8"')
        self.assertEqual(response.headers["cache-control"], "no-store")
        self.assertEqual(self.status(ANA), 200)
        self.assertEqual(self.status(ANA.replace("Basic", "bAsIc")), 200)
        self.assertEqual(self.status(WRONG), 401)
        self.assertEqual(self.status(basic("bob", "x")), 401)
        self.assertEqual(self.status(basic("ana", "")), 401)

    def test_what_is_no_login_is_told_so(self) -> None:
        """row 477"""
        for header in (
            "Bearer x",
            "Basic",
            "Basic !",
            "Basic " + b64encode(b"ana").decode(),
            basic("", "x"),
            "Basic " + b64encode(b"\xff:x").decode(),
            basic("a\0", "x"),
            ANA + " " + ANA,
        ):
            response = self.ask("/api/agents", Authorization=header)
            assert response is not None
            self.assertEqual(response.status, 401, header)
            self.assertIn("Authorization must be Basic", response.json["error"])
        self.assertEqual(credentials(basic("a", "b:c")), ("a", b"b:c"))

    def test_health_needs_no_login(self) -> None:
        for path in ("/healthz", "/readyz"):
            self.assertEqual(self.status(path=path), 200)
        self.assertEqual(self.status(path="/"), 401)

    def test_a_password_is_not_taken_in_the_open(self) -> None:
        """row 478"""
        self.assertEqual(self.status(ANA, address=REMOTE), 403)
        self.assertEqual(self.threads.run(), 0)
        self.assertEqual(self.status(ANA, address=REMOTE, secure=True), 200)
        self.assertEqual(self.status(WRONG, address=REMOTE, secure=True), 401)

    def test_wrong_passwords_delay_as_those_of_mqtt_do_and_are_in_the_log(self) -> None:
        """row 479"""
        for _ in range(3):
            self.assertEqual(self.status(WRONG), 401)
        self.assertIsNone(self.ask("/api/agents", Authorization=WRONG))  # for half a second
        for _ in range(10):
            self.ask("/api/agents", Authorization=WRONG)
        self.assertEqual(self.status(WRONG), 503)
        self.assertIn(
            "Refusing 127.0.0.1:50000 over HTTP: wrong user name or password, user 'ana'", self.said[0]
        )

    def test_a_client_that_does_not_wait_is_not_answered(self) -> None:
        connection = Connection(self.site)
        connection.send(f"GET /api/agents HTTP/1.1\r\nHost: a\r\nAuthorization: {ANA}\r\n\r\n".encode())
        connection.transport.loseConnection()
        self.threads.run()
        self.assertEqual(self.store.asked, [])

    def test_a_table_of_users_that_is_away_is_told(self) -> None:
        assert self.checker is not None
        self.checker.tables = (Away(),)
        self.assertEqual(self.status(ANA), 503)

    def test_a_bug_is_one_and_answered(self) -> None:
        self.patch(self.logins, "log_in", lambda login: fail(ValueError("a bug")))
        self.assertEqual(self.status(ANA), 500)
        self.assertEqual((self.traffic.internal_errors, len(self.flushLoggedErrors(ValueError))), (1, 1))


class RulesTests(ReadersCase):
    anonymous = "local"
    rules = (
        "topic read public",
        "user ana",
        "topic read agent/message",
        "user eve",
        "topic read other",
    )

    def test_whoever_may_receive_agent_message_may_read(self) -> None:
        self.assertEqual(self.status(ANA), 200)
        for authorization in (EVE, ""):
            shown: dict[str, Any] = {"Authorization": authorization} if authorization else {}
            response = self.ask("/api/agents", **shown)
            assert response is not None
            self.assertEqual(response.status, 403)
            self.assertIn("it may not receive agent/message", response.json["error"])

    def test_rejected_messages_are_seen_by_those_who_may_receive_their_topic(self) -> None:
        """row 480"""
        response = self.ask("/api/rejected", Authorization=ANA)
        assert response is not None
        self.assertEqual([row["id"] for row in response.json["rows"]], [8, 5])
        self.assertEqual(self.status(ANA, "/api/rejected/8"), 200)
        self.assertEqual(self.status(ANA, "/api/rejected/9"), 404)

    def test_an_open_stream_ends_when_its_reader_may_no_more(self) -> None:
        client = Client(self.site)
        client.ask("/api/events", Authorization=ANA)
        self.threads.run()
        self.clock.advance(SLOWLY)
        self.assertEqual(self.events.streams, 1)
        self.authority.use(AccessRules.parse("acl", ["user ana", "topic other"]))
        self.clock.advance(SLOWLY)
        self.assertEqual(self.events.streams, 0)


class AnonymousTests(ReadersCase):
    anonymous = "local"

    def test_without_a_login_this_machine_reads_as_it_may_connect(self) -> None:
        self.assertEqual(self.status(), 200)
        self.assertEqual(self.status(address=REMOTE), 401)
        forwarded: dict[str, Any] = {"X-Forwarded-For": "192.0.2.1"}
        response = self.ask("/api/agents", **forwarded)
        assert response is not None
        self.assertEqual(response.status, 401)

    def test_a_page_that_let_its_name_lead_here_has_no_password(self) -> None:
        """row 481"""
        response = self.ask("/api/agents", Host="evil.example:8083")
        assert response is not None
        self.assertEqual(response.status, 421)
        response = self.ask("/api/agents", Host="evil.example:8083", Authorization=WRONG)
        assert response is not None
        self.assertEqual(response.status, 401)
        response = self.ask("/api/agents", Host="panel.example", Authorization=ANA)
        assert response is not None
        self.assertEqual(response.status, 200)
        for path in ("/api/agents", "/api/events", "/api/export"):
            response = self.ask(path, Origin="http://evil.example", Authorization=ANA)
            assert response is not None
            self.assertEqual(response.status, 403)
            self.assertNotIn("access-control-allow-origin", response.headers)


class CertificateTests(ReadersCase):
    """There are no passwords, but certificates."""

    anonymous = "local"
    users = False

    def test_a_password_that_nobody_can_check_is_wrong(self) -> None:
        """Otherwise a page of another name could read by showing any."""
        self.assertEqual(self.status(ANA), 401)
        response = self.ask("/api/agents", Host="evil.example:8083", Authorization=ANA)
        assert response is not None
        self.assertEqual(response.status, 401)
        self.assertEqual(self.status(), 200)
        self.assertEqual(self.status(address=REMOTE), 401)


class OpenTests(ReadersCase):
    anonymous = "always"

    def test_everybody_may_read_who_may_connect(self) -> None:
        self.assertEqual(self.status(address=REMOTE), 200)
        response = self.ask("/api/agents", Host="evil.example:8083")
        assert response is not None
        self.assertEqual(response.status, 200)


class AdminTests(ReadersCase):
    """Logins with the role ``admin`` may change things; pages of others may not use them."""

    rules = ("user ana", "topic read agent/#", "role admin", "user eve", "topic read agent/#")
    kick = "/api/clients/plug/kick"

    def post(self, authorization: str = "", **headers: str) -> int:
        if authorization:
            headers["Authorization"] = authorization
        connection = Connection(self.site)
        given = {"Host": "localhost:8083", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        connection.send(f"POST {self.kick} HTTP/1.1\r\n{lines}\r\n".encode())
        self.threads.run()
        [response] = connection.responses()
        return response.status

    def test_an_admin_may_and_the_log_has_the_name(self) -> None:
        client = self.harness.connect("plug")
        self.assertEqual(self.post(ANA), 200)
        self.assertTrue(client.closed)
        self.assertIn("User 'ana' of 127.0.0.1:50000 ends the connection of", self.said[-1])

    def test_each_is_told_what_it_may(self) -> None:
        for header, user, may in ((ANA, "ana", True), (EVE, "eve", False)):
            response = self.ask("/api/reader", Authorization=header)
            assert response is not None
            self.assertEqual(response.json, {"user": user, "mayChange": may, "admins": True})

    def test_others_may_not(self) -> None:
        """Row 489"""
        client = self.harness.connect("plug")
        self.assertEqual([self.post(EVE), self.post(), self.post(WRONG)], [403, 401, 401])
        self.authority.use(AccessRules.parse("acl", ("user ana", "topic read agent/#")))
        self.assertEqual(self.post(ANA), 403)
        self.assertFalse(client.closed)

    def test_a_page_of_another_origin_may_not_use_the_login_of_its_visitor(self) -> None:
        """Row 492: CSRF; a browser sends the login along with a form of any page."""
        client = self.harness.connect("plug")
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:8084"},
            {"Origin": "https://panel.example"},  # may read
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            self.assertEqual(self.post(ANA, **headers), 403, headers)
        self.assertFalse(client.closed)
        for origin in ("http://localhost:8083", "https://localhost:8083"):
            self.harness.connect("plug")
            self.assertEqual(self.post(ANA, **{"Origin": origin, "Sec-Fetch-Site": "same-origin"}), 200)

    def test_a_name_that_somebody_let_lead_here_is_not_answered_without_a_password(self) -> None:
        """Row 493: DNS rebinding; a certificate would be sent along, a password would not."""
        self.assertEqual(self.post(Host="evil.example", Origin="http://evil.example"), 421)

    def test_where_no_login_is_needed_for_reading_one_is_for_this(self) -> None:
        self.site.guard = Guard(WebSettings(), self.authority.lets_in)
        client = self.harness.connect("plug")
        self.assertEqual(self.status(), 200)
        self.assertEqual([self.post(), self.post(EVE), self.post(ANA)], [401, 403, 200])
        self.assertTrue(client.closed)
