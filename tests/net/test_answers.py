"""Answers of the broker that take their time: order, what follows, failures, clients gone by then."""

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.testing import BrokerHarness, FakeClient
from tests.net.doubles import LateBroker, LateHarness, Store

ACCEPTED = Connack(False, ConnectReturnCode.ACCEPTED)


class Connecting(SynchronousTestCase):
    def knock(self, harness: BrokerHarness, *behind: Packet, **fields: Any) -> FakeClient:
        client = harness.open()
        client.send(Connect("one", **fields), *behind)
        return client

    def test_connack_waits_and_so_does_what_was_sent_behind_connect(self) -> None:
        harness = LateHarness("connect")
        client = self.knock(harness, Pingreq(), Publish("t", b"", 1, packet_id=1))
        self.assertEqual((client.received(), client.held), ([], True))
        harness.late.answer()
        self.assertEqual(client.received(), [ACCEPTED, Pingresp(), Puback(1)])
        self.assertFalse(client.held)

    def test_what_waited_for_the_client_comes_behind_connack(self) -> None:
        """[MQTT-4.4.0-1]"""
        harness = LateHarness()
        before = harness.connect("one", clean_session=False)
        before.subscribe("t", 1)
        before.lose()
        harness.connect("sender").publish("t", b"x", 1, 1)
        harness.late.late.add("connect")
        client = self.knock(harness, clean_session=False)
        self.assertEqual(client.received(), [])
        harness.late.answer()
        present = Connack(True, ConnectReturnCode.ACCEPTED)
        self.assertEqual(client.received(), [present, Publish("t", b"x", 1, packet_id=1)])

    def test_a_refusal_that_comes_late_is_a_connack(self) -> None:
        harness = LateHarness("connect")
        client = self.knock(harness, Pingreq())
        code = ConnectReturnCode.SERVER_UNAVAILABLE
        harness.late.refuse(ConnectRefused(code, "the database is away"))
        self.assertEqual((client.received(), client.closed), ([Connack(False, code)], True))
        self.assertEqual(harness.shared.flow.unfinished, 0)
        self.assertEqual(harness.broker.traffic.connects_refused, {"server_unavailable": 1})

    def test_any_other_failure_is_a_bug_of_ours(self) -> None:
        harness = LateHarness("connect")
        client = self.knock(harness)
        harness.late.refuse(ZeroDivisionError())
        self.assertEqual((client.received(), client.closed), ([], True))
        self.assertEqual((harness.broker.traffic.internal_errors, harness.shared.flow.unfinished), (1, 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_that_is_gone_by_then_is_not_connected(self) -> None:
        """And its Will is discarded: it never heard that it was connected."""
        harness = LateHarness("connect", table={"t": (store := Store())})
        client = self.knock(harness, Publish("t", b""), will=Publish("t", b"will"))
        client.lose()
        harness.late.answer()
        self.assertEqual((harness.broker.connected, len(harness.broker.sessions)), (0, 0))
        self.assertEqual((store.messages, harness.shared.flow.unfinished), ([], 0))

    def test_nor_is_a_refusal_told_to_one_that_is_gone(self) -> None:
        harness = LateHarness("connect")
        client = self.knock(harness)
        client.lose()
        harness.late.refuse(ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, "no"))
        traffic = harness.broker.traffic
        self.assertEqual((traffic.connects_refused, traffic.internal_errors), ({}, 0))

    def test_an_answer_that_never_comes_does_not_keep_its_connection(self) -> None:
        harness = LateHarness("connect")
        client = self.knock(harness)
        harness.advance(9.5)
        self.assertFalse(client.closed)
        harness.advance(1.5)
        self.assertTrue(client.closed)
        harness.late.answer()
        self.assertEqual((client.received(), harness.broker.connected), ([], 0))

    def test_those_who_wait_count_as_unfinished(self) -> None:
        """Row 104: nobody new is let in when too much waits for the database."""
        harness = LateHarness("connect", limits=Limits(max_unfinished_total=4))
        waiting = [harness.open() for _ in range(8)]
        for number, client in enumerate(waiting):
            client.send(Connect(f"client-{number}"))
        self.assertEqual(harness.shared.flow.unfinished, 8)
        late = harness.connect("late")
        self.assertEqual(late.connack, [Connack(False, ConnectReturnCode.SERVER_UNAVAILABLE)])
        harness.late.answer()
        self.assertEqual([client.received() for client in waiting], [[ACCEPTED]] * 8)
        self.assertEqual((harness.shared.flow.unfinished, harness.shared.flow.held), (0, 0))

    def test_of_two_with_one_client_identifier_the_later_answer_stays(self) -> None:
        """[MQTT-3.1.4-2]"""
        harness = LateHarness("connect")
        first, second = self.knock(harness), self.knock(harness)
        harness.late.answer(1)
        self.assertEqual((second.received(), first.received()), ([ACCEPTED], []))
        harness.late.answer(0)
        self.assertEqual((first.received(), second.closed, harness.broker.connected), ([ACCEPTED], True, 1))


class Subscribing(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = LateHarness()
        self.late = self.harness.late
        self.client = self.harness.connect("one")
        self.client.publish("t", b"kept", retain=True)
        self.late.late.update(("subscribe", "unsubscribe"))

    def test_suback_waits_and_what_follows_finds_the_subscription(self) -> None:
        self.client.send(
            Subscribe(7, [Subscription("t", 0)]), Publish("t", b"new", 1, packet_id=1), Pingreq()
        )
        self.assertEqual((self.client.received(), self.client.held), ([], True))
        self.assertEqual(self.harness.shared.flow.unfinished, 1)
        self.late.answer()
        expected = [
            Suback(7, [0]),
            Publish("t", b"kept", 0, True),
            Puback(1),
            Publish("t", b"new"),
            Pingresp(),
        ]
        self.assertEqual((self.client.received(), self.client.held), (expected, False))
        self.assertEqual(self.harness.shared.flow.unfinished, 0)

    def test_each_subscribe_of_a_read_waits_for_the_one_before_it(self) -> None:
        self.client.send(*(Subscribe(number, [Subscription(f"{number}", 0)]) for number in (1, 2, 3)))
        for number in (1, 2, 3):
            self.assertEqual(len(self.late.waiting), number)
            self.late.answer()
            self.assertEqual(self.client.received(), [Suback(number, [0])])

    def test_others_are_served_meanwhile_and_this_one_gets_its_messages(self) -> None:
        self.late.late.clear()
        self.client.subscribe("before", 1)
        self.late.late.add("subscribe")
        self.client.send(Subscribe(7, [Subscription("t", 0)]))
        self.harness.connect("other").publish("before", b"x")
        self.assertEqual(self.client.received(), [Publish("before", b"x")])

    def test_unsuback_waits_and_what_follows_finds_no_subscription(self) -> None:
        self.late.late.discard("subscribe")
        self.client.subscribe("t")
        self.client.send(Unsubscribe(8, ["t"]), Publish("t", b"new", 1, packet_id=1))
        self.assertEqual(self.client.received(), [])
        self.late.answer()
        self.assertEqual(self.client.received(), [Unsuback(8), Puback(1)])

    def test_a_failure_closes_without_an_answer(self) -> None:
        for packet in (Subscribe(7, [Subscription("t", 0)]), Unsubscribe(8, ["t"])):
            client = self.harness.connect("other")
            client.send(packet, Pingreq())
            self.late.refuse(ValueError("the database is away"), -1)
            self.assertEqual((client.received(), client.closed), ([], True))
            self.assertEqual(self.harness.shared.flow.unfinished, 0)

    def test_an_answer_after_the_end_is_no_answer(self) -> None:
        self.client.send(Subscribe(7, [Subscription("t", 0)]), Disconnect())
        self.client.lose()
        self.late.answer()
        self.assertEqual(self.client.received(), [])
        traffic = self.harness.broker.traffic
        self.assertEqual((self.harness.shared.flow.unfinished, traffic.internal_errors), (0, 0))

    def test_nor_is_a_failure_after_the_end_told(self) -> None:
        self.client.send(Subscribe(7, [Subscription("t", 0)]))
        self.client.lose()
        self.late.refuse(ValueError("no"))
        self.assertEqual(self.harness.shared.flow.unfinished, 0)

    def test_its_silence_is_ours_while_it_waits(self) -> None:
        """[MQTT-3.1.2-24]"""
        client = self.harness.connect("other", keep_alive=2)
        client.send(Subscribe(7, [Subscription("t", 0)]))
        self.harness.advance(60)
        self.assertFalse(client.closed)
        self.late.answer()
        self.harness.advance(2.9)
        self.assertFalse(client.closed)
        self.harness.advance(1.1)
        self.assertTrue(client.closed)

    def test_an_answer_with_a_bug_costs_one_connection(self) -> None:
        self.client.send(Subscribe(7, [Subscription("t", 0)]))
        self.late.waiting[0][0].callback([0, 0])  # more codes than Topic Filters
        self.assertTrue(self.client.closed)
        self.assertEqual(self.harness.broker.traffic.internal_errors, 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.harness.shared.flow.unfinished, 0)


class AtOnce(LateBroker):
    """Its Deferreds have fired when they are returned."""

    def _later(self, name: str, function: Any, *arguments: Any) -> Any:
        return succeed(function(*arguments))


class Fired(SynchronousTestCase):
    def test_answers_that_are_there_already_need_no_turn_and_no_stack(self) -> None:
        harness = LateHarness(limits=Limits(packets_per_turn=10_000), broker=AtOnce)
        client = harness.open()
        subscribes = [Subscribe(number, [Subscription("t", 0)]) for number in range(1, 3000)]
        client.send(Connect("one"), *subscribes)
        self.assertEqual(
            client.received(), [ACCEPTED, *(Suback(packet.packet_id, [0]) for packet in subscribes)]
        )
        self.assertEqual((client.held, harness.shared.flow.unfinished), (False, 0))


class Handshakes(SynchronousTestCase):
    """QoS 2: PUBREC and PUBREL."""

    def started(self, *late: str, **limits: Any) -> tuple[LateHarness, FakeClient]:
        """A client with three messages of QoS 2 in flight to it."""
        harness = LateHarness(*late, limits=Limits(**limits))
        client = harness.connect("one")
        client.subscribe("t", 2)
        sender = harness.connect("sender")
        for number in (1, 2, 3):
            sender.publish("t", b"", 2, number)
        client.received()
        return harness, client

    def test_pubrels_leave_in_the_order_of_their_pubrecs(self) -> None:
        """[MQTT-4.6.0-4]"""
        harness, client = self.started("received")
        client.send(Pubrec(2), Pubrec(1), Pubrec(3))
        harness.late.answer(2, 1)
        self.assertEqual(client.received(), [])
        harness.late.answer(0)
        self.assertEqual(client.received(), [Pubrel(2), Pubrel(1), Pubrel(3)])
        self.assertEqual(harness.shared.flow.unfinished, 0)

    def test_one_that_has_not_to_wait_stays_behind_one_that_has(self) -> None:
        harness, client = self.started("received")
        client.send(Pubrec(1))
        harness.late.late.clear()
        client.send(Pubrec(2))
        self.assertEqual(client.received(), [])
        harness.late.answer()
        self.assertEqual(client.received(), [Pubrel(1), Pubrel(2)])
        client.send(Pubrec(3))
        self.assertEqual(client.received(), [Pubrel(3)])

    def test_pubcomps_leave_in_the_order_of_their_pubrels(self) -> None:
        harness, client = self.started("released")
        client.send(Pubrel(7), Pubrel(8))
        harness.late.answer(1)
        self.assertEqual(client.received(), [])
        harness.late.answer(0)
        self.assertEqual(client.received(), [Pubcomp(7), Pubcomp(8)])

    def test_neither_holds_up_other_packets(self) -> None:
        _, client = self.started("received", "released")
        client.send(Pubrec(1), Pubrel(7), Pingreq(), Publish("u", b"", 1, packet_id=1))
        self.assertEqual(client.received(), [Pingresp(), Puback(1)])

    def test_they_are_bounded_while_they_wait(self) -> None:
        """Rows 58, 112."""
        harness, client = self.started("received", max_unfinished=4)
        client.send(*[Pubrec(1)] * 20)
        self.assertEqual((len(harness.late.waiting), client.held), (4, True))
        while client.held:
            harness.late.answer()
        self.assertEqual(client.received(), [Pubrel(1)] * 20)

    def test_so_are_those_behind_them(self) -> None:
        """Row 112."""
        harness, client = self.started("received", max_unfinished=4)
        client.send(Pubrec(1))
        harness.late.late.clear()
        client.send(*[Pubrec(1)] * 20)
        self.assertTrue(client.held)
        harness.late.answer()
        self.assertEqual((client.received(), client.held), ([Pubrel(1)] * 21, False))

    def test_a_failure_closes_without_an_answer(self) -> None:
        for name, packet in (("received", Pubrec(1)), ("released", Pubrel(1))):
            harness, client = self.started(name)
            client.send(packet)
            harness.late.refuse(ValueError("no"))
            self.assertEqual((client.received(), client.closed), ([], True))
            self.assertEqual(harness.shared.flow.unfinished, 0)

    def test_an_answer_after_the_end_is_no_answer(self) -> None:
        harness, client = self.started("received", "released")
        client.send(Pubrec(1), Pubrel(1))
        client.lose()
        harness.late.late.clear()
        again = harness.connect("one")
        harness.late.waiting[0][0].callback(None)
        harness.late.waiting[1][0].errback(ValueError("no"))
        self.assertEqual((again.received(), again.closed), ([], False))
        self.assertEqual(harness.shared.flow.unfinished, 0)


class Together(SynchronousTestCase):
    def test_an_answer_that_is_missing_holds_a_client_that_the_store_holds_as_well(self) -> None:
        store = Store()
        harness = LateHarness("subscribe", table={"t": store}, limits=Limits(max_unfinished=2))
        client = harness.connect("one")
        client.send(
            Publish("t", b"", 1, packet_id=1), Subscribe(7, [Subscription("u", 0)]), Publish("u", b"x")
        )
        self.assertTrue(client.held)
        harness.late.answer()
        self.assertEqual(client.received(), [Suback(7, [0]), Publish("u", b"x")])
        store.commit()
        self.assertEqual((client.received(), client.held), ([Puback(1)], False))
        answers: list[Deferred[Any]] = [answer for answer, _ in harness.late.waiting]
        self.assertTrue(all(answer.called for answer in answers))
