"""Delaying: messages for a Session that is on its way wait until it has arrived, or has stayed. ADR 0153."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred

from platziverse.broker.interfaces import Answer
from platziverse.cluster.frames import DURABLE
from platziverse.cluster.interest import SYS, Interest, key_of
from platziverse.cluster.peers import Peers

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

    :ivar keys: all whose Topic Filters may match it.
    """

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

    The matches of Subscriptions name us as if we were one of the other daemons, if there is anything to be
    delayed; so nothing is looked at twice when there is not.

    :ivar delayed: how many messages have waited so far.
    """

    def __init__(self, interest: Interest, peers: Peers) -> None:
        self.delayed = 0
        self._interest, self._peers = interest, peers
        # By key: thousands of Sessions may be on their way, few of which a message is for.
        self._delays: dict[str, dict[Delay, None]] = {}
        self._waiting: list[_Waiting] = []
        # What nothing keeps any more, and is being delivered.
        self._free: deque[_Waiting] = deque()
        self._delivers = False
        # Keys, and what fires when nothing of another daemon waits for one of them.
        self._awaited: list[tuple[frozenset[str], Deferred[None]]] = []

    def begin(self, topic_filters: Iterable[str]) -> Delay:
        """Keep messages from now on that may match these Topic Filters."""
        delay = Delay(_keys(topic_filters))
        for key in delay.keys:
            self._delays.setdefault(key, {})[delay] = None
        self._interest.change(self._peers.number, [(key, DURABLE) for key in delay.keys])
        return delay

    def cut(self, delay: Delay, cuts: Mapping[int, int]) -> None:
        """Keep no messages of other daemons up to these positions."""
        delay.cuts = cuts
        self._let_go(delay.keys)

    def end(self, delay: Delay) -> None:
        """Keep nothing for this any more; that may be said again."""
        over = []
        for key in delay.keys:
            others = self._delays.get(key, {})
            others.pop(delay, None)
            if not others and self._delays.pop(key, None) is not None:
                over.append(key)
        self._interest.change(self._peers.number, [(key, 0) for key in over])
        self._let_go(delay.keys)

    def when_clear(self, topic_filters: Iterable[str]) -> "Deferred[None]":
        """Return a Deferred that fires when no message of another daemon waits that may match one of these.

        What waits was taken, and is not with our Sessions.
        """
        keys = _keys(topic_filters)
        awaited: Deferred[None] = Deferred()
        if self._is_clear(keys):
            awaited.callback(None)
        else:
            self._awaited.append((keys, awaited))
        return awaited

    def _is_clear(self, keys: frozenset[str]) -> bool:
        return not any(one.origin and not keys.isdisjoint(one.keys) for one in self._waiting)

    def begin_anew(self) -> None:
        """Answer nobody who waits: others have taken over, and acknowledgements must not leave."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.answer.cancel()

    @property
    def bit(self) -> int:
        """Our bit in the masks of daemons with durable Sessions, which are there if something is delayed."""
        return 1 << self._peers.number if self._delays else 0

    def keep(
        self, topic: str, deliver: Callable[[], Answer], origin: int = OURS, position: int = 0
    ) -> Answer:
        """Call ``deliver`` now, or when nothing that waits may match the topic; return its answer.

        :param origin: the daemon that the message was published to, with its position.
        """
        keys = keys_of_topic(topic)
        if not self._is_kept(keys, origin, position):
            return deliver()
        self.delayed += 1
        answer: Deferred[object] = Deferred()
        self._waiting.append(_Waiting(keys, origin, position, deliver, answer))
        return answer

    def _is_kept(self, keys: Set[str], origin: int, position: int) -> bool:
        delays = self._delays
        return any(
            position > delay.cuts.get(origin, -1) for key in keys if key in delays for delay in delays[key]
        )

    def _let_go(self, keys: frozenset[str]) -> None:
        """Deliver what nothing keeps any more, in its order, also when an answer ends another Delay.

        :param keys: of the Delay that has changed.
        """
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            kept = keys.isdisjoint(one.keys) or self._is_kept(one.keys, one.origin, one.position)
            (self._waiting if kept else self._free).append(one)
        if self._delivers:
            return
        self._delivers = True
        gone: set[str] = set()
        while self._free:
            one = self._free.popleft()
            gone |= one.keys
            maybeDeferred(one.deliver).chainDeferred(one.answer)
        self._delivers = False
        awaited, self._awaited = self._awaited, []
        for of_session, waits in awaited:
            if waits.called:  # nobody waits any more
                continue
            if not of_session.isdisjoint(gone) and self._is_clear(of_session):
                waits.callback(None)
            else:
                self._awaited.append((of_session, waits))


def _keys(topic_filters: Iterable[str]) -> frozenset[str]:
    return frozenset(key for one in topic_filters if not (key := key_of(one)).startswith(SYS))


def keys_of_topic(topic: str) -> set[str]:
    """Return all keys whose Topic Filters may match a Topic Name."""
    levels = topic.split("/")
    keys = {topic, topic + "/#", *("/".join([*levels[:count], "#"]) for count in range(1, len(levels)))}
    if not topic.startswith("$"):  # [MQTT-4.7.2-1]
        keys.add("#")
    return keys
