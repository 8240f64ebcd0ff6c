"""Farewells: what becomes of the Wills of clients that have gone."""

from collections.abc import Callable
from functools import partial

from attrs import evolve
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.records import WillGone
from platziverse.broker.session import Session
from platziverse.broker.sessions import Sessions
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.broker.wills import DelayedWills, DueWills, UnfinishedWills, WillRecords
from platziverse.mqtt.packets import Publish

log = Logger()


class Farewells:
    """Farewells publish or discard a Will: at once, or when its Will Delay Interval is over. ADR 0204.

    :param publish: publishes a Will; see ``Broker.publish``.
    :param turn: what the Wills of clients that end may take of a turn of the reactor.
    :param now: seconds since the epoch.
    :ivar records: what is saved of Wills; ``None``: they end with the process.
    :ivar handlers: returns the handlers of a Topic Name, which save what they get in their own time.
    """

    def __init__(
        self,
        sessions: Sessions,
        publish: Callable[[Publish, Client], Answer],
        traffic: Traffic,
        clock: IReactorTime,
        turn: Turn,
        now: Callable[[], float],
        records: WillRecords | None,
    ) -> None:
        self.unfinished = UnfinishedWills()
        self.due = DueWills(clock, turn, self.unfinished)
        self.delayed = DelayedWills(clock)
        self.records = records
        self.handlers: Callable[[str], object] = lambda topic: None
        self._sessions, self._publish, self._traffic, self._now = sessions, publish, traffic, now

    def save(self, session: Session) -> None:
        """Save the Will of a client that is connected, or that has gone and may come back in time."""
        if self.records is None or session.will is None or session.client is None:
            return
        left, delay = self.delayed.left(session.client_id), session.terms.will_delay
        due = None if left is None else self._now() + left
        self.records.left(session.client, session.will, delay, due)

    def leave(self, will: Publish, session: Session, client: Client, graceful: bool) -> None:
        """Publish the Will of a client that has gone now or later, or discard it.

        :param graceful: DISCONNECT came. [MQTT-3.1.2-10] [MQTT5-3.1.2-10]
        """
        gone = self.records.gone_of(client) if self.records is not None else None
        delay = session.terms.will_delay
        if graceful:
            self.end(will, client, None, gone)
        elif delay and session.persistent:
            self.wait(will, client, session.terms.patience(delay), gone)
            self.save(session)
        else:
            self._publish_due(will, client, gone)

    def wait(self, will: Publish, client: Client, seconds: float, gone: WillGone | None) -> None:
        """Publish a Will in so many seconds, unless its client is back. [MQTT5-3.1.3-9]"""
        session = self._sessions.get(client.client_id)
        if session is not None:
            session.will = will  # it counts in its memory
        end = partial(self._end_delayed, will, client, gone)
        self.delayed.add(client.client_id, seconds, end)

    def _publish_due(self, will: Publish, client: Client, gone: WillGone | None) -> None:
        publish = partial(self.end, will, client, self._publish, gone)
        self.due.add(client.client_id, len(will.topic) + len(will.payload), publish)

    def _end_delayed(self, will: Publish, client: Client, gone: WillGone | None, publish: bool) -> None:
        session = self._sessions.get(client.client_id)
        if session is not None and session.will is will:
            session.will = None
        if publish:
            self._publish_due(will, client, gone)
        else:
            self.end(will, client, None, gone)

    def end(
        self,
        will: Publish,
        client: Client,
        publish: "Callable[[Publish, Client], Answer] | None",
        gone: WillGone | None,
    ) -> None:
        """Publish, or discard, the Will of a client that has gone.

        :param publish: ``None``: discard it.
        :param gone: saved when that is done; a Will that could not be handled is left to the next start.
        """
        answer: Answer = None
        if publish is not None:  # [MQTT-3.1.2-8] [MQTT-3.1.2-12] [MQTT5-3.1.2-8]
            try:
                answer = publish(will, self._publisher(will, client, gone))
            except Exception:  # of a handler; the rest of the farewell goes on
                self.break_down(client)
        answer = answer.addCallback(lambda _: self._save(gone)) if answer is not None else self._save(gone)
        if answer is not None:
            self.unfinished.watch(answer.addErrback(log_failure, client), len(will.payload))

    def _publisher(self, will: Publish, client: Client, gone: WillGone | None) -> Client:
        """Return who a Will comes from: somebody who has sent it under no Packet Identifier.

        What is stored of the Will goes with the message, if that is one record and handlers get none of it.
        """
        return evolve(client, persistent=False, will=None if self.handlers(will.topic) else gone)

    def _save(self, gone: WillGone | None) -> Answer:
        return self.records.gone(gone) if self.records is not None and gone is not None else None

    def break_down(self, client: Client) -> None:
        """Count and log the exception that a handler has raised, with a message that nobody waits for."""
        self._traffic.internal_errors += 1
        text = "Bug: a handler, with a message of {address} {client_id!r}"
        log.failure(text, address=client.address, client_id=client.client_id)


def log_failure(failure: Failure, client: Client) -> None:
    """Log why a message of ``client`` could not be handled, which nobody waits for."""
    log.error(
        "A message of {address} {client_id!r} could not be handled: {reason}",
        address=client.address,
        client_id=client.client_id,
        reason=failure.getErrorMessage(),
    )
