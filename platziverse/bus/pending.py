"""Pending: the bytes that a server has not taken yet, within ``bus.max_pending``."""

from collections.abc import Callable

from platziverse.broker.complaints import Complaints


class Pending:
    """A Pending counts bytes on their way to one server, and the frames that never get there.

    :param where: the bus, as log lines call it.
    :param most: bytes; what comes on top of them is dropped.
    :param doubt: called with the target of each message that may not have been taken.
    :ivar bytes: on their way now.
    :ivar lost: frames that the server has not taken, or had nobody to give to.
    """

    def __init__(self, complaints: Complaints, where: str, most: int, doubt: Callable[[int], None]) -> None:
        self.lost = self.bytes = 0
        self._doubt = doubt
        self._complaints, self._where, self._most = complaints, where, most

    def enter(self, target: int, size: int, frames: int) -> bool:
        """Return whether a message may be sent; if not, its frames are lost, and the log says so.

        Alone it may have any size: a frame is as large as the message of a client that it carries.
        """
        if not self.bytes or self.bytes + size <= self._most:
            self.bytes += size
            return True
        self.lose(target, frames)
        text = (
            "the bus {address} is slow, frames are dropped beyond {most} bytes (bus.max_pending);"
            " lost so far: {count}"
        )
        self._complaints.warn("bus.max_pending", text, address=self._where, most=self._most, count=self.lost)
        return False

    def leave(self, size: int) -> None:
        """Note that the server has taken, or never will take, a message."""
        self.bytes -= size

    def lose(self, target: int, frames: int) -> None:
        """Note that a message with so many frames is lost, or may be."""
        self.lost += frames
        self._doubt(target)
