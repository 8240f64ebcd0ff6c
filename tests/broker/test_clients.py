"""Clients: who watches them, what a handler does to those who have gone, and Sessions that come late."""

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.clients import Clients
from platziverse.broker.complaints import Complaints
from platziverse.broker.interfaces import SERVER, Answer, Client, Handler
from platziverse.broker.limits import Limits
from platziverse.broker.ports import Opened
from platziverse.broker.reasons import Reason
from platziverse.broker.sessions import Sessions
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connect, Pubcomp, Publish, Pubrec, Pubrel
from platziverse.testing import BrokerHarness, OpenAuthority
from tests.logs import observe_log


class Watching:
    """An observer that remembers what it was told, and may break.

    :ivar answer: what the release of a message is answered with.
    """

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.breaks = False
        self.answer: Answer = None

    def client_connected(self, client: Client) -> None:
        if self.breaks:
            raise ZeroDivisionError
        self.told.append(("connected", client.client_id))

    def client_disconnected(self, client: Client, taken_over: bool) -> None:
        self.told.append(("disconnected", client.client_id, taken_over))

    def message_released(self, client: Client, packet_id: int) -> Answer:
        self.told.append(("released", client.client_id, packet_id))
        return self.answer

    def session_ended(self, client_id: str) -> None:
        self.told.append(("ended", client_id))


