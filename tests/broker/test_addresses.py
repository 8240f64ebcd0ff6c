"""Which addresses are counted together."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.addresses import neighbourhood


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
