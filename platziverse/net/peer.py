"""How the address of a peer is written in logs and lists."""

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress


def format_peer(address: IAddress) -> str:
    """``"127.0.0.1:51234"``, ``"[::1]:51234"``, or ``"unix"``; IPv4 within IPv6 is written as IPv4."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        if address.host.startswith("::ffff:"):
            return f"{address.host[7:]}:{address.port}"
        return f"[{address.host}]:{address.port}"
    return "unix"
