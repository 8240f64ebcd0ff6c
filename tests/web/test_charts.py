"""``/api/series``, ``/api/latest`` and ``/api/rejected``, over a store in memory."""

from hypothesis import given
from hypothesis import strategies as st

from platziverse.web.charts import MAX_POINTS, STEPS
from platziverse.web.interfaces import Range
from tests.web.apicase import NOW, ApiCase
from tests.web.tables import NEWEST, PROPERTIES, REJECTED

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
#: Milliseconds since the epoch; the last whole minute before NOW.
AT = int(NOW * 1000) // MINUTE * MINUTE


class SeriesTests(ApiCase):
    def asked(self, query: str) -> Range:
        """What the store was asked for a query."""
        response = self.get(f"/api/series?agent=yyy&type=temp&{query}")
        self.assertEqual(response.status, 200, response.body)
        asked: Range = self.store.asked[-1][2]
        return asked

    def test_the_answer_is_that_of_the_design(self) -> None:
        response = self.get(
            f"/api/series?agent=yyy&type=temp&from={AT - HOUR}&to={AT}&step=60000&agg=avg,last"
        )
        self.assertEqual(
            response.json,
            {
                "from": AT - HOUR,
                "to": AT,
                "step": MINUTE,
                "source": "raw",
                "series": [
                    {
                        "agent": "yyy",
                        "type": "temp",
                        "unit": "°C",
                        "columns": ["time", "avg", "last"],
                        "points": [[AT - HOUR, 1.5]],
                    }
                ],
            },
        )

    def test_the_last_hour_is_asked_for_in_up_to_500_steps(self) -> None:
        asked = self.asked("")
        self.assertEqual((asked.step, asked.source), (10_000, "raw"))
        self.assertEqual((asked.since, asked.until), (AT - HOUR, AT + 10_000))
        self.assertEqual(asked.now, int(NOW * 1000))
        self.assertEqual(asked.aggregates, ("avg", "min", "max"))
        earlier = self.asked(f"to={AT - DAY}")
        self.assertEqual((earlier.since, earlier.until), (AT - DAY - HOUR, AT - DAY))

    def test_a_step_is_one_of_those_that_clocks_have_and_chooses_what_answers(self) -> None:
        for query, step, source in (
            (f"from={AT - HOUR}", 10_000, "raw"),
            (f"from={AT - DAY}", 5 * MINUTE, "5m"),
            (f"from={AT - DAY}&points=2000", MINUTE, "raw"),
            (f"from={AT - 7 * DAY}", 30 * MINUTE, "5m"),
            (f"from={AT - 365 * DAY}", DAY, "1h"),
            (f"from={AT - HOUR}&step=1", 10_000, "raw"),
            (f"from={AT - HOUR}&step=61000", 2 * MINUTE, "raw"),
            (f"from={AT - HOUR}&step={DAY}", DAY, "1h"),
            (f"from={AT - 1999 * DAY}&points=2000", DAY, "1h"),
        ):
            asked = self.asked(f"{query}&to={AT}")
            self.assertEqual((asked.step, asked.source), (step, source), query)
            self.assertLessEqual(asked.since, AT - HOUR)
            self.assertGreaterEqual(asked.until, AT)

    @given(st.integers(0, AT), st.integers(1, 2000 * DAY), st.integers(0, DAY), st.integers(1, MAX_POINTS))
    def test_no_range_has_more_points_than_wanted(
        self, since: int, length: int, step: int, points: int
    ) -> None:
        response = self.get(
            f"/api/series?agent=yyy&type=temp&from={since}&to={since + length}&step={step}&points={points}"
        )
        if response.status == 200 and step:
            found = response.json
            self.assertIn(found["step"], STEPS)
            self.assertGreaterEqual(found["step"], step)
            self.assertLessEqual((found["to"] - found["from"]) // found["step"], points)
            self.assertLessEqual(found["from"], since)
            self.assertGreaterEqual(found["to"], since + length)

    def test_ranges_that_make_no_sense_are_told_what_would(self) -> None:
        """row 467"""
        for query, error in (
            (f"from={AT}&to={AT - 1}", "from must be before to"),
            (f"from={AT}&to={AT}", "from must be before to"),
            ("from=2099-01-01T00:00:00Z", "from must be before to"),
            ("from=1926-01-01T00:00:00Z", "from must be a time since 1970"),
            (
                "from=1970-01-01T00:00:00Z&to=2070-01-01T00:00:00Z",
                "from and to must be 2000 days apart at most",
            ),
            (f"from={AT - 900 * DAY}&to={AT}", "points must be 901 or more, a step is a day at most"),
            (
                "from=yesterday",
                "from must be a time like 2026-11-24T04:07:00Z or milliseconds since the epoch",
            ),
            (f"step={DAY + 1}", "step must be a number from 0 to 86400000"),
            ("points=2001", "points must be a number from 1 to 2000"),
            ("points=0", "points must be a number from 1 to 2000"),
            ("agg=median", "agg must be some of avg,min,max,last,count"),
            ("agg=avg,avg", "agg must be some of avg,min,max,last,count"),
            ("agg=", "agg must be some of avg,min,max,last,count"),
            ("limit=5", "limit is for step=0; points says how many steps there may be"),
            ("step=0&limit=1001", "limit must be a number from 1 to 1000"),
        ):
            self.assertEqual(self.error(f"/api/series?agent=yyy&type=temp&{query}"), (400, error), query)
        self.assertEqual(self.store.asked, [])

    def test_rows_come_as_they_are_with_step_0(self) -> None:
        asked = self.asked(f"step=0&from={AT + 7}&limit=9&to={AT + 8}")
        self.assertEqual((asked.since, asked.until, asked.step, asked.limit), (AT + 7, AT + 8, 0, 9))
        response = self.get("/api/series?agent=yyy&type=temp&step=0")
        self.assertEqual(response.json["series"][0]["columns"], ["time", "value"])

    def test_what_is_not_there_is_named(self) -> None:
        """row 468"""
        for query, error in (
            ("agent=nobody&type=temp", "Agent not found with uuid nobody"),
            ("agent=yyy&agent=nobody", "Agent not found with uuid nobody"),
            ("agent=yyy&type=x", "Metrics (x) not found for agent with uuid yyy"),
            ("agent=" + "x" * 256, "Agent not found with uuid " + "x" * 256),
            ("agent=yyy&type=", "Metrics () not found"),
        ):
            self.assertEqual(self.error(f"/api/series?{query}"), (404, error), query)
        self.assertEqual(self.error("/api/series?type=temp"), (400, "agent must be the uuid of an agent"))

    def test_a_thousand_types_are_too_many(self) -> None:
        """row 469"""
        many = "".join(f"&type=t{number}" for number in range(1000))
        self.assertEqual(
            self.error(f"/api/series?agent=yyy{many}"), (400, "type may be given 20 times at most")
        )
        twenty = "".join(f"&type=t{number}" for number in range(20))
        expected = (400, "agents times types must be 20 at most")
        self.assertEqual(self.error(f"/api/series?agent=yyy&agent=z{twenty}"), expected)
        self.assertEqual(self.store.asked, [])
        self.store.types_of = [f"t{number}" for number in range(21)]
        expected = (400, "these agents have more than 20 series; name a type")
        self.assertEqual(self.error("/api/series?agent=yyy"), expected)

    def test_an_agent_without_metrics_has_no_series(self) -> None:
        self.store.types_of = [None]  # type: ignore[list-item]
        self.assertEqual(self.get("/api/series?agent=yyy").json["series"], [])

    def test_names_that_are_given_twice_count_once(self) -> None:
        self.get("/api/series?agent=yyy&agent=yyy&type=temp&type=temp")
        self.assertEqual(self.store.asked[0][:2], (["yyy"], ["temp"]))


class LatestTests(ApiCase):
    def test_each_row_has_the_newest_value_a_number_if_it_is_one(self) -> None:
        page = self.get("/api/latest").json
        number, text = page["rows"]
        expected = {name: value for name, value in NEWEST.items() if name not in ("id", "number")}
        self.assertEqual(number, {**expected, "value": 33.0, "spark": [1.5, None]})
        self.assertEqual((text["value"], text["spark"]), ("on", None))
        self.assertIsNone(page["next"])

    def test_pages_go_on_where_the_one_before_has_ended(self) -> None:
        page = self.get("/api/latest?limit=1&connected=true&username=platzi&agent=yyy").json
        self.assertEqual(self.store.asked, [(["yyy"], "platzi", True, 0, "", 1)])
        following = self.get(f"/api/latest?limit=1&after={page['next']}").json
        self.assertEqual(self.store.asked[-1], ([], None, None, 1, "temp", 1))
        self.assertEqual([row["type"] for row in following["rows"]], ["text"])
        last = self.get(f"/api/latest?limit=1&after={following['next']}").json
        self.assertEqual(last, {"rows": [], "next": None})

    def test_what_is_no_next_is_an_error(self) -> None:
        for after in ("", "x", "MQ==", "MS8A", "////", "%C3%B1", "OTk5OTk5OTk5OTk5L3g="):
            status, error = self.error(f"/api/latest?after={after}")
            self.assertEqual((status, error), (400, "after must be the next of the page before"), after)
        self.assertEqual(self.error("/api/latest?connected=maybe")[0], 400)
        self.assertEqual(self.error("/api/latest?agent=" + "x" * 256)[0], 404)


class RejectedTests(ApiCase):
    def test_they_come_newest_first_in_pages(self) -> None:
        page = self.get("/api/rejected?limit=2").json
        self.assertEqual(page, {"rows": REJECTED[:2], "next": "8"})
        self.assertEqual(self.get("/api/rejected?before=8").json, {"rows": REJECTED[2:], "next": None})
        self.assertEqual(self.store.asked, [(None, 2), (8, 100)])
        for query in ("before=x", "before=-1", "limit=0", "after=1"):
            self.assertEqual(self.error(f"/api/rejected?{query}")[0], 400, query)

    def test_one_comes_with_its_payload_and_as_text_if_it_is(self) -> None:
        self.store.payload = '{"ñ": "\0"'.encode()
        row = self.get("/api/rejected/8").json
        payload = {"payload": "eyLDsSI6ICIAIg==", "text": '{"ñ": "\0"', "properties": PROPERTIES}
        self.assertEqual(row, {**REJECTED[1], **payload})
        self.store.payload = b"\xff"
        self.assertEqual(self.get("/api/rejected/8").json["text"], None)
        for number in ("1", "x", "99999999999999999999", "-1"):
            missing = f"Rejected message not found with id {number}"
            self.assertEqual(self.error(f"/api/rejected/{number}"), (404, missing))


class OverviewTests(ApiCase):
    def test_rates_and_latencies_are_of_the_last_ten_seconds(self) -> None:
        self.overview.start()
        client = self.harness.connect("one")
        for second in range(20):
            self.observations.ack(1.7 if second < 9 else 0.004, 99)
            self.observations.ack(100.0, 1)
            for _ in range(3):
                client.publish("t", b"12345")
            self.clock.advance(1)
        page = self.get("/api/broker").json
        self.assertEqual((page["time"], page["uptime"], page["version"]), (int((NOW + 20) * 1000), 20, "1.2"))
        self.assertEqual((page["totals"]["messagesReceived"], page["rates"]["messagesReceived"]), (60, 3))
        self.assertEqual(page["latency"]["puback"], {"p50": 0.005, "p99": 0.005})
        self.assertEqual(page["latency"]["commit"], {"p50": None, "p99": None})
        self.assertEqual((page["clients"]["connected"], page["clients"]["daemons"]), (1, 3))
        self.assertEqual(page["database"], {"state": "ready", "clockDifference": None})
        self.overview.stop()
        self.assertEqual(self.error("/api/broker?x=1"), (400, "unknown parameter x"))

    def test_before_it_has_looked_there_are_no_rates(self) -> None:
        page = self.get("/api/broker").json
        self.assertEqual((page["rates"]["bytesSent"], page["latency"]["turn"]["p99"]), (0, None))

    def test_what_exceeds_all_bounds_has_the_highest(self) -> None:
        before = self.observations.ack_seconds.counts
        self.observations.ack(100.0, 1)
        self.assertEqual(self.observations.ack_seconds.quantile(0.5, before), 30.0)
