"""Compiling: makes a Rule of its table, once, or says what is wrong with it."""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, TypeVar

from msgspec import Struct, ValidationError, convert
from msgspec.structs import fields

from platziverse.rules.errors import BadKey
from platziverse.rules.formats import find_format
from platziverse.rules.metrics import Flattening, Named
from platziverse.rules.moments import Moments, find_zone
from platziverse.rules.paths import Path, parse_path
from platziverse.rules.patterns import Pattern
from platziverse.rules.rule import AgentTemplates, Rule, Units, Words
from platziverse.rules.tables import MEANINGLESS, MetricTable, PresenceTable, RuleTable
from platziverse.rules.templates import Template
from platziverse.rules.values import Values
from platziverse.words import nearest

T = TypeVar("T")
S = TypeVar("S", bound=Struct)


def compiled(name: str, table: Mapping[str, Any], bound: bool) -> Rule:
    """Return the Rule that a table of TOML writes.

    :param name: e.g. ``"rules.toml#3"``.
    :param bound: the setting ``binding`` is another than ``none``.
    :raises BadKey: the table is none of a rule.
    """
    return _Compiler(name, table, bound).rule()


class _Compiler:
    """A _Compiler makes one Rule; each of its methods reads some keys, which it names in its errors."""

    def __init__(self, name: str, table: Mapping[str, Any], bound: bool) -> None:
        self._name, self._given, self._bound = name, table, bound
        self._table = _converted(table)
        self._pattern = _at("topic", Pattern, self._table.topic)

    def rule(self) -> Rule:
        """Return the Rule. :raises BadKey: it cannot be made."""
        table = self._table
        self._check_together()
        each = self._path("each", table.each, item=False)
        named = self._named()
        for kind, unit in self._table.units.items():
            _check_unit(f"units.{kind}", unit)
        units = Units(table.units, {one.type.text: one.unit for one in named if one.unit is not None})
        return Rule(
            self._name,
            table,
            self._pattern,
            table.ignore,
            table.unmatched == "ignore",
            self._agent(),
            _at("format", find_format, table.format),
            self._words(),
            each,
            self._path("time", table.time),
            self._moments(),
            self._type(),
            self._path("values", table.values),
            self._flattening(),
            named,
            units,
        )

    def _check_together(self) -> None:
        """Check keys that have no meaning beside others. :raises BadKey: one is there."""
        given, table = self._given, self._table
        if table.ignore:
            for key in given.keys() - {"topic", "ignore"}:
                raise BadKey(key, "has no meaning in a rule with ignore")
        elif table.agent is None:
            raise BadKey("agent", 'is missing; e.g. agent = "tasmota:{device}"')
        for one, others in MEANINGLESS.items():
            for key in others:
                if one in given and key in given:
                    raise BadKey(key, f"has no meaning in a rule with {one}")
        for key in ("time_format", "time_zone"):
            if key in given and table.time is None:
                raise BadKey(key, "has no meaning without time")
        if table.unmatched not in ("reject", "ignore"):
            raise BadKey("unmatched", f"{table.unmatched!r} is none of reject, ignore")
        if table.metrics == {}:
            raise BadKey("metrics", "names none; without it every number becomes one")

    # -- templates and paths ---------------------------------------------------------------------

    def _template(self, key: str, text: str, more: Iterable[str] = ()) -> Template:
        template = _at(key, Template, text, (*self._pattern.names, "client", "user", *more))
        for hole in template.holes:
            if isinstance(hole, Path):
                self._check_item(key, hole)
        return template

    def _path(self, key: str, text: str | None, item: bool = True) -> Path | None:
        if text is None:
            return None
        path = _at(key, parse_path, text)
        if not item and path.root == "@":
            raise BadKey(key, "begins with @, an item; it has to begin with $, the message")
        self._check_item(key, path)
        return path

    def _check_item(self, key: str, path: Path) -> None:
        if path.root == "@" and self._table.each is None:
            raise BadKey(key, "has a path that begins with @, an item; without each it has to begin with $")

    def _agent(self) -> AgentTemplates:
        table = self._table
        uuid = self._template("agent", table.agent or "")
        if self._bound and uuid.begins_with_hole:
            text = "begins with a hole, so with access.binding it could name somebody else's agent; "
            raise BadKey("agent", text + 'begin with a word, as in "tasmota:{device}"')
        return AgentTemplates(
            uuid,
            uuid if table.name is None else self._template("name", table.name),
            self._template("username", table.username),
            self._template("hostname", table.hostname),
        )

    def _type(self) -> tuple[Template, Template]:
        """Return what stands before and after the key in a type."""
        whole = self._template("type", self._table.type, ("key",))
        if whole.holes.count("key") > 1:
            raise BadKey("type", "has the hole {key} more than once")
        if "key" not in whole.holes:
            raise BadKey("type", "has no hole {key}, so all metrics would have one type; name it in metrics")
        return whole.split("key")

    # -- what is read ----------------------------------------------------------------------------

    def _words(self) -> Words | None:
        presence: PresenceTable | None = self._table.presence
        if presence is None:
            return None
        online, offline = (_folded(words) for words in (presence.online, presence.offline))
        if not online or not offline or online & offline:
            raise BadKey("presence", "needs words for online and for offline, different ones")
        if self._table.format not in ("json", "value"):
            raise BadKey("format", "is json or value in a rule with presence")
        return Words(self._path("presence.path", presence.path), online, offline)

    def _moments(self) -> Moments:
        zone = _at("time_zone", find_zone, self._table.time_zone)
        return _at("time_format", Moments, self._table.time_format, zone)

    def _flattening(self) -> Flattening:
        table = self._table
        values = self._values("states", table.states, table.strings)
        return Flattening(values, table.include, table.exclude, table.rename, self._skipped())

    def _skipped(self) -> "list[str]":
        """Return the key of the time, if it is among what is flattened: a text is no number, at some cost."""
        table = self._table
        if table.time is None:
            return []
        time = parse_path(table.time)
        start = parse_path(table.values or ("$" if table.each is None else "@"))
        depth = len(start.keys)
        if time.root != start.root or time.keys[:depth] != start.keys:
            return []
        return [".".join(f"{key}" for key in time.keys[depth:])]

    def _named(self) -> tuple[Named, ...]:
        return tuple(
            self._one(f"metrics.{kind}", kind, given) for kind, given in (self._table.metrics or {}).items()
        )

    def _one(self, key: str, kind: str, given: object) -> Named:
        metric = _metric(key, given)
        path = self._path(key if isinstance(given, str) else f"{key}.path", metric.path)
        assert path is not None
        for part in ("scale", "offset"):
            if (number := getattr(metric, part)) is not None and not isfinite(number):
                raise BadKey(f"{key}.{part}", f"{number} is no number")
        states = self._table.states if metric.states is None else metric.states
        values = self._values(f"{key}.states", states, metric.text)
        _check_unit(f"{key}.unit", metric.unit or "")
        computed = (metric.scale, metric.offset, metric.round)
        if metric.text and computed != (None, None, None):
            raise BadKey(f"{key}.text", "has no meaning beside scale, offset or round")
        return Named(
            self._template(key, kind), path, metric.path, values, *computed, metric.unit, metric.required
        )

    def _values(self, key: str, states: "Mapping[str, int | float] | None", strings: bool) -> Values:
        for word, number in (states or {}).items():
            if not isfinite(number):
                raise BadKey(key, f"{word} = {number} is no number")
        return Values(states, strings)


