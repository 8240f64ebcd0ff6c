"""Packets that are not complete are counted where they grow, and the largest make room."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import KIB, MIB, Limits
from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import encode
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connect, ConnectReturnCode, Pingreq, Pingresp, Publish
from platziverse.testing import BrokerHarness, FakeClient

#: A PUBLISH of a MiB without its last byte.
LARGE = encode(Publish("t", bytes(MIB)))[:-1]


class Partials(SynchronousTestCase):
    """Row 170: 400 clients with most of a large packet each took 400 MiB that nobody counted."""

    def setUp(self) -> None:
        self.harness = BrokerHarness(limits=Limits(max_memory=16 * MIB, max_packet_size=16 * MIB))
        self.partials = self.harness.shared.partials
        self.traffic = self.harness.broker.traffic

    def clients(self, count: int) -> list[FakeClient]:
        return [self.harness.connect(f"client-{number}") for number in range(count)]

    def test_all_together_have_a_quarter_of_the_budget(self) -> None:
        clients = self.clients(40)
        for client in clients:
            client.send_bytes(LARGE)
            self.assertLessEqual(self.partials.total, 4 * MIB)
        closed = sum(client.closed for client in clients)
        self.assertGreaterEqual(closed, 36)
        self.assertEqual(self.traffic.partials_dropped, closed)

    def test_the_largest_go_first(self) -> None:
        small, *large = self.clients(5)
        small.send_bytes(LARGE[:1000])
        for client in large:
            client.send_bytes(LARGE)
        self.assertFalse(small.closed)
        self.assertTrue(any(client.closed for client in large))
        small.send_bytes(LARGE[1000:] + b"\0")
        small.send(Pingreq())
        self.assertEqual(small.received(), [Pingresp()])

    def test_before_connect_too(self) -> None:
        half = encode(Connect("x" * 1000, username="u", password=bytes(60 * KIB)))[:-1]
        clients = [self.harness.open() for _ in range(200)]
        for client in clients:
            client.send_bytes(half)
        self.assertLessEqual(self.partials.total, 4 * MIB)
        self.assertGreater(self.traffic.partials_dropped, 100)

    def test_a_connect_that_waits_for_its_login_is_counted_too(self) -> None:
        """Row 294: passwords of 60 KB that wait for a thread were counted as nothing."""
        logins: list[Deferred[str | None]] = []

        def login(*_: object) -> "Deferred[str | None]":
            logins.append(Deferred())
            return logins[-1]

        self.patch(self.harness.broker.authority, "login", login)
        clients = [self.harness.open() for _ in range(50)]
        for number, client in enumerate(clients):
            client.send(Connect(f"x-{number}", username="u", password=bytes(60 * KIB)))
        self.assertGreater(self.partials.total, 50 * 60 * KIB)
        logins[0].callback("u")
        logins[1].errback(ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, "no"))
        clients[2].lose()
        self.assertLess(self.partials.total, 47.5 * 60 * KIB)
        for waiting in logins[2:]:
            waiting.callback("u")
        self.assertEqual(self.partials.total, 0)

    def test_the_books_balance(self) -> None:
        clients = self.clients(3)
        for client in clients:
            client.send_bytes(LARGE[:500_000])
        self.assertEqual(self.partials.total, 1_500_000)
        clients[0].send_bytes(LARGE[500_000:] + b"\0")
        clients[1].lose()
        self.harness.shared.close_all(Reason.SHUTTING_DOWN, "test")
        self.assertEqual(self.partials.total, 0)

    def test_it_is_said_with_the_name_of_the_setting(self) -> None:
        lines: list[str] = []
        complaints = self.harness.shared.complaints
        self.patch(complaints, "warn", lambda cause, text, **fields: lines.append(text.format(**fields)))
        for client in self.clients(5):
            client.send_bytes(LARGE)
        self.assertTrue(lines)
        self.assertIn("client-", lines[0])
        self.assertIn("max_memory", lines[0])
