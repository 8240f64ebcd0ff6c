"""Traffic: what is counted under a reason."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.traffic import Traffic


class Reasons(SynchronousTestCase):
    def test_each_reason_has_its_own_count(self) -> None:
        traffic = Traffic()
        for reason in ("total", "address", "total"):
            traffic.connection_refused(reason)
            traffic.connect_refused(reason)
            traffic.protocol_error(reason)
        for code in (0x99, 0x00, 0x99, 0x11, 0x8E):
            traffic.refused("server", "PUBACK", code)
        traffic.store_refused("max_unfinished")
        self.assertEqual(traffic.store_refusals, {"max_unfinished": 1})
        traffic.group_dropped("group_patience")
        traffic.publish_dropped += 2
        self.assertEqual((traffic.groups_dropped, traffic.dropped), ({"group_patience": 1}, 3))
        name = "payload_format_invalid"
        refusals = {("server", "PUBACK", name): 2, ("server", "PUBACK", "session_taken_over"): 1}
        self.assertEqual(traffic.refusals, refusals)
        counted = {"total": 2, "address": 1}
        self.assertEqual(
            (traffic.connections_refused, traffic.connects_refused, traffic.protocol_errors), (counted,) * 3
        )
