"""Weights: how much memory Topic Filters take, in levels."""

from collections.abc import Collection
from sys import getsizeof
from typing import Final

#: Bytes that each level of a Topic Filter takes, roughly.
LEVEL: Final = 512
#: Characters of a Topic Filter that takes less than one level's bytes, whatever characters they are.
SHORT: Final = 100


def weigh(topic_filter: str) -> int:
    """Return how many usual levels a Topic Filter takes in memory: one that is long counts for several.

    A character takes up to four bytes, all of them if one does, in the Session as in the tree.
    """
    return max(topic_filter.count("/") + 1, 2 * getsizeof(topic_filter) // LEVEL)


def weigh_all(topic_filters: Collection[str]) -> int:
    """Return what several Topic Filters weigh together; in one piece when they are as short as most are."""
    if max(map(len, topic_filters), default=0) > SHORT:
        return sum(map(weigh, topic_filters))
    return "/".join(topic_filters).count("/") + bool(topic_filters)
