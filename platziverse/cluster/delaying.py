"""Delaying: messages for a Session that is on its way wait until it has arrived, or has stayed. ADR 0153."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from heapq import heappop, heappush
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime

from platziverse.broker.interfaces import Answer
from platziverse.broker.turn import Turn
from platziverse.cluster.frames import DURABLE
from platziverse.cluster.interest import SYS, Interest, key_of
from platziverse.cluster.peers import Peers

#: Seconds of one turn of the reactor.
LENGTH: Final = 0.005
#: Stands for the daemon whose messages are published here: all of them wait.
OURS: Final = 0


@define(eq=False)
class Delay:
    """A Delay says which messages wait: those of the keys, but what the Session has got elsewhere.

    :ivar keys: of the Subscriptions; see :mod:`platziverse.cluster.interest`.
    :ivar cuts: daemon → position up to which its messages do not wait.
    """

    keys: frozenset[str]
    cuts: Mapping[int, int] = field(factory=dict)


@frozen(eq=False)
class _Waiting:
    """A message that waits, with what hands it to its receivers, and the answer for its publisher.

    :ivar count: a later message has a higher one.
    :ivar keys: all whose Topic Filters may match it.
    """

    count: int
    topic: str
    keys: Set[str]
    origin: int
    position: int
    deliver: Callable[[], Any]
    answer: "Deferred[object]"


class Delaying:
    """A Delaying keeps whole messages: none of our clients gets them before.

    Otherwise a crash could give a message of QoS 2 to one Session twice, or to another never, as a message is
    stored for all in one transaction. What is kept is at QoS 1 or 2, so its publisher waits for an answer.
    The topic is what counts, so messages of one topic keep their order.

    What nothing keeps any more is delivered in turns of the reactor, each as long as it may be; what comes
    meanwhile for one of these topics goes behind. ADR 0174.

    The matches of Subscriptions name us as if we were one of the other daemons, if there is anything to be
    delayed; so nothing is looked at twice when there is not.

    :param most: while so many messages wait, no Session more comes to us (``max_unfinished_total``).
    :ivar delayed: how many messages have waited so far.
    """

    def __init__(self, interest: Interest, peers: Peers, clock: IReactorTime, most: int) -> None:
        self.delayed = self._count = 0
        self._interest, self._peers, self._clock, self._most = interest, peers, clock, most
        self._turn = Turn(clock, LENGTH)
        # By key: thousands of Sessions may be on their way, few of which a message is for.
        self._delays: dict[str, dict[Delay, None]] = {}
        # Keys that nothing is delayed for any more, but we are still named as if it was.
        self._over: dict[str, None] = {}
        # By each of its keys; and how many of other daemons wait for a key.
        self._waiting: dict[str, dict[_Waiting, None]] = {}
        self._foreign: Counter[str] = Counter()
        # What nothing keeps any more, and is being delivered, the oldest first: what was put back and is free
        # again goes in front of what is behind it. And how many of each topic.
        self._free: list[tuple[int, _Waiting]] = []
        self._is_free: set[int] = set()
        self._topics: Counter[str] = Counter()
        self._delivers = False
        # What fires when nothing of another daemon waits for one of the keys; by each of them.
        self._awaited: dict[str, dict[Deferred[None], frozenset[str]]] = {}

    # -- which messages --------------------------------------------------------------------------

    def begin(self, topic_filters: Iterable[str]) -> Delay:
        """Keep messages from now on that may match these Topic Filters."""
        delay = Delay(_keys(topic_filters))
        for key in delay.keys:
            self._delays.setdefault(key, {})[delay] = None
            self._over.pop(key, None)
        self._interest.change(self._peers.number, [(key, DURABLE) for key in delay.keys])
        return delay

    def cut(self, delay: Delay, cuts: Mapping[int, int]) -> None:
        """Keep no messages of other daemons up to these positions."""
        delay.cuts = cuts
        self._let_go(delay.keys)

    def end(self, delay: Delay) -> None:
        """Keep nothing for this any more; that may be said again."""
        for key in delay.keys:
            others = self._delays.get(key, {})
            others.pop(delay, None)
            if not others and self._delays.pop(key, None) is not None:
                self._over[key] = None
        self._let_go(delay.keys)

    @property
    def bit(self) -> int:
        """Our bit in the masks of daemons with durable Sessions, which are there if something is delayed."""
        return 1 << self._peers.number if self._delays or self._over else 0

    @property
    def is_full(self) -> bool:
        """Return whether so many messages wait that no Session more may begin to move."""
        return self._count >= self._most

    def delivers(self, topic: str) -> bool:
        """Return whether messages of a topic have waited, and are not with their receivers yet."""
        return topic in self._topics

    # -- messages --------------------------------------------------------------------------------

    def keep(
        self, topic: str, deliver: Callable[[], Answer], origin: int = OURS, position: int = 0
    ) -> Answer:
        """Call ``deliver`` now, or when nothing that waits may match the topic; return its answer.

        :param origin: the daemon that the message was published to, with its position.
        """
        keys = keys_of_topic(topic)
        kept = self._is_kept(keys, origin, position)
        if not kept and topic not in self._topics:
            return deliver()
        self.delayed += 1
        answer: Deferred[object] = Deferred()
        one = _Waiting(self.delayed, topic, keys, origin, position, deliver, answer)
        self._add(one)
        if not kept:
            self._set_free(one)
        return answer

    def _add(self, one: _Waiting) -> None:
        self._count += 1
        for key in one.keys:
            self._waiting.setdefault(key, {})[one] = None
        if one.origin:
            self._foreign.update(one.keys)

    def _is_kept(self, keys: Set[str], origin: int, position: int) -> bool:
        delays = self._delays
        return any(
            position > delay.cuts.get(origin, -1) for key in keys if key in delays for delay in delays[key]
        )

    def begin_anew(self) -> None:
        """Answer nobody who waits: others have taken over, and acknowledgements must not leave."""
        waiting = {one: None for there in self._waiting.values() for one in there}
        self._waiting.clear()
        self._foreign.clear()
        self._free.clear()
        self._is_free.clear()
        self._topics.clear()
        self._count = 0
        for one in waiting:
            one.answer.cancel()

    # -- going on --------------------------------------------------------------------------------

    def _let_go(self, keys: frozenset[str]) -> None:
        """Deliver what nothing keeps any more, in its order, also when an answer ends another Delay.

        :param keys: of the Delay that has changed.
        """
        found = {one: None for key in keys for one in self._waiting.get(key, ())}
        for one in found:
            if one.count not in self._is_free and not self._is_kept(one.keys, one.origin, one.position):
                self._set_free(one)
        if not self._delivers:
            self._delivers = True
            self._deliver()

    def _set_free(self, one: _Waiting) -> None:
        heappush(self._free, (one.count, one))
        self._is_free.add(one.count)
        self._topics[one.topic] += 1

    def _deliver(self) -> None:
        """Deliver as much as fits into this turn of the reactor, and go on in the next one."""
        gone: set[str] = set()
        while self._free and not self._turn.is_over:
            one = heappop(self._free)[1]
            self._remove(one)
            if self._is_kept(one.keys, one.origin, one.position):  # for another Session, which goes by now
                self._add(one)
                continue
            gone |= one.keys
            maybeDeferred(one.deliver).chainDeferred(one.answer)
        self._tell(gone)
        if self._free:
            self._clock.callLater(0, self._deliver)
            return
        self._delivers = False
        over, self._over = self._over, {}
        self._interest.change(self._peers.number, [(key, 0) for key in over])

    def _remove(self, one: _Waiting) -> None:
        self._count -= 1
        self._is_free.discard(one.count)
        self._topics[one.topic] -= 1
        if not self._topics[one.topic]:
            del self._topics[one.topic]
        for key in one.keys:
            there = self._waiting[key]
            del there[one]
            if not there:
                del self._waiting[key]
            if one.origin:
                self._foreign[key] -= 1
                if not self._foreign[key]:
                    del self._foreign[key]

    # -- what waits for that ---------------------------------------------------------------------

    def when_clear(self, topic_filters: Iterable[str]) -> "Deferred[None]":
        """Return a Deferred that fires when no message of another daemon waits that may match one of these.

        What waits was taken, and is not with our Sessions. Whoever waits no longer cancels it.
        """
        keys = _keys(topic_filters)
        if self._is_clear(keys):
            return succeed(None)
        awaited: Deferred[None] = Deferred(lambda one: self._forget(one, keys))
        for key in keys:
            self._awaited.setdefault(key, {})[awaited] = keys
        return awaited

    def _is_clear(self, keys: frozenset[str]) -> bool:
        return keys.isdisjoint(self._foreign)

    def _forget(self, awaited: "Deferred[None]", keys: frozenset[str]) -> None:
        for key in keys:
            there = self._awaited[key]
            del there[awaited]
            if not there:
                del self._awaited[key]

    def _tell(self, gone: set[str]) -> None:
        """Fire what waits for one of these keys, of which messages are gone."""
        found = {one: keys for key in gone for one, keys in self._awaited.get(key, {}).items()}
        for awaited, keys in found.items():
            if not awaited.called and self._is_clear(keys):
                self._forget(awaited, keys)
                awaited.callback(None)


def _keys(topic_filters: Iterable[str]) -> frozenset[str]:
    return frozenset(key for one in topic_filters if not (key := key_of(one)).startswith(SYS))


def keys_of_topic(topic: str) -> set[str]:
    """Return all keys whose Topic Filters may match a Topic Name."""
    levels = topic.split("/")
    keys = {topic, topic + "/#", *("/".join([*levels[:count], "#"]) for count in range(1, len(levels)))}
    if not topic.startswith("$"):  # [MQTT-4.7.2-1]
        keys.add("#")
    return keys
