"""Which agents each connection speaks for."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import InvalidReport
from platziverse.agents.presence import AGENT, Presence
from tests.agents.doubles import FakeClient
from tests.memory import objects_kept


class PresenceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.presence = Presence(max_agents=3)

    def opened(self, client_id: str, number: int, username: str | None = None) -> FakeClient:
        client = FakeClient(client_id, number, username)
        self.presence.begin(client)
        return client

    def test_an_agent_is_announced_once_per_connection(self) -> None:
        one, two = self.opened("one", 1), self.opened("two", 2)
        self.assertTrue(self.presence.heard(one, "a"))
        self.assertFalse(self.presence.heard(one, "a"))
        self.assertTrue(self.presence.heard(two, "a"))
        self.assertEqual(self.presence.agents, 1)

    def test_agents_of_all_connections_have_a_share_of_the_memory(self) -> None:
        """Row 298: each connection may speak for 10,000."""
        self.presence.limit(8 * 2 * AGENT)
        for number in range(2):
            client = self.opened(f"client {number}", number)
            self.presence.check(client, str(number))
            self.presence.heard(client, str(number))
        error = self.assertRaises(InvalidReport, self.presence.check, client, "another")
        self.assertIn("max_memory", str(error))
        self.presence.check(client, "0")
        self.presence.limit(0)
        self.presence.check(client, "another")

    def test_a_gateway_speaks_for_several(self) -> None:
        gateway = self.opened("gateway", 1)
        for uuid in "abc":
            self.presence.heard(gateway, uuid)
        self.assertEqual(self.presence.end(gateway, False), ["a", "b", "c"])
        self.assertEqual(self.presence.agents, 0)

    def test_an_agent_heard_over_two_connections_leaves_with_the_last(self) -> None:
        one, two = self.opened("one", 1), self.opened("two", 2)
        self.presence.heard(one, "a")
        self.presence.heard(two, "a")
        self.assertEqual(self.presence.end(one, False), [])
        self.assertTrue(self.presence.is_connected("a"))
        self.assertEqual(self.presence.end(two, False), ["a"])

    def test_a_take_over_keeps_the_agents(self) -> None:
        """row 24, row 25"""
        old = self.opened("same", 1)
        self.presence.heard(old, "a")
        self.assertEqual(self.presence.end(old, True), [])
        self.assertTrue(self.presence.is_connected("a"))
        new = self.opened("same", 2)
        self.assertEqual(self.presence.end(new, False), ["a"])

    def test_an_agent_is_announced_again_on_the_connection_that_took_over(self) -> None:
        old = self.opened("same", 1)
        self.presence.heard(old, "a")
        self.presence.end(old, True)
        new = self.opened("same", 2)
        self.assertTrue(self.presence.heard(new, "a"))
        self.assertFalse(self.presence.heard(new, "a"))
        self.assertEqual(self.presence.end(new, False), ["a"])

    def test_ten_thousand_take_overs_leave_nothing_behind(self) -> None:
        """row 24"""
        client = self.opened("same", 1)
        self.presence.heard(client, "a")
        for number in range(2, 10_002):
            self.presence.end(client, True)
            client = self.opened("same", number)
        self.assertEqual(self.presence.end(client, False), ["a"])
        self.assertEqual(self.presence.agents, 0)
        self.assertEqual(objects_kept(self.presence), objects_kept(Presence(3)))

    def test_a_message_after_the_end_does_not_bring_an_agent_back(self) -> None:
        """row 29: a Will handled late."""
        client = self.opened("one", 1)
        self.presence.end(client, False)
        self.assertFalse(self.presence.heard(client, "a"))
        self.assertFalse(self.presence.is_connected("a"))
        self.assertFalse(self.presence.is_open(client))

    def test_one_connection_speaks_for_a_limited_number_of_agents(self) -> None:
        """row 98"""
        gateway = self.opened("gateway", 1)
        for uuid in "abc":
            self.presence.heard(gateway, uuid)
        self.presence.check(gateway, "a")
        with self.assertRaises(InvalidReport) as caught:
            self.presence.check(gateway, "d")
        self.assertEqual(caught.exception.kind, "agents")

    def test_an_agent_belongs_to_the_login_that_speaks_for_it(self) -> None:
        """row 101"""
        owner, thief, nobody = self.opened("o", 1, "ann"), self.opened("t", 2, "bob"), self.opened("n", 3)
        self.presence.heard(owner, "a")
        self.presence.check(self.opened("second", 4, "ann"), "a")
        for other in (thief, nobody):
            with self.assertRaises(InvalidReport) as caught:
                self.presence.check(other, "a")
            self.assertEqual(caught.exception.kind, "login")
        self.presence.end(owner, False)
        self.presence.check(thief, "a")

    def test_an_agent_that_has_gone_is_spoken_for_by_nobody(self) -> None:
        speaker, other = self.opened("speaker", 1), self.opened("other", 2)
        self.presence.heard(speaker, "a")
        self.presence.heard(other, "a")
        self.assertTrue(self.presence.depart(other, "a"))
        self.assertFalse(self.presence.depart(other, "a"))
        self.assertFalse(self.presence.has_heard(speaker, "a"))
        self.assertEqual(self.presence.end(speaker, False), [])
        self.assertTrue(self.presence.heard(other, "a"))

    def test_an_agent_may_go_while_its_connection_is_taken_over(self) -> None:
        old, other = self.opened("one", 1), self.opened("other", 2)
        self.presence.heard(old, "a")
        self.presence.end(old, True)
        self.assertTrue(self.presence.depart(other, "a"))
        new = self.opened("one", 3)
        self.assertEqual(self.presence.agents, 0)
        self.assertEqual(self.presence.end(new, False), [])

    def test_agents_that_are_forgotten_leave_with_no_connection_and_may_come_again(self) -> None:
        one, two = self.opened("one", 1), self.opened("two", 2)
        for client in one, two:
            self.presence.heard(client, client.client_id)
        self.presence.end(two, taken_over=True)
        self.presence.forget()
        self.opened("two", 3)
        self.assertEqual(self.presence.agents, 0)
        self.assertTrue(self.presence.heard(one, "one"))
        self.presence.forget()
        self.assertEqual(self.presence.end(one, taken_over=False), [])

    def test_a_login_may_not_send_away_the_agent_of_another(self) -> None:
        owner, thief = self.opened("owner", 1, "ana"), self.opened("thief", 2, "eva")
        self.presence.heard(owner, "a")
        self.assertRaises(InvalidReport, self.presence.depart, thief, "a")
        self.assertTrue(self.presence.is_connected("a"))


class PresenceMachine(RuleBasedStateMachine):
    """Any order of connections, take-overs and messages, against sets."""

    ids = st.sampled_from(["x", "y", "z"])
    uuids = st.sampled_from(["a", "b", "c", "d"])

    @initialize()
    def begin(self) -> None:
        self.presence = Presence(100)
        self.number = 0
        self.model: dict[str, tuple[FakeClient, set[str]]] = {}

    @rule(client_id=ids)
    def connect(self, client_id: str) -> None:
        self.number += 1
        new = FakeClient(client_id, self.number)
        agents: set[str] = set()
        if client_id in self.model:
            old, agents = self.model[client_id]
            assert self.presence.end(old, True) == []
        self.presence.begin(new)
        self.model[client_id] = (new, agents)

    @rule(client_id=ids)
    def disconnect(self, client_id: str) -> None:
        if client_id in self.model:
            client, agents = self.model.pop(client_id)
            others = set().union(*(theirs for _, theirs in self.model.values()))
            assert set(self.presence.end(client, False)) == agents - others

    @rule(client_id=ids, uuid=uuids)
    def depart(self, client_id: str, uuid: str) -> None:
        if client_id in self.model:
            client, _ = self.model[client_id]
            there = any(uuid in agents for _, agents in self.model.values())
            assert self.presence.depart(client, uuid) == there
            for _, agents in self.model.values():
                agents.discard(uuid)

    @rule(client_id=ids, uuid=uuids)
    def hear(self, client_id: str, uuid: str) -> None:
        if client_id in self.model:
            client, agents = self.model[client_id]
            self.presence.check(client, uuid)
            self.presence.heard(client, uuid)
            agents.add(uuid)

    @invariant()
    def connected_agents_are_those_somebody_speaks_for(self) -> None:
        if hasattr(self, "model"):
            spoken = set().union(*(agents for _, agents in self.model.values()))
            assert self.presence.agents == len(spoken)
            assert all(self.presence.is_connected(uuid) for uuid in spoken)


class MachineTests(PresenceMachine.TestCase):  # type: ignore[valid-type,misc]
    settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
