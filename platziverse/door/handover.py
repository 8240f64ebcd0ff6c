"""Handover: a connection passes from one protocol to another, and the first costs nothing afterwards."""

from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.protocols.policies import ProtocolWrapper


def hand_over(transport: Any, protocol: IProtocol) -> None:
    """Let ``transport`` deliver all that it receives from now on to ``protocol``, and its end too.

    Twisted's sockets look their protocol up for every read, so nothing stays in between. A layer such
    as TLS is a :class:`ProtocolWrapper`, which calls the protocol that it wraps.

    The caller calls ``makeConnection``.
    """
    if isinstance(transport, ProtocolWrapper):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
