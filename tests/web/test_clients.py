"""Clients over HTTP, of one daemon and of several workers, and an operator who ends a connection."""

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.packets import Properties, Publish
from platziverse.web.answers import Refusal
from platziverse.web.events import ALIVE, INTERVAL
from platziverse.web.settings import WebSettings
from platziverse.web.siblings import AGAIN, LONGEST, MOST, Hear, Refused, Siblings, UnixFetch
from platziverse.web.site import MOST_OPERATORS
from platziverse.web.traces import MAX_LINES
from platziverse.web.workers import BrokerPage
from tests.web.apicase import ApiCase
from tests.web.browser import REMOTE, Connection, Response
from tests.web.tables import REJECTED
from tests.web.test_streams import Client

KICK = "/api/clients/plug/kick"
TRACE = "/api/clients/plug/trace"


class ClientCase(ApiCase):
    def operator(self, path: str, method: str = "GET", **headers: str) -> Response:
        return Connection(self.site, operator=True).request(path, method, **headers)


class OneDaemonTests(ClientCase):
    def test_one_client_is_shown_with_its_will(self) -> None:
        self.harness.connect("a/b", clean_session=False, username="ann", will=Publish("gone", b"", 1))
        row = self.get("/api/clients/a%2Fb").json
        self.assertEqual((row["id"], row["user"], row["persistent"]), ("a/b", "ann", True))
        self.assertEqual(row["will"], {"topic": "gone", "qos": 1, "retain": False})
        self.assertNotIn("worker", row)
        self.harness.connect("plug")
        self.assertEqual(self.get("/api/clients/plug").json["will"], None)
        self.assertEqual(self.error("/api/clients/c"), (404, "Client not found with id c"))

    def test_the_version_is_shown_and_what_a_client_of_mqtt_5_has_asked_for(self) -> None:
        asked = Properties(
            session_expiry_interval=60,
            receive_maximum=7,
            maximum_packet_size=1000,
            topic_alias_maximum=3,
            authentication_data=None,
            user_properties=(("b", "1"), ("a", "2"), ("b", "3")),
        )
        self.harness.connect("five", protocol_level=5, properties=asked)
        row = self.get("/api/clients/five").json
        expected = {
            "sessionExpiryInterval": 60,
            "receiveMaximum": 7,
            "maximumPacketSize": 1000,
            "topicAliasMaximum": 3,
        }
        self.assertEqual((row["protocol"], row["properties"]), ("5", expected))
        pairs = [(pair["name"], pair["value"]) for pair in row["userProperties"]]
        self.assertEqual(pairs, [("b", "1"), ("a", "2"), ("b", "3")])
        self.harness.connect("plain", protocol_level=5)
        self.harness.connect("old", protocol_level=3)
        self.harness.connect("usual")
        rows = {row["id"]: row for row in self.get("/api/clients").json}
        found = {name: (row["protocol"], row["properties"]) for name, row in rows.items()}
        self.assertEqual(
            found,
            {"five": ("5", expected), "plain": ("5", {}), "old": ("3.1", None), "usual": ("3.1.1", None)},
        )
        self.assertNotIn("userProperties", rows["five"])
        self.assertEqual(self.get("/api/clients/usual").json["userProperties"], [])
        broker = self.get("/api/broker").json
        self.assertEqual(broker["clients"]["protocols"], {"3.1": 1, "3.1.1": 1, "5": 2})

    def test_an_operator_ends_a_connection_and_the_log_says_so(self) -> None:
        client = self.harness.connect("plug", clean_session=False)
        response = self.operator(KICK, "POST")
        self.assertEqual((response.status, response.json), (200, {"client": "plug", "kicked": True}))
        self.assertTrue(client.closed)
        self.assertIn("plug", [session.client_id for session in self.harness.broker.sessions])
        self.assertIn("An operator ends the connection of 127.0.0.1:40001 'plug'", self.said[-1])
        self.assertEqual(self.operator(KICK, "POST").status, 404)

    def test_daemons_on_other_machines_are_asked_and_named(self) -> None:
        self.store.others = ["daemon 3 on attic"]
        response = self.operator(KICK, "POST")
        self.assertEqual(response.status, 202)
        expected = {"client": "plug", "kicked": False, "asked": ["daemon 3 on attic"]}
        self.assertEqual(response.json, expected)
        request, argument = self.store.asked[-1]
        self.assertEqual((request, json.loads(argument)["client"]), ("end connection", "plug"))
        self.assertIn("wants the connection of 'plug' ended, which is not here", self.said[-1])
        self.store.away = True
        self.assertEqual(self.operator(KICK, "POST").status, 503)

    def test_nobody_else_may_and_another_method_does_nothing(self) -> None:
        """Row 489: a request that would change something, from whoever may only read."""
        client = self.harness.connect("plug")
        self.assertEqual(Connection(self.site).request(KICK, "POST").status, 403)
        for path, method, allowed in ((KICK, "GET", "POST"), (TRACE, "POST", "GET, HEAD")):
            for response in (
                self.operator(path, method),
                Connection(self.site).request(path, method),
            ):
                self.assertEqual((response.status, response.headers["allow"]), (405, allowed))
        self.assertEqual(Connection(self.site).request("/api/clients/plug", "DELETE").status, 405)
        self.assertEqual(self.operator("/api/clients/plug/other").status, 404)
        self.assertEqual(self.operator("/api/clients/%ff/trace").status, 400)
        self.assertFalse(client.closed)

    def test_operators_come_in_when_others_have_all_the_room(self) -> None:
        self.site.connections.update({Connection(self.site).channel: "" for _ in range(1000)})
        self.assertEqual(self.get("/api/clients").status, 503)
        self.assertEqual(self.operator("/api/clients").status, 200)
        kept = [Connection(self.site, operator=True) for _ in range(MOST_OPERATORS - 1)]
        self.assertIsNone(self.site.for_operator(REMOTE))
        kept[0].transport.loseConnection()
        self.assertIsNotNone(self.site.for_operator(REMOTE))


