"""SubscriptionTree: which holders of a Topic Filter want a message with this Topic Name.

It serves Sessions and topic handlers alike. Filters without a wildcard live in a plain dict; the
others in a tree of levels that is walked level by level, never recursively.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeAlias, TypeVar

H = TypeVar("H")

#: Everyone who gets the message, each once, with the highest QoS of the holder's matching filters.
Match: TypeAlias = "tuple[tuple[H, int], ...]"

#: The cache of matches is dropped when it holds more than this many topics and receivers together.
CACHE_SIZE: Final = 200_000
#: Longer Topic Names are matched afresh each time, so that the cache is bounded in bytes too.
CACHED_TOPIC_LENGTH: Final = 512


class _Level(Generic[H]):
    """One level of the wildcard filters: the levels below, and who subscribed exactly up to here."""

    __slots__ = ("children", "holders")

    def __init__(self) -> None:
        self.children: dict[str, _Level[H]] = {}
        self.holders: dict[H, int] = {}


class SubscriptionTree(Generic[H]):
    """Topic Filter → {holder: QoS}; ``match`` is cached per Topic Name.

    Wildcards are supported [MQTT-3.8.3-2]; all else is compared as it is [MQTT-4.7.3-4].
    """

    __slots__ = ("_cache", "_cached", "_count", "_exact", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, dict[H, int]] = {}
        self._root: _Level[H] = _Level()
        self._cache: dict[str, Match[H]] = {}
        self._cached = 0
        self._count = 0

    def __len__(self) -> int:
        """The number of Subscriptions."""
        return self._count

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
            holders = self._exact.setdefault(topic_filter, {})
        self._count += holder not in holders
        holders[holder] = qos
        self._invalidate(topic_filter)

    def remove(self, topic_filter: str, holder: H) -> bool:
        """Unsubscribe; the filter is compared character by character [MQTT-3.10.4-1].

        :return: whether there was such a Subscription.
        """
        path = self._path(topic_filter)
        holders = path[-1][0].holders if path else self._exact.get(topic_filter, {})
        if holders.pop(holder, None) is None:
            return False
        self._count -= 1
        if not path and not holders:
            del self._exact[topic_filter]
        for level, parent, name in reversed(path):
            if level.holders or level.children:
                break
            del parent.children[name]
        self._invalidate(topic_filter)
        return True

    def match(self, topic: str) -> "Match[H]":
        """Who gets a message with this Topic Name."""
        found = self._cache.get(topic)
        if found is None:
            found = self._collect(topic)
            if len(topic) <= CACHED_TOPIC_LENGTH:
                self._remember(topic, found)
        return found

    def _remember(self, topic: str, found: "Match[H]") -> None:
        self._cached += 1 + len(found)
        if self._cached > CACHE_SIZE:
            self._forget_all()
            self._cached = 1 + len(found)
        self._cache[topic] = found

    def _forget_all(self) -> None:
        self._cache = {}
        self._cached = 0

    def _invalidate(self, topic_filter: str) -> None:
        if _has_wildcard(topic_filter):
            if self._cache:
                self._forget_all()
        else:
            found = self._cache.pop(topic_filter, None)
            if found is not None:
                self._cached -= 1 + len(found)

    def _path(self, topic_filter: str) -> "list[tuple[_Level[H], _Level[H], str]]":
        """(level, its parent, its name) from the root down; empty if there is no such wildcard filter."""
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

    def _collect(self, topic: str) -> "Match[H]":
        best: dict[H, int] = dict(self._exact.get(topic, ()))
        for holders in self._wildcard_holders(topic):
            for holder, qos in holders.items():
                if best.get(holder, -1) < qos:  # [MQTT-3.3.5-1]
                    best[holder] = qos
        return tuple(best.items())

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


def _has_wildcard(topic_filter: str) -> bool:
    return "+" in topic_filter or "#" in topic_filter
