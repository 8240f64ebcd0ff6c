"""``platziverse sessions`` and ``platziverse retained`` against a real database."""

import contextlib
import io
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from platziverse.command.cli import main
from platziverse.postgres.migrate import migrate
from platziverse.postgres.requests import CLEAR_RETAINED, END_SESSION
from tests.postgres.scratch import scratch_server
from tests.servers import lone_lease

DAEMON = 7


class CommandTests(TestCase):
    def setUp(self) -> "Deferred[Any]":  # type: ignore[override]  # trial waits for it
        self.server = scratch_server()
        self.name = self.server.create()
        self.dsn = self.server.dsn(self.name)
        return migrate(self.dsn, reactor).addCallback(lambda _: self.fill())

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        return self.server.execute(self.name, query, *parameters)

    def fill(self) -> None:
        """Two Sessions: one absent with messages in both places, one connected."""
        self.sql(
            'INSERT INTO mqtt_sessions (id, "clientId", username, daemon, expiry, "absentSince") VALUES'
            f" (1, 'plug', 'ana', {DAEMON}, 0, '2026-11-01T10:00:00Z'),"
            f" (2, 'screen', NULL, {DAEMON}, 0, NULL)"
        )
        self.sql(
            "INSERT INTO mqtt_subscriptions (session, filter, options)"
            " VALUES (1, 'home/+', 1), (1, 'a', 2), (2, 'b', 0)"
        )
        self.sql(
            'INSERT INTO mqtt_messages (id, topic, payload, "publishedAt")'
            " VALUES (9, 'home/x', '12345', '2026-11-01T11:00:00Z')"
        )
        self.sql(
            "INSERT INTO mqtt_queue (session, seq, flags, message) VALUES (1, 4, 1, 9)",
        )
        self.sql(
            'INSERT INTO mqtt_queue (session, seq, flags, topic, payload, "publishedAt")'
            " VALUES (1, 5, 1, 'home/x', '123', '2026-11-01T12:00:00Z')"
        )
        self.sql(
            'INSERT INTO mqtt_retained (topic, payload, flags, "clientId", username) VALUES'
            " ('home/lamp', 'on', 1, 'lamp', 'ana'), ('office/door', 'open', 0, 'door', NULL)"
        )

    def run_command(self, *arguments: str, code: int = 0) -> str:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            self.assertEqual(main(["--database", self.dsn, *arguments]), code, errors.getvalue())
        return out.getvalue() + errors.getvalue()

    def test_list_says_who_what_waits_and_since_when(self) -> None:
        first, second = self.run_command("sessions", "list").splitlines()
        self.assertEqual(
            first,
            "'plug' user 'ana' absent since 2026-11-01T10:00:00+00:00, 2 filters,"
            " 2 messages wait, 8 bytes, the oldest of 2026-11-01T11:00:00+00:00",
        )
        self.assertEqual(second, "'screen' connected, 1 filters, 0 messages wait, 0 bytes")
        self.assertEqual(self.run_command("sessions", "list", "--after", "plug"), f"{second}\n")

    def test_show_has_the_filters(self) -> None:
        lines = self.run_command("sessions", "show", "plug").splitlines()
        self.assertEqual(lines[1:], ["  'a' QoS 2", "  'home/+' QoS 1"])
        self.assertIn("no durable Session of 'x'", self.run_command("sessions", "show", "x", code=1))

    def test_end_without_a_daemon_leaves_nothing(self) -> None:
        self.assertIn("'plug' has ended", self.run_command("sessions", "end", "plug"))
        self.assertEqual(self.sql("SELECT id FROM mqtt_sessions"), [(2,)])
        self.assertEqual(self.sql("SELECT session FROM mqtt_subscriptions"), [(2,)])
        self.assertEqual(self.sql("SELECT count(*) FROM mqtt_queue"), [(0,)])
        self.assertIn("no durable Session", self.run_command("sessions", "end", "plug", code=1))

    def test_retained_messages_are_listed_and_cleared_by_topic_filter(self) -> None:
        lines = self.run_command("retained", "list").splitlines()
        self.assertEqual(
            [line.split(" since ")[0] for line in lines],
            ["'home/lamp' 2 bytes QoS 1 of 'lamp' user 'ana'", "'office/door' 4 bytes QoS 0 of 'door'"],
        )
        self.assertEqual(len(self.run_command("retained", "list", "office/#").splitlines()), 1)
        self.assertIn("1 Retained Messages cleared", self.run_command("retained", "clear", "home/+"))
        self.assertEqual(self.sql("SELECT topic FROM mqtt_retained"), [("office/door",)])
        self.assertIn("no Retained Message", self.run_command("retained", "clear", "home/+", code=1))

    def test_a_filter_that_is_none_is_refused(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as errors, self.assertRaises(SystemExit):
            main(["--database", self.dsn, "retained", "clear", "a/#/b"])
        self.assertIn("FILTER", errors.getvalue())

    @inlineCallbacks
    def test_a_daemon_that_runs_does_it_itself(self) -> Any:
        asked: list[tuple[str, str]] = []

        def carry_out(request: str, argument: str) -> None:
            asked.append((request, argument))
            table, column = {
                END_SESSION: ("mqtt_sessions", '"clientId"'),
                CLEAR_RETAINED: ("mqtt_retained", "topic"),
            }[request]
            self.sql(
                f"DELETE FROM {table} WHERE {column} = %s",
                "plug" if table == "mqtt_sessions" else "home/lamp",
            )

        lease = lone_lease(reactor, asked=carry_out)
        yield lease.start(self.dsn)
        ((number,),) = self.sql("SELECT id FROM mqtt_daemons")
        self.sql("UPDATE mqtt_sessions SET daemon = %s", number)
        try:
            for arguments, request in (
                (("sessions", "end", "plug"), (END_SESSION, "plug")),
                (("retained", "clear", "home/+"), (CLEAR_RETAINED, "home/+")),
            ):
                code = deferToThread(main, ["--database", self.dsn, *arguments])
                while not asked:
                    yield lease.beat()
                self.assertEqual((yield code), 0)
                self.assertEqual(asked.pop(), request)
        finally:
            yield lease.stop()
        self.assertEqual(self.sql("SELECT * FROM mqtt_requests"), [])
