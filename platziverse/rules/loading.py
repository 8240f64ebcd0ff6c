"""Loading: reads the rules of files and presets, all of them or none."""

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from os.path import basename
from typing import Any, Final

from msgspec import DecodeError
from msgspec.toml import decode

from platziverse.agents.limits import AgentLimits
from platziverse.rules.compiling import compiled
from platziverse.rules.errors import BadKey, RuleError
from platziverse.rules.rule import Rule
from platziverse.rules.ruleset import MAX_RULES, RuleSet
from platziverse.rules.settings import RecordSettings
from platziverse.words import nearest

_RULE: Final = re.compile(r"\s*\[\[\s*rule\s*\]\]")
_TABLE: Final = re.compile(r"\s*\[\s*rule\s*\.\s*(\w+)\s*(?:\.\s*([^\]]+?)\s*)?\]")
_KEY: Final = re.compile(r"""\s*("[^"]*"|'[^']*'|[\w-]+)\s*[=.]""")


def load(settings: RecordSettings, limits: AgentLimits, bound: bool) -> RuleSet:
    """Return the rules of a configuration: those of its files, then those of its presets.

    :param bound: ``access.binding`` is another than ``none``.
    :raises RuleError: one of them cannot be used; says where.
    """
    rules: list[Rule] = []
    for path in settings.files:
        rules += read_rules(basename(path), path, _text_of(path), bound)
    for name in settings.presets:
        rules += read_rules(name, f"preset {name}", preset(name), bound)
    if len(rules) > MAX_RULES:
        raise RuleError(f"record.files, record.presets: {len(rules)} rules, {MAX_RULES} are possible")
    return RuleSet(rules, limits)


def presets() -> list[str]:
    """Return the names of the presets."""
    names = (one.name for one in files("platziverse.rules").joinpath("presets").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def preset(name: str) -> str:
    """Return the TOML of a preset. :raises RuleError: there is none of this name."""
    if name not in (known := presets()):
        raise RuleError(
            f"record.presets: unknown preset {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        )
    return files("platziverse.rules").joinpath("presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def read_rules(name: str, place: str, text: str, bound: bool) -> list[Rule]:
    """Return the rules of one file.

    :param name: what its rules are called by.
    :param place: the file, in messages.
    :raises RuleError: one of them cannot be used.
    """
    tables = _tables(place, text)
    lines = list(_lines(text))
    if len(lines) != len(tables):  # written in a way that only a whole reader of TOML understands
        lines = [{} for _ in tables]
    rules: list[Rule] = []
    for number, (table, line) in enumerate(zip(tables, lines, strict=True), 1):
        try:
            rule = compiled(f"{name}#{number}", table, bound)
            _check_reached(rule, rules)
        except BadKey as error:
            raise RuleError(f"{place}{_line(line, error.key)}: rule {number}: {error}") from None
        rules.append(rule)
    return rules


def _check_reached(rule: Rule, before: Sequence[Rule]) -> None:
    """Check that a rule is ever asked. :raises BadKey: one before it has the same topic."""
    for number, other in enumerate(before, 1):
        if other.pattern.text == rule.pattern.text:
            raise BadKey(
                "topic", f"rule {number} has the same topic and comes first, so this one gets nothing"
            )


def _text_of(path: str) -> str:
    """Return the text of a file. :raises RuleError: it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise RuleError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RuleError(f"{path}: is not UTF-8") from None


def _tables(place: str, text: str) -> list[dict[str, Any]]:
    """Return the tables of the rules. :raises RuleError: the text is no TOML, or has something else."""
    try:
        document: dict[str, Any] = decode(text)
    except DecodeError as error:
        raise RuleError(f"{place}: is not TOML: {error}") from None
    for key in document:
        if key != "rule":
            raise RuleError(
                f"{place}: {key}: unknown key{nearest(key, ['rule'])}; a file of rules has [[rule]] only"
            )
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RuleError(f"{place}: rule: is no array of tables; write [[rule]] before each")
    return tables


def _lines(text: str) -> Iterator[dict[str, int]]:
    """Yield for each rule the line of each of its keys, and of its beginning by the key ``""``."""
    lines: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        if _RULE.match(line):
            if lines:
                yield lines
            lines, prefix = {"": number}, ""
        elif found := _TABLE.match(line):
            prefix = ".".join(part.strip("\"'") for part in found.groups() if part) + "."
            lines.setdefault(prefix[:-1], number)
        elif lines and (found := _KEY.match(line)):
            lines.setdefault(f"{prefix}{found[1].strip(chr(34) + chr(39))}", number)
    if lines:
        yield lines


def _line(lines: dict[str, int], key: str) -> str:
    """Return the line of a key, or of the nearest thing around it, as ``":17"``; empty if it is not known."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f":{lines[key]}" if key in lines else ""
