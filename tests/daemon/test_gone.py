"""After a reload, users that are gone: their connections and their streams."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from platziverse.access.authority import AccessAuthority
from platziverse.access.passwords import LoginsUnavailable, PasswordFile
from platziverse.daemon.gone import TOGETHER, GoneUsers
from platziverse.testing import BrokerHarness
from tests.access.test_passwords import HASHED, Threads, make_checker
from tests.door.test_tls import write_certificate
from tests.logs import observe_lines


class Away:
    def password_hash(self, username: str) -> "Deferred[str | None]":
        return fail(LoginsUnavailable("refused"))


class Certificate:
    """One, as a transport shows it."""

    def __init__(self, certificate: Any) -> None:
        self.to_cryptography = lambda: certificate


class Streams:
    """One stream of each name."""

    def __init__(self, *names: str) -> None:
        self.usernames = set(names)

    def end_of(self, username: str) -> int:
        found = username in self.usernames
        self.usernames.discard(username)
        return int(found)


class GoneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.said = Clock(), observe_lines(self)
        self.harness = BrokerHarness(clock=self.clock)
        self.streams = Streams("bob", "eve")

    def look(self, users: Sequence[str] | None, *more: Any) -> None:
        """Look with these users in the file, and further tables."""
        checker = None
        if users is not None:
            checker = make_checker(Threads(), PasswordFile(dict.fromkeys(users, HASHED)), *more)
        looked = GoneUsers(
            self.clock, self.harness.broker, AccessAuthority(self.clock, checker), [self.streams]
        ).look()
        for _ in range(5):
            self.clock.advance(0)
        self.successResultOf(looked)

    def test_their_connections_and_streams_end_and_no_others(self) -> None:
        gone = [self.harness.connect(name, username="bob", clean_session=False) for name in ("a", "b")]
        kept = [self.harness.connect("c", username="eve"), self.harness.connect("d")]
        self.look(["eve", "ana"])
        self.assertEqual([client.closed for client in (*gone, *kept)], [True, True, False, False])
        self.assertEqual(self.streams.usernames, {"eve"})
        self.assertEqual(
            self.said,
            ["3 connections of users that are gone have ended (access.disconnect_removed)"],
        )
        self.assertIsNotNone(self.harness.broker.sessions.get("a"))
        self.look(["eve"])
        self.assertEqual(len(self.said), 1)

    def test_all_of_a_fleet(self) -> None:
        fleet = [self.harness.connect(f"c{n}", username=f"u{n}") for n in range(TOGETHER + 2)]
        self.look(["u0", f"u{TOGETHER + 1}"])
        self.assertEqual([client.closed for client in fleet], [False, *[True] * TOGETHER, False])

    def test_who_has_a_certificate_stays(self) -> None:
        clients = [self.harness.connect(name, username="plug") for name in ("a", "b")]
        folder = Path(self.mktemp())
        folder.mkdir()
        certificate, _ = write_certificate(folder, common_names=["plug"])
        shown: Any = clients[0].transport
        directlyProvides(shown, ISSLTransport)
        shown.getPeerCertificate = lambda: Certificate(certificate)
        self.look(["ana"])
        self.assertEqual([client.closed for client in clients], [False, True])

    def test_without_users_nobody_is_gone(self) -> None:
        client = self.harness.connect("a", username="bob")
        self.look(None)
        self.assertFalse(client.closed)

    def test_users_of_a_database_that_is_away_stay(self) -> None:
        client = self.harness.connect("a", username="bob")
        self.look(["ana"], Away())
        self.assertFalse(client.closed)
        self.assertEqual(self.said, ["Users of the database stay connected, be they gone or not: refused"])