def _at(key: str, make: Callable[..., T], *arguments: Any) -> T:
    """Return what ``make`` makes. :raises BadKey: it raises ValueError."""
    try:
        return make(*arguments)
    except ValueError as error:
        raise BadKey(key, str(error)) from None


def _check_unit(key: str, unit: str) -> None:
    """Check that a unit can be stored. :raises BadKey: it has a NUL."""
    if "\0" in unit:
        raise BadKey(key, "has a NUL")


def _folded(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word.strip().casefold() for word in words)


def _converted(table: Mapping[str, Any]) -> RuleTable:
    """Return a table with its types. :raises BadKey: a key is unknown, missing, or of another type."""
    _check_keys("", table, RuleTable)
    if isinstance(presence := table.get("presence"), dict):
        _check_keys("presence.", presence, PresenceTable)
    return _typed("", table, RuleTable)


def _metric(key: str, given: object) -> MetricTable:
    """Return the table of one metric. :raises BadKey: it is no path and no such table."""
    if isinstance(given, str):
        return MetricTable(given)
    if not isinstance(given, dict):
        raise BadKey(key, 'is no path and no table with one, e.g. "$.temperature"')
    _check_keys(f"{key}.", given, MetricTable)
    return _typed(f"{key}.", given, MetricTable)


def _typed(prefix: str, table: Mapping[str, Any], wanted: type[S]) -> S:
    """Return a table with its types. :raises BadKey: a key has another."""
    try:
        return convert(table, wanted)
    except ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        key = place.strip("`").partition("[")[0]
        raise BadKey(f"{prefix}{key}", f"{text[:1].lower()}{text[1:]}") from None


def _check_keys(prefix: str, given: Mapping[str, Any], wanted: type[Struct]) -> None:
    """Check that all keys are known. :raises BadKey: one is not, or one is missing that has no default."""
    known = {field.name: field for field in fields(wanted)}
    for key in given:
        if key not in known:
            raise BadKey(f"{prefix}{key}", f"unknown key{nearest(key, known)}")
    for key, field in known.items():
        if field.required and key not in given:
            raise BadKey(f"{prefix}{key}", "is missing")
