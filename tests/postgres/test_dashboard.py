"""``platziverse_series``, and the dashboard that asks it, on a real server."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.postgres.test_reader import NOON
from tests.postgres.test_series import HOUR, MINUTE, SeriesCase

DASHBOARD = Path(__file__).parent.parent.parent / "examples" / "grafana-agents.json"
ASKED = "SELECT time, avg, min, max, last, n FROM platziverse_series(%s, %s, %s, %s, %s)"


class FunctionTests(SeriesCase):
    def asked(self, hours: float, step: str, type: str = "temp", uuid: str = "a") -> list[Any]:
        return self.execute(ASKED, uuid, type, NOON, NOON + timedelta(hours=hours), step)

    def test_steps_are_summed_up_and_empty_ones_left_out(self) -> None:
        agent = self.agent("a")
        self.numbers(agent, "temp", 1, 2, 6, every=MINUTE)
        self.numbers(agent, "temp", 1.7e308, 1.7e308, since=NOON + timedelta(minutes=10), every=1)
        found = self.asked(1, "2 min")
        self.assertEqual(
            found,
            [
                (NOON, 1.5, 1, 2, 2, 2),
                (NOON + timedelta(minutes=2), 6, 6, 6, 6, 1),
                (NOON + timedelta(minutes=10), 1e290, 1.7e308, 1.7e308, 1.7e308, 2),
            ],
        )
        self.assertEqual(self.asked(1, "2 min", "nothing"), [])
        self.assertEqual(self.asked(1, "2 min", uuid="nobody"), [])

    def test_roll_ups_say_what_the_rows_say(self) -> None:
        agent = self.agent("a")
        self.numbers(agent, "temp", *range(600), every=MINUTE)
        self.assertEqual(self.asked(10, "5 min"), [])
        self.roll_up()
        for minutes in (5, 10, 60):
            expected = [
                (
                    NOON + timedelta(minutes=at),
                    at + (minutes - 1) / 2,
                    at,
                    at + minutes - 1,
                    at + minutes - 1,
                    minutes,
                )
                for at in range(0, 600, minutes)
            ]
            self.assertEqual(self.asked(10, f"{minutes} min"), expected)
        self.execute("UPDATE metrics_5m SET max = 9999 RETURNING 1")
        self.assertEqual({row[3] for row in self.asked(10, "7 min")}, {9999})  # whole buckets: 10 minutes
        self.assertEqual(len(self.asked(10, "7 min")), 60)
        self.assertEqual(self.asked(10, "59 s")[0][3], 0)

    def test_the_last_buckets_come_from_rows(self) -> None:
        agent = self.agent("a")
        sql = "SELECT platziverse_bucket(now(), 3600) - interval '3 h'"
        [(begin,)] = self.execute(sql)
        self.numbers(agent, "temp", *range(180), since=begin, every=MINUTE)
        found = self.execute(ASKED, "a", "temp", begin, begin + timedelta(hours=4), "1 h")
        self.assertEqual([row[5] for row in found], [60])
        self.assertEqual(
            self.execute(ASKED, "a", "temp", begin, begin + timedelta(hours=4), "4 min")[-1][5], 4
        )
        self.roll_up()
        found = self.execute(ASKED, "a", "temp", begin, begin + timedelta(hours=4), "1 h")
        self.assertEqual([row[5] for row in found], [60, 60, 60])


class DashboardTests(SeriesCase):
    """Every query of examples/grafana-agents.json, as Grafana writes it."""

    def queries(self) -> dict[str, str]:
        dashboard = json.loads(DASHBOARD.read_text())
        found = {
            one["name"]: one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"
        }
        for panel in dashboard["panels"]:
            found |= {f"{panel['title']} {target['refId']}": target["rawSql"] for target in panel["targets"]}
        return found

    def written(self, sql: str, agent: str, types: list[str], step: str) -> str:
        """A query with its variables and macros, as Grafana's data source replaces them."""
        quoted = {"agent": [agent], "type": types}
        for name, values in quoted.items():
            text = ",".join("'" + value.replace("'", "''") + "'" for value in values)
            sql = sql.replace(f"${{{name}:sqlstring}}", text)
        since, until = NOON - timedelta(hours=1), NOON + timedelta(hours=5)
        sql = sql.replace("$__timeFrom()", f"'{since.isoformat()}'").replace("$__interval", step)
        return sql.replace("$__timeTo()", f"'{until.isoformat()}'").replace("%", "%%")

    def test_every_query_has_an_answer(self) -> None:
        """row 482"""
        agent, hostile = self.agent("o'brien"), "it's %s"
        for type in ("temp", hostile):
            self.describe(agent, type, "°C")
            self.numbers(agent, type, 1, 2, 3, every=HOUR)
        sql = """INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
            VALUES ('t', 'c', '', 'no JSON', %s) RETURNING 1"""
        self.execute(sql, NOON)
        self.roll_up()
        queries = self.queries()
        self.assertEqual(len(queries), 8)
        for step in ("100ms", "1m", "5m", "1h", "1d"):
            for name, query in queries.items():
                rows = self.execute(self.written(query, "o'brien", ["temp", hostile], step))
                self.assertTrue(rows, f"{name}, {step}")
                self.assertNotIn("$", query.replace("$__", "").replace("${agent:", "").replace("${type:", ""))

    def test_averages_are_by_type(self) -> None:
        agent = self.agent("a")
        self.describe(agent, "temp")
        self.numbers(agent, "temp", 1, 3, every=MINUTE)
        rows = self.execute(self.written(self.queries()["Averages A"], "a", ["temp"], "2m"))
        self.assertEqual(rows, [(NOON, "temp", 2.0)])
