"""RetainedSending: Retained Messages for a client that may have no room for them."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import DROPPED, SERVER, TAKEN
from platziverse.broker.retained import RetainedMessages
from platziverse.broker.sending import RetainedSending
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import LENGTH, Turn
from platziverse.mqtt.packets import Publish


class Narrow:
    """A connection that takes the first PUBLISH at QoS 0 and no other."""

    def __init__(self) -> None:
        self.offered = self.called = 0

    def offer(self, data: bytes) -> int:
        self.offered += 1
        return TAKEN if self.offered == 1 else DROPPED

    def soon(self, call: Any) -> None:
        """The test says when the next turn comes."""
        self.called += 1


#: The client may get it, it fits, how it is written, and what its Subscription makes of it.
ANY: Any = (
    lambda topic: True,
    lambda message: True,
    lambda message: message.qos0,
    lambda message, topic_filter: message,
)


class AtQoS0(SynchronousTestCase):
    def test_what_the_connection_drops_is_counted_as_dropped_and_not_as_sent(self) -> None:
        retained, traffic = RetainedMessages(10, 1000), Traffic()
        told: list[Any] = []
        for topic in ("a", "b", "c"):
            retained.set(Publish(topic, b"xx", 0, True), SERVER)
        sending = RetainedSending(retained, traffic, Turn(Clock()), told.append, *ANY)
        sending.add("#", 1)
        connection: Any = Narrow()
        sending.pump(connection, lambda _: True, lambda *_: None, lambda: None)
        self.assertEqual((connection.offered, bool(sending)), (3, False))
        self.assertEqual((traffic.publish_sent[0], traffic.publish_bytes_sent[0]), (1, 2))
        self.assertEqual(traffic.publish_dropped, 2)
        self.assertEqual([list(one) for one in told], [["#"]])


class InTurns(SynchronousTestCase):
    def test_when_the_turn_is_over_the_rest_follows_in_the_next(self) -> None:
        clock, traffic = Clock(), Traffic()
        told: list[Any] = []
        retained = RetainedMessages(10, 1000)
        retained.set(Publish("a", b"x", 0, True), SERVER)
        turn = Turn(clock)
        sending = RetainedSending(retained, traffic, turn, told.append, *ANY)
        sending.add("#", 0)
        self.assertFalse(turn.is_over)
        clock.rightNow += LENGTH  # somebody else has used it up
        connection: Any = Narrow()
        sending.pump(connection, lambda _: True, lambda *_: None, lambda: None)
        self.assertEqual((connection.offered, connection.called), (0, 1))
        clock.advance(0)
        sending.rest()
        sending.pump(connection, lambda _: True, lambda *_: None, lambda: None)
        self.assertEqual((connection.offered, bool(sending)), (1, False))
