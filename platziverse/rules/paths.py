"""Paths: the singular queries of RFC 9535, which name at most one value of a document."""

import re
from typing import Any, Final

from attrs import frozen

#: Stands for a value that is not there.
MISSING: Final = object()

_BLANK: Final = r"[ \t\n\r]*"
_FIRST: Final = "A-Za-z_\x80-\ud7ff\ue000-\U0010ffff"
_PLAIN: Final = r"\\\x00-\x1f\ud800-\udfff"
#: One segment (section 2.5): a member by its plain name, or in brackets by an index or a quoted name.
_SEGMENT: Final = re.compile(
    rf"{_BLANK}(?:\.([{_FIRST}][{_FIRST}0-9]*)|\[{_BLANK}(?:(0|-?[1-9][0-9]*)"
    rf"|'((?:[^'{_PLAIN}]|\\.)*)'|\"((?:[^\"{_PLAIN}]|\\.)*)\"){_BLANK}\])"
)
_ESCAPE: Final = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL
)
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\"}
#: The integers of I-JSON (section 2.1).
_EXACT: Final = 2**53 - 1


@frozen
class Path:
    """A Path leads from a document, or an item of it, to one value.

    :ivar root: ``"$"``, the message, or ``"@"``, the item of it that is read.
    :ivar keys: names of members, and indexes, negative ones from the end.
    """

    root: str
    keys: tuple[str | int, ...]

    def find(self, message: object, item: object) -> Any:
        """Return the value, or ``MISSING``."""
        return find(message if self.root == "$" else item, self.keys)


def find(value: Any, keys: tuple[str | int, ...]) -> Any:
    """Return what stands at ``keys`` in ``value``, or ``MISSING``."""
    for key in keys:
        kind = value.__class__
        if key.__class__ is str:
            if kind is not dict:
                return MISSING
            value = value.get(key, MISSING)
        elif kind is list and -len(value) <= key < len(value):  # type: ignore[operator]
            value = value[key]
        else:
            return MISSING
    return value


def parse_path(text: str) -> Path:
    """Return the Path that ``text`` writes.

    :raises ValueError: it is no singular query; says where.
    """
    path, end = parse_prefix(text)
    if end != len(text):
        raise ValueError(f"{text!r} is no path of RFC 9535 that names one value, from {text[end:]!r} on")
    return path


def parse_prefix(text: str, start: int = 0) -> tuple[Path, int]:
    """Return the longest Path that begins at ``start``, and where it ends.

    :raises ValueError: none begins there.
    """
    root = text[start : start + 1]
    if root not in ("$", "@"):
        raise ValueError(
            f"{text[start:]!r} is no path: one begins with $ (the message) or @ (an item of each)"
        )
    keys: list[str | int] = []
    end = start + 1
    while (found := _SEGMENT.match(text, end)) is not None:
        member, index, single, double = found.groups()
        if index is not None:
            keys.append(_index(index))
        elif member is not None:
            keys.append(member)
        else:
            keys.append(_unescaped(single if single is not None else double, "'" if double is None else '"'))
        end = found.end()
    return Path(root, tuple(keys)), end


def _index(text: str) -> int:
    """Return an index. :raises ValueError: it is beyond the integers of I-JSON."""
    index = int(text) if len(text) < 18 else _EXACT + 1
    if abs(index) > _EXACT:
        raise ValueError(f"the index {text:.30} is too large")
    return index


def _unescaped(text: str, quote: str) -> str:
    """Return a quoted name as it is meant. :raises ValueError: an escape is none."""

    def one(found: "re.Match[str]") -> str:
        high, low, code, letter = found.groups()
        if high is not None:
            return chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
        if code is not None and not 0xD800 <= int(code, 16) < 0xE000:
            return chr(int(code, 16))
        if letter == quote:
            return quote
        if letter not in _ESCAPES:
            raise ValueError(f"{found[0]!r} is no escape of RFC 9535")
        return _ESCAPES[letter]

    return _ESCAPE.sub(one, text)
