"""ACL: access rules in Mosquitto's own file format, with Mosquitto 2.0's meaning.

::

    # anonymous clients have what comes before the first user
    topic read public/#
    user ana
    topic readwrite sensors/+/kitchen
    topic deny sensors/secret/kitchen
    # patterns are for everyone
    pattern write agents/%u/#

    user root
    # no rule of Mosquitto's: who may change what the HTTP API shows
    role admin

A client's own rules are asked first, then the patterns; in each of the two, ``deny`` before the rest. A
publish or Subscription that no rule allows is denied. In one thing we are stricter: an empty file is an
error, not an open door.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar, cast

from attrs import field, frozen

from platziverse.access.files import AccessError, read_lines
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.topics import check_topic_filter

READ: Final = 1
WRITE: Final = 2
ACCESS: Final = {"read": READ, "write": WRITE, "readwrite": READ | WRITE, "deny": 0}
KEYWORDS: Final = ("user", "topic", "pattern", "role")
#: What may not come into a pattern through a Client Identifier or a user name.
DANGEROUS: Final = frozenset("+#")
#: The one role that there is: its users may end connections and replay messages over HTTP.
ADMIN: Final = "admin"

Levels = tuple[str, ...]
R = TypeVar("R", bound="Rule")


def covers(outer: Levels, inner: Levels) -> bool:
    """Return whether ``outer`` matches every Topic Name that ``inner``, a filter or a Topic Name, matches."""
    if inner[0][:1] == "$" and outer[0] in ("+", "#"):  # [MQTT-4.7.2-1]
        return False
    for index, level in enumerate(outer):
        if level == "#":
            return True
        if index == len(inner) or inner[index] == "#":
            return False
        if level not in ("+", inner[index]):
            return False
    return len(outer) == len(inner)


def overlap(one: Levels, other: Levels) -> bool:
    """Return whether a Topic Name is matched by both Topic Filters."""
    first, second = one[0], other[0]
    if (first[:1] == "$" and second in ("+", "#")) or (second[:1] == "$" and first in ("+", "#")):
        return False
    for left, right in zip(one, other, strict=False):
        if "#" in (left, right):
            return True
        if left != right and left != "+" and right != "+":
            return False
    longer = one if len(one) > len(other) else other
    return len(one) == len(other) or longer[min(len(one), len(other))] == "#"


@frozen
class Subject:
    """A Subject is the client that wants something; with ``username`` ``None`` it is anonymous."""

    client_id: str
    username: str | None = None


@frozen
class Rule:
    """A Rule is one line of the file."""

    access: int
    levels: Levels
    line: int
    text: str


@frozen
class Pattern(Rule):
    """A Pattern is a rule with ``%c`` and ``%u`` in it."""

    def levels_for(self, subject: Subject) -> Levels | None:
        """Return the Topic Filter for ``subject``; ``None`` when its names would change the shape."""
        found = tuple(_replace(level, subject) for level in self.levels)
        if None in found or (found[0] != self.levels[0] and cast(str, found[0])[0] == "$"):
            return None
        return cast(Levels, found)


def _replace(level: str, subject: Subject) -> str | None:
    """Replace ``%c`` and ``%u`` in one pass, so that nothing in a name is replaced again."""
    client_id, username = subject.client_id, subject.username or ""
    for sign, name in (("%c", client_id), ("%u", username)):
        if sign in level and (not name or "/" in name):
            return None
    return client_id.join(part.replace("%u", username) for part in level.split("%c"))


@frozen
class Decision:
    """A Decision has the line that decided, ``rule``, or ``None``; its ``reason`` is for people."""

    allowed: bool
    rule: Rule | None
    reason: str


def _decided_by(rule: Rule) -> Decision:
    return Decision(bool(rule.access), rule, f"line {rule.line}: {rule.text}")


def _denials_first(rules: Iterable[R]) -> tuple[R, ...]:
    return tuple(sorted(rules, key=lambda rule: rule.access != 0))


@frozen
class AccessRules:
    """AccessRules are a whole file; ``users`` maps a user name, or ``None`` for anonymous, to its rules.

    :ivar admins: names of the users with the role ``ADMIN``.
    """

    path: str
    users: dict[str | None, tuple[Rule, ...]] = field(factory=dict)
    patterns: tuple[Pattern, ...] = ()
    admins: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: str) -> "AccessRules":
        """Read a file.

        :raises AccessError: it cannot be read, is empty, or has a line that is no rule.
        """
        return cls.parse(path, read_lines(path))

    @classmethod
    def parse(cls, path: str, lines: Iterable[str]) -> "AccessRules":
        """Read rules from ``lines``.

        :param path: names the file in messages.
        :raises AccessError: there is no rule, or a line is none.
        """
        users: dict[str | None, list[Rule]] = {}
        patterns: list[Pattern] = []
        admins: set[str] = set()
        user: str | None = None
        for number, keyword, rest, line in _divided(path, lines):
            if keyword == "user":
                user = rest
                users.setdefault(user, [])
            elif keyword == "topic":
                users.setdefault(user, []).append(_rule(Rule, path, number, line, rest))
            elif keyword == "role":
                admins.add(_admin(path, number, user, rest))
            else:
                patterns.append(_rule(Pattern, path, number, line, rest))
        if not users and not patterns:
            raise AccessError(path, "it holds no rule; an empty file would lock everyone out")
        sorted_users = {name: _denials_first(rules) for name, rules in users.items()}
        return cls(path, sorted_users, _denials_first(patterns), frozenset(admins))

    def decide(self, subject: Subject, topic: str, access: int) -> Decision:
        """Decide whether ``subject`` may read (or write) ``topic``, and why."""
        levels = tuple(topic.split("/"))
        for rule, own in self._applying(subject):
            if covers(own, levels) and (not rule.access or rule.access & access):
                return _decided_by(rule)
        return Decision(False, None, "no rule allows it")

    def decide_filter(self, subject: Subject, topic_filter: str) -> Decision:
        """Decide whether ``subject`` may have this Subscription, and why; each delivery is decided again."""
        levels = tuple(topic_filter.split("/"))
        for rule, own in self._applying(subject):
            if (not rule.access and covers(own, levels)) or (rule.access & READ and overlap(own, levels)):
                return _decided_by(rule)
        return Decision(False, None, "no rule allows it")

    def _applying(self, subject: Subject) -> Iterator[tuple[Rule, Levels]]:
        """Return the rules in the order in which they are asked, with their Topic Filters for ``subject``."""
        for rule in self.users.get(subject.username, ()):
            yield rule, rule.levels
        if DANGEROUS & set(subject.client_id + (subject.username or "")):
            return
        for rule in self.patterns:
            levels = rule.levels_for(subject)
            if levels is not None:
                yield rule, levels


def _divided(path: str, lines: Iterable[str]) -> Iterator[tuple[int, str, str, str]]:
    """Return number, keyword, the rest of it and the whole of each line that says something.

    :raises AccessError: it has none of the keywords, or nothing else.
    """
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or not line.strip():
            continue
        keyword, _, rest = line.strip().partition(" ")
        if keyword not in KEYWORDS or not rest.strip():
            raise AccessError(path, f"{line.strip()!r} is no {', '.join(KEYWORDS[:-1])} or role line", number)
        yield number, keyword, rest.strip(), line


def _admin(path: str, number: int, user: str | None, role: str) -> str:
    """Return the user that a line gives its role. :raises AccessError: there is no such role, or no user."""
    if role != ADMIN:
        raise AccessError(path, f"{role!r} is no role; there is {ADMIN} alone", number)
    if user is None:
        raise AccessError(path, "a role stands below the line of the user that has it", number)
    return user


def _rule(kind: type[R], path: str, number: int, line: str, rest: str) -> R:
    word, _, topic = rest.partition(" ")
    topic = topic.strip()
    if not topic:
        word, topic = "readwrite", word
    if word not in ACCESS:
        raise AccessError(path, f"{word!r} is none of read, write, readwrite and deny", number)
    try:
        check_topic_filter(topic)
    except MalformedPacket as error:
        raise AccessError(path, f"{topic!r} is no Topic Filter: {error.reason}", number) from error
    return kind(ACCESS[word], tuple(topic.split("/")), number, line.strip())
