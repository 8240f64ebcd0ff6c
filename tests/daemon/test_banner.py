"""What the daemon proposes to somebody who has just started it."""

import shlex
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from platziverse.config.model import Access, Config, Tls
from platziverse.daemon.banner import example
from platziverse.daemon.listening import divided


@frozen
class Port:
    address: Any

    def getHost(self) -> Any:
        return self.address


def tcp(port: int, host: str = "127.0.0.1", text: str = "tcp:0") -> Any:
    kind = IPv6Address if ":" in host else IPv4Address
    return (*divided(text), Port(kind("TCP", host, port)))


class ExampleTests(SynchronousTestCase):
    def words(self, *listeners: Any, access: Access | None = None, tls: Tls | None = None) -> list[str]:
        """The command without topic and message."""
        command = example(listeners, Config(access=access or Access(), tls=tls or Tls()))
        words = shlex.split(command)
        self.assertEqual(words[-4:-1], ["-t", "agent/message", "-m"])
        return words[:-4]

    def test_the_usual_port_needs_no_number(self) -> None:
        self.assertEqual(self.words(tcp(8083, "::"), tcp(1883, "::")), ["mqtt", "pub", "-h", "localhost"])

    def test_a_port_of_one_address_is_reached_there(self) -> None:
        self.assertEqual(self.words(tcp(1, "192.0.2.5")), ["mqtt", "pub", "-h", "192.0.2.5", "-p", "1"])

    def test_a_port_without_tls_is_preferred(self) -> None:
        self.assertEqual(self.words(tcp(8883, text="ssl:0"), tcp(8083))[-1], "8083")

    def test_tls_alone_is_spoken_where_there_is_nothing_else(self) -> None:
        encrypted = tcp(1883, text="tcp:0:protocol=mqtts")
        self.assertEqual(self.words(encrypted)[4:], ["-p", "1883", "-C", "mqtts", "--insecure"])
        strict = self.words(encrypted, tls=Tls("c", "k", "ca", True), access=Access(anonymous="never"))
        self.assertEqual(strict[-4:], ["--cert", "CERTIFICATE", "--key", "KEY"])

    def test_where_nobody_is_let_in_without_a_login_there_is_one(self) -> None:
        words = self.words(tcp(1883), access=Access(anonymous="never", database_users=True))
        self.assertEqual(words[4:], ["-u", "USER", "-P", "PASSWORD"])

    def test_the_user_is_the_one_that_may_report_it(self) -> None:
        words = self.words(tcp(1883), access=Access(binding="uuid", database_users=True))
        self.assertEqual(words[4:], ["-u", "yyy", "-P", "PASSWORD"])

    def test_behind_a_proxy_or_on_a_unix_socket_there_is_none(self) -> None:
        local: Any = ("unix:/x", "any", Port(UNIXAddress(b"/x")))
        proxied: Any = tcp(1883, text="haproxy:tcp:0")
        self.assertEqual(example([local, proxied], Config()), "")
