"""Numbers over time, and the newest values, from a real server."""

import json
import re
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import psycopg2
from attrs import evolve
from twisted.internet.defer import inlineCallbacks

from platziverse.postgres.series import of_range
from platziverse.web.interfaces import Export, Range
from tests.postgres.test_reader import NOON, ReaderCase, Steps

NUMBER = """INSERT INTO metrics (type, value, number, "createdAt", "updatedAt", "agentId")
    SELECT %s, number::text, number, %s::timestamptz + n * interval '1 ms' * %s, now(), %s
    FROM unnest(%s::float8[]) WITH ORDINALITY AS given (number, n) RETURNING 1"""
SERIES = """INSERT INTO series ("agentId", type, unit) VALUES (%s, %s, %s)
    ON CONFLICT ("agentId", type) DO UPDATE SET unit = excluded.unit RETURNING 1"""
#: Milliseconds since the epoch.
START = int(NOON.timestamp() * 1000)
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class SeriesCase(ReaderCase):
    def numbers(
        self, agent: int, type: str, *numbers: float, since: datetime = NOON, every: int = 10_000
    ) -> None:
        """Store numbers, the first of them ``every`` ms before ``since`` has got one step older."""
        self.execute(NUMBER, type, since - timedelta(milliseconds=every), every, agent, list(numbers))

    def describe(self, agent: int, type: str, unit: str | None = None) -> None:
        self.execute(SERIES, agent, type, unit)

    def roll_up(self) -> None:
        """Make all roll-ups of what there is."""
        self.execute(
            """INSERT INTO metrics_marks (bucket)
            SELECT DISTINCT platziverse_bucket("createdAt") FROM metrics RETURNING 1"""
        )
        self.execute("SELECT platziverse_roll_up('infinity', 1000000)")

    def range(self, minutes: int, step: int = MINUTE, **more: Any) -> Range:
        return Range(START, START + minutes * MINUTE, step, **{"aggregates": ("avg", "min", "max"), **more})


