"""Who may go on with a Session: the login that has begun it."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.packets import Connack, ConnectReturnCode, Publish
from platziverse.testing import BrokerHarness, FakeClient, OpenAuthority

REJECTED = [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)]
ACCEPTED = [Connack(False, ConnectReturnCode.ACCEPTED)]
RESUMED = [Connack(True, ConnectReturnCode.ACCEPTED)]


class Checked(OpenAuthority):
    """User names are those of logins."""

    checks_names = True


class Owners(SynchronousTestCase):
    """Row 193."""

    def setUp(self) -> None:
        self.harness = BrokerHarness(authority=Checked())

    def connect(self, username: str | None, **more: Any) -> FakeClient:
        return self.harness.connect("same", username=username, clean_session=False, **more)

    def leave_a_message(self, username: str | None) -> None:
        """A Session of this login that is absent, with one message."""
        client = self.connect(username)
        client.subscribe("t", 1)
        client.lose()
        self.harness.connect("publisher").publish("t", b"secret", 1, 1)

    def assert_gets_the_message(self, client: FakeClient) -> None:
        self.assertEqual(client.connack, [*RESUMED, Publish("t", b"secret", 1, packet_id=1)])

    def test_the_same_login_resumes(self) -> None:
        for username in ("ana", None):
            self.setUp()
            self.leave_a_message(username)
            self.assert_gets_the_message(self.connect(username))

    def test_another_login_gets_nothing_and_takes_nothing(self) -> None:
        self.leave_a_message("ana")
        for username in ("bob", None):
            client = self.connect(username)
            self.assertEqual((client.connack, client.closed), (REJECTED, True))
        self.assert_gets_the_message(self.connect("ana"))

    def test_another_login_does_not_end_a_living_connection(self) -> None:
        first = self.connect("ana")
        self.assertEqual(self.connect("bob").connack, REJECTED)
        self.assertFalse(first.closed)
        self.assertEqual(self.connect("ana").connack, RESUMED)
        self.assertTrue(first.closed)

    def test_what_was_begun_without_a_login_belongs_to_nobody(self) -> None:
        self.leave_a_message(None)
        client = self.connect("ana")
        self.assertEqual((client.connack, client.received()), (ACCEPTED, []))
        first = self.harness.connect("other", clean_session=False)
        self.assertEqual(self.harness.connect("other", username="ana").connack, ACCEPTED)
        self.assertTrue(first.closed)

    def test_where_names_are_not_checked_nothing_is_inherited_either(self) -> None:
        self.harness = BrokerHarness()
        self.leave_a_message("ana")
        client = self.connect("bob")
        self.assertEqual((client.connack, client.received()), (ACCEPTED, []))
