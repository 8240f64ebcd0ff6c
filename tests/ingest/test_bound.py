"""Agents that stay with their username, on a real PostgreSQL."""

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks

from platziverse.agents.model import Report
from tests.ingest.entries import agent, report
from tests.ingest.test_store import StoreCase

Steps = Generator["Deferred[Any]", Any, None]


def of(username: str, uuid: str, value: str) -> Report:
    """A report of one metric."""
    return report(value, agent=agent(uuid, username=username))


class BoundTests(StoreCase):
    def stored(self) -> "tuple[list[Any], list[Any]]":
        return (
            self.execute("SELECT uuid, username FROM agents ORDER BY 1"),
            self.execute("SELECT value FROM metrics ORDER BY value"),
        )

    @inlineCallbacks
    def test_a_report_for_anothers_agent_is_rejected_and_takes_nobody_along(self) -> Steps:
        """Row 101: also after a restart, when nothing is remembered but the rows."""
        yield self.writer.save(of("ana", "a", "1"))
        _, writer = yield self.make_store(bound=True)
        entries = [of("thief", "a", "2"), of("thief", "t", "3"), of("ana", "n", "4")]
        yield gatherResults([writer.save(entry) for entry in entries])
        yield writer.save(of("ana", "a", "5"))
        agents, values = self.stored()
        self.assertEqual(agents, [("a", "ana"), ("n", "ana"), ("t", "thief")])
        self.assertEqual(values, [("1",), ("3",), ("4",), ("5",)])
        self.assertEqual(
            self.execute("SELECT reason FROM rejected_messages"),
            [("the database refused it: the agent belongs to another username",)],
        )

    @inlineCallbacks
    def test_without_a_binding_an_agent_may_change_its_username(self) -> Steps:
        """Row 101."""
        yield self.writer.save(of("ana", "a", "1"))
        yield self.writer.save(of("new", "a", "2"))
        self.assertEqual(self.stored(), ([("a", "new")], [("1",), ("2",)]))