class NamedTests(ClientCase):
    settings = WebSettings(hosts=("broker.example",))

    def test_operators_need_not_know_what_the_daemon_is_called(self) -> None:
        self.assertEqual(self.get("/api/clients").status, 421)
        self.assertEqual(self.operator("/api/clients").status, 200)
        self.assertEqual(self.operator("/api/clients", Host="a, b@c").status, 400)

    def test_mqtt_is_not_spoken_to_them(self) -> None:
        self.site.websocket = Refusal(404, "it would be opened")
        self.site.resource.putChild(b"mqtt", self.site.websocket)
        response = self.operator("/mqtt", Upgrade="websocket")
        self.assertEqual((response.status, response.json["error"]), (403, "MQTT is not spoken here"))


class ReplayTests(ClientCase):
    def test_an_operator_stores_a_rejected_message_again(self) -> None:
        response = self.operator("/api/rejected/8/replay", "POST")
        self.assertEqual((response.status, response.json), (200, {"id": 8, "metricsAdded": 2}))
        self.assertEqual(self.store.asked[-1], ("replay", 8, "An operator"))
        self.assertEqual(Connection(self.site).request("/api/rejected/8/replay", "POST").status, 403)

    def test_what_cannot_be_stored_says_why(self) -> None:
        """Row 495: once more, of a number there is not, or that is none."""
        self.store.in_vain = True
        response = self.operator("/api/rejected/8/replay", "POST")
        self.assertEqual((response.status, response.json), (409, {"error": "JSON is malformed"}))
        for number in ("7", "x", "9" * 20):
            self.assertEqual(self.operator(f"/api/rejected/{number}/replay", "POST").status, 404)
        with mock.patch.dict(REJECTED[0], replayed=1):
            response = self.operator("/api/rejected/9/replay", "POST")
        self.assertEqual((response.status, response.json["error"]), (409, "it was replayed before"))
        self.store.away = True
        self.assertEqual(self.operator("/api/rejected/8/replay", "POST").status, 503)

    def test_a_reader_is_told_what_it_may(self) -> None:
        self.assertEqual(self.get("/api/reader").json, {"user": None, "mayChange": False, "admins": False})
        self.assertTrue(self.operator("/api/reader").json["mayChange"])


