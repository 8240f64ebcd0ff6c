"""TopicDispatcher: the handler table, Topic Filter → handler."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, cast

from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Answer, Client, Handler, Recognising
from platziverse.broker.reasons import Refused
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.topics import check_topic_filter

#: The handlers of one Topic Name.
Handlers: TypeAlias = tuple[Handler, ...]


class TopicDispatcher:
    """A TopicDispatcher hands a message to every handler whose Topic Filter matches.

    :param tables: each maps Topic Filters to handlers; a filter may stand in several of them.
    :param together: what makes of the handlers of one Topic Name those that are called.
    :raises MalformedPacket: a key of a table is no Topic Filter.
    """

    def __init__(
        self,
        *tables: "Mapping[str, Handler] | Iterable[tuple[str, Handler]]",
        together: Callable[[Handlers], Handlers] | None = None,
    ) -> None:
        self._together = together
        self._handlers: SubscriptionTree[Handler] = SubscriptionTree()
        for table in tables:
            for topic_filter, handler in table.items() if isinstance(table, Mapping) else table:
                check_topic_filter(topic_filter)
                self._handlers.add(topic_filter, handler, 0)

    def handlers(self, topic: str) -> Handlers:
        """Return the handlers whose Topic Filter matches ``topic``; the same ones each time."""
        found = self._handlers.find(topic)
        if not found:
            return ()
        handlers = tuple(handler for handler, _ in found)
        return self._together(handlers) if self._together is not None else handlers

    def dispatch(self, message: Publish, client: Client) -> Answer:
        """Call the handlers of this message; see :func:`call`."""
        return call(self.handlers(message.topic), message, client)


def call(handlers: Handlers, message: Publish, client: Client) -> Answer:
    """Call each of ``handlers``.

    :return: ``None`` when nothing has to be waited for, else a Deferred that fires when all handlers are
        done, or fails as the first of them that does.
    """
    if len(handlers) == 1:
        return handlers[0](message, client)
    return joined(*[handler(message, client) for handler in handlers])


def repeat(handlers: Handlers, message: Publish, client: Client) -> Answer:
    """Tell those of ``handlers`` that want to know of a message that comes again; see :func:`call`."""
    wanting = [handler for handler in handlers if isinstance(handler, Recognising)]
    return joined(*[handler.repeated(message, client) for handler in wanting])


def joined(*answers: Answer) -> Answer:
    """Return one answer that fires when all of ``answers`` have, or fails as the first of them that does."""
    waited = [answer for answer in answers if answer is not None]
    if not waited:
        return None
    if len(waited) == 1:
        return waited[0]
    together = DeferredList(waited, fireOnOneErrback=True, consumeErrors=True)
    return cast("Deferred[object]", together.addCallbacks(_one_refused, _first_failure))


def _one_refused(results: "list[tuple[bool, object]]") -> object:
    """Return the first of the answers that says that the message is refused, or nothing."""
    return next((result for _, result in results if isinstance(result, Refused)), None)


def _first_failure(failure: Failure) -> Failure:
    return cast(FirstError, failure.value).subFailure
