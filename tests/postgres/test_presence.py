"""Whose agents a daemon sets right after a crash."""

import uuid
from collections.abc import Generator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.postgres.migrate import migrate
from platziverse.postgres.presence import reset_presence
from tests.postgres.test_migrate import DatabaseCase

Steps = Generator["Deferred[Any]", Any, None]


class PresenceAfterACrash(DatabaseCase):
    @inlineCallbacks
    def test_only_our_agents_and_those_of_nobody_are_reset(self) -> Steps:
        """Rows 124 and 125."""
        yield migrate(self.dsn, reactor)
        ours, theirs = uuid.uuid4(), uuid.uuid4()
        for name, daemon in (("ours", ours), ("theirs", theirs), ("original's", None)):
            self.execute(
                """INSERT INTO agents (uuid, username, name, hostname, pid, connected,
                "createdAt", "updatedAt", "connectedBy")
                VALUES (%s, 'u', 'n', 'h', 1, true, now(), now(), %s)""",
                name,
                daemon and str(daemon),
            )
        self.execute("INSERT INTO mqtt_daemons (id, instance) VALUES (1, %s)", str(theirs))
        reset = yield reset_presence(self.dsn, reactor, ours)
        self.assertEqual(sorted(reset), ["original's", "ours"])
        self.assertEqual(self.execute("SELECT uuid FROM agents WHERE connected"), [("theirs",)])
        again = yield reset_presence(self.dsn, reactor, ours)
        self.assertEqual(again, [])

    @inlineCallbacks
    def test_agents_of_a_daemon_that_the_database_does_not_know_are_reset(self) -> Steps:
        """Row 145: forgotten after a day without a sign of life, or of an earlier version."""
        yield migrate(self.dsn, reactor)
        self.execute(
            """INSERT INTO agents (uuid, username, name, hostname, pid, connected,
            "createdAt", "updatedAt", "connectedBy")
            VALUES ('lost', 'u', 'n', 'h', 1, true, now(), now(), gen_random_uuid())"""
        )
        reset = yield reset_presence(self.dsn, reactor, uuid.uuid4())
        self.assertEqual(reset, ["lost"])
