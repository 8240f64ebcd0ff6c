"""A client's end of one connection after another: plain non-blocking sockets, told when they are ready."""

import errno
import socket

from attrs import define, field

from tests.crash import wire
from tests.crash.ledger import Ledger


@define(eq=False, kw_only=True)
class Talker:
    """What an agent and a bystander have in common.

    :ivar state: ``away``, ``dialing``, ``greeting`` and then whatever it does.
    :ivar cut_off: connections that had been accepted and that somebody else ended.
    """

    address: tuple[str, int]
    ledger: Ledger
    state: str = "away"
    sock: socket.socket | None = None
    out: bytearray = field(factory=bytearray)
    cut_off: int = 0
    inbox: bytearray = field(factory=bytearray)

    def tick(self, now: float, elapsed: float, sending: bool) -> None:
        """Do what is due. ``elapsed`` seconds have passed since the last time; ``sending``: make messages."""
        raise NotImplementedError

    def greeting(self) -> bytes:
        """The first packets of a connection."""
        raise NotImplementedError

    def take(self, first: int, body: bytes, now: float) -> None:
        """One packet came."""
        raise NotImplementedError

    def lost(self, now: float) -> None:
        """The connection is gone, or was never made."""
        raise NotImplementedError

    def dial(self, now: float) -> None:
        """Begin a connection."""
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox.clear()
        self.out.clear()
        self.state = "dialing"
        if self.sock.connect_ex(self.address) not in (0, errno.EINPROGRESS):
            self.lost(now)

    def writable(self, now: float) -> None:
        """The socket is connected, or not, or takes more bytes."""
        assert self.sock is not None
        if self.state == "dialing":
            if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.lost(now)
                return
            self.state = "greeting"
            self.out += self.greeting()
        try:
            del self.out[: self.sock.send(self.out)]
        except BlockingIOError:
            pass
        except OSError:
            self.lost(now)

    def readable(self, now: float) -> None:
        """Bytes came, or the end."""
        assert self.sock is not None
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lost(now)
            return
        self.inbox += data
        for first, body in wire.split(self.inbox):
            self.take(first, body, now)
            if self.sock is None:
                return

    def end(self) -> None:
        """Close whatever is open."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
