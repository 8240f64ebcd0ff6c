"""TopicDispatcher: the handler table, Topic Filter → handler."""

from collections.abc import Iterable, Mapping
from typing import cast

from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Answer, Client, Handler
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.topics import check_topic_filter


class TopicDispatcher:
    """Hands a message to every handler whose Topic Filter matches.

    :param tables: each maps Topic Filters to handlers; a filter may stand in several of them.
    :raises MalformedPacket: a key of a table is no Topic Filter.
    """

    def __init__(self, *tables: "Mapping[str, Handler] | Iterable[tuple[str, Handler]]") -> None:
        self._handlers: SubscriptionTree[Handler] = SubscriptionTree()
        for table in tables:
            for topic_filter, handler in table.items() if isinstance(table, Mapping) else table:
                check_topic_filter(topic_filter)
                self._handlers.add(topic_filter, handler, 0)

    def dispatch(self, message: Publish, client: Client) -> Answer:
        """``None`` when nothing has to be waited for, else a Deferred that fires when all handlers are done.

        The Deferred errbacks when a handler failed.
        """
        found = self._handlers.match(message.topic)
        if not found:
            return None
        answers = [answer for handler, _ in found if (answer := handler(message, client)) is not None]
        if not answers:
            return None
        if len(answers) == 1:
            return answers[0]
        together = DeferredList(answers, fireOnOneErrback=True, consumeErrors=True)
        return cast("Deferred[object]", together.addErrback(_first_failure))


def _first_failure(failure: Failure) -> Failure:
    return cast(FirstError, failure.value).subFailure