class SeriesTests(SeriesCase):
    @inlineCallbacks
    def test_each_step_has_its_aggregates_and_one_without_rows_has_none(self) -> Steps:
        agent = self.agent("a")
        self.numbers(agent, "temp", 1, 2, 3, 4, 5, 6, 10)
        self.describe(agent, "temp", "°C")
        aggregates = ("avg", "min", "max", "last", "count")
        [row] = yield self.reader.series(["a"], ["temp"], self.range(3, aggregates=aggregates))
        self.assertEqual((row["agent"], row["id"], row["type"], row["unit"]), ("a", agent, "temp", "°C"))
        self.assertEqual(
            json.loads(row["points"]),
            [
                [START, 3.5, 1, 6, 6, 6],
                [START + MINUTE, 10, 10, 10, 10, 1],
                [START + 2 * MINUTE, None, None, None, None, 0],
            ],
        )

    def test_a_chart_of_rows_reads_the_index_alone_where_vacuum_has_been(self) -> None:
        agent = self.agent("a")
        self.numbers(agent, "temp", *range(1000), every=100)
        with closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("CHECKPOINT")  # vacuum believes in no commit before its WAL is written
            cursor.execute("VACUUM metrics")
            sql, values = of_range(["a"], ["temp"], self.range(3))
            settings, beginning, rest = sql.partition("WITH agent")
            cursor.execute(f"BEGIN; {settings}EXPLAIN (ANALYZE, COSTS OFF) {beginning}{rest}", values)
            plan = "\n".join(row[0] for row in cursor.fetchall())
        found = re.search(r"Index Only Scan using \S+ on metrics_\S+ .*rows=1000\b", plan)
        assert found is not None, plan
        self.assertRegex(plan[found.end() :], r"^(.*\n){3} *Heap Fetches: 0\n")

    @inlineCallbacks
    def test_a_range_begins_with_its_first_moment_and_ends_before_its_last(self) -> Steps:
        agent = self.agent("a")
        self.numbers(agent, "temp", 1, 2, 3, since=NOON - timedelta(minutes=1), every=MINUTE)
        [row] = yield self.reader.series(["a"], ["temp"], self.range(1, aggregates=("last",)))
        self.assertEqual(json.loads(row["points"]), [[START, 2]])

    @inlineCallbacks
    def test_what_is_no_number_is_not_in_it(self) -> Steps:
        agent = self.agent("a")
        self.metrics(agent, "text", 3)  # which have no number
        [row] = yield self.reader.series(["a"], ["text"], self.range(1))
        self.assertEqual((json.loads(row["points"]), row["known"]), ([[START, None, None, None]], True))
        [row] = yield self.reader.series(["a"], ["text"], self.range(1, step=0, limit=5))
        self.assertIsNone(row["points"])

    @inlineCallbacks
    def test_numbers_at_the_end_of_what_there_is_have_an_average(self) -> Steps:
        """row 465"""
        agent = self.agent("a")
        self.numbers(agent, "huge", 1.7e308, 1.7e308, 1.7e308, -1e308)
        [row] = yield self.reader.series(["a"], ["huge"], self.range(1))
        [[_, average, least, most]] = json.loads(row["points"])
        self.assertEqual((average, least, most), (4.9999999999999994e289, -1e308, 1.7e308))

    @inlineCallbacks
    def test_rows_come_in_the_order_of_their_time_and_no_more_than_wanted(self) -> Steps:
        agent = self.agent("a")
        self.numbers(agent, "temp", 3, 1, 2, every=1)
        [row] = yield self.reader.series(["a"], ["temp"], self.range(1, step=0, limit=2))
        self.assertEqual(json.loads(row["points"]), [[START, 3], [START + 1, 1]])

    @inlineCallbacks
    def test_every_agent_is_asked_for_every_type_in_their_order(self) -> Steps:
        a, b = self.agent("a"), self.agent("b")
        self.numbers(a, "temp", 1)
        self.describe(b, "memory")
        rows = yield self.reader.series(["b", "nobody", "a"], ["temp", "memory"], self.range(1))
        self.assertEqual(
            [(row["agent"], row["id"], row["type"], row["known"]) for row in rows],
            [
                ("b", b, "temp", False),
                ("b", b, "memory", True),
                ("nobody", None, "temp", False),
                ("nobody", None, "memory", False),
                ("a", a, "temp", True),
                ("a", a, "memory", False),
            ],
        )

    @inlineCallbacks
    def test_without_types_all_that_are_known_come_and_of_too_many_one_too_many(self) -> Steps:
        a, _ = self.agent("a"), self.agent("silent")
        for number in range(30):
            self.describe(a, f"t{number:02}")
        rows = yield self.reader.series(["silent", "a", "nobody"], [], self.range(1))
        self.assertEqual([row["type"] for row in rows[:3]], [None, "t00", "t01"])
        self.assertEqual(len(rows), 21)
        [row] = yield self.reader.series(["nobody"], [], self.range(1))
        self.assertEqual((row["agent"], row["id"]), ("nobody", None))

    @inlineCallbacks
    def test_text_is_never_sql(self) -> Steps:
        """row 97"""
        hostile = "'); drop table metrics; -- %s %(x)s {x} \\"
        agent = self.agent(hostile)
        self.numbers(agent, hostile, 1)
        [row] = yield self.reader.series([hostile], [hostile], self.range(1))
        self.assertEqual((row["type"], row["known"]), (hostile, True))


