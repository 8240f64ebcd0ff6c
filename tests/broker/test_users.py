"""UserCounts: clients with the same name."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Connack, ConnectReturnCode, Packet
from platziverse.testing import BrokerHarness, FakeClient
from tests.memory import objects_kept

ACCEPTED: list[Packet] = [Connack(False, ConnectReturnCode.ACCEPTED)]
REFUSED: list[Packet] = [Connack(False, ConnectReturnCode.SERVER_UNAVAILABLE)]


class UserTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness(limits=Limits(max_connections_per_user=2))

    def connect(self, client_id: str, username: str | None = "fleet", **fields: Any) -> FakeClient:
        return self.harness.connect(client_id, username=username, **fields)

    def test_a_user_may_have_so_many_clients_and_no_more(self) -> None:
        for client_id, expected in (("a", ACCEPTED), ("b", ACCEPTED), ("c", REFUSED)):
            client = self.connect(client_id)
            self.assertEqual((client.connack, client.closed), (expected, expected is REFUSED))
        self.assertEqual(self.harness.broker.traffic.connects_refused, {"server_unavailable": 1})

    def test_the_clients_of_others_are_not_counted(self) -> None:
        for client_id, name in (("a", "fleet"), ("b", "fleet"), ("c", "other"), ("d", None), ("e", None)):
            self.assertEqual(self.connect(client_id, name).connack, ACCEPTED)

    def test_whoever_leaves_makes_room(self) -> None:
        first, _ = self.connect("a"), self.connect("b")
        first.lose()
        self.assertEqual(self.connect("c").connack, ACCEPTED)

    def test_a_client_that_takes_itself_over_needs_no_room(self) -> None:
        """Row 24: also again and again."""
        self.connect("a")
        for _ in range(10):
            self.assertEqual(self.connect("b").connack, ACCEPTED)
        self.assertEqual(self.connect("c").connack, REFUSED)

    def test_an_absent_session_takes_no_room(self) -> None:
        first, _ = self.connect("a", clean_session=False), self.connect("b")
        first.lose()
        self.assertEqual(self.connect("c").connack, ACCEPTED)
        self.assertEqual(self.connect("a", clean_session=False).connack, REFUSED)

    def test_whoever_takes_the_place_of_another_user_needs_room(self) -> None:
        self.connect("a")
        self.connect("b")
        other = self.connect("x", "other")
        self.assertEqual(self.connect("x").connack, REFUSED)
        self.assertFalse(other.closed)

    def test_nothing_stays_when_all_have_left(self) -> None:
        before = objects_kept(self.harness.broker.clients.users)
        clients = [self.connect("a"), self.connect("a"), self.connect("b"), self.connect("c")]
        for client in clients:
            client.lose()
        self.assertEqual(objects_kept(self.harness.broker.clients.users), before)
