"""TopicDispatcher: which handlers run, and what is waited for."""

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.interfaces import Answer, Client, Handler
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.packets import Publish

ONE = Client("one", 1)


class Dispatching(SynchronousTestCase):
    def test_without_a_handler_no_deferred_is_made(self) -> None:
        self.assertIsNone(TopicDispatcher({}).dispatch(Publish("t", b""), ONE))

    def test_a_handler_that_is_done_gives_nothing_to_wait_for(self) -> None:
        seen: list[tuple[str, str]] = []

        def handler(message: Publish, client: Client) -> Answer:
            seen.append((message.topic, client.client_id))
            return None

        dispatcher = TopicDispatcher({"t/+": handler})
        self.assertIsNone(dispatcher.dispatch(Publish("t/1", b""), ONE))
        self.assertIsNone(dispatcher.dispatch(Publish("u", b""), ONE))
        self.assertEqual(seen, [("t/1", "one")])

    def test_one_handlers_deferred_is_returned_as_it_is(self) -> None:
        answer: Deferred[object] = Deferred()
        self.assertIs(
            TopicDispatcher({"#": lambda message, client: answer}).dispatch(Publish("t", b""), ONE), answer
        )

    def test_several_handlers_are_all_waited_for(self) -> None:
        slow: Deferred[object] = Deferred()
        quick: Deferred[object] = succeed(1)
        one: dict[str, Handler] = {"t": lambda message, client: slow}
        two: dict[str, Handler] = {"t": lambda message, client: quick, "+": lambda message, client: None}
        dispatcher = TopicDispatcher(one, two)
        together = dispatcher.dispatch(Publish("t", b""), ONE)
        assert together is not None
        self.assertNoResult(together)
        slow.callback(None)
        self.successResultOf(together)

    def test_the_first_failure_is_the_answer(self) -> None:
        bad: Deferred[object] = Deferred()
        good: Deferred[object] = Deferred()
        together = TopicDispatcher({"t": lambda *_: bad}, {"t": lambda *_: good}).dispatch(
            Publish("t", b""), ONE
        )
        assert together is not None
        bad.errback(ValueError("no"))
        self.failureResultOf(together, ValueError)

    def test_a_wrong_topic_filter_is_an_error_at_once(self) -> None:
        with self.assertRaises(MalformedPacket):
            TopicDispatcher({"a#": lambda *_: None})
