"""Fields: the numbers and texts that frames consist of."""

from struct import Struct as Layout
from struct import error as StructError
from typing import Any, Final

LENGTH: Final = Layout(">H")


class Fields:
    """A Fields takes a frame apart from its beginning; every method raises ``ValueError``."""

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
        return self.rest(self.take(LENGTH)).decode()

    def rest(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise ValueError("it is too short")
        self._at += size
        return found

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at
