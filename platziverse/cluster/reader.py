"""Reader: takes the bytes of a frame apart."""

from itertools import accumulate, pairwise
from struct import Struct as Layout
from struct import error as StructError
from typing import Any, Final

from platziverse.mqtt.errors import MQTTError
from platziverse.mqtt.properties import restored, store_properties

#: Bytes of the length of a text.
_LENGTH: Final = 2


class Reader:
    """A Reader takes a frame apart from its beginning; every method raises ``ValueError``."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, layout: Layout) -> Any:
        """Return the next number, or the next numbers."""
        try:
            found = layout.unpack_from(self._data, self._at)
        except StructError:
            raise ValueError("it is too short") from None
        self._at += layout.size
        return found[0] if len(found) == 1 else found

    def byte(self, most: int) -> int:
        """Return the next byte, which is at most ``most``."""
        byte = self.rest(1)[0]
        if byte > most:
            raise ValueError(f"a byte of 0x{byte:02x}, at most 0x{most:02x} is defined")
        return byte

    def text(self) -> str:
        """Return the next text."""
        data, begin = self._data, self._at + _LENGTH
        if begin > len(data):
            raise ValueError("it is too short")
        self._at = end = begin + (data[begin - 2] << 8 | data[begin - 1])
        if end > len(data):
            raise ValueError("it is too short")
        return data[begin:end].decode()

    def pieces(self, sizes: "tuple[int, ...]") -> "tuple[bytes, ...]":
        """Return the next bytes in pieces of these sizes."""
        data, ends = self._data, tuple(accumulate(sizes, initial=self._at))
        if ends[-1] > len(data):
            raise ValueError("it is too short")
        self._at = ends[-1]
        return tuple([data[begin:end] for begin, end in pairwise(ends)])

    def rest(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise ValueError("it is too short")
        self._at += size
        return found

    def properties(self) -> bytes:
        """Return the next bytes that are Properties of a message, as ``store_properties`` writes them."""
        begins, size, shift = self._at, 0, 0
        while (byte := self.rest(1)[0]) > 127 and shift < 21:
            size, shift = size | (byte & 127) << shift, shift + 7
        self.rest(size | byte << shift)
        data = self._data[begins : self._at]
        try:
            known = len(data) > 1 and store_properties(restored(data)) == data
        except MQTTError as error:
            raise ValueError(str(error)) from None
        if not known:
            raise ValueError("Properties that are none")
        return data

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at
