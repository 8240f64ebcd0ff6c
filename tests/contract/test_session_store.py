"""What every SessionStore does; one more subclass for each further one."""

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import TestCase

from platziverse.broker.interfaces import NetworkConnection
from platziverse.broker.limits import Limits
from platziverse.broker.ports import Opened, SessionStore
from platziverse.broker.session import Session
from platziverse.broker.sessions import Sessions
from platziverse.testing import OpenAuthority

HOUR = 3600.0


class SessionStoreContract:
    """Mixed into a TestCase that makes a ``store`` with these limits."""

    limits = Limits(session_expiry=24 * HOUR, max_absent_sessions=3)
    store: SessionStore
    ended: list[str]
    assertEqual: Callable[..., None]
    assertIs: Callable[..., None]
    assertIsNone: Callable[..., None]
    assertIsNot: Callable[..., None]

    def open(self, client_id: str, clean: bool) -> "Deferred[Opened]":
        answer = self.store.open(client_id, clean)
        opened = answer if isinstance(answer, Deferred) else succeed(answer)
        return opened.addCallback(self._connected)

    def _connected(self, opened: Opened) -> Opened:
        opened[0].connection = cast(NetworkConnection, object())
        return opened

    def leave(self, session: Session, now: float) -> None:
        session.pause()
        self.store.leave(session, now)

    def test_a_client_has_one_session(self) -> "Deferred[Any]":
        """[MQTT-3.1.3-2]"""

        def check(opened: Opened) -> None:
            session, present = opened
            self.assertEqual((present, session.client_id, session.persistent), (False, "one", False))
            self.assertIs(self.store.get("one"), session)
            self.assertIsNone(self.store.get("other"))
            self.assertEqual(([*self.store], len(self.store), self.store.absent), ([session], 1, 0))

        return self.open("one", True).addCallback(check)

    def test_a_clean_session_ends_with_its_connection(self) -> "Deferred[Any]":
        def check(opened: Opened) -> None:
            self.leave(opened[0], 0.0)
            self.assertEqual((self.ended, len(self.store)), (["one"], 0))

        return self.open("one", True).addCallback(check)

    def test_a_persistent_session_is_resumed(self) -> "Deferred[Any]":
        """[MQTT-3.1.2-4] [MQTT-3.1.2-5]"""

        def leave(opened: Opened) -> "Deferred[None]":
            self.leave(opened[0], 0.0)
            self.assertEqual((self.store.absent, self.ended), (1, []))
            return self.open("one", False).addCallback(again, opened[0])

        def again(opened: Opened, first: Session) -> None:
            self.assertEqual((opened[1], self.store.absent), (True, 0))
            self.assertIs(opened[0], first)

        return self.open("one", False).addCallback(leave)

    def test_clean_session_1_ends_what_was_kept(self) -> "Deferred[Any]":
        """[MQTT-3.1.2-6]"""

        def leave(opened: Opened) -> "Deferred[None]":
            self.leave(opened[0], 0.0)
            return self.open("one", True).addCallback(again, opened[0])

        def again(opened: Opened, first: Session) -> None:
            self.assertEqual((opened[1], self.ended), (False, ["one"]))
            self.assertIsNot(opened[0], first)

        return self.open("one", False).addCallback(leave)

    def test_an_absent_client_has_its_time(self) -> "Deferred[Any]":
        def check(opened: Opened) -> None:
            self.leave(opened[0], 10.0)
            self.assertEqual(self.store.expire(24 * HOUR + 9.0), 0)
            self.assertEqual(self.store.expire(24 * HOUR + 10.0), 1)
            self.assertEqual((self.ended, len(self.store), self.store.absent), (["one"], 0, 0))

        return self.open("one", False).addCallback(check)

    def test_there_is_room_for_so_many_absent_clients(self) -> "Deferred[Any]":
        """The one that has been away longest goes."""
        names = ["one", "two", "three", "four"]

        def next_one(_: object = None) -> "Deferred[Any] | None":
            if not names:
                self.assertEqual((self.ended, self.store.absent), (["one"], 3))
                return None
            opened = self.open(names.pop(0), False)
            return opened.addCallback(lambda opened: self.leave(opened[0], 0.0)).addCallback(next_one)

        return cast("Deferred[Any]", next_one())


class InMemory(SessionStoreContract, TestCase):
    def setUp(self) -> None:
        self.ended = []
        self.store = Sessions(
            self.limits, OpenAuthority(), lambda session: self.ended.append(session.client_id)
        )
