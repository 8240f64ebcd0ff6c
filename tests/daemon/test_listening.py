"""The ports of the daemon."""

import errno
import os
import socket
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.broker.limits import Limits
from platziverse.daemon.listening import (
    HINTS,
    CannotListen,
    Listeners,
    completed,
    divided,
    readable,
    try_to_listen,
)
from platziverse.daemon.sockets import operator_socket
from platziverse.door.port import ImmediateServer
from platziverse.testing import BrokerHarness


class DescriptionTests(SynchronousTestCase):
    def test_a_plain_port_takes_both_families(self) -> None:
        self.assertEqual(completed("tcp:1883", True), r"tcp:1883:backlog=1024:interface=\:\:")
        self.assertEqual(completed("tcp:1883", False), "tcp:1883:backlog=1024")

    def test_what_is_given_stays(self) -> None:
        given = "tcp:1883:interface=127.0.0.1:backlog=7"
        self.assertEqual(completed(given, True), given)

    def test_other_kinds_stay(self) -> None:
        self.assertEqual(completed("unix:/run/m.sock", True), "unix:/run/m.sock:backlog=1024")
        self.assertEqual(completed("systemd:domain=INET:index=0", True), "systemd:domain=INET:index=0")

    def test_behind_a_proxy_it_is_the_same(self) -> None:
        """Row 75."""
        self.assertEqual(completed("haproxy:tcp:1883", True), r"haproxy:tcp:1883:backlog=1024:interface=\:\:")
        self.assertEqual(divided("haproxy:ssl:8883:backlog=7"), ("haproxy:tcp:8883:backlog=7", "tls"))


class TrialTests(SynchronousTestCase):
    """Row 254: what a check says of ``listen``."""

    def test_a_port_that_is_taken_and_one_that_is_free(self) -> None:
        """Row 254."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            description = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            for given in (description, f"haproxy:{description}", f"{description}:protocol=mqtt"):
                with self.assertRaisesRegex(CannotListen, "it is in use"):
                    try_to_listen(given)
        try_to_listen(description)

    def test_what_is_no_endpoint(self) -> None:
        """Row 254."""
        for given in ("tcp:x", "tcp:1:2:3:4:5", "nonsense:1", "tcp:1883:protocol=smtp"):
            with self.assertRaisesRegex(CannotListen, "cannot listen on"):
                try_to_listen(given)


class DividedTests(SynchronousTestCase):
    def test_a_port_takes_everything(self) -> None:
        given = r"tcp:1883:interface=\:\:1"
        self.assertEqual(divided(given), (given, "any"))

    def test_a_port_may_be_narrowed(self) -> None:
        self.assertEqual(
            divided("tcp:1883:protocol=mqtt:backlog=5"),
            ("tcp:1883:backlog=5", "mqtt"),
        )

    def test_ssl_is_a_port_for_tls_alone(self) -> None:
        self.assertEqual(divided("ssl:8883:interface=127.0.0.1"), ("tcp:8883:interface=127.0.0.1", "tls"))
        self.assertEqual(divided("ssl:8883:protocol=mqtts"), ("tcp:8883", "mqtts"))

    def test_what_would_be_ignored_is_an_error(self) -> None:
        """Row 81."""
        for description in ("tcp:1883:protocol=mtqq", "ssl:8883:privateKey=k:certKey=c"):
            self.assertRaises(CannotListen, divided, description)


class ListenersTests(TestCase):
    limits = Limits()

    def setUp(self) -> None:
        self.factory = Factory.forProtocol(Protocol)
        self.crowd = BrokerHarness(limits=self.limits).crowd
        self.listeners = Listeners(reactor, self.crowd)
        self.addCleanup(self.listeners.stop)

    def refusal(self, description: str) -> str:
        error = self.assertRaises(CannotListen, self.listeners.listen, description, self.factory)
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_a_port_sends_at_once(self) -> None:
        self.listeners.listen("tcp:0:interface=127.0.0.1", self.factory)
        (port,) = self.listeners.ports
        self.assertRegex(readable(port), r"^127\.0\.0\.1:\d+$")
        self.assertIs(port.transport.func, ImmediateServer)  # type: ignore[attr-defined]

    def test_a_plain_port_is_reached_over_ipv4(self) -> None:
        self.listeners.listen("tcp:0", self.factory)
        number = int(readable(self.listeners.ports[0]).rpartition(":")[2])
        socket.create_connection(("127.0.0.1", number), 5).close()

    def test_a_taken_port_says_what_to_do(self) -> None:
        self.listeners.listen("tcp:0:interface=127.0.0.1", self.factory)
        number = readable(self.listeners.ports[0]).rpartition(":")[2]
        description = f"tcp:{number}:interface=127.0.0.1"
        self.assertEqual(
            self.refusal(description),
            f"cannot listen on {description}: {HINTS[errno.EADDRINUSE]}",
        )

    def test_what_is_no_endpoint_is_named(self) -> None:
        for description in (
            "tpc:1883",
            "tcp:http-alt-nonsense",
            "tcp:1:2:3:4:5",
            "ssl:1:privateKey=/no/such",
        ):
            self.assertIn(f"cannot listen on {description}: ", self.refusal(description))

    def test_what_is_wrong_with_a_description_is_said_in_our_words(self) -> None:
        """Row 81."""
        for description, reason in (
            ("tcp:80x", "'80x' is not a whole number"),
            ("tcp:", "'' is not a whole number"),
            ("haproxy:tcp:80x", "'80x' is not a whole number"),
            ("tcp:0:backlog=many", "'many' is not a whole number"),
            ("tcp:0:iface=127.0.0.1", "it takes no iface="),
            ("tcp:0:127.0.0.1:5:6", "its parts are too few or too many"),
            ("systemd:index=0", "its parts are too few or too many"),
            ("systemd:domain=NONE:index=0", "its parts are too few or too many"),
        ):
            self.assertIn(f"cannot listen on {description}: {reason}", self.refusal(description))

    def test_an_address_of_another_machine_is_named(self) -> None:
        self.assertIn("this machine has no such address", self.refusal("tcp:0:interface=192.0.2.1"))

    def test_a_unix_socket_is_named_by_its_path(self) -> None:
        path = os.path.join(tempfile.mkdtemp(), "mqtt.sock")
        self.listeners.listen(f"unix:{path}", self.factory)
        self.assertEqual(readable(self.listeners.ports[0]), path)

    def test_a_unix_socket_needs_its_directory(self) -> None:
        self.assertIn("directory does not exist", self.refusal("unix:/no/such/directory/mqtt.sock"))

    def test_the_socket_of_operators_is_gone_with_the_daemon_and_counts_nothing(self) -> "Deferred[Any]":
        folder = tempfile.mkdtemp()
        self.listeners.adopt(operator_socket(folder), self.factory)
        path = os.path.join(folder, "http")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(self.listeners.ports, [])
        return self.listeners.stop().addCallback(lambda _: self.assertFalse(os.path.exists(path)))

    def test_nothing_but_a_unix_socket_is_for_operators(self) -> None:
        """Row 494: whoever reached such a port over a network could end any connection."""
        for endpoint in ("tcp:0", "unix:/tmp/x", "ssl:0", "haproxy:tcp:0", "systemd:domain=INET:index=0"):
            error = self.assertRaises(CannotListen, divided, f"{endpoint}:protocol=operator")
            self.assertIn("protocol must be one of any, mqtt, tls, mqtts", str(error))
        self.assertEqual(divided("systemd:domain=UNIX:index=1:protocol=operator")[1], "operator")
