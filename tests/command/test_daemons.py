"""``platziverse daemons`` against a real database."""

import contextlib
import io
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from platziverse.command.cli import main
from platziverse.postgres.migrate import migrate
from platziverse.postgres.reader import Reader
from platziverse.postgres.requests import DRAIN
from tests.servers import MISSING, cluster, execute, lone_lease


class DaemonsTests(TestCase):
    skip = MISSING or None
    timeout = 60

    def setUp(self) -> "Deferred[Any]":  # type: ignore[override]  # trial waits for it
        self.dsn = cluster().database("template1")
        return migrate(self.dsn, reactor).addCallback(lambda _: self.fill())

    def fill(self) -> None:
        """One daemon that is alive, one dead with an heir, one silent, one that has left."""
        execute(
            self.dsn,
            """INSERT INTO mqtt_daemons
                (id, instance, incarnation, name, version, bus, heir, "seenAt", "leftAt")
            SELECT id, gen_random_uuid(), id + 10, name, '1.0', bus, heir, now() - age, left_at
            FROM (VALUES (11, 'alpha', 'main', NULL, interval '1 s', NULL),
                (12, 'beta', 'main', 11, interval '1 hour', NULL),
                (13, 'gamma', NULL, NULL, interval '1 hour', NULL),
                (14, 'delta', 'main', 11, interval '1 hour', now()))
            AS given (id, name, bus, heir, age, left_at)""",
        )
        execute(
            self.dsn,
            "INSERT INTO mqtt_sessions (\"clientId\", daemon, expiry) VALUES ('c', 11, 0), ('d', 11, 0)",
        )

    def run_command(self, *arguments: str, code: int = 0) -> str:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            self.assertEqual(main(["--database", self.dsn, "daemons", *arguments]), code, errors.getvalue())
        return out.getvalue() + errors.getvalue()

    def test_list_says_who_is_alive_and_who_has_taken_over(self) -> None:
        lines = self.run_command("list").splitlines()
        self.assertEqual(lines[0], "11 alpha 1.0, bus 'main', alive, 2 Sessions")
        self.assertRegex(
            lines[1], r"^12 beta 1.0, bus 'main', dead since 20\S+, daemon 11 has taken over, 0 Sessions$"
        )
        self.assertRegex(lines[2], r"^13 gamma 1.0, no bus, silent since 20\S+, 0 Sessions$")
        self.assertRegex(
            lines[3], r"^14 delta 1.0, bus 'main', left since 20\S+, daemon 11 has taken over, 0"
        )

    def test_only_one_that_is_alive_can_be_drained(self) -> None:
        for name in "13", "gamma", "nobody":
            self.assertIn(f"no daemon {name!r} is alive", self.run_command("drain", name, code=1))
        execute(self.dsn, "UPDATE mqtt_daemons SET name = 'alpha', \"seenAt\" = now() WHERE id = 13")
        self.assertIn("say which: 11 or 13", self.run_command("drain", "alpha", code=1))
        execute(self.dsn, "UPDATE mqtt_daemons SET name = 'alpha/' || id WHERE id IN (11, 13)")
        self.assertIn("say which: 11 or 13", self.run_command("drain", "alpha", code=1))
        self.assertIn("no daemon 'alpha/1' is alive", self.run_command("drain", "alpha/1", code=1))

    @inlineCallbacks
    def test_drain_waits_until_the_daemon_has_left(self) -> Any:
        asked: list[tuple[str, str]] = []
        lease = lone_lease(reactor, asked=lambda request, argument: asked.append((request, argument)))
        yield lease.start(self.dsn)
        try:
            code = deferToThread(main, ["--database", self.dsn, "daemons", "drain", "1"])
            while not asked:
                yield lease.beat()
            self.assertFalse(code.called)
            yield lease.leave()
            self.assertEqual(((yield code), asked), (0, [(DRAIN, "")]))
        finally:
            yield lease.stop()

    @inlineCallbacks
    def test_a_daemon_that_dies_while_it_is_asked_ends_the_command_and_is_asked_for_nothing_more(self) -> Any:
        code = deferToThread(self.run_command, "drain", "11", code=1)
        asked = "SELECT daemon FROM mqtt_requests"
        while not execute(self.dsn, asked):
            yield deferLater(reactor, 0.01)
        execute(self.dsn, "UPDATE mqtt_daemons SET heir = 14 WHERE id = 11")
        self.assertIn("daemon 11 has died instead; daemon 14 has taken over", (yield code))
        self.assertEqual(execute(self.dsn, asked), [])

    @inlineCallbacks
    def test_the_api_shows_the_same(self) -> Any:
        reader = Reader(reactor, ValueError)
        reader.dsn = self.dsn
        self.addCleanup(reader.stop)
        rows = yield reader.daemons()
        self.assertEqual([row["state"] for row in rows], ["alive", "dead", "silent", "left"])
        self.assertEqual([row["heir"] for row in rows], [None, 11, None, 11])
        self.assertEqual((rows[0]["sessions"], rows[0]["incarnation"]), (2, 21))
        self.assertRegex(rows[0]["seenAt"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
