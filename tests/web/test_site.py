"""Who is answered over HTTP, and how much is read of whom."""

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from platziverse.broker.complaints import Complaints
from platziverse.broker.traffic import Traffic
from platziverse.web.answers import Answer
from platziverse.web.channel import BODY_REFUSED
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.logs import observe_lines, observe_log
from tests.web.browser import LOCAL, REMOTE, Connection


class Page(Answer):
    def answer(self, request: Request) -> Any:
        return {"page": True}


class Slow(Answer):
    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Deferred[Any]] = []

    def answer(self, request: Request) -> Any:
        self.waiting.append(Deferred())
        return self.waiting[-1]


class Broken(Answer):
    def answer(self, request: Request) -> Any:
        raise ZeroDivisionError


class Upgrade(Answer):
    def answer(self, request: Request) -> Any:
        return {"websocket": True}


class SiteCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.trouble = self.warning = ""
        self.slow = Slow()
        self.build()

    def build(self, max_memory: int = 0, **settings: Any) -> None:
        pages = [("page", Page()), ("slow", self.slow), ("broken", Broken())]
        self.traffic, self.complaints = Traffic(), Complaints(self.clock, "web")
        self.site = make_site(
            self.clock,
            WebSettings(**settings),
            lambda: self.trouble,
            pages,
            websocket=Upgrade(),
            warning=lambda: self.warning,
            traffic=self.traffic,
            complaints=self.complaints,
            max_memory=max_memory,
        )

    def connection(self, address: IAddress = LOCAL) -> Connection:
        return Connection(self.site, address)

    def status(self, path: str, address: IAddress = LOCAL, **headers: str) -> int:
        return self.connection(address).request(path, **headers).status


class HealthTests(SiteCase):
    def test_whoever_answers_is_alive(self) -> None:
        response = self.connection().request("/healthz")
        self.assertEqual((response.status, response.json), (200, {"status": "ok"}))

    def test_ready_says_what_is_wrong(self) -> None:
        """row 103"""
        self.assertEqual(self.status("/readyz"), 200)
        self.trouble = "the database is away"
        response = self.connection().request("/readyz")
        self.assertEqual(response.status, 503)
        self.assertEqual(response.json, {"status": "not ready", "reason": "the database is away"})

    def test_ready_with_a_warning_is_ready(self) -> None:
        """Row 140: messages are stored whatever our clock says."""
        self.assertEqual(self.connection().request("/readyz").json, {"status": "ready"})
        self.warning = "the clock is 61 s ahead"
        response = self.connection().request("/readyz")
        self.assertEqual(
            (response.status, response.json), (200, {"status": "ready", "warning": "the clock is 61 s ahead"})
        )


class ProbeTests(SiteCase):
    """Row 232: as orchestrators, balancers and Prometheus ask."""

    def test_each_way_of_asking_is_answered(self) -> None:
        for path in ("/healthz", "/readyz"):
            for first, more in (
                ("GET {} HTTP/1.0", ""),
                ("HEAD {} HTTP/1.0", ""),
                ("OPTIONS {} HTTP/1.0", ""),
                ("OPTIONS {} HTTP/1.1", "Host: www\r\n"),
                ("GET {} HTTP/1.1", "Host: platziverse.default.svc.cluster.local:8083\r\n"),
                ("GET {} HTTP/1.1", "host: 10.1.2.3\r\nuser-agent: kube-probe/1.31\r\naccept: */*\r\n"),
                ("GET http://10.1.2.3:8083{} HTTP/1.1", "Host: 10.1.2.3:8083\r\n"),
                ("GET {}?probe=1 HTTP/1.1", "Host: localhost\r\nContent-Length: 0\r\n"),
                ("GET {} HTTP/1.1", "Host: localhost\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n"),
            ):
                connection = self.connection(REMOTE)
                connection.send(f"{first.format(path)}\r\n{more}\r\n".encode())
                status = connection.transport.value().partition(b"\r\n")[0]
                self.assertEqual(status.split(b" ")[1], b"200", first)

    def test_the_status_says_with_options_too_that_it_is_not_ready(self) -> None:
        self.trouble = "the database is away"
        self.assertEqual(self.connection().request("/readyz", "OPTIONS").status, 503)
        self.assertEqual(self.connection().request("/healthz", "OPTIONS").status, 200)

    def test_a_probe_may_keep_its_connection(self) -> None:
        connection = self.connection(REMOTE)
        for _ in range(5):
            self.clock.advance(10)
            self.assertEqual(connection.request("/healthz").status, 200)
        self.assertFalse(connection.closed)


