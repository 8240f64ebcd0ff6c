"""SubscriptionTree: who holds a Topic Filter that matches a Topic Name.

It serves Sessions and topic handlers alike. Filters without a wildcard live in plain dicts; the
others in a tree of levels that is walked level by level, never recursively.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from sys import getsizeof
from typing import Final, Generic, TypeAlias, TypeVar

from platziverse.broker.records import IDENTIFIER, OPTIONS
from platziverse.mqtt.framing import encode_length
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.topics import CACHED_TOPIC_LENGTH

H = TypeVar("H")

#: Everyone who gets the message, each once, with the highest QoS of the holder's matching filters.
Match: TypeAlias = "tuple[tuple[H, int], ...]"

#: Bytes that remembered matches take at most, roughly: 100,000 usual topics.
CACHE_SIZE: Final = 32 * 1024 * 1024
#: Bytes of a remembered match beside the Topic Name, and of each receiver.
_PLACE: Final = 160
_RECEIVER: Final = 64


#: Filters without a wildcard are in so many dicts, by their hash: one dict that grows from 700,000 to twice
#: as many places holds the reactor for 34 ms, and longer on a busy machine; each of these for 0.2. ADR 0127.
SHARDS: Final = 256

#: Filters and holders looked at for one Topic Name, from which on others get their turn before the next.
MANY_STEPS: Final = 2000


#: What is granted is the QoS, and these bits of the options of MQTT 5: No Local, and Retain As Published.
LOCAL: Final = 4
AS_PUBLISHED: Final = 8


def merged(one: int, other: int) -> int:
    """Return what several Subscriptions of a client grant together, as one copy is sent. [MQTT5-3.3.4-2]

    What is local is left out only if all of them say so; RETAIN is as published if one does. Subscription
    Identifiers are left out: :meth:`SubscriptionTree.identifiers` has them.
    """
    return max(one & 3, other & 3) | one & other & LOCAL | (one | other) & AS_PUBLISHED


class _Level(Generic[H]):
    """A _Level is one level of wildcard filters: the levels below, and who holds the filter up to here."""

    __slots__ = ("children", "holders")

    def __init__(self) -> None:
        self.children: dict[str, _Level[H]] = {}
        self.holders: dict[H, int] = {}


class SubscriptionTree(Generic[H]):
    """A SubscriptionTree maps Topic Filter → {holder: QoS}, and remembers matches by Topic Name.

    Wildcards are supported [MQTT-3.8.3-2]; all else is compared as it is [MQTT-4.7.3-4].

    :param memory: bytes that remembered matches may take, roughly.
    :param strained: called after a search of more than ``MANY_STEPS``, some milliseconds.
    :ivar match: returns who gets a message with the Topic Name that it is called with.
    :ivar identifiers: returns, by holder, the Subscription Identifiers that a message with the Topic Name has
        there, as they stand in PUBLISH; those without any are not in it.
    :ivar remembers: returns whether that takes no search.
    :ivar shared: Subscriptions that are kept elsewhere, and count here.
    """

    __slots__ = (
        "_count",
        "_exact",
        "_find",
        "_identifiers",
        "_memo",
        "_memory",
        "_root",
        "_strained",
        "identifiers",
        "match",
        "remembers",
        "shared",
    )

    def __init__(self, memory: int = CACHE_SIZE, strained: Callable[[], None] = lambda: None) -> None:
        self._strained, self._memory, self._find = strained, memory, self.find
        # Holders of filters without a wildcard. A dict with one holder may be that of several filters.
        self._exact: tuple[dict[str, dict[H, int]], ...] = tuple({} for _ in range(SHARDS))
        self._root: _Level[H] = _Level()
        self._memo: Memo[str, Match[H]] = Memo(self.find, memory, _size)
        self._identifiers: Memo[str, dict[H, bytes]] = Memo(
            self.find_identifiers, memory // 4, _weigh_identifiers
        )
        self._count = self.shared = 0
        self.identifiers: Callable[[str], Mapping[H, bytes]] = self._identifiers.__getitem__
        self.match: Callable[[str], Match[H]] = self._memo.__getitem__
        self.remembers: Callable[[str], bool] = self._memo.__contains__

    def __len__(self) -> int:
        """Return the number of Subscriptions."""
        return self._count + self.shared

    def add(self, topic_filter: str, holder: H, qos: int) -> None:
        """Subscribe ``holder``, or replace its Subscription to this filter. [MQTT-3.8.4-3]"""
        if _has_wildcard(topic_filter):
            level = self._root
            for name in topic_filter.split("/"):
                child = level.children.get(name)
                if child is None:
                    child = level.children[name] = _Level()
                level = child
            holders = level.holders
        else:
            exact = self._exact[hash(topic_filter) % SHARDS]
            holders = exact.get(topic_filter, {})
            if len(holders) < 2:
                holders = exact[topic_filter] = holders.copy()
        self._count += holder not in holders
        holders[holder] = qos
        self.forget(topic_filter)

    def restore(self, subscriptions: Mapping[str, int], holder: H) -> None:
        """Subscribe a ``holder`` that has no Subscriptions yet to all of these, Topic Filter → QoS.

        A start does it a million times. The usual case, filters without a wildcard that nobody else holds,
        takes half as long as with :meth:`add`: those of one QoS share one dict of holders. ADR 0127.
        """
        exact, memo = self._exact, self._memo
        others: Iterable[str] = subscriptions
        if not _has_wildcard("/".join(subscriptions)):
            shared = {qos: {holder: qos} for qos in set(subscriptions.values())}
            others = [
                topic_filter
                for topic_filter, qos in subscriptions.items()
                if exact[hash(topic_filter) % SHARDS].setdefault(topic_filter, mine := shared[qos])
                is not mine
            ]
            self._count += len(subscriptions) - len(others)
        for topic_filter in others:
            self.add(topic_filter, holder, subscriptions[topic_filter])
        for topic_filter in subscriptions if memo or self._identifiers else ():
            self.forget(topic_filter)

    def remove(self, topic_filter: str, holder: H) -> bool:
        """Unsubscribe; the filter is compared character by character [MQTT-3.10.4-1].

        :return: whether there was such a Subscription.
        """
        path = self._path(topic_filter)
        exact = self._exact[hash(topic_filter) % SHARDS]
        holders = path[-1][0].holders if path else exact.get(topic_filter, {})
        if holder not in holders:
            return False
        self._count -= 1
        if path or len(holders) > 1:
            del holders[holder]
        else:
            del exact[topic_filter]
        for level, parent, name in reversed(path):
            if level.holders or level.children:
                break
            del parent.children[name]
        self.forget(topic_filter)
        return True

    def extend(self, more: "Callable[[str], Match[H]]") -> None:
        """Let ``match`` return more than those that have subscribed; what is said last comes last.

        :param more: returns who else gets a message with a Topic Name; asked when nothing is remembered.
        """
        before = self._find
        self._find = lambda topic: before(topic) + more(topic)
        self._memo = Memo(self._find, self._memory, _size)
        self.match, self.remembers = self._memo.__getitem__, self._memo.__contains__

    def forget(self, topic_filter: str) -> None:
        """Forget the matches that a change of the holders of ``topic_filter`` may concern."""
        if _has_wildcard(topic_filter):
            self._memo.clear()
            self._identifiers.clear()
        else:
            self._memo.forget(topic_filter)
            self._identifiers.forget(topic_filter)

    def _path(self, topic_filter: str) -> "list[tuple[_Level[H], _Level[H], str]]":
        """Return (level, its parent, its name) from the root down; nothing if there is no such filter."""
        path: list[tuple[_Level[H], _Level[H], str]] = []
        if not _has_wildcard(topic_filter):
            return path
        level = self._root
        for name in topic_filter.split("/"):
            child = level.children.get(name)
            if child is None:
                return []
            path.append((child, level, name))
            level = child
        return path

    def find(self, topic: str) -> "Match[H]":
        """Return who gets a message with this Topic Name, without looking into what is remembered."""
        best: dict[H, int] = dict(self._exact[hash(topic) % SHARDS].get(topic, ()))
        if not self._root.children:  # as in most handler tables
            return tuple(best.items())
        steps = 0
        for holders in self._wildcard_holders(topic):
            steps += len(holders) + 1
            for holder, qos in holders.items():
                if (before := best.get(holder, -1)) < qos:  # [MQTT-3.3.5-1]
                    best[holder] = qos if before < 0 or qos < LOCAL else merged(before, qos)
                elif before >= LOCAL:
                    best[holder] = merged(before, qos)
        if steps > MANY_STEPS:
            self._strained()
        return tuple(best.items())

    def find_identifiers(self, topic: str) -> "dict[H, bytes]":
        """Return the Subscription Identifiers of a Topic Name, without looking into what is remembered.

        Each matching Subscription of a holder has its own there, several may be the same.
        """
        found: dict[H, bytearray] = {}
        exact = self._exact[hash(topic) % SHARDS].get(topic, {})
        for holders in (exact, *self._wildcard_holders(topic)):
            for holder, granted in holders.items():
                if granted > OPTIONS:
                    found.setdefault(holder, bytearray()).extend(encode_identifier(granted))
        return {holder: bytes(identifiers) for holder, identifiers in found.items()}

    def _wildcard_holders(self, topic: str) -> "Iterator[dict[H, int]]":
        levels = [self._root]
        wildcards = not topic.startswith("$")  # [MQTT-4.7.2-1]
        for name in topic.split("/"):
            below: list[_Level[H]] = []
            for level in levels:
                children = level.children
                if not children:
                    continue
                if (child := children.get(name)) is not None:
                    below.append(child)
                if wildcards:
                    if (child := children.get("+")) is not None:
                        below.append(child)
                    if (child := children.get("#")) is not None:
                        yield child.holders
            if not below:
                return
            levels = below
            wildcards = True
        for level in levels:
            yield level.holders
            if (child := level.children.get("#")) is not None:  # "sport/#" matches "sport" too
                yield child.holders


def encode_identifier(granted: int) -> bytes:
    """Return the Subscription Identifier of what is granted as a Property; nothing: there is none."""
    return b"\x0b" + encode_length(granted >> IDENTIFIER) if granted > OPTIONS else b""


def _size(topic: str, found: "Match[H]") -> int:
    return getsizeof(topic) + _PLACE + _RECEIVER * len(found) if len(topic) <= CACHED_TOPIC_LENGTH else 0


def _weigh_identifiers(topic: str, found: "dict[H, bytes]") -> int:
    return getsizeof(topic) + _PLACE + sum([_RECEIVER + getsizeof(each) for each in found.values()])


def _has_wildcard(topic_filter: str) -> bool:
    return "+" in topic_filter or "#" in topic_filter
