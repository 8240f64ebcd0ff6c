"""``platziverse rejected`` against a real database."""

import contextlib
import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from platziverse.agents.limits import AgentLimits
from platziverse.command.cli import main
from platziverse.daemon.replays import reports_of, rows
from platziverse.embedded.cluster import locate
from platziverse.embedded.places import SYSTEM_HOME
from platziverse.mqtt.packets import Publish, PublishProperties
from platziverse.postgres.migrate import migrate
from tests.postgres.scratch import open_dir, scratch_server

AGENT = {"uuid": "yyy", "username": "platzi", "name": "platzi", "hostname": "here", "pid": 10}


class RejectedTests(TestCase):
    def setUp(self) -> "Deferred[Any]":  # type: ignore[override]  # trial waits for it
        self.server = scratch_server()
        self.name = self.server.create()
        self.dsn = self.server.dsn(self.name)
        return migrate(self.dsn, reactor)

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        return self.server.execute(self.name, query, *parameters)

    def reject(self, payload: object, reason: str = "so", arrived: float | None = None) -> int:
        """Keep a message as a daemon would; its id."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        arrived = time.time() if arrived is None else arrived
        query = (
            'INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")'
            " VALUES ('agent/message', %s, %s, %s, to_timestamp(%s)) RETURNING id"
        )
        ((number,),) = self.sql(query, "me\n", data, reason, arrived)
        return int(number)

    def rejected(self, *arguments: str, code: int = 0) -> str:
        out = io.TextIOWrapper(io.BytesIO(), write_through=True)
        with contextlib.redirect_stdout(out):
            self.assertEqual(main(["--database", self.dsn, "rejected", *arguments]), code)
        return out.buffer.getvalue().decode()

    def metrics(self) -> list[Any]:
        return self.sql(
            'SELECT uuid, type, value, number FROM metrics JOIN agents ON agents.id = "agentId" ORDER BY type'
        )

    def message(self, *pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
        return {"agent": AGENT, "metrics": [{"type": kind, "value": value} for kind, value in pairs], **more}

    def test_a_message_of_a_device_is_read_by_the_rules_of_this_moment(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        rules, config = folder / "rules.toml", folder / "platziverse.toml"
        rules.write_text(
            '[[rule]]\ntopic = "list/{x}"\nagent = "l:{x}"\neach = "$"\ntime = "@.t"\nexclude = ["t"]\n'
        )
        config.write_text(f'[record]\nfiles = ["{rules}"]\n')
        arrived = time.time()
        readings = [{"t": arrived - 2, "v": 1}, {"t": arrived - 1, "v": 1}]
        numbers = [self.reject(readings, arrived=arrived), self.reject([{"t": arrived, "v": "x"}])]
        self.sql("UPDATE rejected_messages SET topic = 'list/a'")
        out = self.rejected("replay", "--config", str(config), code=1)
        self.assertIn(f"{numbers[0]}: 2 metrics added", out)
        self.assertIn(f"{numbers[1]}: rules.toml#1: no metric", out)
        self.assertEqual(self.metrics(), [("l:a", "v", "1", 1.0)] * 2)

    def test_list_has_one_line_for_each_and_forges_none(self) -> None:
        first, second = self.reject(b"Hello", "JSON is malformed"), self.reject(b"5")
        lines = self.rejected("list").splitlines()
        self.assertEqual([line.split()[0] for line in lines], [str(first), str(second)])
        self.assertTrue(lines[0].endswith(r"'me\n' 'agent/message' JSON is malformed"), lines[0])
        self.sql("UPDATE rejected_messages SET address = '192.0.2.1:5000'")
        self.assertIn(r"'me\n' 192.0.2.1:5000 'agent/message' JSON", self.rejected("list"))

    def test_show_gives_the_properties_that_mqtt_5_has_sent_and_a_replay_has_them(self) -> None:
        number = self.reject(b"Hello")
        found = {
            "contentType": "text/\x1b",
            "correlationData": "AP8=",
            "userProperties": [["b", "1"], ["a", "2"]],
        }
        self.sql("UPDATE rejected_messages SET properties = %s", json.dumps(found))
        lines = self.rejected("show", str(number)).splitlines()[1:]
        pairs = "  userProperties [['b', '1'], ['a', '2']]"
        self.assertEqual(sorted(lines[:3]), ["  contentType 'text/\\x1b'", "  correlationData 'AP8='", pairs])
        seen: list[Any] = []
        rules = mock.Mock()
        found_rule = rules.find.return_value

        def read(message: Publish, *more: object) -> mock.Mock:
            seen.append(message)
            return mock.Mock(errors=[])

        found_rule.read.side_effect = read
        with contextlib.closing(psycopg2.connect(self.dsn)) as connection:
            [row] = rows(connection, "")
        found_rule.rule.ignore = False
        reports_of(row, AgentLimits(), rules)
        told = (("b", "1"), ("a", "2"))
        expected = PublishProperties(
            content_type="text/\x1b", correlation_data=b"\0\xff", user_properties=told
        )
        self.assertEqual(seen[0].properties, expected)

    def test_show_gives_the_payload(self) -> None:
        self.assertEqual(self.rejected("show", str(self.reject(b"Hello"))).splitlines()[1], "Hello")
        nasty = str(self.reject(b"\x1b[2J\xff"))
        self.assertEqual(self.rejected("show", nasty).splitlines()[1], r"b'\x1b[2J\xff'")

    def test_what_was_cut_is_said_and_never_replayed(self) -> None:
        """Row 143."""
        number = self.reject(self.message(("temp", 33)))
        self.sql('UPDATE rejected_messages SET "fullSize" = 70000')
        self.assertIn(" of 70000 bytes are kept", self.rejected("show", str(number)))
        self.assertIn(" of 70000 bytes are kept", self.rejected("replay", code=1))
        self.assertEqual(self.metrics(), [])

    def test_show_raw_gives_its_bytes_alone(self) -> None:
        self.assertEqual(self.rejected("show", "--raw", str(self.reject(b"Hello"))), "Hello")

    def test_show_of_nothing_is_an_error(self) -> None:
        self.rejected("show", "77", code=1)

    def test_replay_stores_what_is_valid_by_now(self) -> None:
        self.reject(self.message(("temp", 33), ("memory", "a lot")))
        self.assertIn("2 metrics added", self.rejected("replay"))
        self.assertEqual(self.metrics(), [("yyy", "memory", "a lot", None), ("yyy", "temp", "33", 33.0)])
        self.assertEqual(self.sql("SELECT connected FROM agents"), [(False,)])
        self.assertEqual(self.rejected("list"), "")
        self.assertEqual(len(self.rejected("list", "--all").splitlines()), 1)

    def test_replay_twice_stores_once(self) -> None:
        number = str(self.reject(self.message(("temp", 33))))
        self.rejected("replay", number)
        self.assertIn("replayed before", self.rejected("replay", number, code=1))
        self.assertEqual(len(self.metrics()), 1)

    def test_replay_leaves_what_is_still_invalid(self) -> None:
        number = self.reject(b"Hello")
        self.assertIn(f"{number}: JSON is malformed", self.rejected("replay", code=1))
        self.assertEqual(self.sql('SELECT "replayedAt" FROM rejected_messages'), [(None,)])

    def test_a_partly_stored_message_gets_what_is_missing(self) -> None:
        arrived = round(time.time(), 6)
        self.rejected("replay", str(self.reject(self.message(("temp", 1)), arrived=arrived)))
        self.reject(self.message(("temp", 1), ("memory", 2)), arrived=arrived)
        self.assertIn("1 metrics added", self.rejected("replay"))
        self.assertEqual([row[1:3] for row in self.metrics()], [("memory", "2"), ("temp", "1")])

    def test_a_message_that_came_twice_is_stored_once(self) -> None:
        now = time.time()
        message = self.message(("temp", 1), timestamp=int(now * 1000))
        self.reject(message, arrived=now)
        self.reject(message, arrived=now + 1)
        self.rejected("replay")
        self.assertEqual(len(self.metrics()), 1)
        self.assertEqual(self.rejected("list"), "")

    def test_a_connected_agent_stays_connected(self) -> None:
        self.sql(
            'INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")'
            " VALUES ('yyy', 'platzi', 'newer', 'here', 10, true, now(), now())"
        )
        self.reject(self.message(("temp", 1)))
        self.rejected("replay")
        self.assertEqual(self.sql("SELECT name, connected FROM agents"), [("newer", True)])


class NoDatabaseTests(TestCase):
    def setUp(self) -> None:
        self.state_dir = open_dir()
        self.addCleanup(shutil.rmtree, self.state_dir)

    def test_without_a_database_it_says_so(self) -> None:
        self.assert_says_so()

    def test_what_a_server_left_behind_that_was_killed_is_no_database(self) -> None:
        data = Path(locate(self.state_dir, SYSTEM_HOME).data)
        data.mkdir()
        left = [os.getpid(), data, 0, 5432, data, "", "", "ready", ""]  # by now another program's number
        (data / "postmaster.pid").write_text("\n".join(map(str, left)))
        self.assert_says_so()

    def assert_says_so(self) -> None:
        err = io.StringIO()
        self.patch(os, "environ", {"STATE_DIRECTORY": self.state_dir})
        with contextlib.redirect_stderr(err):
            self.assertEqual(main(["rejected", "list"]), 1)
        self.assertIn("no embedded database runs in", err.getvalue())