class Observers(SynchronousTestCase):
    def setUp(self) -> None:
        self.watching = Watching()
        self.harness = BrokerHarness(limits=Limits(session_expiry=100.0), observers=[self.watching])

    def test_they_are_told_of_connections_and_take_overs(self) -> None:
        self.harness.connect("one")
        self.harness.connect("one").lose()
        first, over, second, end = self.watching.told
        self.assertEqual((first, second), (("connected", "one"),) * 2)
        self.assertEqual((over, end), (("disconnected", "one", True), ("disconnected", "one", False)))

    def test_they_are_told_of_the_end_of_a_kept_session(self) -> None:
        self.harness.connect("one", clean_session=False).lose()
        self.harness.clock.advance(101.0)
        self.harness.broker.expire()
        self.assertEqual(self.watching.told[-1], ("ended", "one"))

    def test_pubcomp_waits_for_them(self) -> None:
        client = self.harness.connect("one", clean_session=False)
        answer: Deferred[object] = Deferred()
        self.watching.answer = answer
        client.publish("t", b"", 2, 5)
        client.send(Pubrel(5))
        self.assertEqual(client.received(), [Pubrec(5)])
        answer.callback(None)
        self.assertEqual(client.received(), [Pubcomp(5)])
        self.assertEqual(self.watching.told[-1], ("released", "one", 5))

    def test_they_are_told_of_a_release_when_its_message_is_stored(self) -> None:
        """Row 272: PUBREL comes on a new connection, and what the old one sent is still being stored."""
        stored: Deferred[object] = Deferred()
        table: dict[str, Handler] = {"t": lambda message, client: stored}
        harness = BrokerHarness(table, observers=[self.watching])
        harness.connect("one", clean_session=False).publish("t", b"", 2, 5)
        client = harness.connect("one", clean_session=False)
        client.send(Pubrel(5))
        self.assertEqual((client.received(), self.watching.told[-1]), ([], ("connected", "one")))
        stored.callback(None)
        self.assertEqual(client.received(), [Pubcomp(5)])
        self.assertEqual(self.watching.told[-1], ("released", "one", 5))

    def test_a_connection_does_not_come_about_when_one_breaks(self) -> None:
        """Row 85."""
        self.watching.breaks = True
        client = self.harness.connect("one")
        self.assertEqual((client.closed, self.harness.broker.connected), (True, 0))
        self.assertEqual(len(self.harness.broker.sessions), 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Gone(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        observe_log(self, self.observe)

    def observe(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))

    def test_a_client_that_is_dropped_loses_its_session(self) -> None:
        harness = BrokerHarness()
        client = harness.connect("one", clean_session=False)
        session = harness.broker.sessions.get("one")
        assert session is not None
        harness.broker.drop(session, Reason.QUOTA, "memory is short")
        self.assertEqual((client.closed, len(harness.broker.sessions)), (True, 0))
        harness.broker.drop(session, Reason.QUOTA, "memory is short")  # it is gone already

    def test_a_will_that_waits_is_counted_and_its_failure_is_told(self) -> None:
        """row 29: nobody is there who could be held back."""
        answer: Deferred[object] = Deferred()
        table: dict[str, Handler] = {"will": lambda message, client: answer}
        harness = BrokerHarness(table)
        unfinished = harness.broker.clients.farewells.unfinished
        harness.connect("one", will=Publish("will", b"12345")).lose()
        self.assertEqual((unfinished.count, unfinished.bytes), (1, 5))
        answer.errback(RuntimeError("away"))
        self.assertEqual((unfinished.count, unfinished.bytes), (0, 0))
        self.assertIn("'one' could not be handled: away", self.lines[-1])

    def test_the_servers_own_message_that_fails_is_told(self) -> None:
        table: dict[str, Handler] = {"own": lambda message, client: fail(RuntimeError("away"))}
        BrokerHarness(table).broker.announce("own", b"")
        self.assertIn(f"{SERVER.client_id!r} could not be handled: away", self.lines[-1])


class LateSessions(Sessions):
    """Sessions of a store that has to ask somebody."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[Callable[[], None]] = []
        self.asking: list[Deferred[Opened]] = []

    def open(self, client_id: str, clean: bool, username: str | None = None, *more: Any) -> Any:
        answer: Deferred[Opened] = Deferred()
        self.asking.append(answer)
        opened: Any = partial(super().open, client_id, clean, username)
        self.asked.append(lambda: answer.callback(opened()))
        return answer


class Far:
    """A connection of a client."""

    def __init__(self) -> None:
        self.closed: Reason | None = None

    def close(self, reason: Reason, text: str) -> None:
        self.closed = reason


class Late(SynchronousTestCase):
    def setUp(self) -> None:
        limits, authority = Limits(max_connections_per_user=1), OpenAuthority()
        self.clock = Clock()
        self.sessions = LateSessions(limits, authority, lambda session: None)
        self.clients = Clients(
            self.sessions,
            authority,
            Traffic(),
            limits,
            [],
            lambda message, client: None,
            self.clock,
            self.clock.seconds,
            Complaints(self.clock),
            Turn(self.clock),
        )

    def connect(self, clean: bool = True, username: str = "ana") -> "tuple[Any, Deferred[Opened]]":
        connection: Any = Far()
        opened = self.clients.connect(Connect("one", clean), connection, "192.0.2.1:1", username)
        assert isinstance(opened, Deferred)
        return connection, opened

    def test_a_client_is_connected_when_its_session_is_there(self) -> None:
        connection, opened = self.connect()
        self.assertEqual(self.clients.connected, 0)
        self.sessions.asked[0]()
        session, present = self.successResultOf(opened)
        self.assertEqual((session.connection, present, self.clients.connected), (connection, False, 1))

    def test_a_session_that_cannot_be_opened_leaves_no_trace(self) -> None:
        _, opened = self.connect()
        self.sessions.asking[0].errback(RuntimeError("away"))
        self.failureResultOf(opened, RuntimeError)
        self.connect()  # the only one that ana may have
        self.sessions.asked[1]()
        self.assertEqual(self.clients.connected, 1)

    def test_of_many_with_one_client_identifier_the_last_one_stays(self) -> None:
        """Row 24. [MQTT-3.1.4-2]"""
        for clean in (True, False):
            connects = [self.connect(clean=clean) for _ in range(300)]
            for _ in connects:
                self.assertEqual(len(self.sessions.asked), 1)
                self.sessions.asked.pop()()
                self.clock.advance(0)
            self.assertEqual({connection.closed for connection, _ in connects[:-1]}, {Reason.TAKEN_OVER})
            connection, opened = connects[-1]
            session, present = self.successResultOf(opened)
            self.assertEqual((connection.closed, session.connection, present), (None, connection, not clean))
            self.assertIs(self.sessions.get("one"), session)
            self.assertEqual((self.clients.connected, len(self.sessions)), (1, 1))

    def test_one_that_is_refused_holds_up_nobody_behind_it(self) -> None:
        """Row 24."""
        self.clients.users.enter("bob")  # on a connection of his own, and he may have one
        first, second, third = self.connect(), self.connect(username="bob"), self.connect()
        self.sessions.asked[0]()
        self.clock.advance(0)
        self.failureResultOf(second[1], ConnectRefused)
        self.sessions.asked[1]()
        self.assertIs(self.successResultOf(third[1])[0].connection, third[0])
        self.assertIs(first[0].closed, Reason.TAKEN_OVER)
