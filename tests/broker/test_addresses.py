"""Which addresses are counted together."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.addresses import is_local, neighbourhood


class NeighbourhoodTests(SynchronousTestCase):
    def test_an_ipv6_site_is_one_address(self) -> None:
        self.assertEqual(neighbourhood("2001:db8::1"), neighbourhood("2001:db8::ffff:2"))
        self.assertNotEqual(neighbourhood("2001:db8::1"), neighbourhood("2001:db8:0:1::1"))
        self.assertEqual(neighbourhood("fe80::1%eth0"), "fe80::")

    def test_ipv4_within_ipv6_is_ipv4(self) -> None:
        self.assertEqual(neighbourhood("::ffff:192.0.2.7"), neighbourhood("192.0.2.7"))
        self.assertNotEqual(neighbourhood("::ffff:192.0.2.7"), neighbourhood("::ffff:192.0.2.8"))

    def test_what_is_no_address_stays(self) -> None:
        self.assertEqual(neighbourhood("unix"), "unix")


class LocalTests(SynchronousTestCase):
    def test_what_is_of_this_machine(self) -> None:
        """Row 192: the same for MQTT, WebSocket and HTTP."""
        for peer in (
            None,
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "192.0.2.9",
            "::ffff:192.0.2.9",
        ):
            self.assertTrue(is_local(peer, "192.0.2.9"), peer)
        for peer in ("192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "0.0.0.0", "", "localhost", "x"):
            self.assertFalse(is_local(peer, "192.0.2.9"), peer)
        self.assertFalse(is_local("192.0.2.1", None))
