"""The client whose turn it is: its answers leave first, or its bytes are acknowledged at once."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import (
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    Subscription,
)
from platziverse.net.outbox import WRITE_SIZE
from platziverse.testing import BrokerHarness, FakeClient
from tests.net.doubles import Store


def publishes(*numbers: int, qos: int = 1, payload: bytes = b"") -> list[Packet]:
    return [Publish("t", payload, qos, packet_id=number) for number in numbers]


class Others(SynchronousTestCase):
    """Row 274: of the copies for other connections."""

    def setUp(self) -> None:
        self.harness = BrokerHarness()
        self.written: list[str] = []
        self.subscribers = [self.client(f"subscriber-{number}") for number in range(3)]
        for subscriber in self.subscribers:
            subscriber.subscribe("t", 2)
        self.publisher = self.client("publisher")
        self.written.clear()

    def client(self, name: str) -> FakeClient:
        client = self.harness.connect(name)
        transport: Any = client.transport
        write = transport.write

        def note(data: bytes) -> None:
            self.written.append(name)
            write(data)

        transport.write = note
        return client

    def test_acknowledgements_leave_before_copies(self) -> None:
        for packets in (publishes(1), publishes(1, 2, 3), publishes(1, qos=2), publishes(1, 2, qos=2)):
            self.written.clear()
            self.publisher.send(*packets)
            others = ["subscriber-0", "subscriber-1", "subscriber-2"]
            self.assertEqual(self.written, ["publisher", *others])

    def test_a_publisher_that_cannot_be_written_to_costs_nobody_a_copy(self) -> None:
        """Row 85."""

        def broken(data: bytes) -> None:
            raise ZeroDivisionError

        transport: Any = self.publisher.transport
        transport.write = broken
        self.publisher.send(*publishes(1))
        self.assertEqual([len(subscriber.received()) for subscriber in self.subscribers], [1, 1, 1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Own(SynchronousTestCase):
    """Row 274: of the copies for the publisher itself."""

    def setUp(self) -> None:
        self.harness = BrokerHarness()
        self.client = self.harness.connect()
        self.client.subscribe("t", 1)

    def test_acknowledgements_of_a_run_leave_before_its_copies(self) -> None:
        self.client.send(*publishes(1, 2, 3), Pingreq(), *publishes(4))
        copies = publishes(1, 2, 3)
        expected = [Puback(1), Puback(2), Puback(3), *copies, Pingresp(), Puback(4), *publishes(4)]
        self.assertEqual(self.client.received(), expected)
        self.client.send(Puback(1), Puback(2), Puback(3), Puback(4))
        self.client.send(*publishes(5, 6, qos=2))
        self.assertEqual(self.client.received(), [Pubrec(5), Pubrec(6), *publishes(5, 6)])

    def test_all_else_stays_where_it_is(self) -> None:
        new = Subscribe(9, [Subscription("t", 0)])
        self.client.send(Publish("t", b"0"), new, *publishes(1), Publish("t", b"1"))
        expected = [Publish("t", b"0"), Suback(9, [0]), Puback(1), Publish("t", b""), Publish("t", b"1")]
        self.assertEqual(self.client.received(), expected)

    def test_so_do_those_of_messages_that_do_not_come_back(self) -> None:
        self.client.send(*[Publish("other", b"", 1, packet_id=number) for number in (1, 2)], Pingreq())
        self.assertEqual(self.client.received(), [Puback(1), Puback(2), Pingresp()])

    def test_a_copy_that_is_too_large_to_wait_leaves_at_once(self) -> None:
        large, small = publishes(1, payload=bytes(WRITE_SIZE)), publishes(2)
        self.client.send(*large, *small)
        self.assertEqual(self.client.received(), [*large, Puback(1), Puback(2), *small])

    def test_for_a_client_that_takes_nothing_they_come_last(self) -> None:
        """Row 280: a great many pieces may wait for it, and none of them is moved."""
        self.client.subscribe("t", 0)
        self.client.stop_reading()
        self.client.send(*publishes(1, 2))
        self.client.read_again()
        self.assertEqual(self.client.received(), [Publish("t", b""), Publish("t", b""), Puback(1), Puback(2)])

    def test_those_that_wait_for_the_store_leave_when_it_has_stored_them(self) -> None:
        store = Store()
        client = BrokerHarness({"t": store}).connect()
        client.subscribe("t", 1)
        client.send(*publishes(1, 2))
        self.assertEqual(client.received(), publishes(1, 2))
        store.commit()
        self.assertEqual(client.received(), [Puback(1), Puback(2)])


class Hastening(SynchronousTestCase):
    """Row 273: the kernel is told to acknowledge at once, when nothing else would and it may matter."""

    def setUp(self) -> None:
        self.store = Store()
        self.harness = BrokerHarness({"stored": self.store}, Limits())
        self.hastened: list[str] = []
        self.client = self.connect("client")

    def connect(self, name: str) -> FakeClient:
        client = self.harness.connect(name)
        transport: Any = client.transport
        transport.acknowledge_now = lambda: self.hastened.append(name)
        return client

    def test_a_read_without_an_answer_is_acknowledged_once_until_something_is_written(self) -> None:
        self.client.subscribe("t", 1)
        for number in (1, 2, 3):
            self.client.send(*publishes(number))
            self.assertEqual(len(self.hastened), number - 1)
            self.client.send(Puback(number))
            self.client.send(Publish("other", b""))
            self.assertEqual(len(self.hastened), number)

    def test_so_is_a_packet_that_comes_in_pieces(self) -> None:
        self.client.send(*publishes(1))
        self.client.send_bytes(b"\x32\x06")
        self.assertEqual(self.hastened, ["client"])
        self.client.send_bytes(b"\x00\x01t\x00\x02x")
        self.assertEqual((self.client.received(), self.hastened), ([Puback(1), Puback(2)], ["client"]))

    def test_who_gets_an_answer_to_everything_costs_no_system_call(self) -> None:
        for number in range(1, 100):
            self.client.send(*publishes(number))
        self.assertEqual(self.hastened, [])

    def test_neither_do_answers_that_are_on_their_way(self) -> None:
        self.client.publish("stored", b"", 1, 1)
        self.client.publish("stored", b"", 1, 2)
        self.assertEqual(self.hastened, [])
        self.store.commit()
        self.assertEqual((self.client.received(), self.hastened), ([Puback(1), Puback(2)], []))

    def test_nor_those_who_only_receive_or_only_publish_at_qos_0(self) -> None:
        subscriber = self.connect("subscriber")
        subscriber.subscribe("t", 1)
        for number in range(1, 10):
            self.client.publish("t", b"", 1, number)
            subscriber.send(Puback(number))
        self.assertEqual(self.hastened, [])
        mute = self.connect("mute")
        for _ in range(10):
            mute.publish("t", b"")
        self.assertEqual(self.hastened, ["mute"])

    def test_a_transport_that_cannot_is_left_alone(self) -> None:
        client = self.harness.connect("other")
        client.publish("t", b"")
        client.publish("t", b"", 1, 1)
        self.assertEqual(client.received(), [Puback(1)])
