"""A Client Identifier is connected once in all daemons."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.cluster.codec import encode
from platziverse.cluster.frames import Mine, NotYours
from platziverse.mqtt.packets import Properties, Publish
from platziverse.testing import MemorySessionStore, OpenAuthority
from tests.cluster.daemons import NOW, Daemons
from tests.cluster.test_cluster import Case, published


class Checked(OpenAuthority):
    """User names are true."""

    checks_names = True


class OneConnectionTests(Case):
    def test_the_newer_connection_stays(self) -> None:
        old = self.one.connect("same")
        self.daemons.advance(1)
        new = self.two.connect("same")
        self.assertTrue(old.closed)
        self.assertFalse(new.closed)
        self.assertEqual((self.one.broker.connected, self.two.broker.connected), (0, 1))
        self.assertEqual(self.one.broker.traffic.takeovers, 1)
        self.assertIn("a connection to daemon 2 has taken over its Client Identifier", self.log())

    def test_of_two_at_once_the_one_to_the_higher_number_stays(self) -> None:
        both = [daemon.harness.connect("same") for daemon in (self.one, self.two)]
        self.turn()
        self.assertEqual([client.closed for client in both], [True, False])

    def test_an_older_one_that_is_heard_of_late_is_told(self) -> None:
        new = self.two.harness.connect("same")
        self.two.cluster.frame(1, encode(Mine("same", None, NOW - 5), 1))
        self.assertFalse(new.closed)
        old = self.three.harness.connect("same")
        self.three.cluster.frame(2, encode(Mine("same", None, NOW + 5), 1))
        self.assertTrue(old.closed)

    def test_a_will_of_the_older_one_is_published(self) -> None:
        far = self.three.listening("far", "will")
        self.one.connect("same", will=Publish("will", b"gone"))
        self.daemons.advance(1)
        self.two.connect("same")
        self.turn()
        self.assertEqual(published(far), [("will", b"gone", 0, False)])

    def test_an_absent_session_ends_when_its_client_comes_elsewhere(self) -> None:
        self.one.listening("same", "a", 1, clean_session=False).lose()
        self.two.connect("same")
        self.assertIsNone(self.one.broker.sessions.get("same"))
        self.assertEqual(self.one.broker.traffic.takeovers, 0)

    def test_messages_of_a_session_that_ends_elsewhere_are_counted_and_said(self) -> None:
        four = self.daemons.begin(4, sessions=MemorySessionStore())
        four.listening("durable", "a", 1, clean_session=False).lose()
        for number in (1, 2):
            four.harness.connect("publisher").publish("a", b"x", 1, number)
            self.daemons.advance(0.1)
        self.two.connect("durable", clean_session=False)
        self.assertEqual(four.broker.traffic.publish_dropped, 2)
        text = "The Session of 'durable' ends with 2 messages: its client has begun one at daemon 2"
        self.assertIn(text, self.log())

    def test_a_will_that_a_moved_session_has_left_is_over_when_its_client_is_connected(self) -> None:
        """Row 516: discarded if that is in its Session, published if it has ended that."""
        four, kept = (
            self.daemons.begin(4, sessions=MemorySessionStore()),
            Properties(session_expiry_interval=99),
        )
        watcher = four.listening("watcher", "w")
        fields: dict[str, Any] = {"protocol_level": 5, "will_delay": 10, "properties": kept}
        for durable, clean, count in ((True, False, 0), (False, False, 1), (True, True, 1)):
            four.harness.connect("same", will=Publish("w", b"x"), **fields).lose()
            moving, session = four.broker.moving, four.broker.sessions.get("same")
            assert moving is not None
            assert session is not None
            moving.let_go(session)
            four.cluster.frame(2, encode(Mine("same", None, NOW, durable, clean), 1))
            self.assertEqual(len(published(watcher)), count)
            self.daemons.advance(20)
            self.assertEqual(published(watcher), [])


class LoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.daemons = Daemons()
        self.one, self.two = (self.daemons.begin(number, authority=Checked()) for number in (1, 2))

    def test_a_client_identifier_of_another_login_is_not_taken(self) -> None:
        old = self.one.connect("same", username="ana")
        self.daemons.advance(1)
        new = self.two.connect("same", username="bob")
        self.assertFalse(old.closed)
        self.assertTrue(new.closed)
        self.assertIs(self.one.broker.connected, 1)

    def test_the_same_login_may_come(self) -> None:
        old = self.one.connect("same", username="ana")
        self.daemons.advance(1)
        new = self.two.connect("same", username="ana")
        self.assertTrue(old.closed)
        self.assertFalse(new.closed)

    def test_a_refusal_concerns_the_connection_that_was_refused_alone(self) -> None:
        new = self.two.connect("same", username="bob")
        for client_id, since in (("same", NOW - 1), ("nobody", NOW)):
            self.two.cluster.frame(1, encode(NotYours(client_id, "ana", since), 1))
        self.assertFalse(new.closed)


class ObserverTests(SynchronousTestCase):
    def test_other_events_of_clients_concern_nobody_else(self) -> None:
        daemons = Daemons()
        store = MemorySessionStore()
        one, two = daemons.begin(1, sessions=store), daemons.begin(2)
        client: Any = one.connect("client", clean_session=False)
        sent = one.cluster.peers.sent
        identifiers = one.cluster.identifiers
        self.assertIsNone(identifiers.message_released(Client("client", 1), 1))
        client.lose()
        identifiers.session_ended("client")
        self.assertEqual(one.cluster.peers.sent, sent)
        self.assertEqual(two.cluster.peers[1].received, 0)
