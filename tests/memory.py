"""What an object keeps alive: for tests that something is forgotten, or that a cache has an end."""

import gc
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from twisted.logger import Logger

#: Behind these is the whole program.
_BORDERS = (Logger, type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType)
#: Small numbers are shared, so that counting them would say nothing.
_SHARED = (int, float, type(None))


def _reachable(thing: Any) -> Iterator[Any]:
    seen: set[int] = set()
    waiting = [thing]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen and not isinstance(one, _BORDERS + _SHARED):
            seen.add(id(one))
            yield one
            waiting += gc.get_referents(one)


def objects_kept(thing: Any) -> int:
    """How many objects are alive because of ``thing``, itself included."""
    return sum(1 for _ in _reachable(thing))


def bytes_kept(thing: Any) -> int:
    """How many bytes they take."""
    return sum(map(sys.getsizeof, _reachable(thing)))
