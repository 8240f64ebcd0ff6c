"""Metrics: what of an item of a message becomes metrics, either everything or what a rule names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, Final

from attrs import frozen
from msgspec import Struct

from platziverse.agents.careful import number_text
from platziverse.agents.model import MAX_REASON, Metric
from platziverse.rules.paths import MISSING, Path
from platziverse.rules.templates import Template, Unfilled
from platziverse.rules.values import NoNumber, Values, why

#: Keys that a rule remembers how to treat; all others it works out each time.
MAX_LEARNT: Final = 10_000
#: Characters of a type.
MAX_TYPE: Final = 255
#: Integers below it are numbers in every format.
_EXACT: Final = 2**53
#: Characters of a text that is remembered with its meaning: most are units and states, and stay the same.
_SHORT: Final = 32
#: The key of a value that stands alone.
ALONE: Final = "value"


class Found(Struct):
    """A Found is what an item, or a whole message, brought.

    :ivar problems: what cannot be stored although it was meant to be, each with its place.
    :ivar ignored: key and value of what is no number.
    """

    metrics: list[Metric] = []
    problems: list[str] = []
    ignored: list[tuple[str, Any]] = []

    @property
    def reason(self) -> str:
        """The problems in one line."""
        return "; ".join(self.problems)[:MAX_REASON]


def matcher(globs: Iterable[str]) -> "re.Pattern[str]":
    """Return an expression that matches what one of the globs matches, as in a shell, in this case only."""
    return re.compile("|".join(translate(glob) for glob in globs))


class _Step:
    """A _Step says what to do with one key: its leaf, its object, or neither.

    :ivar seen: the last short text there; ``means``: the number that it stands for, or ``None``.
    """

    __slots__ = ("inner", "key", "leaf", "means", "problem", "seen")

    def __init__(self, key: str, leaf: str | None, problem: str) -> None:
        self.key, self.leaf, self.problem = key, leaf, problem
        self.inner: _Plan | None = None
        self.seen: str | None = None
        self.means: str | None = None


class _Plan(dict[Any, _Step]):
    """A _Plan remembers the Step of each key below one place, as far as there is room."""

    __slots__ = ("_flattening", "_prefix")

    def __init__(self, flattening: "Flattening", prefix: str) -> None:
        super().__init__()
        self._flattening, self._prefix = flattening, prefix

    def __missing__(self, key: "str | int") -> _Step:
        step = self._flattening.learn(f"{self._prefix}{key}")
        if self._flattening.room:
            self._flattening.room -= 1
            self[key] = step
        return step


class Flattening:
    """A Flattening makes a metric of every number of an item, whatever its names and its depth.

    :param include: globs over the key, which is the path joined by dots; ``None``: all.
    :param exclude: globs over the key.
    :param rename: key → key.
    :param skip: keys that are used otherwise, as the time is.
    :ivar room: keys that may still be learnt.
    """

    def __init__(
        self,
        values: Values,
        include: Sequence[str] | None,
        exclude: Sequence[str],
        rename: Mapping[str, str],
        skip: Iterable[str] = (),
    ) -> None:
        self._values = values
        self._include = None if include is None else matcher(include).match
        self._exclude = matcher(exclude).match if exclude else None
        self._rename, self._skip = rename, frozenset(skip)
        self.room = MAX_LEARNT
        self._root = _Plan(self, "")
        self._alone = self.learn(ALONE)

    def learn(self, key: str) -> _Step:
        """Return what to do with the values of a key."""
        wanted = key not in self._skip and (self._include is None or self._include(key) is not None)
        if not wanted or (self._exclude is not None and self._exclude(key) is not None):
            return _Step(key, None, "")
        leaf = self._rename.get(key, key)
        problem = wrong_type(leaf)
        return _Step(key, None if problem else leaf, problem)

    def read(self, document: Any, before: str, after: str, found: Found) -> None:
        """Add the metrics of a document to ``found``; each type is ``before``, the key, and ``after``."""
        kind, first = document.__class__, len(found.metrics)
        if kind is dict:
            self._walk(document.items(), self._root, found)
        elif kind is list:
            self._walk(enumerate(document), self._root, found)
        elif document is not None and document is not MISSING:
            self._add(self._alone, document, found)
        if before or after:
            self._surround(before, after, found, first)

    def _walk(self, items: Iterable[Any], plan: _Plan, found: Found) -> None:
        add = found.metrics.append
        for key, value in items:
            step = plan[key]
            kind, leaf = value.__class__, step.leaf
            if kind is dict or kind is list:
                inner = step.inner
                if inner is None:
                    inner = step.inner = _Plan(self, f"{step.key}.")
                self._walk(value.items() if kind is dict else enumerate(value), inner, found)
            # The usual numbers, as Values writes them, without the price of a call: 0 times infinity is NaN.
            elif leaf is not None and kind is float and value * 0 == 0:
                text = repr(value)
                add(Metric(leaf, number_text(value) if text[-2:] == ".0" else text))
            elif leaf is not None and kind is int and -_EXACT < value < _EXACT:
                add(Metric(leaf, str(value)))
            elif leaf is not None and kind is str and value == step.seen:
                self._put(step, value, step.means, found)
            elif value is not None and (leaf is not None or step.problem):
                self._add(step, value, found)

    def _add(self, step: _Step, value: Any, found: Found) -> None:
        if step.leaf is None:
            found.problems.append(step.problem)
            return
        try:
            text = self._values.text(value)
        except NoNumber as error:
            found.problems.append(f"{error} - at {step.key}")
            return
        if value.__class__ is str and len(value) <= _SHORT:
            step.seen, step.means = value, text
        self._put(step, value, text, found)

    @staticmethod
    def _put(step: _Step, value: Any, text: str | None, found: Found) -> None:
        if text is None or step.leaf is None:
            found.ignored.append((step.key, value))
        else:
            found.metrics.append(Metric(step.leaf, text))

    @staticmethod
    def _surround(before: str, after: str, found: Found, first: int) -> None:
        """Write ``before`` and ``after`` around the types of the metrics from ``first`` on."""
        metrics = found.metrics[first:]
        del found.metrics[first:]
        for metric in metrics:
            metric.type = f"{before}{metric.type}{after}"
            if problem := wrong_type(metric.type):
                found.problems.append(problem)
            else:
                found.metrics.append(metric)


def wrong_type(name: str) -> str:
    """Return why ``name`` can be no type of metric; usually empty."""
    if len(name) > MAX_TYPE:
        return f"the type {name[:40]!r}… has {len(name)} characters, {MAX_TYPE} are possible"
    if not name:
        return "a type without a character"
    return f"NUL in the type {name[:40]!r}" if "\0" in name else ""


@frozen
class Named:
    """A Named is one metric of a rule that names its metrics.

    :param text: a text that is no number is kept as it is.
    :param required: a value that is not there is a problem.
    """

    type: Template
    path: Path
    where: str
    values: Values
    scale: int | float | None = None
    offset: int | float | None = None
    round: int | None = None
    unit: str | None = None
    required: bool = False

    def read(self, names: Mapping[str, str], message: Any, item: Any, found: Found) -> None:
        """Add the metric, or the problem with it, to ``found``."""
        value = self.path.find(message, item)
        if value is MISSING or value is None:
            if self.required:
                found.problems.append(f"{why(value)} - at {self.where}")
            return
        try:
            text = self.values.text(value) if self._as_it_is else self._computed(value)
            name = self.type.fill(names, message, item)
        except (NoNumber, Unfilled) as error:
            found.problems.append(f"{error} - at {self.where}")
            return
        if text is None:
            found.problems.append(f"{why(value)} - at {self.where}")
        elif problem := wrong_type(name):
            found.problems.append(f"{problem} - at {self.where}")
        else:
            found.metrics.append(Metric(name, text))

    @property
    def _as_it_is(self) -> bool:
        return self.scale is None and self.offset is None and self.round is None

    def _computed(self, value: Any) -> str | None:
        """Return the text of a number that is scaled, moved and rounded.

        :raises NoNumber: it is none, or gets too large.
        """
        number = self.values.number(value)
        try:
            if self.scale is not None:
                number *= self.scale
            if self.offset is not None:
                number += self.offset
            if self.round is not None:
                number = round(number, self.round) if self.round > 0 else int(round(number, self.round))
        except (OverflowError, ValueError):
            raise NoNumber("number out of range") from None
        return self.values.text(number)
