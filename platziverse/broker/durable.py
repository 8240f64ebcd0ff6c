"""Durable: what durable Sessions are owed, until they have acknowledged it or it is committed."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from platziverse.broker.complaints import Complaints
from platziverse.broker.interfaces import Answer, Authority, Client
from platziverse.broker.limits import Limits
from platziverse.broker.owing import Debtor, Owing, Waiting
from platziverse.broker.ports import SessionStore
from platziverse.broker.records import (
    Delivery,
    Queued,
    SessionRecord,
    StoredSession,
    WillGone,
)
from platziverse.broker.session import Session
from platziverse.broker.window import Window
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.memo import Recent
from platziverse.mqtt.packets import Publish

#: Messages with several rows of which is remembered how many rows are left.
REMEMBERED: Final = 100_000
#: Seconds until a page that could not be read is asked for again.
RETRY: Final = 1.0
#: Seconds that a message waits for its receivers before it is saved.
GRACE: Final = 0.005
#: Seconds that it may wait less, so that those who came at almost the same time are looked at together.
TICK: Final = 0.0002


def _count(owing: Owing) -> int:
    return owing.count


class Durable:
    """A Durable knows which messages wait for durable Sessions, and decides when they are written.

    A message whose receivers are all connected and quick waits for them: what they acknowledge within the
    *grace* is never written. Decided in ADR 0114.

    :param grace: seconds; 0: everything is written at once.
    :ivar wall_clock: returns seconds since the epoch.
    :param complaints: where records are named that are not saved, and queues that are not read.
    :ivar discharged: messages that all receivers have acknowledged within the grace.
    :ivar saved: messages that were handed to the store.
    :ivar was_inherited: called with the number of a Session, and the dead daemons that had it, as it comes.
    :ivar latest: the last message, if a further one may be owed together with it.
    :ivar open: the same, if its publisher waits for both alike and has said so. ADR 0124.
    """

    def __init__(
        self,
        clock: IReactorTime,
        grace: float,
        limits: Limits,
        authority: Authority,
        wall_clock: Callable[[], float],
        complaints: Complaints,
        store: SessionStore,
    ) -> None:
        self.clock, self.now = clock, clock.seconds
        self.grace, self.limits, self.authority = grace, limits, authority
        self.discharged = self.saved = self._count = 0
        self.latest: Owing | None = None
        self.open: Owing | None = None
        self.page, self.links, self.elsewhere = store.page, store.links, store.elsewhere
        self.heirs = store.heirs
        self.save, self.find, self.inherited = store.save, store.find, store.inherited
        self.wall_clock, self._complaints = wall_clock, complaints
        self.was_inherited: Callable[[int, Sequence[int]], object] = lambda session, daemons: None
        # Within the grace, or acknowledged a moment ago: the one that is due next first.
        self._patient: deque[Owing] = deque()
        self._timer: IDelayedCall | None = None
        # Number of a message with several rows → how many of them are left.
        self._rows: Recent[int, int] = Recent(REMEMBERED)

    # -- Sessions --------------------------------------------------------------------------------

    def attach(self, session: Session, number: int, stored: StoredSession | None) -> None:
        """Make a Session durable, whose number the store has given.

        :param stored: the Session as it was committed, unless it is new.
        """
        session.window = Window(number, stored, self, session)

    def detach(self, session: Session) -> None:
        """Owe a Session nothing any more: it has ended."""
        if session.window is not None:
            session.window.end()
            session.window = None

    def settle(self, window: Window) -> "Deferred[Any]":
        """Save what an absent client is owed and is not saved yet; fires when all of it is committed."""
        owed = list(dict.fromkeys(window.unsettled.values()))
        for owing in owed:
            self.save_owing(owing)
        return DeferredList([owing.when_settled() for owing in owed])

    def abandon(self, session: Session) -> None:
        """Owe a Session nothing any more, and answer nobody: it is another daemon's."""
        if session.window is not None:
            session.window.unsettled.clear()
            self.detach(session)

    # -- messages --------------------------------------------------------------------------------

    def deliver(
        self,
        message: Publish,
        encoded: EncodedPublish,
        receivers: "Sequence[tuple[Debtor, int]]",
        client: Client,
        crossed: "tuple[tuple[int, int], ...]" = (),
    ) -> "Deferred[object]":
        """Owe a message of ``client`` to these Sessions, each at its QoS.

        :param crossed: see :class:`Queued`.
        :return: fires when they have acknowledged it, or it is committed, whichever is first.
        """
        delivery: Delivery | WillGone | None = client.will
        if message.qos == 2 and client.persistent and (2 in [qos for _, qos in receivers]):
            delivery = Delivery.of(message, client.client_id)
        owing = self.expect(encoded, receivers, delivery, crossed)
        if message.qos == 1 and owing.entries is None:
            self.latest = owing
        return owing.answer

    def share(self, owing: Owing, waiting: Waiting) -> None:
        """Let messages that come now join the last one, and tell ``waiting`` instead of firing its answer."""
        owing.waiting, self.open = waiting, owing

    def expect(
        self,
        message: EncodedPublish,
        receivers: "Sequence[tuple[Debtor, int]]",
        delivery: Delivery | WillGone | None = None,
        crossed: "tuple[tuple[int, int], ...]" = (),
    ) -> Owing:
        """Owe a message to these Sessions; see :meth:`deliver`."""
        self._count += 1
        owing = Owing(receivers, now := self.now(), self._count, delivery, crossed)
        patient = owing.add(message)
        if self.grace > 0 and (patient or owing.is_behind_others()):
            self._wait(owing, now)
        else:
            self.save_owing(owing)
        self.latest = self.open = None
        return owing

    def replay(self, window: Window, message: EncodedPublish, qos: int) -> "Deferred[Any]":
        """Owe a Retained Message to one Session, for a new Subscription.

        :return: fires when it is acknowledged, or committed, or never will be.
        """
        return self.expect(message, [(window, qos)]).answer.addErrback(self._not_saved, Queued)

    def at_once(
        self, publish: Callable[[Publish, Client], Answer], message: Publish, client: Client
    ) -> Answer:
        """Publish a message that is saved without waiting for its receivers; return what ``publish`` does."""
        grace, self.grace = self.grace, 0.0
        try:
            return publish(message, client)
        finally:
            self.grace = grace

    def save_owing(self, owing: Owing) -> None:
        """Save a message, unless it was, or everybody has acknowledged it, and what has to come before it.

        A message that waits within the grace is not overtaken in the table by a later one of the same
        Session: after a crash the later one would be sent first. ADR 0114.
        """
        if not owing.left or owing.saved:
            return
        found = [owing]
        for one in found:  # grows meanwhile
            for window, _ in one.receivers:
                for older in window.unsettled.unsaved(one, window.number):
                    if older not in found:
                        found.append(older)
        published = self.wall_clock() - self.now()
        for one in sorted(found, key=_count) if len(found) > 1 else found:
            self._save(one, published + one.since)

    def _save(self, owing: Owing, published: float) -> None:
        if owing is self.open:
            self.open = None
        prepared = owing.prepare(published)
        self.saved += len(prepared)
        self.discharged += len(owing.messages) - len(prepared)
        for place, entry in prepared:
            committed = owing.committed if len(entry.rows) == 1 else partial(self._committed, owing)
            self.save(entry).addCallbacks(committed, owing.failed, (place, entry), {}, (place,))

    def _committed(self, owing: Owing, result: object, place: int, entry: Queued) -> None:
        if entry.number and self._rows.get(entry.number) is None:
            self._rows.put(entry.number, len(entry.rows))
        owing.committed(result, place, entry)

    # -- grace -----------------------------------------------------------------------------------

    def _wait(self, owing: Owing, now: float) -> None:
        owing.due = now + self.grace
        self._patient.append(owing)
        if self._timer is None:
            self._timer = self.clock.callLater(self.grace, self._look)

    def _look(self) -> None:
        """Forget what all receivers have acknowledged, and look again when the next message may be late.

        If one is, wait for two turns more: what receivers have sent meanwhile is read before. ADR 0120, 0125.
        """
        patient, self.latest = self._patient, None
        while patient and not patient[0].left:
            owing = patient.popleft()
            if owing.entries is None:
                self.discharged += len(owing.messages)
        now = self.now() + TICK
        if not patient:
            self._timer = None
        elif patient[0].due > now:
            self._timer = self.clock.callLater(patient[0].due - now, self._look)
        else:
            self._timer = self.clock.callLater(0, self._turn, now)

    def _turn(self, now: float) -> None:
        self._timer = self.clock.callLater(0, self._save_overdue, now)

    def _save_overdue(self, now: float) -> None:
        """Save the messages whose time was over, unless their receivers are on the way to them."""
        patient = self._patient
        while patient and (patient[0].due <= now or not patient[0].left):
            owing = patient.popleft()
            if not owing.left:
                if owing.entries is None:
                    self.discharged += len(owing.messages)
            elif owing.arrives(now - owing.since, self.grace):
                self._wait(owing, self.now())
            else:
                for window, position in owing.late():
                    if position <= window.loaded:  # it was sent: the next get no grace
                        window.pace.was_late()
                self.save_owing(owing)
        self._look()

    def stop(self) -> None:
        """Save everything that waits for its receivers, and let nothing wait any more."""
        self.grace = 0.0
        self.save_all()

    def save_all(self) -> None:
        """Save everything that waits for its receivers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        patient, self._patient = self._patient, deque()
        self.latest = self.open = None
        for owing in patient:
            self.save_owing(owing)

    # -- the store -------------------------------------------------------------------------------

    def recall(self, number: int, rows: int) -> None:
        """Note how many rows an earlier process has left that refer to a message."""
        self._rows.put(number, rows)

    def is_over(self, number: int, rows: int = 0) -> int:
        """Count a row less that refers to a message.

        :param number: of the message, or 0.
        :param rows: how many rows it had at the beginning, if that is known.
        :return: the number when no row is left, else 0. With too many such messages, and after a restart,
            nobody knows how many rows are left: then the store finds out now and then.
        """
        if not number:
            return 0
        left = (self._rows.get(number) or rows) - 1
        if left > 0:
            self._rows.put(number, left)
            return 0
        self._rows.forget(number)
        return number if left == 0 else 0

    def record(self, record: SessionRecord) -> "Deferred[Any]":
        """Save what nobody waits for; the Deferred fires when that is done with, committed or not."""
        return self.save(record).addErrback(self._not_saved, type(record))

    def _not_saved(self, failure: Failure, kind: type) -> None:
        self._complaints.warn(
            "a record that is not saved",
            "Not saved, a record {record}: {reason}",
            address="",
            record=kind.__name__,
            reason=failure.getErrorMessage(),
        )

    def ask_again(self, client: Client, failure: Failure, again: Callable[[], None]) -> None:
        """Say that the messages that wait for a client could not be read, and read them a little later."""
        self._complaints.warn(
            "a queue that was not read",
            "{address} {client_id!r} waits for its messages, which could not be read: {reason}",
            address=client.address,
            client_id=client.client_id,
            reason=failure.getErrorMessage(),
        )
        self.clock.callLater(RETRY, again)
