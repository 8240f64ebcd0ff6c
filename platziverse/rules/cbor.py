"""CBOR: looks at the items of a payload (RFC 8949) before the decoder makes anything of them.

Tags let a few bytes stand for what takes hours to make, or to compare: lists that hold each other as keys of
a map, fractions, expressions. Devices need none; times, large integers and the mark of CBOR are read.
"""

from typing import Final

from platziverse.agents.careful import MAX_DEPTH
from platziverse.agents.model import InvalidReport
from platziverse.rules.errors import too_many_values

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)
#: Times as texts and as numbers, large integers, and the tag that says "this is CBOR".
TAGS: Final = frozenset({0, 1, 2, 3, 55799})
#: Bytes of a large integer; more of them are beyond every column.
MAX_INTEGER: Final = 128
#: Stands for a length that is told by the end, and is that end.
_OPEN: Final = 31
_BREAK: Final = 0xFF


class _End(Exception):
    """The payload ends within an item."""


def check(payload: bytes, most: int) -> None:
    """Check that a payload is quickly decoded.

    :param most: values, tags and pieces of texts that it may have.
    :raises InvalidReport: it is no CBOR, has more, is nested too deeply, or has a tag or a key that is
        not read.
    """
    try:
        _Items(payload, most).check(0, MAX_DEPTH)
    except (_End, IndexError):
        raise InvalidReport("syntax", "CBOR ends within an item") from None


class _Items:
    """_Items are those of one payload; each method takes the place of one and returns that of the next."""

    def __init__(self, payload: bytes, most: int) -> None:
        self._payload = payload
        self._most = self._left = most

    def check(self, place: int, room: int) -> int:
        """Check one item, with all that is in it, nested no deeper than ``room``."""
        major, short = divmod(self._payload[place], 32)
        if short < 24 and major in (UNSIGNED, NEGATIVE, SIMPLE):
            return place + 1
        value, place = self._head(place, short)
        if major in (BYTES, TEXT):
            return self._string(place, major, value)
        if major in (ARRAY, MAP):
            return self._items(place, value, room, 1 if major == ARRAY else 2)
        if major == TAG:
            return self._tagged(place, value, room)
        return place

    def _head(self, place: int, short: int) -> tuple[int | None, int]:
        """Return the number in a head, ``None`` for a length that is not told, and the place behind it."""
        place += 1
        if short < 24:
            return short, place
        if short == _OPEN:
            return None, place
        size = 1 << short - 24
        if size > 8:
            raise InvalidReport("syntax", f"CBOR has a reserved head (byte {place - 1})")
        if place + size > len(self._payload):
            raise _End
        return int.from_bytes(self._payload[place : place + size], "big"), place + size

    def _string(self, place: int, major: int, size: int | None) -> int:
        if size is not None:
            if place + size > len(self._payload):
                raise _End
            return place + size
        while self._payload[place] != _BREAK:
            kind, short = divmod(self._payload[place], 32)
            if kind != major or short == _OPEN:
                raise InvalidReport("syntax", f"CBOR has a string of another kind (byte {place})")
            self._take(1)
            place = self.check(place, 0)
        return place + 1

    def _items(self, place: int, count: int | None, room: int, each: int) -> int:
        """Check an array, or a map (``each`` is 2: a key and a value)."""
        if not room:
            raise InvalidReport("depth", f"nested deeper than {MAX_DEPTH}")
        # Each item has a byte of its own, so an array that promises more than there are is no array.
        if count is not None and count * each > len(self._payload) - place:
            raise _End
        self._take(count or 0)
        while count is None or count:
            if count is None:
                if self._payload[place] == _BREAK:
                    return place + 1
                self._take(1)
            else:
                count -= 1
            if each == 2:
                if self._payload[place] >> 5 in (ARRAY, MAP, TAG):
                    raise InvalidReport("fields", f"a key of CBOR is no text and no number (byte {place})")
                place = self.check(place, 0)
            place = self.check(place, room - 1)
        return place

    def _tagged(self, place: int, tag: int | None, room: int) -> int:
        if tag not in TAGS:
            raise InvalidReport("fields", f"tag {tag} of CBOR is not read (byte {place})")
        if not room:
            raise InvalidReport("depth", f"nested deeper than {MAX_DEPTH}")
        self._take(1)
        end = self.check(place, room - 1)
        if tag in (2, 3) and end - place > MAX_INTEGER + 2:
            raise InvalidReport(
                "fields", f"an integer of CBOR has more than {MAX_INTEGER} bytes (byte {place})"
            )
        return end

    def _take(self, values: int) -> None:
        """Count values. :raises InvalidReport: they are too many."""
        self._left -= values
        if self._left < 0:
            raise too_many_values(self._most)
