"""Operators: who changes something over HTTP, in words for the log."""

import socket
import struct
from typing import Any, Final

from twisted.web.server import Request

from platziverse.web.guard import header_of, peer_of
from platziverse.web.readers import OPERATOR, reader_of
from platziverse.web.siblings import BY

#: Process, user and group of the other end of a Unix socket, where the kernel knows them.
_PEER: Final[int | None] = getattr(socket, "SO_PEERCRED", None)
_credentials: Final = struct.Struct("3i")


def who(request: Request) -> str:
    """Return who has sent a request that only admins may send, for the log."""
    reader = reader_of(request)
    if reader is not OPERATOR:
        return f"User {reader.username!r} of {peer_of(request)}"
    channel: Any = request.channel
    return header_of(request, BY) or _at_other_end(getattr(channel.transport, "socket", None))


def _at_other_end(connected: Any) -> str:
    if connected is None or _PEER is None:
        return "An operator"
    process, user, _ = _credentials.unpack(connected.getsockopt(socket.SOL_SOCKET, _PEER, _credentials.size))
    return f"An operator with uid {user}, process {process},"
