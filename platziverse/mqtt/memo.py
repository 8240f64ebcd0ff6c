"""Memories with an end: ``Memo`` for what is computed again and again, ``Recent`` for what happened last."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from platziverse.mqtt.topics import CACHED_TOPIC_LENGTH, CACHED_TOPICS

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V]):
    """A ``Memo`` remembers what a function has made of its keys: ``memo[key]`` calls it the first time only.

    A hit is one look into a dict, without a call in Python. So it leaves no trace, and a memo that is full
    forgets everything at once instead of what was used longest ago.

    :param make: makes the value of a key; what it raises is raised, and nothing is remembered.
    :param most: what all entries may weigh together.
    :param weigh: what an entry weighs; 0: it is not remembered. Without it each key that is no longer than
        most Topic Names weighs 1.
    """

    __slots__ = ("_make", "_most", "_weigh", "_weight")

    def __init__(
        self,
        make: Callable[[K], V],
        most: int = CACHED_TOPICS,
        weigh: Callable[[Any, V], int] | None = None,
    ) -> None:
        super().__init__()
        self._make, self._most, self._weigh = make, most, weigh
        self._weight = 0

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        weigh = self._weigh
        if weigh is None:  # counted in place: new Topic Names come by the thousand
            if len(key) <= CACHED_TOPIC_LENGTH:  # type: ignore[arg-type]
                if len(self) >= self._most:
                    self.clear()
                self[key] = value
        elif weight := weigh(key, value):
            if self._weight + weight > self._most:
                self.clear()
            self._weight += weight
            self[key] = value
        return value

    def forget(self, key: K) -> None:
        """Forget one entry, if it is there."""
        if key in self:
            value = self.pop(key)
            if self._weigh is not None:
                self._weight -= self._weigh(key, value)

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._weight = 0


class Recent(Generic[K, V]):
    """A ``Recent`` keeps the values that were put last; when there are too many, the oldest ones go.

    :param most: what all values may weigh together.
    :param weigh: what a value weighs, as long as it is here. Without it each one weighs 1.
    :ivar weight: of all values.
    """

    __slots__ = ("_most", "_values", "_weigh", "weight")

    def __init__(self, most: int, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._most, self._weigh = most, weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return the value of ``key``, or ``None``; it does not become newer."""
        return self._values.get(key)

    def touch(self, key: K) -> V | None:
        """Return the value of ``key``, which becomes the newest, or ``None``."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def oldest(self) -> tuple[K, V] | None:
        """Return the key and the value that would be the next to go."""
        return next(iter(self._values.items()), None)

    def put(self, key: K, value: V) -> list[K]:
        """Keep ``value`` as the newest; return the keys that had to go."""
        self.forget(key)
        self._values[key] = value
        self.weight += self._weigh(value)
        gone = []
        while self.weight > self._most:
            oldest, value = self._values.popitem(last=False)
            self.weight -= self._weigh(value)
            gone.append(oldest)
        return gone

    def forget(self, key: K) -> None:
        """Forget one value, if it is there."""
        if key in self._values:
            self.weight -= self._weigh(self._values.pop(key))
