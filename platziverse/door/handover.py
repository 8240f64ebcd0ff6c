"""Handing a connection from one protocol to another, so that the first costs nothing afterwards."""

from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.protocols.policies import ProtocolWrapper


def hand_over(transport: Any, protocol: IProtocol) -> None:
    """Let ``transport`` deliver everything it receives from now on to ``protocol``, and its end too.

    Twisted's sockets look their protocol up for every read, so nothing stays in between. A layer such
    as TLS is a :class:`ProtocolWrapper`; it calls what it wraps. ``makeConnection`` is the caller's.
    """
    if isinstance(transport, ProtocolWrapper):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