class TreeTests(SiteCase):
    def test_what_is_not_there_is_an_error_in_json(self) -> None:
        for path in ("/x", "/page/x/../y", "//", "/%00", "/mqtts", "/%ff"):
            response = self.connection().request(path)
            self.assertEqual((response.status, response.json), (404, {"error": "not found"}), path)

    def test_each_status_has_its_phrase(self) -> None:
        for path, host, first in (
            ("/page", "evil.example", b"HTTP/1.1 421 Misdirected Request"),
            ("/none", "localhost", b"HTTP/1.1 404 Not Found"),
        ):
            connection = self.connection()
            connection.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            self.assertEqual(connection.transport.value().partition(b"\r\n")[0], first)

    def test_the_root_is_a_page_with_links(self) -> None:
        """Row 253."""
        for path in ("/", "/?x"):
            response = self.connection().request(path)
            self.assertEqual(
                (response.status, response.headers["content-type"]), (200, "text/html; charset=utf-8")
            )
            self.assertIn(b'<a href="/api/agents">', response.body)

    def test_only_reading_is_allowed(self) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
            response = self.connection().request("/page", method)
            self.assertEqual((response.status, response.headers["allow"]), (405, "GET, HEAD"), method)

    def test_head_is_get_without_its_body(self) -> None:
        said = observe_lines(self)
        connection = self.connection()
        for path, status in (("/page", 200), ("/nothing", 404), ("/healthz", 200)):
            length = len(connection.request(path).body)
            connection.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = connection.transport.value().decode().lower().partition("\r\n\r\n")
            connection.transport.clear()
            self.assertTrue(head.startswith(f"http/1.1 {status} "))
            self.assertEqual((body, head.split("\r\n").count(f"content-length: {length}")), ("", 1))
        self.assertEqual(said, [])  # whoever asks so fills no log

    def test_every_answer_carries_the_security_headers(self) -> None:
        """row 86"""
        for path in ("/page", "/healthz", "/nothing"):
            headers = self.connection().request(path).headers
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            self.assertIn("default-src 'none'", headers["content-security-policy"])
            self.assertEqual(headers["server"], "platziverse")
            self.assertNotIn("access-control-allow-origin", headers)

    def test_an_asterisk_is_answered_like_a_path_that_is_not_there(self) -> None:
        """Row 86."""
        for method, status in (("GET", 404), ("OPTIONS", 405)):
            response = self.connection().request("*", method)
            self.assertEqual((response.status, response.headers["server"]), (status, "platziverse"))
            self.assertIn("default-src 'none'", response.headers["content-security-policy"])
            self.assertIn("error", response.json)
        self.assertEqual(self.status("*", Host="evil.example"), 421)

    def test_a_target_in_absolute_form_is_found(self) -> None:
        """Row 231: RFC 9112, 3.2.2: its host counts, and Host is ignored."""
        for target, host, status in (
            ("http://localhost:8083/page", "localhost:8083", 200),
            ("HTTP://LOCALHOST/page?x=1", "other.example", 200),
            ("https://127.0.0.1/page", "localhost", 200),
            ("http://localhost/nothing", "localhost", 404),
            ("http://localhost?x", "localhost", 200),
            ("http://evil.example/page", "localhost", 421),
            ("http://ana@localhost/page", "localhost", 400),
            ("ftp://localhost/page", "localhost", 404),
            ("http:/page", "localhost", 404),
        ):
            self.assertEqual(self.status(target, Host=host), status, target)
        for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n", b"Host: ana@localhost\r\n"):
            connection = self.connection()
            connection.send(b"GET http://localhost/page HTTP/1.1\r\n" + hosts + b"\r\n")
            self.assertEqual([response.status for response in connection.responses()], [400], hosts)

    def test_websocket_is_at_mqtt_and_at_the_root_for_an_upgrade(self) -> None:
        self.assertIn("websocket", self.connection().request("/mqtt").json)
        self.assertIn("websocket", self.connection().request("/", Upgrade="WebSocket").json)

    def test_a_bug_is_an_answer_and_a_log_line(self) -> None:
        """row 85"""
        response = self.connection().request("/broken")
        self.assertEqual((response.status, response.json), (500, {"error": "internal error"}))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class GuardTests(SiteCase):
    def test_only_this_machine_reads_by_default(self) -> None:
        mapped = IPv6Address("TCP", "::ffff:127.0.0.1", 5)
        for address in (LOCAL, IPv6Address("TCP", "::1", 5), mapped, UNIXAddress("/run/x")):
            self.assertEqual(self.status("/page", address), 200, repr(address))
        for address in (REMOTE, IPv6Address("TCP", "2001:db8::1", 5), IPv4Address("TCP", "10.0.0.1", 5)):
            response = Connection(self.site, address).request("/page")
            self.assertEqual(response.status, 403, repr(address))
            self.assertIn("web.readers", response.json["error"])

    def test_load_balancers_see_from_anywhere_whether_it_works(self) -> None:
        self.assertEqual((self.status("/healthz", REMOTE), self.status("/readyz", REMOTE)), (200, 200))

    def test_everyone_reads_when_told_so(self) -> None:
        self.build(readers="everyone")
        self.assertEqual(self.status("/page", REMOTE, Host="any.example"), 200)

    def test_a_name_of_somebody_else_is_not_answered(self) -> None:
        for host in ("evil.example", "evil.example:8083", "localhost.evil.example", "[::1"):
            self.assertEqual(self.status("/page", Host=host), 421, host)
        for host in ("localhost", "LOCALHOST:8083", "127.0.0.1:8083", "[::1]:8083", "app.localhost"):
            self.assertEqual(self.status("/page", Host=host), 200, host)

    def test_the_list_of_hosts_is_the_whole_list(self) -> None:
        self.build(hosts=("panel.example",), readers="everyone")
        self.assertEqual(self.status("/page", Host="Panel.example:8083"), 200)
        self.assertEqual(self.status("/page", Host="localhost"), 421)

    def test_a_foreign_page_may_not_read(self) -> None:
        self.assertEqual(self.status("/page", Origin="https://evil.example"), 403)
        self.assertEqual(self.status("/page", Origin="null"), 403)
        self.assertEqual(self.status("/page", Origin="http://localhost:8083"), 200)

    def test_a_listed_page_may(self) -> None:
        self.build(origins=("https://panel.example",))
        headers = self.connection().request("/page", Origin="https://panel.example").headers
        self.assertEqual(headers["access-control-allow-origin"], "https://panel.example")
        self.assertEqual(headers["vary"], "Origin")


