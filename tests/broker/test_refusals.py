"""Which Subscriptions are refused, and that it is counted and said with the name of the limit."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import KIB, Limits
from platziverse.broker.subscribing import NO_SHARE
from platziverse.mqtt.packets import Suback, Subscribe, Subscription, Unsubscribe
from platziverse.testing import BrokerHarness, OpenAuthority
from tests.logs import observe_lines


class Denying(OpenAuthority):
    def may_subscribe(self, client: Any, topic_filter: str) -> bool:
        return not topic_filter.startswith("secret")


class Refusals(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = observe_lines(self)

    def refused(self, *filters: str, **limits: Any) -> list[int]:
        """The return codes of one SUBSCRIBE."""
        self.harness = BrokerHarness(limits=Limits(**limits), authority=Denying())
        self.client = self.harness.connect("greedy", username="ana")
        self.client.send(Subscribe(1, [Subscription(one, 0) for one in filters]))
        [suback] = self.client.received()
        assert isinstance(suback, Suback)
        return list(suback.return_codes)

    def assert_said(self, reason: str) -> None:
        self.assertEqual(self.harness.broker.traffic.subscriptions_refused, {reason: 1})
        [line] = self.lines
        for part in ("greedy", "ana", reason):
            self.assertIn(part, line)

    def test_each_reason_is_counted_and_said(self) -> None:
        """Row 236."""
        for reason, filters, limits in (
            ("max_subscriptions", ("a", "b"), {"max_subscriptions": 1}),
            ("max_topic_levels", ("a", "a/b/c"), {"max_topic_levels": 1}),
            ("max_filters_per_subscribe", ("a", "b"), {"max_filters_per_subscribe": 1}),
            ("not allowed", ("a", "secret/#"), {}),
            (NO_SHARE, ("a", "$share/g"), {}),
        ):
            self.lines.clear()
            self.assertEqual(self.refused(*filters, **limits), [0, 0x80], reason)
            self.assert_said(reason)

    def test_levels_of_all_filters_together_have_a_share_of_the_memory(self) -> None:
        """Row 174: a look at the memory every few seconds is too late."""
        deep = ["/".join([str(number), *["+"] * 15]) for number in range(100)]
        codes = self.refused(*deep, max_memory=256 * KIB)
        self.assertEqual(codes.count(0), 9)
        self.assertEqual(self.harness.broker.traffic.subscriptions_refused, {"max_memory": 91})
        self.assertIn("max_memory", self.lines[0])
        self.client.send(Unsubscribe(2, deep[:9]))
        self.client.received()
        self.assertEqual(self.client.subscribe(deep[50]), [Suback(1, [0])])
        self.client.lose()
        again = self.harness.connect("again")
        again.send(Subscribe(1, [Subscription(one, 0) for one in deep[:9]]))
        self.assertEqual(again.received(), [Suback(1, [0] * 9)])
