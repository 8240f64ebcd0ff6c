"""What a client of MQTT 5 is told in CONNACK to keep to, and what becomes of one that does not."""

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Connack, Disconnect, Pingreq
from platziverse.testing import BrokerHarness
from tests.broker.test_mqtt5 import Case


class ServerKeepAlive(Case):
    def setUp(self) -> None:
        self.harness = BrokerHarness(limits=Limits(max_keep_alive=10))

    def told_keep_alive(self, asked: int) -> int | None:
        return self.connack(self.connect(str(asked), keep_alive=asked))[1].server_keep_alive

    def test_a_client_that_asks_for_more_or_for_none_is_told_ours(self) -> None:
        """[MQTT5-3.2.2-22]"""
        self.assertEqual([self.told_keep_alive(asked) for asked in (0, 1, 10, 11, 65_535)], [10, None, None, 10, 10])

    def test_without_a_setting_everybody_has_its_own(self) -> None:
        self.harness = BrokerHarness()
        self.assertEqual([self.told_keep_alive(asked) for asked in (0, 1, 65_535)], [None] * 3)

    def test_it_has_to_be_kept_to(self) -> None:
        """[MQTT5-3.1.2-22]"""
        for asked in (0, 60):
            client = self.connect(keep_alive=asked)
            self.harness.advance(14)
            client.send(Pingreq())
            self.harness.advance(14.9)
            self.assertFalse(client.closed)
            self.harness.advance(1.1)
            self.assertEqual(self.goodbye(client), (0x8D, "Keep Alive"))

    def test_a_shorter_one_is_the_clients(self) -> None:
        client = self.connect(keep_alive=2)
        self.harness.advance(4)
        self.assertEqual([type(packet) for packet in client.received()], [Disconnect])

    def test_older_clients_cannot_be_told(self) -> None:
        client = self.harness.connect("four", keep_alive=60)
        self.assertEqual(client.connack, [Connack(False, 0)])
        self.harness.advance(89)
        self.assertFalse(client.closed)
