"""Addresses: which of them are counted together, and which are of this machine."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

#: Headers that a proxy adds to HTTP requests that it passes on: its address says nothing about the client.
FORWARDED: Final = (
    b"Forwarded",
    b"Via",
    b"X-Forwarded-For",
    b"X-Forwarded-Host",
    b"X-Forwarded-Proto",
    b"X-Real-IP",
    b"CF-Connecting-IP",
    b"True-Client-IP",
)


@lru_cache(maxsize=4096)
def parsed(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that ``host`` is, IPv4 within IPv6 as IPv4; ``None`` when it is a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


@lru_cache(maxsize=4096)
def neighbourhood(host: str) -> str:
    """Return the part that is counted together: an IPv4 address, or the 64 bits of a site's IPv6 network."""
    address = parsed(host)
    if address is None:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Address(int(address) >> 64 << 64))


@lru_cache(maxsize=4096)
def is_local(peer: str | None, own: str | None) -> bool:
    """Return whether a client is on this machine, for every protocol alike.

    It is if it comes through a Unix socket, over loopback, or from the address that it has connected to.

    :param peer: host of the client's end, ``None`` for a Unix socket.
    :param own: host of our end.
    """
    if peer is None:
        return True
    address = parsed(peer)
    return address is not None and (address.is_loopback or address == parsed(own or ""))