class ReadingTests(SiteCase):
    def test_a_body_is_refused_before_it_is_read(self) -> None:
        for header in (b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"):
            connection = self.connection()
            connection.send(b"POST /page HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
            connection.send(b"5\r\nhello\r\n" * 1000)
            [response] = connection.responses()
            self.assertEqual(response.status, 413)
            self.assertIn("error", response.json)
            self.assertTrue(connection.closed)

    def test_a_request_names_its_host_once(self) -> None:
        """Row 71."""
        for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n", b"Host: localhost\r\nHost: x\r\n"):
            for path in (b"/page", b"/mqtt"):
                connection = self.connection()
                connection.send(b"GET " + path + b" HTTP/1.1\r\n" + hosts + b"\r\n")
                [response] = connection.responses()
                self.assertEqual((response.status, response.json), (400, {"error": "Host is needed, once"}))
                self.assertEqual(response.headers["connection"], "close")
                self.assertTrue(connection.closed)
        old = self.connection()
        old.send(b"GET /page HTTP/1.0\r\n\r\n")
        self.assertEqual([response.status for response in old.responses()], [200])

    def test_what_can_be_no_request_is_seen_at_its_first_byte(self) -> None:
        """Row 71: a PINGREQ, say, after a request; the connection does not wait for the end of a line."""
        request = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for stray in (b"\xc0\x00", b"\r\n\x10", b" ", b"\0", b"{", b"\x62\x02"):
            for segments in ([request + stray], [request, stray], [request, *(bytes((b,)) for b in stray)]):
                connection = self.connection()
                for segment in segments:
                    connection.send(segment)
                self.clock.advance(0)
                found = connection.responses()
                self.assertEqual([response.status for response in found], [200, 400], stray)
                self.assertTrue(connection.closed)

    def test_what_follows_a_waiting_request_is_looked_at_in_its_turn(self) -> None:
        connection = self.connection()
        connection.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.send(b"\xc0\x00")
        self.slow.waiting[0].callback([1])
        self.clock.advance(0)
        self.assertEqual([response.status for response in connection.responses()], [200, 400])
        self.assertTrue(connection.closed)

    def test_an_empty_line_before_a_request_is_passed_over(self) -> None:
        connection = self.connection()
        for _ in range(3):
            connection.send(b"\r\n")
            self.assertEqual(connection.request("/page").status, 200)

    def test_the_refusal_states_its_own_length(self) -> None:
        head, _, body = BODY_REFUSED.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d\r\n" % len(body), head)

    def test_headers_have_an_end(self) -> None:
        line = b"X: " + b"x" * 1000 + b"\r\n"
        for headers in (line * 17, b"X: y\r\n" * 101):
            connection = self.connection()
            connection.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
            self.assertTrue(connection.closed)
            self.assertEqual([response.status for response in connection.responses()], [400])

    def test_a_request_that_trickles_in_is_cut(self) -> None:
        connection = self.connection()
        for byte in b"GET /page HTTP/1.1\r\nHost: localhost":
            if connection.closed:
                break
            connection.send(bytes([byte]))
            self.clock.advance(1)
        self.assertEqual(self.clock.seconds(), 30)
        self.assertTrue(connection.closed)

    def test_an_idle_connection_is_cut(self) -> None:
        connection = self.connection()
        connection.request("/page")
        self.clock.advance(29)
        connection.request("/page")
        self.clock.advance(29)
        self.assertFalse(connection.closed)
        self.clock.advance(2)
        self.assertTrue(connection.closed)

    def test_pipelined_requests_wait_their_turn(self) -> None:
        connection = self.connection()
        connection.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        self.assertEqual(len(self.slow.waiting), 1)
        self.assertEqual(connection.transport.producerState, "paused")
        self.slow.waiting[0].callback([1])
        self.assertEqual([response.json for response in connection.responses()], [[1]])
        self.assertEqual(len(self.slow.waiting), 1)
        self.clock.advance(0)
        self.assertEqual(len(self.slow.waiting), 2)

    def test_one_pipelined_request_is_answered_in_a_turn(self) -> None:
        """Row 182: 400 of them held the reactor for 15 s."""
        connection = self.connection()
        connection.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
        self.assertEqual(len(connection.responses()), 1)
        self.clock.advance(0)
        self.assertEqual([response.status for response in connection.responses()], [200] * 4)
        self.assertEqual(connection.request("/page").status, 200)

    def test_requests_of_a_connection_that_has_gone_are_not_answered(self) -> None:
        """Row 295: each of them ended in a traceback, for its socket was closed."""
        connection = self.connection()
        connection.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        self.slow.waiting[0].callback([1])
        connection.transport.loseConnection()
        self.clock.advance(1)
        self.assertEqual(len(self.slow.waiting), 1)

    def unread(self, size: int) -> Connection:
        """A connection whose client takes nothing of an answer of this size."""
        connection = self.connection()
        write = connection.transport.write

        def full(data: bytes) -> None:
            write(data)
            connection.channel.pauseProducing()

        connection.transport.write = full
        connection.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.slow.waiting[-1].callback(b"x" * size)
        return connection

    def test_answers_that_nobody_reads_take_no_more_than_their_share(self) -> None:
        """Row 342: a thousand connections took 442 MB that were counted as nothing."""
        self.build(max_memory=40_000)
        lines: list[str] = []
        observe_log(self, lambda event: lines.append(formatEvent(event)))
        connections = [self.unread(4000) for _ in range(5)]
        self.assertEqual([connection.closed for connection in connections], [True, True, True, False, False])
        self.assertEqual((self.site.unread.total, self.traffic.answers_cut), (8000, 3))
        self.assertIn("127.0.0.1", lines[0])
        self.assertIn("max_memory", lines[0])
        connections[3].channel.resumeProducing()
        connections[4].transport.loseConnection()
        self.assertEqual(self.site.unread.total, 0)
        self.assertFalse(connections[3].closed)

    def test_answers_without_a_budget_are_only_counted(self) -> None:
        connections = [self.unread(4000) for _ in range(5)]
        self.assertFalse(any(connection.closed for connection in connections))
        self.assertEqual(self.site.unread.total, 20_000)

    def test_whoever_reads_no_answer_gets_no_further_ones(self) -> None:
        """Row 173: 19 KB of requests took 741 MB."""
        connection = self.connection()
        connection.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        connection.channel.pauseProducing()
        self.slow.waiting[0].callback([1])
        self.clock.advance(1)
        self.assertEqual((len(connection.responses()), len(self.slow.waiting)), (1, 1))
        connection.channel.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(len(self.slow.waiting), 2)
        connection.channel.pauseProducing()
        self.slow.waiting[1].callback([1])
        self.clock.advance(31)
        self.assertTrue(connection.closed)

    def test_an_answer_for_a_client_that_has_gone_goes_nowhere(self) -> None:
        connection = self.connection()
        connection.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.transport.loseConnection()
        self.slow.waiting[0].callback([1])
        self.assertEqual(len(self.site.connections), 0)

    def test_health_is_answered_when_there_is_no_room(self) -> None:
        """Row 194: one address takes every connection."""
        self.build(max_connections=2, max_connections_per_address=0)
        first = self.connection()
        self.connection()
        late = self.connection(REMOTE)
        response = late.request("/page")
        self.assertEqual(response.status, 503)
        self.assertIn("web.max_connections", response.json["error"])
        self.assertTrue(late.closed)
        for path in ("/healthz", "/readyz"):
            late = self.connection(REMOTE)
            self.assertEqual(late.request(path).status, 200)
            self.assertTrue(late.closed)
        first.transport.loseConnection()
        self.assertEqual(self.status("/page"), 200)
        self.assertEqual(self.traffic.connections_refused, {"http": 1})

    def test_an_address_has_its_share(self) -> None:
        self.build(max_connections=100, max_connections_per_address=2, readers="everyone")
        for _ in range(5):
            self.connection(REMOTE)
        response = self.connection(REMOTE).request("/page")
        self.assertIn("web.max_connections_per_address", response.json["error"])
        self.assertEqual(self.status("/page"), 200)
        self.assertEqual(len(self.site.connections), 3)

    def test_those_beyond_the_limits_make_room_for_one_another(self) -> None:
        self.build(max_connections=1)
        self.connection()
        late = [self.connection() for _ in range(100)]
        self.assertEqual(late[-1].request("/healthz").status, 200)
        self.assertTrue(late[0].closed)
        self.assertLess(sum(not connection.closed for connection in late), 40)
        self.clock.advance(6)
        self.assertTrue(all(connection.closed for connection in late))

    def test_a_bug_in_an_answer_is_counted_and_said_a_few_times(self) -> None:
        """Row 195: a traceback for each request filled the disk."""
        for _ in range(100):
            response = self.connection().request("/broken")
            self.assertEqual((response.status, response.json), (500, {"error": "internal error"}))
        self.assertEqual(self.traffic.internal_errors, 100)
        self.assertLess(len(self.flushLoggedErrors(ZeroDivisionError)), 10)
        self.complaints.stop()

    def test_a_host_that_is_no_name(self) -> None:
        """Row 195."""
        for host in (b"\xff", b"\xc3\xa9", b"[", b"a]b", b"[::1", b"x" * 5000):
            connection = self.connection()
            connection.send(b"GET /page HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            [response] = connection.responses()
            self.assertIn(response.status, (400, 421), host)
            self.assertIn("error", response.json)
        for name in (b"Origin", b"Upgrade", b"Connection", b"Accept", b"If-None-Match"):
            connection = self.connection()
            connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + name + b": \xff\xfe\r\n\r\n")
            [response] = connection.responses()
            self.assertIn(response.status, (200, 403), name)
        self.assertEqual(self.traffic.internal_errors, 0)