class TraceTests(ClientCase):
    settings = WebSettings(max_streams=2)

    def trace(self) -> Client:
        return Client(self.site, operator=True).ask(TRACE)

    def test_packets_are_told_as_they_come_and_go(self) -> None:
        stream = self.trace()
        client = self.harness.connect("plug")
        client.publish("x", b"12")
        self.clock.advance(INTERVAL)
        first, *packets = stream.events()
        self.assertEqual(first, ("trace", {"client": "plug", "connected": False}))
        self.assertEqual({event for event, _ in packets}, {"packet"})
        self.assertEqual(
            packets[-1][1]["text"], "from 127.0.0.1:40001 'plug': PUBLISH to 'x', QoS 0, 2 bytes"
        )
        self.assertIn("An operator traces 'plug'", self.said)
        again = self.trace()
        self.assertTrue(again.events()[0][1]["connected"])

    def test_it_ends_with_the_connection_of_who_reads(self) -> None:
        stream = self.trace()
        stream.transport.loseConnection()
        self.assertEqual(self.harness.shared.heard, {})
        self.assertEqual(Client(self.site, operator=True).ask(TRACE, "HEAD").body(), (b"", False))
        self.assertEqual(self.harness.shared.heard, {})
        stream = self.trace()
        self.traces.stop()
        self.assertEqual(self.harness.shared.heard, {})
        self.assertTrue(stream.body()[1])

    def test_nothing_runs_on_when_it_has_ended(self) -> None:
        before = len(self.clock.getDelayedCalls())
        for _ in range(3):
            self.trace().transport.loseConnection()
        self.clock.advance(0)
        self.assertLessEqual(len(self.clock.getDelayedCalls()), before + 1)

    def test_a_reader_that_is_slow_is_told_how_much_it_has_missed(self) -> None:
        """Row 490: a trace of a client that sends more than its reader takes."""
        stream = self.trace()
        client = self.harness.connect("plug")
        stream.channel.pauseProducing()
        for _ in range(2 * MAX_LINES):
            client.publish("x")
            self.clock.advance(0)
        self.clock.advance(INTERVAL)
        stream.channel.resumeProducing()
        self.clock.advance(INTERVAL)
        events = stream.events()
        self.assertEqual(len(events), 1 + MAX_LINES + 1)
        self.assertGreaterEqual(events[-1][1]["events"], MAX_LINES)
        self.clock.pump([INTERVAL] * int(ALIVE / INTERVAL))
        self.assertEqual(stream.body()[0], b":\n\n")

    def test_there_are_so_many_at_a_time(self) -> None:
        """Row 491"""
        kept = [self.trace() for _ in range(2)]
        response = self.operator(TRACE)
        self.assertEqual(response.status, 503)
        self.assertIn("web.max_streams", response.json["error"])
        self.assertEqual(len(self.harness.shared.heard["plug"]), len(kept))


