"""Owing: messages that durable Sessions are owed together, until they are acknowledged or committed."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.pace import LONGEST, PATIENCE, Pace
from platziverse.broker.records import Delivery, Queued, WillGone
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.properties import store_properties

T = TypeVar("T")


class Debtor(Protocol):
    """A Debtor numbers the messages that one receiver is owed, and sends them: a Window, or a Link.

    A Window owes to the client of a Session, a Link to another daemon.

    :ivar number: of the queue of this receiver in the store.
    :ivar unsettled: messages that are neither committed nor acknowledged, by position.
    :ivar pace: how quickly the receiver acknowledges.
    """

    number: int
    unsettled: "Unsettled"
    pace: Pace

    @property
    def last(self) -> int:
        """Return the highest position that was given; the next message has the next one."""

    @property
    def head(self) -> int:
        """Return the position at and below which nothing waits."""

    @property
    def inflight(self) -> int:
        """Return how many messages were sent and are not acknowledged."""

    @property
    def loaded(self) -> int:
        """Return the highest position that may have been sent."""

    def take(self, owing: "Owing", message: EncodedPublish, qos: int) -> bool:
        """Give a message the next position; return whether it is likely to be acknowledged soon."""

    def sends(self, size: int) -> bool:
        """Return whether a small message of this size at QoS 1 would be sent at once."""

    def offer(self, owing: "Owing", messages: Sequence[EncodedPublish]) -> int:
        """Give small messages at QoS 1 the next positions, while each is sent at once; return how many."""

    def committed(self, position: int, number: int) -> None:
        """Note that a row is committed; ``number`` is that of the message that it refers to, or 0."""

    def go_on(self) -> None:
        """Send what has waited for a commit."""

    def failed(self, position: int, size: int) -> None:
        """Note that a row of ``size`` bytes never will be committed."""


class Waiting(Protocol):
    """A Waiting is told, once, what has become of the messages of an Owing."""

    def stored(self) -> None:
        """Note that each message is committed, or acknowledged by all its receivers."""

    def refused(self, failure: Failure) -> None:
        """Note that the rows of a message never will be committed."""


@frozen
class _Both:
    """A _Both tells one that waits, and then another one that wants to know no more than that."""

    first: Waiting
    second: "Deferred[None]"

    def stored(self) -> None:
        self.first.stored()
        self.second.callback(None)

    def refused(self, failure: Failure) -> None:
        self.first.refused(failure)
        self.second.callback(None)


def _fired(result: T, done: "Deferred[None]") -> T:
    done.callback(None)
    return result


class Owing:
    """An Owing is one message that durable Sessions are owed, or several of one run of its publisher.

    The first message has a position in each Session, and each further one the next position there. So what
    can be said of all of them together is not kept, nor done, for each of them. Decided in ADR 0124.

    :param receivers: Windows of the Sessions, and Links, each with its QoS.
    :param since: when the first message came, steady time.
    :param count: a later Owing has a higher count.
    :param delivery: committed with the message, as somebody gets it at QoS 2, or as it was a Will.
    :param crossed: see :class:`Queued`.
    :ivar due: until when the messages wait for the receivers.
    :ivar answer: fires when each message is committed, or acknowledged by all its receivers.
    :ivar waiting: is told of that instead of whoever has the answer, which never fires then.
    :ivar told: one of both knows.
    :ivar messages: in the order of their positions.
    :ivar first: number of the Session → position of the first message there, and its QoS.
    :ivar left: how many messages, counted for each receiver, are neither committed nor acknowledged.
    :ivar entries: of each message, once it was handed to the store; ``None`` in it: nobody needs its row.
    """

    __slots__ = (
        "_answered",
        "answer",
        "count",
        "crossed",
        "delivery",
        "due",
        "entries",
        "first",
        "left",
        "messages",
        "receivers",
        "since",
        "told",
        "waiting",
    )

    def __init__(
        self,
        receivers: "Sequence[tuple[Debtor, int]]",
        since: float,
        count: int,
        delivery: Delivery | WillGone | None,
        crossed: tuple[tuple[int, int], ...],
    ) -> None:
        self.receivers, self.since, self.count = receivers, since, count
        self.delivery, self.crossed = delivery, crossed
        self.answer: Deferred[object] = Deferred()
        self.messages: list[EncodedPublish] = []
        self.waiting: Waiting | None = None
        self.told = False
        self.due, self.left = since, 0
        self.entries: list[Queued | None] | None = None
        self.first: dict[int, tuple[int, int]] = {}
        # How many messages each receiver had acknowledged when this was looked at last.
        self._answered: list[int] = []
        for window, qos in receivers:
            self.first[window.number] = window.last + 1, qos
            self._answered.append(window.pace.answered)

    @property
    def saved(self) -> bool:
        """Return whether it was handed to the store."""
        return self.entries is not None

    def add(self, message: EncodedPublish) -> bool:
        """Owe one message more to all receivers.

        :return: whether they are likely to acknowledge it within the grace.
        """
        self.messages.append(message)
        self.left += len(self.receivers)
        patient = True
        for window, qos in self.receivers:
            patient = window.take(self, message, qos) and patient
        return patient

    def extend(self, messages: Sequence[EncodedPublish]) -> int:
        """Owe further small messages to all receivers, while each of them is sent each at once.

        :return: how many.
        """
        if len(self.receivers) > 1:
            return self._extend_all(messages)
        for window, _ in self.receivers:
            count = window.offer(self, messages)
        self.messages += messages[:count]
        self.left += count
        return count

    def _extend_all(self, messages: Sequence[EncodedPublish]) -> int:
        """Owe them one by one, as the first receiver without room would be the last to get one."""
        for count, message in enumerate(messages):
            for window, _ in self.receivers:
                if not window.sends(message.size):
                    return count
            for window, _ in self.receivers:
                window.offer(self, (message,))
            self.messages.append(message)
            self.left += len(self.receivers)
        return len(messages)

    def is_behind_others(self) -> bool:
        """Return whether messages wait within the grace that come before this one."""
        return any(window.unsettled.waits(self) for window, _ in self.receivers)

    def at(self, number: int, position: int) -> tuple[EncodedPublish, int]:
        """Return the message at this position of a Session, and its QoS there."""
        first, qos = self.first[number]
        return self.messages[position - first], qos

    def late(self) -> "list[tuple[Debtor, int]]":
        """Return the receivers that have not acknowledged all, each with the first position of the rest."""
        found = []
        for window, _ in self.receivers:
            first = self.first[window.number][0]
            for position in range(first, first + len(self.messages)):
                if window.unsettled.get(position) is self:
                    found.append((window, position))
                    break
        return found

    def arrives(self, passed: float, grace: float) -> bool:
        """Return whether all receivers are likely to acknowledge all messages soon. ADR 0125.

        A receiver is that if it has acknowledged something since this was asked last, a grace ago, and will
        have acknowledged the rest in time, going on like that; or if it was silent, and is proven.

        :param passed: seconds since the first message came.
        :param grace: seconds that a receiver may be silent, or twice as many if it is proven.
        """
        answered, self._answered = self._answered, [window.pace.answered for window, _ in self.receivers]
        for (window, qos), before, now in zip(self.receivers, answered, self._answered, strict=True):
            ahead = self.first[window.number][0] + len(self.messages) - 1 - window.head
            if ahead <= 0:
                continue
            if qos == 2 or not _is_near(window, passed / grace, ahead, now - before):
                return False
        return not self.saved

    def prepare(self, published: float) -> list[tuple[int, Queued]]:
        """Return what has to be saved: the entries, each with its place among the messages.

        :param published: seconds since the epoch.
        """
        if len(self.messages) == 1:
            self.entries = [entry := self._entry(0, published)]
            return [(0, entry)] if entry is not None else []
        entries = self.entries = [self._entry(place, published) for place in range(len(self.messages))]
        return [(place, entry) for place, entry in enumerate(entries) if entry is not None]

    def _entry(self, place: int, published: float) -> Queued | None:
        rows = {}
        for window, qos in self.receivers:
            number = window.number
            position = self.first[number][0] + place
            if window.unsettled.get(position) is self:
                rows[number] = position, qos
        if not rows:
            return None
        message = self.messages[place]
        delivery, crossed = self.delivery, self.crossed
        publish = message.message
        queued = Queued(publish.topic, publish.payload, published, rows, delivery, message.retain, crossed)
        queued.properties = store_properties(publish.properties)
        return queued

    def _unsettled(self, place: int) -> "list[tuple[Debtor, int, int]]":
        """Return the receivers of a message that is not settled there, each with its position and QoS."""
        found = []
        for window, qos in self.receivers:
            position = self.first[window.number][0] + place
            if window.unsettled.get(position) is self:
                found.append((window, position, qos))
        return found

    def withdraw(self, number: int, position: int) -> Queued | None:
        """Owe a message to this Session no more; return its entry if a row has to be deleted."""
        self.left -= 1
        entry = None
        if self.entries is not None:
            entry = self.entries[position - self.first[number][0]]
            if entry is not None and entry.withdraw(number):
                entry = None
        if not self.left:
            self.settled()
        return entry

    def settled(self) -> None:
        """Answer, unless that was done: nothing is left."""
        if self.told or self.answer.called:
            return
        self.told = True
        if self.waiting is None:
            self.answer.callback(None)
        else:
            self.waiting.stored()
            self.waiting = None

    def when_settled(self) -> "Deferred[None]":
        """Return a Deferred that fires when whoever waits for the messages is told, whatever it is."""
        done: Deferred[None] = Deferred()
        if self.told or self.answer.called:
            done.callback(None)
        elif self.waiting is not None:
            self.waiting = _Both(self.waiting, done)
        else:
            self.answer.addBoth(_fired, done)
        return done

    def committed(self, _: object, place: int, entry: Queued) -> None:
        """Tell everybody that the rows of a message are committed."""
        going = []
        for window, _ in self.receivers:
            number = window.number
            position = self.first[number][0] + place
            if window.unsettled.get(position) is self:
                self.left -= 1
                window.committed(position, entry.number)
                going.append(window)
        if not self.left:
            self.settled()
        for window in going:
            window.go_on()

    def failed(self, failure: Failure, place: int) -> None:
        """Tell everybody that the rows of a message never will be committed."""
        receivers = self._unsettled(place)
        self.left -= len(receivers)
        for window, position, _ in receivers:
            window.failed(position, self.messages[place].size)
        if self.told or self.answer.called:
            return
        self.told = True
        if self.waiting is None:
            self.answer.errback(failure)
        else:
            self.waiting.refused(failure)
            self.waiting = None


def _is_near(window: Debtor, graces: float, ahead: int, got: int) -> bool:
    """Return whether a receiver is likely to acknowledge a message soon; see :meth:`Owing.arrives`.

    Where our own window holds it up, the time of a turn of the window is no measure of the receiver: it is
    near as long as it has acknowledged all of the window within the last grace. ADR 0158.

    :param graces: how many have passed since the message came.
    :param ahead: of so many messages it is the last; they are not acknowledged.
    :param got: so many were acknowledged within the last grace.
    """
    if not got:
        return graces < 2 and window.pace.proven
    if graces + ahead / got <= PATIENCE:
        return True
    is_held_up = window.inflight <= min(got, ahead - 1)
    return (is_held_up or ahead <= got) and graces + 1 <= LONGEST


class Unsettled(dict[int, Owing]):
    """An Unsettled has what is neither committed nor acknowledged, by position, in their order.

    Messages are saved in the order of positions, so those that are not saved are the last ones.

    :ivar saved: the highest position that was handed to the store.
    """

    __slots__ = ("saved",)

    def __init__(self, saved: int) -> None:
        super().__init__()
        self.saved = saved

    def waits(self, before: Owing) -> bool:
        """Return whether a message waits within the grace before this one, which then waits behind it."""
        for owing in reversed(self.values()):
            if owing is not before:
                return owing.entries is None
        return False

    def unsaved(self, owing: Owing, number: int) -> list[Owing]:
        """Return what waits within the grace and comes before ``owing``, and count all of it as saved.

        :param number: of the Session.
        """
        first, saved = owing.first[number][0], self.saved
        found: list[Owing] = []
        if saved + 1 < first:
            dense = first - saved - 1 <= len(self)  # those of a Link are not
            between = range(saved + 1, first) if dense else [one for one in self if saved < one < first]
            for position in between:
                older = self.get(position)
                if older is not None and not older.saved and (not found or found[-1] is not older):
                    found.append(older)
        last = first + len(owing.messages) - 1
        if last > saved:
            self.saved = last
        return found
