"""Receiving: what is remembered of a QoS 2 message until its PUBREL has come."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.broker.receiving import NEW, REPEATED, ROUTED, Receiving
from platziverse.mqtt.errors import ProtocolViolation


class ReceivingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.receiving = Receiving(Limits(max_awaiting_pubrel=2, awaiting_pubrel_expiry=100.0))
        self.stored: list[bool] = []

    def test_a_message_that_comes_again_waits_with_the_first(self) -> None:
        """[MQTT-4.3.3-2]"""
        self.assertEqual(self.receiving.receive(1, 0.0), NEW)
        self.assertEqual(self.receiving.receive(1, 1.0), REPEATED)
        self.receiving.when_stored(1, self.stored.append)
        self.assertEqual(self.stored, [])
        self.receiving.stored(1, 2.0)
        self.receiving.when_stored(1, self.stored.append)
        self.assertEqual(self.stored, [True, True])

    def test_a_message_that_could_not_be_stored_is_new_when_it_comes_again(self) -> None:
        self.receiving.receive(1, 0.0)
        self.receiving.when_stored(1, self.stored.append)
        self.receiving.failed(1)
        self.receiving.failed(2)  # it is not known
        self.assertEqual(self.stored, [False])
        self.assertEqual(self.receiving.receive(1, 1.0), NEW)

    def test_a_message_that_was_routed_before_this_process_began_is_handled_once(self) -> None:
        """Row 330."""
        self.receiving.recall([1, 2], 0.0)
        self.assertEqual([self.receiving.receive(1, 1.0) for _ in range(2)], [ROUTED, REPEATED])
        self.receiving.when_stored(1, self.stored.append)
        self.assertEqual(self.stored, [])
        self.receiving.stored(1, 2.0)
        self.assertEqual(self.stored, [True])
        self.assertIsNone(self.receiving.release(2))
        self.assertEqual(self.receiving.receive(2, 1.0), NEW)

    def test_a_release_ends_it_and_another_knows_nothing(self) -> None:
        self.assertIsNone(self.receiving.release(1))
        self.receiving.receive(1, 0.0)
        self.receiving.stored(1, 0.0)
        self.assertEqual(self.receiving.receive(1, 0.0), REPEATED)
        self.assertIsNone(self.receiving.release(1))
        self.assertEqual(self.receiving.receive(1, 0.0), NEW)
        self.assertIsNone(self.receiving.release(2))

    def test_a_release_before_the_message_is_stored_waits_for_that(self) -> None:
        """Row 272."""
        for end in (lambda: self.receiving.stored(1, 0.0), lambda: self.receiving.failed(1)):
            self.assertEqual(self.receiving.receive(1, 0.0), NEW)
            released = self.receiving.release(1)
            assert released is not None
            self.assertNoResult(released)
            end()
            self.successResultOf(released)
        self.assertEqual(self.receiving.receive(1, 0.0), NEW)

    def test_those_that_are_never_released_expire_when_there_are_too_many(self) -> None:
        """Row 58."""
        for number in (1, 2):
            self.receiving.receive(number, 0.0)
            self.receiving.stored(number, float(number))
        self.assertRaises(ProtocolViolation, self.receiving.receive, 3, 100.0)
        missed: list[int] = []
        self.assertEqual(self.receiving.receive(3, 101.0, missed.append), NEW)
        self.assertEqual(missed, [1])
        self.assertRaises(ProtocolViolation, self.receiving.receive, 4, 101.0)
