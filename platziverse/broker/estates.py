"""Estates: what a member of groups leaves in the store goes to others, before its Session ends there."""

from collections.abc import Generator
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from platziverse.broker.durable import RETRY, Durable
from platziverse.broker.interfaces import Answer
from platziverse.broker.records import StoredMessage
from platziverse.broker.session import Session
from platziverse.broker.sharing import Sharing, is_copy
from platziverse.broker.window import Window
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import restored

log = Logger()

#: Messages that are read, and given to others, at once.
PAGE: Final = 50
#: How often what cannot be read is tried to be read.
TRIES: Final = 10

_Steps = Generator["Deferred[Any]", Any, None]


def leave_behind(session: Session, durable: Durable | None, sharing: Sharing) -> "Deferred[None] | None":
    """Owe an ended Session nothing any more; copies of groups that it was owed go to other members. ADR 0208.

    :return: fires when the Session may end in the store, with what is left of it; ``None``: it may now.
    """
    window = session.window
    if session.shares is not None:
        sharing.take_back(session.leave_behind())
        if durable is not None and window is not None and session.number and window.queue.messages:
            return _hand_out(session, window, durable, sharing)
    if durable is not None:
        durable.detach(session)
    return None


@inlineCallbacks
def _hand_out(session: Session, window: Window, durable: Durable, sharing: Sharing) -> _Steps:
    after = window.head
    try:
        yield durable.settle(window)
        while rows := (yield _read(session, window, durable, after)):
            answers = [_give(row, window, sharing) for row in rows if window.may_pass_on(row)]
            yield DeferredList([answer for answer in answers if answer is not None], consumeErrors=True)
            after = rows[-1].position
    finally:
        durable.detach(session)


@inlineCallbacks
def _read(
    session: Session, window: Window, durable: Durable, after: int
) -> "Generator[Deferred[Any], Any, list[StoredMessage]]":
    """Return the next messages that wait; none when they cannot be read for a while."""
    for failed in range(1, TRIES + 1):
        try:
            rows: list[StoredMessage] = yield durable.page(session.number, after, window.last, PAGE)
        except Exception as error:
            text = "Cannot read what {client_id!r} leaves to its groups, try {failed} of {most}: {reason}"
            log.warn(text, client_id=session.client_id, failed=failed, most=TRIES, reason=error)
            yield deferLater(durable.clock, RETRY)
        else:
            return rows
    return []


def _give(row: StoredMessage, window: Window, sharing: Sharing) -> Answer:
    """Give a copy to another member; its row, if it gets one, takes the place of this one."""
    copy = Publish(row.topic, row.payload, row.qos, properties=restored(row.properties))
    return sharing.pass_on(copy, ((window.number, row.position),)) if is_copy(copy) else None