class LatestTests(SeriesCase):
    @inlineCallbacks
    def test_each_series_has_its_newest_value(self) -> Steps:
        a = self.agent("a")
        self.numbers(a, "temp", 1, 2)
        self.describe(a, "temp", "°C")
        self.metrics(a, "text", 1)
        self.describe(a, "text")
        self.describe(a, "nothing")
        nothing, temp, text = yield self.reader.latest([], None, None, 0, "", 10, START)
        self.assertEqual((nothing["type"], nothing["value"], nothing["time"]), ("nothing", None, None))
        self.assertEqual(
            temp,
            {
                "uuid": "a",
                "name": "n",
                "connected": True,
                "type": "temp",
                "unit": "°C",
                "value": "2",
                "number": 2.0,
                "time": START + 10_000,
                "spark": None,
                "id": a,
            },
        )
        self.assertEqual((text["value"], text["number"]), ("1", None))

    @inlineCallbacks
    def test_pages_go_on_behind_a_type_of_an_agent(self) -> Steps:
        agents = [self.agent(uuid) for uuid in "abc"]
        for agent in agents:
            for type in ("x", "y"):
                self.describe(agent, type)
        seen: list[Any] = []
        place = (0, "")
        while rows := (yield self.reader.latest([], None, None, *place, 4, START)):
            seen += [row["uuid"] + row["type"] for row in rows]
            place = rows[-1]["id"], rows[-1]["type"]
        self.assertEqual(seen, ["ax", "ay", "bx", "by", "cx", "cy"])
        self.assertEqual((yield self.reader.latest([], None, None, 10**10 - 1, "", 4, START)), [])

    @inlineCallbacks
    def test_agents_are_chosen(self) -> Steps:
        for uuid, username, connected in (("a", "ann", True), ("b", "bob", True), ("c", "bob", False)):
            self.describe(self.agent(uuid, username, connected), "x")

        def asked(uuids: list[str], username: str | None, connected: bool | None) -> Any:
            found = self.reader.latest(uuids, username, connected, 0, "", 9, START)
            return found.addCallback(lambda rows: [row["uuid"] for row in rows])

        self.assertEqual((yield asked([], None, True)), ["a", "b"])
        self.assertEqual((yield asked([], "bob", None)), ["b", "c"])
        self.assertEqual((yield asked([], "bob", False)), ["c"])
        self.assertEqual((yield asked(["c", "a", "'"], None, None)), ["a", "c"])

    @inlineCallbacks
    def test_a_spark_is_the_last_hour_that_is_over_in_twelve_averages(self) -> Steps:
        a = self.agent("a")
        self.describe(a, "temp")
        # A number every four minutes for 75 minutes, none in the third quarter of an hour.
        self.numbers(a, "temp", *range(8), since=NOON - timedelta(minutes=70), every=4 * MINUTE)
        self.numbers(a, "temp", *range(9), since=NOON - timedelta(minutes=20), every=4 * MINUTE)
        self.roll_up()
        now = START + 4 * MINUTE + 59_999
        [row] = yield self.reader.latest([], None, None, 0, "", 1, now)
        middle = [None] * 4
        self.assertEqual(json.loads(row["spark"]), [3, 4, 5.5, 7, *middle, 0.5, 2, 3, 4])
        [row] = yield self.reader.latest([], None, None, 0, "", 1, now + 60 * MINUTE)
        self.assertEqual(json.loads(row["spark"]), [5.5, 7, 8, *[None] * 9])


