"""The JSON API, over a store in memory."""

from datetime import datetime, timedelta, timezone
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from tests.web.apicase import ApiCase
from tests.web.browser import Connection
from tests.web.tables import AGENT, METRIC, SESSION


class ApiTests(ApiCase):
    def test_the_four_paths_of_the_original_answer(self) -> None:
        expected = {
            "/api/agents": [AGENT],
            "/api/agents?username=nobody": [],
            "/api/agent/yyy": AGENT,
            "/api/metrics/yyy": [{"type": "temp"}],
            "/api/metrics/yyy/temp": [METRIC],
        }
        for path, body in expected.items():
            response = self.get(path)
            self.assertEqual((response.status, response.json), (200, body), path)
            self.assertEqual(response.headers["content-type"], "application/json; charset=utf-8")

    def test_daemons_are_those_of_the_table(self) -> None:
        self.assertEqual(self.get("/api/daemons").json, [{"number": 1, "state": "alive"}])
        self.assertEqual(self.get("/api/daemons?after=1").json, [])
        link = self.get("/api/daemons?limit=1").headers["link"]
        self.assertEqual(link, '</api/daemons?limit=1&after=1>; rel="next"')

    def test_sessions_are_those_of_the_tables_with_what_the_broker_knows(self) -> None:
        client = self.harness.connect("plug", clean_session=False)
        client.subscribe("home/+", 1)
        client.lose()
        self.harness.connect("sender").publish("home/lamp", b"on", 1, 1)
        response = self.get("/api/sessions?limit=2&after=a")
        self.assertEqual(self.store.asked, [("a", 2)])
        known, unknown = response.json
        self.assertEqual(
            known,
            {
                "client": "plug",
                "user": "ana",
                "connected": False,
                "absentSince": None,
                "since": SESSION["createdAt"],
                "subscriptions": [{"filter": "home/+", "qos": 1}],
                "subscriptionCount": 1,
                "messages": 1,
                "bytes": 2 + len("home/lamp") + len("on"),  # a length, as on the wire
                "oldest": SESSION["oldest"],
                "dropped": 0,
            },
        )
        self.assertEqual((unknown["messages"], unknown["connected"]), (0, False))
        self.assertEqual(response.headers["link"], '</api/sessions?limit=2&after=unknown>; rel="next"')
        self.store.away = True
        self.assertEqual(self.error("/api/sessions")[0], 503)

    def test_what_is_not_there_is_told_as_the_original_told_it(self) -> None:
        self.assertEqual(self.error("/api/agent/x"), (404, "Agent not found with uuid x"))
        self.assertEqual(self.error("/api/metrics/x"), (404, "Metrics not found for agent with uuid x"))
        self.assertEqual(
            self.error("/api/metrics/yyy/x"), (404, "Metrics (x) not found for agent with uuid yyy")
        )

    def test_other_paths_are_not_there(self) -> None:
        for path in ("/api", "/api/", "/api/agent", "/api/agents/x", "/api/metrics/a/b/c", "/api/metrics"):
            self.assertEqual(self.error(path), (404, "not found"), path)

    def test_texts_arrive_as_they_are(self) -> None:
        """row 97"""
        for quoted, text in (("%27%3B%20drop", "'; drop"), ("a%2Fb", "a/b"), ("%25s", "%s"), ("%C3%B1", "ñ")):
            self.get(f"/api/metrics/{quoted}/{quoted}")
            self.assertEqual(self.store.asked[-1][:2], (text, text))

    def test_what_cannot_be_in_the_tables_is_not_asked(self) -> None:
        """row 96"""
        self.assertEqual(self.error("/api/agent/%00")[0], 400)
        self.assertEqual(self.error("/api/agent/%ff")[0], 400)
        self.assertEqual(self.error("/api/agents?username=%00")[0], 400)
        self.assertEqual(self.error("/api/agent/" + "x" * 256)[0], 404)
        self.assertEqual(self.error("/api/agent/")[0], 404)
        self.assertEqual(self.error("/api/metrics/yyy/")[0], 404)
        self.assertEqual(self.store.asked, [])

    def test_a_window_and_a_limit_can_be_asked_for(self) -> None:
        self.get("/api/metrics/yyy/temp?from=2026-11-24T04:07:00Z&to=1795493280000&limit=5")
        since = datetime(2026, 11, 24, 4, 7, tzinfo=timezone.utc)
        until = datetime.fromtimestamp(1_795_493_280, timezone.utc)
        self.assertEqual(self.store.asked, [("yyy", "temp", since, until, 5)])
        self.get("/api/metrics/yyy/temp")
        self.assertEqual(self.store.asked[1], ("yyy", "temp", None, None, 20))

    def test_a_query_without_sense_is_an_error(self) -> None:
        queries = (
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "limit=1.5",
            "limit=1&limit=2",
            "x=1",
            "from=now",
        )
        for query in (
            *queries,
            "to=2026-13-01T00:00:00Z",
            "from=2026-11-24",
            "limit=%D9%A1",
            "from=" + "9" * 15,
        ):
            self.assertEqual(self.error(f"/api/metrics/yyy/temp?{query}")[0], 400, query)
        self.assertEqual(self.error("/api/agents?from=1"), (400, "unknown parameter from"))
        for query in ("limit=0", "limit=1001", "after=-1", "after=x", "after=", "connected=yes"):
            self.assertEqual(self.error(f"/api/agents?{query}")[0], 400, query)

    def test_lists_have_pages(self) -> None:
        """Row 181: a fleet in one answer held the reactor for half a second."""
        for number in range(5):
            self.harness.connect(f"client-{number}")
        names, path = [], "/api/clients?limit=2"
        for _ in range(3):
            response = self.get(path)
            names += [row["id"] for row in response.json]
            path = response.headers.get("link", "").partition(">")[0].lstrip("<")
        self.assertEqual((names, path), ([f"client-{number}" for number in range(5)], ""))
        response = self.get("/api/agents?limit=1&connected=all")
        self.assertEqual(response.headers["link"], '</api/agents?limit=1&connected=all&after=1>; rel="next"')
        self.assertEqual(self.get("/api/agents?limit=1&connected=all&after=1").json, [])
        self.assertEqual(self.store.asked[-1], (None, None, 1, 1))
        self.assertEqual(self.get("/api/agents?connected=false").json, [])

    @given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))
    def test_any_time_is_understood(self, moment: datetime, offset: int) -> None:
        moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
        text = moment.isoformat()
        for sent in (quote(text), text):  # a plus that was not quoted becomes a blank
            self.get(f"/api/metrics/yyy/temp?from={sent}")
            self.assertEqual(self.store.asked[-1][2], moment)

    @given(st.text(max_size=40))
    def test_any_text_is_a_time_or_an_error(self, text: str) -> None:
        self.assertIn(self.get(f"/api/metrics/yyy/temp?from={quote(text)}").status, (200, 400))

    def test_a_database_away_is_told(self) -> None:
        self.store.away = True
        for path in ("/api/agents", "/api/agent/yyy", "/api/metrics/yyy", "/api/metrics/yyy/temp"):
            response = self.get(path)
            self.assertEqual((response.status, response.headers["retry-after"]), (503, "5"))
            self.assertEqual(response.json, {"error": "the database is away: refused"})

    def test_connected_clients_are_listed(self) -> None:
        client = self.harness.connect("one", clean_session=False, username="ann")
        client.subscribe("a/#", 1)
        self.harness.connect("gone", clean_session=False).lose()
        [row] = self.get("/api/clients").json
        self.assertEqual((row["id"], row["queue"]), ("one", 0))
        self.assertEqual(row["subscriptions"], [{"filter": "a/#", "qos": 1}])
        self.assertEqual(row["since"], "2026-11-24T04:08:05.500Z")
        self.assertIn("127.0.0.1", row["address"])

    def test_the_document_describes_every_path(self) -> None:
        document = self.get("/api/openapi.json").json
        self.assertEqual(len(document["paths"]), len(self.api.paths))
        for path, operations in document["paths"].items():
            self.harness.connect("8")
            concrete = path.replace("{uuid}", "yyy").replace("{type}", "temp").replace("{id}", "8")
            query = "?agent=yyy" if path == "/api/series" else ""
            [method] = operations
            method = (
                "HEAD" if "text/event-stream" in str(operations) or path == "/api/export" else method.upper()
            )
            operator = Connection(self.site, operator=True)
            self.assertEqual(operator.request(concrete + query, method).status, 200, path)