class WorkersCase(ClientCase):
    """The second of three workers; the third does not answer."""

    def make_siblings(self) -> Siblings:
        self.other = ApiCase()
        self.other.setUp()
        self.addCleanup(self.other.doCleanups)
        one = self.other.siblings
        one.number, one.others = 1, []
        self.followed: dict[int, tuple[str, str, Hear]] = {}
        return Siblings(2, [1, 3], self.fetch, self.follow)

    def fetch(self, number: int, method: bytes, path: str, by: str) -> "Deferred[bytes]":
        if number == 3:
            return fail(ConnectError())
        connection = Connection(self.other.site, operator=True)
        response = connection.request(path, method.decode(), Platziverse_By=by)
        return succeed(response.body) if response.status == 200 else fail(Refused(response.status))

    def follow(self, number: int, path: str, by: str, hear: Hear) -> Callable[[], None]:
        self.followed[number] = path, by, hear

        def end() -> None:
            del self.followed[number]

        return end

    def test_a_trace_has_the_packets_of_all(self) -> None:
        self.other.harness.connect("plug")
        stream = Client(self.site, operator=True).ask(TRACE)
        self.assertEqual(stream.events(), [("trace", {"client": "plug", "connected": True, "worker": 2})])
        self.assertEqual(list(self.followed), [1, 3])
        path, by, hear = self.followed[1]
        self.assertEqual((path, by), (f"{TRACE}?worker=own", "An operator"))
        now = int(self.harness.now() * 1000)
        hear("trace", {"client": "plug", "connected": True})
        hear("packet", {"time": now + 1, "text": "later"})
        hear("packet", {"time": now - 1, "text": "before"})
        hear("dropped", {"events": 3})
        self.harness.connect("plug")
        self.clock.advance(INTERVAL)
        *packets, (name, dropped) = stream.events()
        texts = [data["text"] for _, data in packets]
        self.assertEqual((texts[0], texts[-1], name, dropped), ("before", "later", "dropped", {"events": 3}))
        self.assertGreater(len(texts), 2)
        for _ in range(MAX_LINES + 1):
            hear("packet", {"time": now, "text": "x"})
        self.clock.advance(INTERVAL)
        self.assertEqual(stream.events()[-1], ("dropped", {"events": 1}))
        stream.transport.loseConnection()
        self.assertEqual(self.followed, {})

    def test_a_trace_of_one_worker_asks_no_other(self) -> None:
        stream = Client(self.site, operator=True).ask(f"{TRACE}?worker=own")
        self.assertEqual(stream.events(), [("trace", {"client": "plug", "connected": False, "worker": 2})])
        self.assertEqual(self.followed, {})

    def test_clients_of_all_are_in_one_list_in_pages(self) -> None:
        for number in range(3):
            self.harness.connect(f"a{number}")
            self.other.harness.connect(f"b{number}")
        rows = self.get("/api/clients").json
        found = [(row["id"], row["worker"]) for row in rows]
        self.assertEqual(found, [("b0", 1), ("a0", 2), ("b1", 1), ("a1", 2), ("b2", 1), ("a2", 2)])
        names, path = [], "/api/clients?limit=4"
        while path:
            response = self.get(path)
            names += [row["id"] for row in response.json]
            link = response.headers.get("link", "")
            path = link.partition("<")[2].partition(">")[0]
        self.assertEqual(names, [name for name, _ in found])
        self.assertEqual(rows[0]["number"] % MOST, 1)
        own = self.get("/api/clients?worker=own").json
        self.assertEqual({row["worker"] for row in own}, {2})
        self.assertEqual(self.error("/api/clients?worker=1"), (400, "worker must be own"))
        self.assertIn("worker 3 does not answer", "\n".join(self.said))

    def test_one_of_another_is_shown_and_kicked_there_with_who_it_was(self) -> None:
        client = self.other.harness.connect("plug")
        self.assertEqual(self.get("/api/clients/plug").json["worker"], 1)
        self.assertEqual(self.get("/api/clients/plug?worker=own").status, 404)
        self.assertEqual(self.operator(f"{KICK}?worker=own", "POST").status, 404)
        response = self.operator(KICK, "POST")
        self.assertEqual(response.json, {"client": "plug", "kicked": True, "worker": 1})
        self.assertTrue(client.closed)
        self.assertIn("An operator ends the connection of", "\n".join(self.said))
        self.assertEqual(self.operator(KICK, "POST").status, 404)
        self.assertEqual(self.get("/api/clients/plug").status, 404)

    def test_sessions_are_as_the_worker_knows_them_that_has_them(self) -> None:
        self.other.harness.connect("plug", clean_session=False)
        known, unknown = self.get("/api/sessions").json
        self.assertEqual((known["connected"], known["worker"]), (True, 1))
        self.assertNotIn("worker", unknown)
        own, _ = self.get("/api/sessions?worker=own").json
        self.assertFalse(own["connected"])

    def test_how_the_broker_is_adds_up(self) -> None:
        self.harness.connect("a")
        for number in range(2):
            self.other.harness.connect(f"b{number}").publish("x")
        page = self.get("/api/broker").json
        self.assertEqual((page["workers"], page["clients"]["connected"], page["version"]), (2, 3, "1.2"))
        self.assertEqual(page["totals"]["messagesReceived"], 2)
        self.assertEqual(page["latency"]["puback"], {"p50": None, "p99": None})
        own = self.get("/api/broker?worker=own").json
        self.assertEqual((own["worker"], own["clients"]["connected"]), (2, 1))

    def test_event_streams_tell_of_all_too(self) -> None:
        self.other.harness.connect("b")
        stream = Client(self.site).ask("/api/events")
        for _ in range(12):
            self.clock.advance(INTERVAL)
        told = [data for event, data in stream.events() if event == "broker"]
        self.assertEqual((told[-1]["workers"], told[-1]["clients"]["connected"]), (2, 1))