class RolledTests(SeriesCase):
    def setUp(self) -> Any:
        return super().setUp().addCallback(lambda _: self.fill())

    def fill(self) -> None:
        """Store a number for each minute of two days: that of its hour, and one row more."""
        agent = self.agent("a")
        self.describe(agent, "temp", "°C")
        self.numbers(agent, "temp", *(minute // 60 for minute in range(2880)), every=MINUTE)
        self.roll_up()

    def asked(self, step: int, source: str, now: int = 2 * DAY, **more: Any) -> Any:
        aggregates = ("avg", "min", "max", "last", "count")
        asked = Range(START, START + 2 * DAY, step, aggregates, source, now=START + now, **more)
        found = self.reader.series(["a"], ["temp"], asked)
        return found.addCallback(lambda rows: json.loads(rows[0]["points"]))

    @inlineCallbacks
    def test_roll_ups_answer_as_the_rows_do(self) -> Steps:
        for step, source in ((5 * MINUTE, "5m"), (30 * MINUTE, "5m"), (HOUR, "1h"), (DAY, "1h")):
            raw = yield self.asked(step, "raw")
            self.assertEqual((yield self.asked(step, source)), raw, step)
            self.assertEqual(raw[0][5], step // MINUTE)

    @inlineCallbacks
    def test_the_last_two_buckets_come_from_rows(self) -> Steps:
        for table in ("metrics_5m", "metrics_1h"):
            self.execute(f"UPDATE {table} SET max = 99 RETURNING 1")
        for step, source in ((5 * MINUTE, "5m"), (HOUR, "1h")):
            for now in (2 * DAY - 1, 2 * DAY - step):
                points = yield self.asked(step, source, now)
                self.assertEqual([point[3] == 99 for point in points[-4:]], [True, True, False, False])
            points = yield self.asked(step, source, 0)
            self.assertEqual([point[3] for point in points[:2]], [0, 1] if step == HOUR else [0, 0])

    @inlineCallbacks
    def test_exports_of_roll_ups_have_their_columns(self) -> Steps:
        text, place = "", None
        export = Export(("a",), ("temp",), START + HOUR, START + 4 * HOUR, "csv", "1h")
        while page := (yield self.reader.export(export, place, 2)):
            text += page["text"]
            place = [page[name] for name in ("agent", "type", "moment", "id")]
        expected = [
            f"a,temp,°C,2026-11-24T{12 + hour}:00:00.000Z,60,{hour},{hour},{hour},{hour}"
            for hour in (1, 2, 3)
        ]
        self.assertEqual(text.splitlines(), expected)
        lines = yield self.reader.export(evolve(export, format="ndjson", source="5m"), None, 1)
        self.assertEqual(
            json.loads(lines["text"]),
            {
                "agent": "a",
                "type": "temp",
                "unit": "°C",
                "time": "2026-11-24T13:00:00.000Z",
                "count": 5,
                "min": 1,
                "max": 1,
                "avg": 1,
                "last": 1,
            },
        )


class RejectedTests(ReaderCase):
    def reject(self, topic: str, payload: bytes) -> int:
        sql = """INSERT INTO rejected_messages (topic, "clientId", address, payload, reason, "createdAt")
            VALUES (%s, 'c', '192.0.2.1:5000', %s, 'no JSON', %s) RETURNING id"""
        [(number,)] = self.execute(sql, topic, payload, NOON)
        return int(number)

    @inlineCallbacks
    def test_the_newest_come_first_and_pages_go_on_below(self) -> Steps:
        numbers = [self.reject(topic, b"{}\xff") for topic in "abc"]
        rows = yield self.reader.rejected(None, 2)
        self.assertEqual([row["topic"] for row in rows], ["c", "b"])
        self.assertEqual(
            rows[0],
            {
                "id": numbers[2],
                "topic": "c",
                "client": "c",
                "address": "192.0.2.1:5000",
                "reason": "no JSON",
                "size": 3,
                "fullSize": None,
                "time": START,
                "replayed": None,
            },
        )
        rows = yield self.reader.rejected(rows[-1]["id"], 2)
        self.assertEqual([row["topic"] for row in rows], ["a"])

    @inlineCallbacks
    def test_those_since_one_come_in_order_and_one_comes_with_its_payload(self) -> Steps:
        self.assertEqual((yield self.reader.rejected_since(None, 9)), [])
        first, second, third = (self.reject(topic, b"\0") for topic in "abc")
        rows = yield self.reader.rejected_since(None, 9)
        self.assertEqual([row["id"] for row in rows], [third])
        rows = yield self.reader.rejected_since(first, 9)
        self.assertEqual([row["id"] for row in rows], [second, third])
        row = yield self.reader.rejection(second)
        self.assertEqual((bytes(row["payload"]), row["properties"]), (b"\0", None))
        self.execute(
            'UPDATE rejected_messages SET properties = \'{"contentType": "a"}\' WHERE id = %s', third
        )
        self.assertEqual((yield self.reader.rejection(third))["properties"], {"contentType": "a"})
        self.assertIsNone((yield self.reader.rejection(10**15)))
