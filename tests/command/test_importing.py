"""``platziverse import`` and ``export`` against a real database."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from platziverse.command import importing, sources
from platziverse.command.cli import main
from platziverse.ingest.bulk import Bulk
from platziverse.postgres.migrate import migrate
from tests.integration.daemon import COMMAND, ROOT
from tests.postgres.scratch import scratch_server

RULES = """
[[rule]]
topic = "house/{room}"
agent = "house:{room}"
time = "$.at"
time_zone = "Europe/Madrid"
units = { temp = "°C" }
[[rule]]
topic = "quiet"
ignore = true
[[rule]]
topic = "alive"
agent = "x"
presence = { online = ["on"], offline = ["off"] }
[[rule]]
topic = "timeless"
agent = "x"
[[rule]]
topic = "wide/{x}"
agent = "wide:{x}"
time = "$.at"
unmatched = "ignore"
[[rule]]
topic = "list"
agent = "list:{@.id}"
each = "$.all"
time = "@.t"
metrics = { v = "@.v", w = { path = "@.w", required = true } }
[[rule]]
topic = "text/{x}"
agent = "text:{x}"
format = "value"
time = "$"
[[rule]]
topic = "telegraf/{host}"
agent = "telegraf:{host}"
format = "influx"
each = "$.metrics"
values = "@.fields"
type = "{@.name}.{key}"
time = "@.timestamp"
"""
ROWS = """SELECT uuid, type, value, number, metrics."createdAt"::text, "timestamp" = metrics."createdAt"
    FROM metrics JOIN agents ON agents.id = "agentId" ORDER BY metrics."createdAt", uuid, type"""


class ImportCase(TestCase):
    def setUp(self) -> "Deferred[Any]":  # type: ignore[override]  # trial waits for it
        self.server = scratch_server()
        self.name = self.server.create()
        self.dsn = self.server.dsn(self.name)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        (self.folder / "rules.toml").write_text(RULES)
        return migrate(self.dsn, reactor)

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        return self.server.execute(self.name, f"SET TimeZone = 'UTC'; {query}", *parameters)

    def run_command(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        """What it prints on standard output; ``said`` is the rest."""
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = main(["--database", self.dsn, *arguments])
        self.said = err.getvalue()
        self.assertEqual(found, code, out.getvalue() + self.said)
        return out.getvalue()

    def load(self, text: str, *arguments: str, name: str = "file.csv", code: int = 0) -> str:
        """Import a file with this text by the rules."""
        path = self.folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        rules = () if "--topic" not in arguments else ("--rules", str(self.folder / "rules.toml"))
        return self.run_command("import", str(path), *rules, *arguments, code=code)


class FormatTests(ImportCase):
    def test_csv_of_years_ago_is_stored_when_it_was_measured(self) -> None:
        text = (
            "\ufeffat;temp;door;note\n2019-07-01 12:00:00;21.5;open;\n\n2024-12-31T23:30:00Z;1e1;OFF;hello\n"
        )
        out = self.load(text, "--topic", "house/kitchen")
        self.assertIn("2 records: 4 metrics stored, 0 were there; 0 records rejected, 0 ignored", out)
        self.assertEqual(
            self.sql(ROWS),
            [
                ("house:kitchen", "door", "1", 1.0, "2019-07-01 10:00:00+00", True),
                ("house:kitchen", "temp", "21.5", 21.5, "2019-07-01 10:00:00+00", True),
                ("house:kitchen", "door", "0", 0.0, "2024-12-31 23:30:00+00", True),
                ("house:kitchen", "temp", "1e1", 10.0, "2024-12-31 23:30:00+00", True),
            ],
        )
        self.assertEqual(
            self.sql("SELECT type, unit, rule FROM series ORDER BY type"),
            [("door", None, "rules.toml#1"), ("temp", "°C", "rules.toml#1")],
        )
        months = self.sql("SELECT DISTINCT tableoid::regclass::text FROM metrics ORDER BY 1")
        self.assertEqual(months, [("metrics_2019_07",), ("metrics_2024_12",)])
        self.assertEqual(self.sql("SELECT connected, name FROM agents"), [(False, "house:kitchen")])
        marks = self.sql("SELECT DISTINCT bucket::text FROM metrics_marks ORDER BY 1")
        self.assertEqual(marks, [("2019-07-01 10:00:00+00",), ("2024-12-31 23:30:00+00",)])
        self.sql("SELECT platziverse_roll_up(now(), 10)")
        rolled = self.sql("SELECT type, n, last FROM metrics_5m ORDER BY bucket, type")
        self.assertEqual(rolled, [("door", 1, 1.0), ("temp", 1, 21.5), ("door", 1, 0.0), ("temp", 1, 10.0)])

    def test_ndjson_names_its_topic(self) -> None:
        lines = [
            {"room": "bath", "at": 1_600_000_000, "temp": 20},
            {"room": "hall", "at": 1_600_000_001, "temp": 19},
        ]
        text = "\n".join(map(json.dumps, lines))
        self.load(text, "--topic", "house/{$.room}", name="x.ndjson")
        self.assertEqual(
            [row[:3] for row in self.sql(ROWS)], [("house:bath", "temp", "20"), ("house:hall", "temp", "19")]
        )

    def test_line_protocol_is_read_by_its_rule(self) -> None:
        lines = (
            "# old",
            "mem,host=a free=1i,used=2i 1600000000000000000",
            'mem,host=b free=3i,t="x\ny" 1600000000000000001',
        )
        text = "\n".join(lines)
        self.load(text, "--topic", "telegraf/{$.tags.host}", name="x.lp")
        self.assertEqual(
            [row[:3] for row in self.sql(ROWS)],
            [
                ("telegraf:a", "mem.free", "1"),
                ("telegraf:a", "mem.used", "2"),
                ("telegraf:b", "mem.free", "3"),
            ],
        )

    def test_an_hour_that_comes_twice_follows_the_record_before(self) -> None:
        """On 2019-10-27 at 03:00 clocks in Madrid are put back to 02:00."""
        times = ["01:50", "02:10", "02:40", "02:10", "02:40", "03:10"]
        text = "at,v\n" + "".join(f"2019-10-27 {time}:00,{number}\n" for number, time in enumerate(times))
        self.load(text, "--topic", "house/x")
        stored = [row[4][11:16] for row in self.sql(ROWS)]
        self.assertEqual(stored, ["23:50", "00:10", "00:40", "01:10", "01:40", "02:10"])

    def test_agent_messages_are_read_as_they_are_sent(self) -> None:
        agent = {"uuid": "yyy", "username": "ana", "name": "n", "hostname": "h", "pid": 10}
        good = {"agent": agent, "metrics": [{"type": "t", "value": 5}], "timestamp": 1_500_000_000_000}
        mixed = {**good, "metrics": [{"type": "t", "value": 6}, {"type": "u", "value": []}]}
        timeless = {"agent": agent, "metrics": []}
        text = "\n".join(map(json.dumps, (good, mixed, timeless)))
        self.load(text, "--topic", "agent/message", name="x.ndjson", code=1)
        self.assertEqual([row[:3] for row in self.sql(ROWS)], [("yyy", "t", "5"), ("yyy", "t", "6")])
        self.assertIn("line 2: 1 of 2 metrics: ", self.said)
        self.assertIn("line 3: no time", self.said)
        self.assertEqual(self.sql("SELECT username, pid FROM agents"), [("ana", 10)])


class OnceTests(ImportCase):
    TEXT = "at,temp\n2019-07-01 12:00:00,1\n2019-07-01 12:00:01,2\n2019-07-01 12:00:00,1\n"

    def test_importing_twice_stores_once(self) -> None:
        out = self.load(self.TEXT, "--topic", "house/a")
        self.assertIn("3 records: 2 metrics stored, 1 were there", out)
        out = self.load(self.TEXT, "--topic", "house/a")
        self.assertIn("stored already", out)
        self.assertIn("0 records: 0 metrics stored, 0 were there", out)
        out = self.load(self.TEXT, "--topic", "house/a", "--from-start")
        self.assertIn("3 records: 0 metrics stored, 3 were there", out)
        out = self.load(self.TEXT + "2019-07-01 12:00:02,3\n", "--topic", "house/a")
        self.assertIn("4 records: 1 metrics stored, 3 were there", out)
        out = self.run_command(
            "import",
            "-",
            "--format",
            "csv",
            "--topic",
            "house/a",
            "--rules",
            str(self.folder / "rules.toml"),
            stdin=self.TEXT.encode(),
        )
        self.assertIn("3 records: 0 metrics stored, 3 were there", out)
        self.assertEqual(len(self.sql(ROWS)), 3)

    def test_what_has_come_as_a_message_is_known_by_its_key(self) -> None:
        """A file of messages that a device has sent in the last days, some of which were stored."""
        payload = json.dumps({"at": int(time.time()) - 60, "temp": 5})
        self.load(payload, "--topic", "house/a", name="x.ndjson")
        ((key,),) = self.sql("SELECT key::text FROM message_keys")
        self.assertEqual(int(key.replace("-", "")[:12], 16) // 1000, json.loads(payload)["at"])
        self.sql("DELETE FROM metrics")
        out = self.load(payload + "\n" + payload, "--topic", "house/a", name="x.ndjson")
        self.assertIn("0 metrics stored, 2 were there", out)

    def test_an_import_that_was_interrupted_goes_on_where_it_was(self) -> None:
        """Row 439: a portion is a transaction, with the place in the file."""
        self.patch(importing, "PORTION", 10)
        lines = [f"2019-07-01 12:{n // 60:02}:{n % 60:02},{n}\n" for n in range(105)]
        path, stop = self.folder / "file.csv", 57
        path.write_text("at,temp\n" + "".join(lines))
        store = Bulk.store
        stored: list[int] = []

        def fails(bulk: Any, reports: Any, end: int) -> None:
            if len(stored) == stop // 10:
                raise KeyboardInterrupt
            stored.append(end)
            store(bulk, reports, end)

        self.patch(Bulk, "store", fails)
        arguments = ("import", str(path), "--topic", "house/a", "--rules", str(self.folder / "rules.toml"))
        self.run_command(*arguments, code=130)
        self.assertEqual(len(self.sql(ROWS)), 50)
        self.patch(Bulk, "store", store)
        self.assertIn("55 records: 55 metrics stored, 0 were there", self.run_command(*arguments))
        self.assertEqual(len(self.sql(ROWS)), 105)
        self.assertIn("0 records", self.run_command(*arguments))


class BadTests(ImportCase):
    def test_what_cannot_be_stored_is_named_with_its_line(self) -> None:
        """Row 440."""
        july = "2019-07-01 12:00:00"
        text = f'at,temp\nsoon,1\n{july},1,2\n1999-01-01 12:00:00,1\n,5\n{july},x\n"\udcff",1\n'
        path = self.folder / "file.csv"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        out = self.run_command(
            "import", str(path), "--topic", "house/a", "--rules", str(self.folder / "rules.toml"), code=1
        )
        self.assertIn("6 records: 0 metrics stored, 0 were there; 6 records rejected", out)
        self.assertEqual(
            [line.partition(": ")[2][:40] for line in self.said.splitlines()[:5]],
            [
                "no time from the year 2000 until now",
                "3 cells, the header has 2",
                "no time from the year 2000 until now",
                "no time, and a reading without one canno",
                "rules.toml#1: no metric",
            ],
        )
        self.assertTrue(self.said.splitlines()[5].startswith("line 7: "), self.said)

    def test_no_more_than_twenty_are_named(self) -> None:
        self.load("at,temp\n" + "soon,1\n" * 30, "--topic", "house/a", code=1)
        self.assertEqual(len(self.said.splitlines()), 21)

    def test_records_of_other_rules_are_ignored_or_rejected(self) -> None:
        lines = [
            {"to": "quiet"},
            {"to": "wide/a", "at": 1_600_000_000},
            {"to": "wide/a", "at": 1_600_000_000, "v": 1},
            {"to": "none"},
            {"to": "a/#"},
            {"to": "alive"},
            {"to": "timeless"},
            {},
            {"to": "list", "all": [{"id": 1, "t": 1_600_000_000, "v": 1}]},
        ]
        text = "\n".join(map(json.dumps, lines)) + "\n{\n"
        out = self.load(text, "--topic", "{$.to}", name="x.ndjson", code=1)
        self.assertIn("10 records: 2 metrics stored, 0 were there; 7 records rejected, 2 ignored", out)
        for line, reason in (
            (4, "there is no rule for the topic 'none'"),
            (5, "'a/#' is no Topic Name"),
            (6, "rules.toml#3: it has no time"),
            (7, "rules.toml#4: it has no time"),
            (8, "no topic: nothing at $['to']"),
            (9, "rules.toml#6: nothing - at @.w of item 0"),
            (10, "Input data was truncated"),
        ):
            self.assertIn(f"line {line}: {reason}", self.said)

    def test_an_agent_of_types_too_many_is_named(self) -> None:
        config = self.folder / "platziverse.toml"
        config.write_text("[agents]\nmax_types = 1\n")
        self.load("at,a,b\n2019-07-01 12:00:00,1,2\n", "--topic", "house/a", "--config", str(config), code=1)
        self.assertIn("line 2: 1 metrics of new types of 'house:a' (max_types)", self.said)
        self.assertEqual(len(self.sql(ROWS)), 1)

    def test_commands_that_cannot_be_carried_out_end_with_a_line(self) -> None:
        (self.folder / "twice.csv").write_text("a,a\n")
        (self.folder / "file.csv").write_text("at,temp\n")
        for arguments, reason in (
            (("nowhere.csv",), "nowhere.csv: cannot be read"),
            (("-",), "name its --format"),
            (("x.txt",), "name its --format"),
            (("x.lp",), "name the --topic"),
            (("file.csv", "--preset", "tasmota"), "name the --topic"),
            (("file.csv", "--topic", "{a}"), "--topic: unknown hole {a}"),
            (("file.csv", "--topic", "none"), "there is no rule for the topic 'none'"),
            (("file.csv", "--topic", "text/a", "--rules", "rules.toml"), "a row of CSV is an object"),
            (("file.csv", "--topic", "timeless", "--rules", "rules.toml"), "it has no time"),
            (("twice.csv",), "the first line of CSV names the columns"),
        ):
            given = [str(self.folder / one) if "." in one and "{" not in one else one for one in arguments]
            self.run_command("import", *given, code=1)
            self.assertIn(reason, self.said)
            self.assertEqual(len(self.said.splitlines()), 1)

    def test_a_line_without_an_end_is_no_record(self) -> None:
        self.patch(sources, "MAX_RECORD", 100)
        self.load('{"a": "' + "x" * 200, "--topic", "house/a", name="x.ndjson", code=1)
        self.assertIn("line 1 has 100 bytes and more; is it ndjson?", self.said)

    def test_months_that_will_be_deleted_are_named(self) -> None:
        config = self.folder / "platziverse.toml"
        config.write_text("[ingest]\nkeep_months = 2\n")
        self.load(OnceTests.TEXT, "--topic", "house/a", "--config", str(config))
        self.assertIn("what is older than 2 months will be deleted (ingest.keep_months)", self.said)


class OwnTests(ImportCase):
    def exported(self, *arguments: str, name: str = "out.csv") -> str:
        path = self.folder / name
        path.unlink(missing_ok=True)
        self.run_command("export", str(path), *arguments)
        return path.read_text()

    def fill(self) -> None:
        agent = {"uuid": 'a,"b"', "username": "ana", "name": "n\\", "hostname": "", "pid": 10}
        lines = []
        for number, value in enumerate(["5", "x\ny,\"'\\\t\x01é🐘", "1e3", ""]):
            metrics = [{"type": 't,"\\', "value": value}, {"type": "u", "value": str(number)}]
            lines.append(
                {"agent": agent, "metrics": metrics, "timestamp": f"2019-07-01T12:00:0{number}.123456Z"}
            )
        (self.folder / "m.ndjson").write_text("\n".join(map(json.dumps, lines)))
        self.run_command("import", str(self.folder / "m.ndjson"), "--topic", "agent/message")
        self.sql("UPDATE series SET unit = '°C'")

    def test_what_is_exported_is_imported_as_it_was(self) -> None:
        self.fill()
        before, series = self.sql(ROWS), self.sql("SELECT type, unit FROM series ORDER BY 1")
        self.assertEqual(len(before), 8)
        for name in "out.csv", "out.ndjson":
            self.exported(name=name)
            path = str(self.folder / name)
            self.assertIn("8 records: 0 metrics stored, 8 were there", self.run_command("import", path))
            self.sql("DELETE FROM metrics; DELETE FROM agents; DELETE FROM series")
            out = self.run_command("import", path, "--from-start")
            self.assertIn("8 records: 8 metrics stored, 0 were there", out)
            self.assertEqual(self.sql(ROWS), before)
            self.assertEqual(self.sql("SELECT type, unit FROM series ORDER BY 1"), series)
            self.assertEqual(self.sql("SELECT username, name FROM agents"), [("ana", "n\\")])

    def test_texts_that_copy_would_read_as_something_else_stay_as_they_are(self) -> None:
        texts = ['"', 'a "b"', "\\N", "\\.", "", "a,b", "a\tb", "a\nb", "\r", "'; --", "NULL", " ", "\\"]
        rows = [
            {"uuid": "u", "type": f"{text}t", "value": text, "measured": 1_600_000_000_000} for text in texts
        ]
        out = self.load("".join(json.dumps(row) + "\n" for row in rows), name="texts.ndjson")
        self.assertIn(f"{len(texts)} metrics stored", out)
        found = self.sql("SELECT type, value FROM metrics ORDER BY id")
        self.assertEqual(found, [(f"{text}t", text) for text in texts])

    def test_some_of_it_is_chosen(self) -> None:
        self.fill()
        for arguments, count in (
            ((), 8),
            (("--agent", 'a,"b"'), 8),
            (("--agent", "b"), 0),
            (("--type", "u", "--type", "v"), 4),
            (("--since", "2019-07-01T12:00:02Z"), 4),
            (("--until", "2019-07-01T12:00:02Z", "--type", "u"), 2),
            (("--since", "2019-07-02"), 0),
        ):
            lines = self.exported(*arguments, name="out.ndjson").splitlines()
            self.assertEqual(len(lines), count, arguments)
            self.assertIn(f"{count} metrics", self.said)
        self.assertEqual(list(json.loads(self.exported(name="out.ndjson").splitlines()[0])), FIELDS)

    def test_export_writes_no_file_that_is_there(self) -> None:
        (self.folder / "x.csv").write_text("mine")
        self.run_command("export", str(self.folder / "x.csv"), code=1)
        self.assertIn("cannot be made: File exists", self.said)
        self.run_command("export", str(self.folder / "x.lp"), code=1)
        self.assertIn("only csv and ndjson are written", self.said)
        self.assertFalse(os.path.exists(self.folder / "x.lp"))

    def test_a_disk_that_is_full_and_a_reader_that_has_gone_end_it_with_a_line_or_none(self) -> None:
        """Row 441."""
        self.fill()
        read, write = os.pipe()
        os.close(read)
        with open("/dev/full", "wb") as full, open(write, "wb") as gone:
            for target, code, said in (
                (full, 1, "cannot be written: No space left on device"),
                (gone, 141, ""),
            ):
                done = subprocess.run(
                    [*COMMAND, "--database", self.dsn, "export"],
                    cwd=ROOT,
                    stdout=target,
                    stderr=subprocess.PIPE,
                    text=True,
                    check=False,
                )
                self.assertEqual((done.returncode, done.stderr.count("\n")), (code, bool(said)), done.stderr)
                self.assertIn(said, done.stderr)

    def test_records_that_are_none_are_named(self) -> None:
        good = {"uuid": "a", "type": "t", "value": 5, "measured": 1_600_000_000}
        bad: list[tuple[dict[str, Any], str]] = [
            ({"uuid": None}, "uuid is missing"),
            ({"type": ""}, "type is missing"),
            ({"type": "x" * 256}, "the type"),
            ({"value": []}, "value is no text"),
            ({"value": "x" * 5000}, "value has a NUL"),
            ({"uuid": "x" * 256}, "a text of the agent"),
            ({"measured": None}, "measured: no time"),
            ({"measured": "soon"}, "measured: no time from the year 2000"),
            ({"measured": True}, "measured: no time"),
            ({"stored": 5}, "stored: no time from the year 2000"),
        ]
        text = "\n".join([json.dumps({**good, **wrong}) for wrong, _ in bad] + ["[]", "{", json.dumps(good)])
        out = self.load(text, name="x.ndjson", code=1)
        self.assertIn(f"{len(bad) + 3} records: 1 metrics stored", out)
        for number, (_, reason) in enumerate(bad, 1):
            self.assertIn(f"line {number}: {reason}", self.said)
        self.assertEqual(self.sql(ROWS)[0][:4], ("a", "t", "5", 5.0))
        text = "uuid,type,value,measured\n\udcff,t,5,2020-01-01 00:00:00\n"
        (self.folder / "x.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
        self.run_command("import", str(self.folder / "x.csv"), code=1)
        self.assertIn("line 2: uuid: 'utf-8' codec can't encode", self.said)


FIELDS = ["uuid", "name", "username", "hostname", "type", "value", "unit", "measured", "stored"]
