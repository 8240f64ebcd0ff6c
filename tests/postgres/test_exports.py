"""Exports, from a real server."""

import csv
import io
import json
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.web.interfaces import Export
from tests.postgres.test_reader import NOON, Steps
from tests.postgres.test_series import MINUTE, START, SeriesCase

TEXT = """INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId")
    VALUES (%s, %s, %s, now(), %s) RETURNING 1"""
#: From the beginning to the end of time.
ALWAYS = (0, 253_370_764_800_000)
PLACE = ("agent", "type", "moment", "id")


class ExportTests(SeriesCase):
    @inlineCallbacks
    def exported(self, rows: int = 3, **given: Any) -> Generator["Deferred[Any]", Any, str]:
        asked = {"agents": (), "types": (), "since": ALWAYS[0], "until": ALWAYS[1]}
        export = Export(**{**asked, "format": "csv", "source": "raw", **given})
        text, place = "", None
        while page := (yield self.reader.export(export, place, rows)):
            self.assertLessEqual(page["rows"], rows)
            text += page["text"]
            place = [page[name] for name in PLACE]
        return text

    def lines(self, **given: Any) -> Any:
        found = self.exported(**given)
        return found.addCallback(
            lambda text: [",".join(row) for row in csv.reader(io.StringIO(text, newline=""))]
        )

    @inlineCallbacks
    def test_every_row_comes_once_in_order_of_agent_type_and_time(self) -> Steps:
        for uuid in "ba":
            agent = self.agent(uuid)
            for type in ("temp", "memory"):
                self.describe(agent, type, "°C" if type == "temp" else None)
                self.numbers(agent, type, *range(5), every=0)  # all of them at the same time
        expected = [
            f"{uuid},{type},{unit},2026-11-24T12:00:00.000Z,{value}"
            for uuid in "ba"
            for type, unit in (("memory", ""), ("temp", "°C"))
            for value in range(5)
        ]
        for rows in (1, 3, 100):
            self.assertEqual((yield self.lines(rows=rows)), expected, rows)

    @inlineCallbacks
    def test_agents_types_and_times_are_chosen(self) -> Steps:
        for uuid in "ab":
            agent = self.agent(uuid)
            self.describe(agent, "temp")
            self.numbers(agent, "temp", *range(4), every=MINUTE)
            self.numbers(agent, "old", 7)  # of a time before there were series
        self.assertEqual(len((yield self.lines(agents=("a",)))), 4)
        self.assertEqual(len((yield self.lines(types=("old", "nothing")))), 2)
        within = yield self.lines(agents=("b",), since=START + MINUTE, until=START + 3 * MINUTE)
        self.assertEqual([line[-1] for line in within], ["1", "2"])

    @inlineCallbacks
    def test_any_text_comes_back_as_it_was(self) -> Steps:
        """row 466"""
        texts = ['a,"b"\n', "", " x ", "=1+1", "\\N", "a\rb", "ñ%s{x}", "plain", "'"]
        agent = self.agent('u,"1"\n')
        for text in texts:
            self.execute(TEXT, 't,"\n', text, NOON, agent)
        self.describe(agent, 't,"\n')
        given = yield self.exported()
        rows = list(csv.reader(io.StringIO(given, newline="")))
        self.assertEqual([row[-1] for row in rows], texts)
        self.assertEqual(rows[0][:3], ['u,"1"\n', 't,"\n', ""])
        lines = yield self.exported(format="ndjson")
        objects = [json.loads(line) for line in lines.splitlines()]
        self.assertEqual([found["value"] for found in objects], texts)
        self.assertEqual((objects[0]["agent"], objects[0]["unit"]), ('u,"1"\n', None))

    @inlineCallbacks
    def test_numbers_are_numbers_in_json(self) -> Steps:
        agent = self.agent("a")
        self.numbers(agent, "temp", 21.5)
        given = yield self.exported(format="ndjson", types=("temp",))
        self.assertEqual(
            json.loads(given),
            {"agent": "a", "type": "temp", "unit": None, "time": "2026-11-24T12:00:00.000Z", "value": 21.5},
        )

    @inlineCallbacks
    def test_agents_that_there_are_are_known(self) -> Steps:
        self.agent("a")
        self.assertEqual((yield self.reader.known(["a", "b"])), ["a"])