class JoinTests(SynchronousTestCase):
    def joined(self, *pages: Any) -> Any:
        """How several workers are together, as the first of them tells it."""
        siblings: Any = mock.Mock(number=1)
        siblings.ask.side_effect = lambda path: succeed(list(pages[1:]))
        page = BrokerPage(lambda: {"version": "1", **pages[0]}, siblings)
        page.page()
        return page.page()

    def test_the_worst_counts_where_a_sum_says_nothing(self) -> None:
        first = {"database": {"state": "ready", "clockDifference": 0.1}, "latency": {"p99": None}}
        second = {"database": {"state": "away: x", "clockDifference": -0.2}, "latency": {"p99": 0.5}}
        found = self.joined(first, second | {"worker": 2})
        self.assertEqual(found["database"], {"state": "away: x", "clockDifference": -0.2})
        self.assertEqual((found["latency"]["p99"], found["workers"]), (0.5, 2))

    def test_handlers_of_one_name_are_one(self) -> None:
        rows = [{"name": name, "calls": 1, "seconds": 0.5} for name in ("a", "b")]
        found = self.joined({"handlers": rows}, {"handlers": rows[:1]})
        self.assertEqual(
            found["handlers"],
            [{"name": "a", "calls": 2, "seconds": 1.0}, {"name": "b", "calls": 1, "seconds": 0.5}],
        )


class FollowTests(SynchronousTestCase):
    """A stream of another worker, over its socket."""

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.heard: list[tuple[str, Any]] = []
        fetch = UnixFetch(self.reactor, lambda number: f"/state/{number}/http")
        self.end = fetch.follow(3, "/api/x?worker=own", "Ann", lambda *event: self.heard.append(event))

    def connect(self) -> tuple[Any, StringTransportWithDisconnection]:
        path, factory, *_ = self.reactor.unixClients[-1]
        self.assertEqual(path, "/state/3/http")
        protocol, transport = factory.buildProtocol(None), StringTransportWithDisconnection()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.assertIn(b"GET /api/x?worker=own HTTP/1.1\r\n", transport.value())
        self.assertIn(b"Platziverse-By: Ann\r\n", transport.value())
        return protocol, transport

    def test_events_are_told_as_they_come(self) -> None:
        protocol, transport = self.connect()
        protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\nevent: trace\ndata: {}\n\nevent: pac")
        self.assertEqual(self.heard, [("trace", {})])
        protocol.dataReceived(b'ket\ndata: {"text": "x"}\n\n:\n\nevent: y\ndata: {\n\nevent: z\ndata: 1\n\n')
        self.assertEqual(self.heard[1:], [("packet", {"text": "x"}), ("z", 1)])
        self.end()
        self.assertFalse(transport.connected)
        self.reactor.advance(2 * AGAIN)
        self.assertEqual(len(self.reactor.unixClients), 1)

    def test_one_that_ends_or_is_refused_is_asked_for_again(self) -> None:
        protocol, transport = self.connect()
        protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\nevent: x")
        transport.loseConnection()
        self.reactor.advance(AGAIN)
        protocol, transport = self.connect()
        protocol.dataReceived(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n")
        self.reactor.advance(AGAIN)
        self.assertEqual((len(self.reactor.unixClients), self.heard), (3, []))
        self.end()  # before there is an answer
        self.reactor.advance(2 * AGAIN)
        self.assertEqual(len(self.reactor.unixClients), 3)

    def test_it_can_end_between_two_attempts(self) -> None:
        _, transport = self.connect()
        transport.loseConnection()
        self.end()
        self.reactor.advance(2 * AGAIN)
        self.assertEqual(len(self.reactor.unixClients), 1)

    def test_an_event_without_an_end_is_not_kept(self) -> None:
        protocol, transport = self.connect()
        protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\ndata: " + b"x" * (LONGEST + 1))
        self.assertFalse(transport.connected)
