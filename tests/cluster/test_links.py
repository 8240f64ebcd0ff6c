"""What is acknowledged is kept for durable Sessions of other daemons, whatever the bus loses."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.records import Queued, link
from platziverse.cluster.codec import encode
from platziverse.cluster.frames import (
    LIVE,
    Align,
    Aligned,
    Changes,
    Done,
    Owed,
    Snapshot,
    Stored,
    Unsure,
)
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Unsubscribe
from platziverse.testing import FakeClient
from tests.cluster.daemons import Daemon, Daemons
from tests.cluster.shares import Share, Table
from tests.logs import observe_lines

GRACE = 0.005


def acknowledgements(
    publishers: dict[int, FakeClient], sent: dict[tuple[int, int], tuple[bytes, int]]
) -> dict[bytes, int]:
    """Release everything at QoS 2 that publishers may; return what was acknowledged, with its QoS.

    :param sent: payload and QoS by publisher and Packet Identifier.
    """
    found = {}
    for number, publisher in publishers.items():
        for packet in publisher.received():
            if isinstance(packet, Puback | Pubrec):
                payload, qos = sent[number, packet.packet_id]
                found[payload] = qos
                if qos == 2:
                    publisher.send(Pubrel(packet.packet_id))
    return found


def acknowledge(client: FakeClient, unreleased: set[int] | None = None) -> list[bytes]:
    """Acknowledge everything that a client has got; return the payloads of what it did not get before.

    :param unreleased: Packet Identifiers of QoS 2 whose PUBREL has not come, on earlier connections too.
    """
    payloads = []
    unreleased = set() if unreleased is None else unreleased
    came, client.connack = client.connack[1:], []
    while packets := [*came, *client.received()]:
        came = []
        for packet in packets:
            if isinstance(packet, Publish):
                if packet.packet_id not in unreleased:
                    payloads.append(packet.payload)
                if packet.packet_id is not None and packet.qos == 2:
                    unreleased.add(packet.packet_id)
                    client.send(Pubrec(packet.packet_id))
                elif packet.packet_id is not None:
                    client.send(Puback(packet.packet_id))
            elif isinstance(packet, Pubrel):
                unreleased.discard(packet.packet_id)
                client.send(Pubcomp(packet.packet_id))
    return payloads


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.daemons, self.table = Daemons(), Table()
        self.shares = {number: Share(self.table, number) for number in (1, 2)}
        self.one, self.two = (self.begin(number) for number in (1, 2))
        self.publisher = self.one.connect("publisher")
        self.lines = observe_lines(self)

    def begin(self, number: int) -> Daemon:
        return self.daemons.begin(number, sessions=self.shares[number])

    def restart(self, number: int) -> Daemon:
        """Kill a daemon, and begin it anew."""
        self.shares[number].kill()
        self.daemons.members.leave(number, dead=True)
        self.daemons.turn()
        self.shares[number] = Share(self.table, number)
        return self.begin(number)

    def durable(self, daemon: Daemon, qos: int = 1) -> FakeClient:
        return daemon.listening("durable", "a", qos, clean_session=False)

    def rows(self, number: int = link(1, 2)) -> list[bytes]:
        found = self.successResultOf(self.table.store.page(number, 0, 1 << 62, 1000))
        return [row.payload for row in found]

    def committed(self) -> list[Queued]:
        return [record for record in self.table.store.records if isinstance(record, Queued)]

    def settle(self) -> None:
        self.daemons.advance(0.5)

    def lose_copy(self, payload: bytes) -> None:
        """Publish a message whose copy the bus loses; the next frame says that one is missing."""
        self.two.bus.ear.losing = True
        self.publisher.publish("a", payload, 1, 1)
        self.settle()
        self.two.bus.ear.losing = False


class OwedTests(Case):
    def test_puback_waits_for_a_session_of_another_daemon(self) -> None:
        far = self.durable(self.two)
        self.publisher.publish("a", b"x", 1, 1)
        self.daemons.clock.pump([0] * 4)
        self.assertEqual(self.publisher.received(), [])
        self.assertEqual(acknowledge(far), [b"x"])
        self.daemons.turn()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.settle()
        self.assertEqual(self.committed(), [])  # acknowledged within the grace on both

    def test_puback_waits_until_an_absent_session_has_its_row(self) -> None:
        self.durable(self.two).lose()
        for share in self.shares.values():
            share.held = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.assertEqual(self.publisher.received(), [])
        self.shares[2].resume()
        self.daemons.turn()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.shares[1].resume()
        self.settle()
        self.assertEqual(self.rows(), [])
        far = self.two.connect("durable", clean_session=False)
        self.assertEqual(acknowledge(far), [b"x"])

    def test_or_until_the_row_of_the_link_is_committed(self) -> None:
        self.durable(self.two).lose()
        self.shares[2].held = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.assertEqual(self.rows(), [b"x"])
        self.shares[2].resume()
        self.settle()
        self.assertEqual(self.rows(), [])

    def test_qos_2_is_committed_before_it_is_sent(self) -> None:
        far = self.durable(self.two, 2)
        self.shares[1].held = True
        self.publisher.publish("a", b"x", 2, 1)
        self.publisher.publish("a", b"y", 1, 2)
        self.settle()
        self.assertEqual(acknowledge(far), [])
        self.shares[1].resume()
        self.settle()
        self.assertEqual(acknowledge(far), [b"x", b"y"])
        self.settle()
        self.assertEqual(self.rows(), [])
        crossed = [record.crossed for record in self.committed() if record.crossed]
        self.assertEqual(crossed[0], ((link(1, 2), (1 << 40) + 1),))

    def test_what_is_owed_to_nobody_any_more_stays_behind_what_waits_for_its_commit(self) -> None:
        """A topic that no durable Session there listens to any more goes another way. ADR 0185."""
        live = self.wait_for_a_commit()
        self.shares[3] = Share(self.table, 3)
        elsewhere = self.begin(3).listening("elsewhere", "a", 2)
        self.publisher.publish("a", b"2", 2, 2)
        self.publisher.publish("a", b"3", 1, 3, retain=True)
        self.publisher.publish("b", b"4", 1, 4)
        self.settle()
        self.assertEqual(acknowledge(live), [b"4"])
        self.assertEqual(acknowledge(elsewhere), [b"2", b"3"])
        self.shares[1].resume()
        self.settle()
        self.assertEqual(acknowledge(live), [b"1", b"2", b"3"])
        self.publisher.publish("a", b"5", 2, 5)
        self.settle()
        self.assertEqual(acknowledge(live), [b"5"])

    def test_so_does_a_run_that_is_for_the_other_daemon_alone(self) -> None:
        live = self.wait_for_a_commit()
        self.publisher.send(*[Publish("a", b"%d" % number, 1, packet_id=number) for number in (2, 3)])
        self.publisher.send(*[Publish("b", b"%d" % number, 1, packet_id=number) for number in (4, 5)])
        self.settle()
        self.assertEqual(acknowledge(live), [b"4", b"5"])
        self.shares[1].resume()
        self.settle()
        self.assertEqual(acknowledge(live), [b"1", b"2", b"3"])

    def wait_for_a_commit(self) -> FakeClient:
        """Owe a message to a durable Session there, whose commit waits, and which unsubscribes."""
        live = self.two.listening("live", "#", 2)
        far = self.durable(self.two, 2)
        self.shares[1].held = True
        self.publisher.publish("a", b"1", 2, 1)
        far.send(Unsubscribe(1, ["a"]))
        self.daemons.advance(2)
        return live

    def test_it_leaves_when_the_other_daemon_reads_what_waits(self) -> None:
        live = self.wait_for_a_commit()
        self.publisher.publish("a", b"2", 2, 2)
        self.settle()
        self.two.cluster.lost(1)
        self.settle()
        self.shares[1].resume()
        self.daemons.advance(2)
        self.assertEqual(acknowledge(live), [b"1", b"2"])

    def test_it_is_lost_when_the_other_daemon_goes(self) -> None:
        self.wait_for_a_commit()
        self.publisher.publish("a", b"2", 2, 2)
        self.daemons.members.leave(2)
        self.shares[1].resume()
        self.settle()
        self.assertEqual(self.rows(), [b"1"])

    def test_a_row_that_is_refused_lets_go_what_is_behind_it(self) -> None:
        live = self.wait_for_a_commit()
        self.publisher.publish("a", b"2", 2, 2)
        self.shares[1].refusing = True
        self.shares[1].resume()
        self.settle()
        self.assertEqual(acknowledge(live), [b"2"])

    def test_live_clients_there_get_it_too(self) -> None:
        self.durable(self.two).lose()
        live = self.two.listening("live", "a", 1)
        self.publisher.publish("a", b"x", 1, 1)
        self.publisher.publish("a", b"y", 0)
        self.daemons.turn()
        self.assertEqual(acknowledge(live), [b"x", b"y"])

    def test_they_get_each_message_of_a_run(self) -> None:
        """Although our own durable Sessions could be owed them in one step."""
        near, live = self.durable(self.one), self.two.listening("live", "a", 1)
        self.publisher.send(*[Publish("a", b"%d" % number, 1, packet_id=number) for number in range(1, 6)])
        self.daemons.turn()
        self.assertEqual(acknowledge(live), [b"1", b"2", b"3", b"4", b"5"])
        self.assertEqual(acknowledge(near), [b"1", b"2", b"3", b"4", b"5"])
        self.assertEqual(self.publisher.received(), [Puback(number) for number in range(1, 6)])

    def test_a_retained_message_at_qos_2_is_owed_to_all_in_one_record(self) -> None:
        """Its Packet Identifier is committed with it: whoever is owed it later would never get it."""
        self.durable(self.one, 2)
        self.two.listening("far", "a", 1, clean_session=False).lose()
        publisher = self.one.connect("persistent", clean_session=False)
        self.shares[1].held = True
        publisher.publish("a", b"in grace", 1, 1)
        publisher.publish("a", b"x", 2, 2, retain=True)
        self.shares[1].resume()
        self.settle()
        (record,) = [one for one in self.committed() if one.delivery is not None]
        self.assertEqual(len(record.rows), 2)

    def test_a_retained_message_is_owed_and_kept(self) -> None:
        self.durable(self.two).lose()
        for qos in (0, 1):
            self.publisher.publish("a", b"x%d" % qos, qos, qos or None, retain=True)
            self.settle()
        kept = self.two.broker.retained.get("a")
        self.assertEqual(kept and kept.payload, b"x1")
        far = self.two.connect("durable", clean_session=False)
        self.assertEqual(acknowledge(far), [b"x1"])

    def test_a_session_that_was_slow_is_not_waited_for(self) -> None:
        far = self.durable(self.two)
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        self.publisher.publish("a", b"2", 1, 2)
        self.daemons.turn()
        self.assertIn(Puback(2), self.publisher.received())
        self.assertEqual(acknowledge(far), [b"1", b"2"])

    def test_messages_of_one_run_may_be_owed_together(self) -> None:
        far = self.durable(self.two)
        linking, durable = self.one.cluster.linking, self.one.broker.durable
        assert linking is not None
        assert durable is not None
        messages = [EncodedPublish(Publish("a", payload, 1)) for payload in (b"1", b"2")]
        links = linking.owed(1 << 2, 1)
        self.assertFalse(links[0][0].sends(1))
        owing = durable.expect(messages[0], links)
        self.assertEqual(owing.extend(messages[1:]), 0)
        owing.add(messages[1])
        self.daemons.turn()
        self.assertNoResult(owing.answer)
        self.assertEqual(acknowledge(far), [b"1", b"2"])
        self.daemons.turn()
        self.successResultOf(owing.answer)

    def test_a_row_that_is_refused_holds_nothing_back(self) -> None:
        far = self.durable(self.two, 2)
        self.shares[1].refusing = True
        self.publisher.publish("a", b"bad", 2, 1)
        self.settle()
        self.shares[1].refusing = False
        publisher = self.one.connect("another")
        publisher.publish("a", b"good", 2, 1)
        self.settle()
        self.assertEqual(acknowledge(far), [b"good"])

    def test_a_message_that_two_daemons_are_owed_is_stored_once(self) -> None:
        self.durable(self.two).lose()
        self.shares[3] = Share(self.table, 3)
        three = self.begin(3)
        three.listening("third", "a", 1, clean_session=False).lose()
        for share in (self.shares[2], self.shares[3]):
            share.held = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.assertEqual((self.rows(), self.rows(link(1, 3))), ([b"x"], [b"x"]))
        for share in (self.shares[2], self.shares[3]):
            share.resume()
        self.settle()
        self.assertEqual((self.rows(), self.rows(link(1, 3)), self.table.store.messages), ([], [], set()))

    def test_an_answer_that_comes_while_the_row_is_written_deletes_it(self) -> None:
        self.durable(self.two).lose()
        self.shares[1].held = self.shares[2].held = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.shares[1].take()
        self.shares[2].resume()
        self.daemons.turn()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.shares[1].resume()
        self.settle()
        self.assertEqual(self.rows(), [])


class LossTests(Case):
    def test_copies_that_are_lost_are_read(self) -> None:
        far = self.durable(self.two, 2)
        self.two.bus.ear.losing = True
        for number in range(1, 251):
            self.publisher.publish("a", b"%d" % number, 1 + number % 2, number)
        self.settle()
        self.two.bus.ear.losing = False
        self.publisher.publish("a", b"last", 1, 300)
        self.settle()
        got = []
        while payloads := acknowledge(far):
            got += payloads
            self.settle()
        self.assertEqual(got, [*(b"%d" % number for number in range(1, 251)), b"last"])
        self.settle()
        self.assertEqual(self.rows(), [])

    def test_a_gap_that_nobody_has_noticed_is_found(self) -> None:
        far = self.durable(self.two)
        self.two.bus.ear.deaf = True
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        self.two.bus.ear.deaf = False
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.assertEqual(acknowledge(far), [b"1", b"2"])

    def test_answers_that_are_lost_leave_nothing_behind(self) -> None:
        self.durable(self.two).lose()
        self.one.bus.ear.losing = True
        for number in (1, 2, 3):
            self.publisher.publish("a", b"x", 1, number)
        self.settle()
        self.assertEqual(len(self.rows()), 3)
        self.one.bus.ear.losing = False
        self.two.connect("anybody")
        self.settle()
        self.assertEqual(self.rows(), [])

    def test_an_answer_after_a_gap_deletes_the_row_that_was_being_written(self) -> None:
        """The copy was taken before the gap, so nobody reads the row."""
        self.durable(self.two).lose()
        self.shares[1].held = self.shares[2].held = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.two.cluster.lost(1)
        self.settle()
        self.shares[2].resume()
        self.shares[1].resume()
        self.assertEqual(self.rows(), [b"x"])
        self.settle()
        self.assertEqual(self.rows(), [])
        self.assertEqual(acknowledge(self.two.connect("durable", clean_session=False)), [b"x"])

    def test_a_question_that_is_lost_is_asked_again(self) -> None:
        far = self.durable(self.two)
        self.one.bus.ear.deaf = True
        self.two.cluster.lost(1)
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.one.bus.ear.deaf = False
        self.daemons.advance(4)
        self.assertEqual(acknowledge(far), [b"x"])

    def test_a_gap_while_rows_are_read_begins_anew(self) -> None:
        far = self.durable(self.two)
        self.lose_copy(b"1")
        self.shares[2].slow = True
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.two.cluster.lost(1)
        self.settle()
        self.shares[2].answer()
        self.shares[2].slow = False
        self.shares[2].answer()
        self.settle()
        self.assertEqual(acknowledge(far), [b"1", b"2"])

    def test_a_gap_while_messages_of_rows_are_saved_begins_anew(self) -> None:
        self.durable(self.two).lose()
        self.lose_copy(b"1")
        self.shares[2].held = True
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.two.cluster.lost(1)
        self.settle()
        self.shares[2].resume()
        self.settle()
        self.assertEqual(acknowledge(self.two.connect("durable", clean_session=False)), [b"1", b"2"])
        self.assertEqual(self.rows(), [])

    def test_rows_are_read_while_the_bus_is_away(self) -> None:
        far = self.durable(self.two, 2)
        self.one.bus.ear.deaf = self.two.bus.ear.deaf = True
        self.two.cluster.lost(1)
        for qos in (1, 2):
            self.publisher.publish("a", b"%d" % qos, qos, qos)
        self.daemons.advance(5)
        self.assertEqual(acknowledge(far), [b"1", b"2"])
        self.assertEqual(self.publisher.received(), [Puback(1), Pubrec(2)])
        self.one.bus.ear.deaf = self.two.bus.ear.deaf = False
        self.daemons.advance(5)
        self.publisher.publish("a", b"3", 1, 3)
        self.settle()
        self.assertEqual(acknowledge(far), [b"3"])

    def test_rows_that_never_end_are_not_followed_for_ever(self) -> None:
        """The bus was away, and is back; for each row that is read another one is written."""
        far, share = self.durable(self.two, 2), self.shares[2]
        self.one.bus.ear.deaf = True
        self.two.cluster.lost(1)
        self.publisher.publish("a", b"1", 2, 1)
        self.daemons.advance(1)
        self.one.bus.ear.deaf, share.slow = False, True
        for number in range(2, 60):
            self.publisher.publish("a", b"%d" % number, 2, number)
            self.daemons.advance(0.1)
            if share.asked:
                share.answer()
            self.daemons.advance(0.1)
        self.assertFalse(share.asked)
        self.publisher.publish("a", b"60", 2, 60)
        got = []
        for _ in range(5):
            got += acknowledge(far)
            self.settle()
        self.assertEqual(got, [b"%d" % number for number in range(1, 61)])

    def test_rows_of_a_daemon_that_alone_cannot_reach_the_bus_are_read(self) -> None:
        """Nothing tells the others that frames are missing."""
        far = self.durable(self.two)
        self.daemons.advance(6)
        self.one.bus.ear.deaf = self.two.bus.ear.deaf = True
        self.publisher.publish("a", b"x", 1, 1)
        self.daemons.advance(12)
        self.assertEqual(acknowledge(far), [b"x"])
        self.one.bus.ear.deaf = self.two.bus.ear.deaf = False
        self.daemons.advance(6)
        self.publisher.publish("a", b"y", 1, 2)
        self.settle()
        self.assertEqual(acknowledge(far), [b"y"])
        self.assertEqual(self.rows(), [])

    def test_what_comes_while_rows_are_read_waits(self) -> None:
        far = self.durable(self.two)
        self.two.cluster.lost(1)
        self.daemons.clock.advance(0)
        self.shares[1].held = True
        self.publisher.publish("a", b"1", 1, 1)
        self.two.cluster.lost(1)
        self.daemons.clock.pump([0] * 3)
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.shares[1].resume()
        self.settle()
        self.assertEqual(acknowledge(far), [b"1", b"2"])


class BeginningTests(Case):
    def both_die(self) -> None:
        for number in (1, 2):
            self.shares[number].kill()
            del self.daemons.hub.receivers[number]
            self.shares[number] = Share(self.table, number)
        self.one.cluster.stop()
        self.two.cluster.stop()
        self.daemons.turn()

    def test_daemons_that_begin_together_do_not_wait_long_for_each_other(self) -> None:
        self.durable(self.two).lose()
        self.both_die()
        one = self.begin(1)
        self.daemons.advance(0.5)
        self.assertFalse(one.started.called)
        self.daemons.advance(0.6)
        self.assertTrue(one.started.called)
        one.connect("publisher").publish("a", b"x", 1, 1)
        self.settle()
        self.assertEqual(self.rows(), [b"x"])

    def test_a_client_of_a_daemon_that_begins_does_not_stand_for_its_durable_sessions(self) -> None:
        """It is known before they are."""
        self.durable(self.two).lose()
        self.both_die()
        one = self.begin(1)
        self.daemons.advance(1.1)
        _, incarnation = self.daemons.members.join(2).ours
        one.cluster.frame(2, encode(Changes(1, (("a", LIVE), ("b", LIVE))), incarnation))
        self.assertEqual(one.cluster.interest.daemons("a")[1], 1 << 2)
        one.cluster.frame(2, encode(Snapshot(2, True, True, (("b", LIVE),)), incarnation))
        self.assertEqual(one.cluster.interest.daemons("a"), (0, 0))


class ComingAndGoingTests(Case):
    def test_what_is_owed_to_a_daemon_that_is_away_waits_for_it(self) -> None:
        self.durable(self.two, 2).lose()
        self.shares[2].kill()
        self.daemons.members.leave(2)
        for qos in (0, 1, 2):
            self.publisher.publish("a", b"%d" % qos, qos, qos or None)
        self.settle()
        self.assertEqual(self.publisher.received(), [Puback(1), Pubrec(2)])
        self.assertEqual(self.rows(), [b"1", b"2"])
        self.shares[2] = Share(self.table, 2)
        two = self.begin(2)
        self.settle()
        self.assertEqual(self.rows(), [])
        far = two.connect("durable", clean_session=False)
        self.assertEqual(acknowledge(far), [b"1", b"2"])

    def test_what_waits_within_the_grace_is_saved_when_its_daemon_leaves(self) -> None:
        self.durable(self.two)
        self.publisher.publish("a", b"x", 1, 1)
        self.daemons.members.leave(2)
        self.assertEqual(self.rows(), [b"x"])

    def test_what_is_being_saved_when_its_daemon_dies_is_taken_once(self) -> None:
        self.durable(self.two, 2).lose()
        self.shares[2].held = True
        for qos in (2, 1):
            self.publisher.publish("a", b"%d" % qos, qos, qos)
        self.settle()
        self.assertEqual(self.rows(), [b"2", b"1"])
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.settle()
        self.shares[2].resume()
        self.settle()
        self.assertEqual(self.rows(), [])
        self.assertEqual(acknowledge(self.two.connect("durable", clean_session=False)), [b"2", b"1"])

    def test_what_a_dead_daemon_has_not_deleted_is_deleted(self) -> None:
        far = self.durable(self.two)
        self.shares[2].held = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.shares[1].held = True
        self.assertEqual(acknowledge(far), [b"x"])
        self.settle()
        self.assertEqual(self.rows(), [b"x"])
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.shares[2].resume()
        self.settle()
        self.assertEqual(self.rows(), [])

    def test_a_daemon_that_stops_reads_nothing_more(self) -> None:
        self.durable(self.two).lose()
        self.two.bus.ear.deaf = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.successResultOf(self.two.cluster.stop())
        self.settle()
        self.assertEqual(self.rows(), [b"x"])

    def test_what_a_dead_daemon_has_left_is_taken(self) -> None:
        self.durable(self.two).lose()
        self.two.bus.ear.deaf = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.settle()
        self.assertEqual(self.rows(), [])
        self.assertEqual(acknowledge(self.two.connect("durable", clean_session=False)), [b"x"])

    def test_a_daemon_that_begins_takes_what_those_have_left_that_are_not_there(self) -> None:
        self.durable(self.two).lose()
        self.two.bus.ear.deaf = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        for number in (2, 1):
            self.shares[number].kill()
            self.daemons.members.leave(number, dead=True)
        self.shares[2] = Share(self.table, 2)
        two = self.begin(2)
        self.assertEqual(acknowledge(two.connect("durable", clean_session=False)), [b"x"])
        self.assertEqual(self.rows(), [])

    def test_a_daemon_that_has_begun_anew_owes_what_it_has_owed(self) -> None:
        self.durable(self.two, 2).lose()
        self.shares[2].held = True
        for qos in (1, 2):
            self.publisher.publish("a", b"%d" % qos, qos, qos)
        self.settle()
        one = self.restart(1)
        self.shares[2].resume()
        self.settle()
        self.assertEqual(self.rows(), [])
        one.connect("publisher").publish("a", b"3", 1, 1)
        self.settle()
        far = self.two.connect("durable", clean_session=False)
        self.assertEqual(acknowledge(far), [b"1", b"2", b"3"])

    def test_an_heir_takes_what_is_owed_to_the_dead(self) -> None:
        self.durable(self.two, 2).lose()
        self.shares[3] = Share(self.table, 3)
        three = self.begin(3)
        self.shares[2].kill()
        self.daemons.members.leave(2, dead=True)
        for qos in (1, 2):
            self.publisher.publish("a", b"%d" % qos, qos, qos)
        self.settle()
        self.assertEqual(self.rows(), [b"1", b"2"])
        numbers = self.table.inherit(2, 3)
        self.successResultOf(three.cluster.inheriting.inherit(2, succeed(numbers)))
        self.settle()
        self.assertEqual(self.rows(), [])
        self.assertEqual(self.one.cluster.interest.daemons("a"), (0, 1 << 3))
        self.publisher.publish("a", b"3", 1, 3)
        self.settle()
        far = three.connect("durable", clean_session=False)
        self.assertEqual(acknowledge(far), [b"1", b"2", b"3"])
        self.assertEqual(self.publisher.received(), [Puback(1), Pubrec(2), Puback(3)])

    def test_an_heir_reads_again_what_others_have_written_meanwhile(self) -> None:
        self.durable(self.two).lose()
        self.shares[3] = Share(self.table, 3)
        three = self.begin(3)
        self.shares[2].kill()
        self.daemons.members.leave(2, dead=True)
        numbers = self.table.inherit(2, 3)
        self.successResultOf(three.cluster.inheriting.inherit(2, succeed(numbers)))
        self.one.bus.ear.losing = True
        self.settle()
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        self.one.bus.ear.losing = False
        self.daemons.advance(6)
        self.publisher.publish("a", b"2", 1, 2)
        self.daemons.advance(6)
        far = three.connect("durable", clean_session=False)
        self.assertEqual(acknowledge(far), [b"1", b"2"])
        self.assertEqual(self.rows(), [])
        self.shares[2] = Share(self.table, 2)
        self.begin(2)
        self.daemons.advance(6)
        self.assertIn(2, self.one.cluster.interest)

    def test_an_heir_hands_what_is_owed_to_the_dead_to_its_sessions_alone(self) -> None:
        self.durable(self.two, 2).lose()
        self.shares[3] = Share(self.table, 3)
        three = self.begin(3)
        own = three.listening("own", "a", 2, clean_session=False)
        self.shares[2].kill()
        self.daemons.members.leave(2, dead=True)
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.assertEqual(acknowledge(own), [b"x"])
        numbers = self.table.inherit(2, 3)
        self.successResultOf(three.cluster.inheriting.inherit(2, succeed(numbers)))
        self.settle()
        self.assertEqual(acknowledge(own), [])
        self.assertEqual(acknowledge(three.connect("durable", clean_session=False)), [b"x"])

    def test_a_daemon_that_is_back_inherits_from_nobody(self) -> None:
        self.successResultOf(self.one.cluster.inheriting.inherit(2, succeed([])))
        self.assertIn(2, self.one.cluster.interest)

    def test_rows_that_cannot_be_read_are_read_later(self) -> None:
        far = self.durable(self.two)
        self.lose_copy(b"1")
        self.shares[2].failing = True
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.assertIn("What other daemons owe to our Sessions is late: the database is away", self.lines)
        self.assertEqual(acknowledge(far), [])
        self.shares[2].failing = False
        self.daemons.advance(2)
        self.assertEqual(acknowledge(far), [b"1", b"2"])

    def test_a_copy_that_comes_twice_is_taken_once(self) -> None:
        far = self.durable(self.two)
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        last = (1 << 40) + 1
        self.two.cluster.frame(1, encode(Owed(last, "a", b"1", 1), 1))
        self.assertEqual(acknowledge(far), [b"1"])

    def test_what_nobody_listens_to_any_more_is_deleted(self) -> None:
        self.durable(self.two).lose()
        self.shares[2].kill()
        self.daemons.members.leave(2)
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.table.owners.clear()
        self.shares[2] = Share(self.table, 2)
        self.begin(2)
        self.settle()
        self.assertEqual(self.rows(), [])

    def test_a_row_that_nobody_listens_to_any_more_is_deleted(self) -> None:
        far = self.durable(self.two)
        self.lose_copy(b"x")
        self.assertEqual(self.rows(), [b"x"])
        far.send(Unsubscribe(2, ["a"]))
        self.settle()
        self.daemons.advance(12)
        self.assertEqual(self.rows(), [])
        self.assertEqual(acknowledge(far), [])

    def test_frames_about_links_are_nothing_to_a_daemon_without_a_store(self) -> None:
        three = self.daemons.begin(3)
        for frame in (Owed(1, "a", b"", 1), Done(1), Align(1, 0, ()), Aligned(1, 1), Stored(1), Unsure()):
            three.cluster.frame(1, encode(frame, 1))
        self.assertEqual(three.cluster.ignored, 0)

    def test_a_daemon_that_was_taken_for_dead_counts_anew(self) -> None:
        self.durable(self.two).lose()
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        self.daemons.members.fence(1)
        self.settle()
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.assertEqual(self.rows(), [])
        self.assertEqual(acknowledge(self.two.connect("durable", clean_session=False)), [b"1", b"2"])


class Ledger(RuleBasedStateMachine):
    """Three daemons, of which each publishes to a durable Session of each, while everything fails."""

    def __init__(self) -> None:
        super().__init__()
        self.daemons, self.table = Daemons(), Table()
        self.shares: dict[int, Share] = {}
        self.all: dict[int, Daemon] = {}
        self.clients: dict[int, FakeClient | None] = {}
        self.number = 0
        self.acknowledged: dict[bytes, int] = {}
        self.got: Counter[tuple[int, bytes]] = Counter()
        self.publishers: dict[int, FakeClient] = {}
        self.sent: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.unreleased: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
        for number in (1, 2, 3):
            self.begin(number)
            client = self.all[number].listening(f"d{number}", "a", 2, clean_session=False)
            self.clients[number] = client

    def begin(self, number: int) -> None:
        self.shares[number] = Share(self.table, number)
        self.all[number] = self.daemons.begin(number, sessions=self.shares[number])
        self.publishers[number] = self.all[number].connect(f"p{number}")
        self.clients[number] = None

    @rule(number=st.sampled_from([1, 2, 3]), qos=st.sampled_from([1, 2]), count=st.integers(1, 4))
    def publish(self, number: int, qos: int, count: int) -> None:
        if not self.all[number].started.called:
            return  # the daemon holds what is published
        for _ in range(count):
            self.number += 1
            payload = b"%d" % self.number
            self.sent[number, self.number] = payload, qos
            self.publishers[number].publish("a", payload, qos, self.number)
        self.take()

    @rule(number=st.sampled_from([1, 2, 3]))
    def come_or_go(self, number: int) -> None:
        client = self.clients[number]
        if client is None:
            self.clients[number] = self.all[number].connect(f"d{number}", clean_session=False)
        else:
            client.lose()
            self.clients[number] = None

    @rule(number=st.sampled_from([1, 2, 3]))
    def lose_or_hear(self, number: int) -> None:
        ear = self.all[number].bus.ear
        ear.losing = not ear.losing

    @rule(number=st.sampled_from([1, 2, 3]))
    def hold_or_commit(self, number: int) -> None:
        share = self.shares[number]
        share.held = not share.held
        if not share.held:
            share.commit()

    @rule(number=st.sampled_from([1, 2, 3]))
    def kill(self, number: int) -> None:
        self.take()
        self.shares[number].kill()
        self.all[number].die()
        self.daemons.turn()
        self.begin(number)

    @rule(milliseconds=st.integers(0, 12))
    def wait(self, milliseconds: int) -> None:
        self.daemons.clock.advance(milliseconds / 1000)
        self.take()

    def take(self) -> None:
        """Have the clients take and acknowledge what they have got."""
        for number, client in self.clients.items():
            if client is not None:
                for payload in acknowledge(client, self.unreleased[number]):
                    self.got[number, payload] += 1
        self.acknowledged |= acknowledgements(self.publishers, self.sent)

    def teardown(self) -> None:
        """In the end what was acknowledged has come, of QoS 2 once; and no row is left."""
        for number in (1, 2, 3):
            self.all[number].bus.ear.losing = False
            self.shares[number].resume()
        self.daemons.advance(6)
        for number in (1, 2, 3):
            self.publishers[number].publish("a", b"", 1, 65_000)
            self.sent[number, 65_000] = b"", 1
        for _ in range(30):
            for number in (1, 2, 3):
                if self.clients[number] is None:
                    self.come_or_go(number)
            self.daemons.advance(0.5)
            self.take()
        for payload, qos in self.acknowledged.items():
            for number in (1, 2, 3):
                count = self.got[number, payload]
                assert count, (number, payload, qos)
                assert qos == 1 or count == 1, (number, payload, count)
        for origin in (1, 2, 3):
            for target in (1, 2, 3):
                assert not self.rows(link(origin, target)), (origin, target)

    def rows(self, number: int) -> list[bytes]:
        case = SynchronousTestCase()
        return [row.payload for row in case.successResultOf(self.table.store.page(number, 0, 1 << 62, 999))]


TestLedger = Ledger.TestCase
TestLedger.settings = settings(deadline=None, max_examples=25, stateful_step_count=30)
