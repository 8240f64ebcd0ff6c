"""Sessions: which one a Client Identifier has, and until when."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.broker.session import Session
from platziverse.broker.sessions import Sessions
from platziverse.testing import OpenAuthority

HOUR = 3600.0


class SessionTests(SynchronousTestCase):
    limits = Limits(session_expiry=24 * HOUR, max_absent_sessions=3)

    def setUp(self) -> None:
        self.ended: list[str] = []
        self.store = Sessions(
            self.limits, OpenAuthority(), lambda session: self.ended.append(session.client_id)
        )

    def open(self, client_id: str, clean: bool) -> tuple[Session, bool]:
        """The Session of a client that connects, and whether it was there before."""
        opened: Any = self.store.open(client_id, clean)
        opened[0].connection = object()
        session, present = opened
        return session, present

    def leave(self, session: Session, now: float) -> None:
        session.pause()
        self.store.leave(session, now)

    def test_a_client_has_one_session(self) -> None:
        """[MQTT-3.1.3-2]"""
        session, present = self.open("one", True)
        self.assertEqual((present, session.client_id, session.persistent), (False, "one", False))
        self.assertIs(self.store.get("one"), session)
        self.assertIsNone(self.store.get("other"))
        self.assertEqual(([*self.store], len(self.store), self.store.absent), ([session], 1, 0))

    def test_a_clean_session_ends_with_its_connection(self) -> None:
        session, _ = self.open("one", True)
        self.leave(session, 0.0)
        self.assertEqual((self.ended, len(self.store)), (["one"], 0))

    def test_a_persistent_session_is_resumed(self) -> None:
        """[MQTT-3.1.2-4] [MQTT-3.1.2-5]"""
        first, _ = self.open("one", False)
        self.leave(first, 0.0)
        self.assertEqual((self.store.absent, self.ended), (1, []))
        again, present = self.open("one", False)
        self.assertEqual((present, self.store.absent), (True, 0))
        self.assertIs(again, first)

    def test_clean_session_1_ends_what_was_kept(self) -> None:
        """[MQTT-3.1.2-6]"""
        first, _ = self.open("one", False)
        self.leave(first, 0.0)
        again, present = self.open("one", True)
        self.assertEqual((present, self.ended), (False, ["one"]))
        self.assertIsNot(again, first)

    def test_an_absent_client_has_its_time(self) -> None:
        session, _ = self.open("one", False)
        self.leave(session, 10.0)
        self.assertEqual(self.store.expire(24 * HOUR + 9.0), 0)
        self.assertEqual(self.store.expire(24 * HOUR + 10.0), 1)
        self.assertEqual((self.ended, len(self.store), self.store.absent), (["one"], 0, 0))

    def test_there_is_room_for_so_many_absent_clients(self) -> None:
        """The one that has been away longest goes."""
        for name in ("one", "two", "three", "four"):
            session, _ = self.open(name, False)
            self.leave(session, 0.0)
        self.assertEqual((self.ended, self.store.absent), (["one"], 3))
