"""RetainedMessages: the last message kept for each Topic Name, found by Topic Filter."""

from collections import OrderedDict
from collections.abc import Iterator
from sys import getsizeof
from typing import Final

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.limits import USUAL_LEVELS
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import weigh

#: Characters from which on it matters how many bytes each of them takes, and how often a Topic Name is kept.
LONG: Final = 256
#: Messages that are looked at at once whether they are over, and those that are forgotten.
LOOKED_AT: Final = 10_000
MANY: Final = 200


class _Level:
    """A _Level is one level of the Topic Names that have a message, or lead to one."""

    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Level] = {}
        self.message: Publish | None = None


class RetainedMessages:
    """RetainedMessages keeps the last message of each Topic Name, in memory.

    It is bounded in number, in bytes (Topic Names and payloads) and in levels of Topic Names.

    :param max_messages: when there are so many, a message for a further Topic Name is not kept.
    :param max_bytes: likewise.
    :ivar bytes: of Topic Names and payloads together.
    :ivar refused: messages that were not kept because of a limit.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._root = _Level()
        self._by_topic: dict[str, Publish] = {}
        self._publishers: dict[str, Client] = {}
        # Topic Name → when its message is over, the one that was looked at longest ago first.
        self._ends: OrderedDict[str, float] = OrderedDict()
        self.bytes = 0
        self._levels = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._by_topic)

    @property
    def topics(self) -> list[str]:
        """Return the Topic Names of all messages."""
        return list(self._by_topic)

    def set(self, message: Publish, publisher: Client) -> Answer:
        """Keep ``message`` as the only one of its topic, unless a limit forbids; an empty one clears."""
        self.take(message, publisher)
        return None

    def take(self, message: Publish, publisher: Client) -> None:
        """Keep ``message`` as :meth:`set` does."""
        if not message.payload:
            self.clear(message.topic)  # [MQTT-3.3.1-10]
            return  # and an empty message is never stored [MQTT-3.3.1-11]
        old = self._by_topic.get(message.topic)
        size = self.bytes + _size(message) - (_size(old) if old is not None else 0)
        if size > self._max_bytes or (old is None and not self._has_room(message.topic)):
            self.clear(message.topic)  # what it would have replaced is no longer true [MQTT-3.3.1-7]
            self.refused += 1
            return
        kept = Publish(message.topic, message.payload, message.qos, True, properties=message.properties)
        self.bytes = size
        self._by_topic[message.topic] = kept  # [MQTT-3.3.1-5] [MQTT-3.3.1-7]
        self._publishers[message.topic] = publisher
        self._put(kept)
        if kept.properties is not None and kept.properties.expires is not None:
            self._ends[message.topic] = kept.properties.expires
        elif self._ends:
            self._ends.pop(message.topic, None)

    def _has_room(self, topic: str) -> bool:
        levels = self._levels + topic.count("/") + 1
        return len(self._by_topic) < self._max_messages and levels <= self._max_messages * USUAL_LEVELS

    def _put(self, message: Publish) -> None:
        level = self._root
        for name in message.topic.split("/"):
            child = level.children.get(name)
            if child is None:
                child = level.children[name] = _Level()
                self._levels += 1
            level = child
        level.message = message

    def clear(self, topic: str) -> None:
        """Forget the message of this topic, if there is one."""
        old = self._by_topic.pop(topic, None)
        if old is None:
            return
        self.bytes -= _size(old)
        del self._publishers[topic]
        self._ends.pop(topic, None)
        path: list[tuple[_Level, str]] = []
        level = self._root
        for name in topic.split("/"):
            path.append((level, name))
            level = level.children[name]
        level.message = None
        for parent, name in reversed(path):
            child = parent.children[name]
            if child.children or child.message is not None:
                break
            del parent.children[name]
            self._levels -= 1

    def expire(self, now: float) -> list[Publish]:
        """Forget messages that are over, at most ``MANY``, and return them. [MQTT5-3.3.2-5]

        Of very many that end some time only some are looked at, others the next time.

        :param now: seconds since the epoch.
        """
        ends, over = self._ends, list[Publish]()
        for _ in range(min(len(ends), LOOKED_AT)):
            topic, end = next(iter(ends.items()))
            if end > now:
                ends.move_to_end(topic)
                continue
            over.append(self._by_topic[topic])
            self.clear(topic)
            if len(over) == MANY:
                break
        return over

    def get(self, topic: str) -> Publish | None:
        """Return the message kept for this topic, or ``None``."""
        return self._by_topic.get(topic)

    def may_match(self, topic_filter: str) -> bool:
        """Return ``False`` only when nothing matches for certain; never a long search.

        Nothing does when there is no Topic Name that begins as the filter does up to its first wildcard.
        """
        if "+" not in topic_filter and "#" not in topic_filter:
            return topic_filter in self._by_topic
        level = self._root
        for name in topic_filter.split("/"):
            if name in ("+", "#"):
                break
            child = level.children.get(name)
            if child is None:
                return False
            level = child
        return True

    def publisher(self, topic: str) -> Client:
        """Return the client that published the message kept for this topic.

        :raises KeyError: there is none.
        """
        return self._publishers[topic]

    def match(self, topic_filter: str) -> list[Publish]:
        """Return the messages whose Topic Name matches, in no particular order."""
        if "+" not in topic_filter and "#" not in topic_filter:
            message = self._by_topic.get(topic_filter)
            return [] if message is None else [message]
        levels = [self._root]
        names = topic_filter.split("/")
        for index, name in enumerate(names):
            if name == "#":
                below = [below for level in levels for below in _below(level, index == 0)]
                return [level.message for level in (*levels, *below) if level.message is not None]
            levels = [child for level in levels for child in _children(level, name, index == 0)]
        return [level.message for level in levels if level.message is not None]


def _children(level: _Level, name: str, first: bool) -> Iterator[_Level]:
    if name == "+":
        for child_name, child in level.children.items():
            if not (first and child_name.startswith("$")):  # [MQTT-4.7.2-1]
                yield child
    elif (found := level.children.get(name)) is not None:
        yield found


def _below(level: _Level, first: bool) -> Iterator[_Level]:
    stack = list(_children(level, "+", first))
    while stack:
        found = stack.pop()
        yield found
        stack.extend(found.children.values())


def _size(message: Publish) -> int:
    """Return the bytes of a message; a long Topic Name counts as often as it is kept, and as wide."""
    topic, properties = message.topic, message.properties
    size = (len(topic) if len(topic) <= LONG else 2 * getsizeof(topic)) + len(message.payload)
    return size if properties is None else size + weigh(properties)
