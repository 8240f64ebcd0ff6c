"""Proxied: the PROXY header, in which a proxy says for whom it has opened a connection.

Versions 1 and 2 of "The PROXY protocol", as HAProxy, nginx and the balancers of clouds send them. Twisted's
own parser closes when the header comes in pieces, or is a version 1 UNKNOWN without addresses: ADR 0096.
"""

import re
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from struct import Struct
from typing import Any, Final

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

_TEXT: Final = b"PROXY"
#: Most bytes of a header of version 1.
_LONGEST_TEXT: Final = 107
_LINE: Final = re.compile(rb"PROXY (TCP[46]) ([0-9a-fA-F.:]+) ([0-9a-fA-F.:]+) (\d{1,5}) (\d{1,5})")
_BINARY: Final = b"\r\n\r\n\0\r\nQUIT\n"
#: Of a header of version 2: signature, version and command, family and transport, bytes that follow.
_FIXED: Final = Struct("!12sBBH")
#: What those begin with: the addresses and ports of client and server, by family. TLVs come after them.
_ADDRESSES: Final = {0: Struct(""), 1: Struct("!4s4sHH"), 2: Struct("!16s16sHH"), 3: Struct("!108s108s")}


class BadHeader(Exception):
    """The bytes are no PROXY header; the text says what is wrong with them."""


@frozen
class Told:
    """Told is what a PROXY header says.

    :ivar client: address of the client; ``None``: the proxy does not say.
    :ivar server: the address that the client has connected to; likewise.
    :ivar relayed: ``False``: the proxy speaks for itself, as it does to see whether we are there.
    """

    client: IAddress | None = None
    server: IAddress | None = None
    relayed: bool = True


class HeaderReader:
    """A HeaderReader takes the first bytes of one connection, in whatever pieces they come.

    :ivar told: what the header says; ``None`` until the whole of it has come.
    """

    __slots__ = ("_begun", "_found", "_skip", "told")

    def __init__(self) -> None:
        self._begun = b""
        # Said by a header whose TLVs have not come: so many bytes, which nobody reads and nobody keeps.
        self._found: Told | None = None
        self._skip = 0
        self.told: Told | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what follows the header: nothing before it has ended.

        :raises BadHeader: it is none.
        """
        if self._found is None:
            data = self._begun = self._begun + data
            if data.startswith(_BINARY[: len(data)]):
                data = self._binary(data)
            elif data.startswith(_TEXT[: len(data)]):
                data = self._line(data)
            else:
                raise BadHeader(f"it begins with {data[:12]!r}, not with a PROXY header")
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        if self._found is None or self._skip:
            return b""
        self.told = self._found
        return data[skipped:]

    def _take(self, told: Told, skip: int = 0) -> None:
        self._found, self._skip, self._begun = told, skip, b""

    def _line(self, data: bytes) -> bytes:
        line, end, rest = data.partition(b"\r\n")
        if len(line) + 2 > _LONGEST_TEXT:
            raise BadHeader("a PROXY header of version 1 that does not end")
        if not end:
            return b""
        if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):  # whatever follows is not read
            self._take(Told())
            return rest
        if (found := _LINE.fullmatch(line)) is None:
            raise BadHeader(f"a PROXY header of version 1 with something wrong in it: {line!r}")
        kind, client, server, client_port, server_port = (part.decode() for part in found.groups())
        self._take(Told(_address(kind, client, client_port), _address(kind, server, server_port)))
        return rest

    def _binary(self, data: bytes) -> bytes:
        if len(data) < _FIXED.size:
            return b""
        _, command, family, length = _FIXED.unpack_from(data)
        if command not in (0x20, 0x21) or family >> 4 not in _ADDRESSES or family & 15 > 2:
            raise BadHeader(f"a PROXY header with command {command:#04x} and family {family:#04x}")
        layout = _ADDRESSES[family >> 4] if command == 0x21 and family & 15 else _ADDRESSES[0]
        if length < layout.size:
            raise BadHeader(f"a PROXY header of version 2 without its addresses: {length} bytes")
        rest = data[_FIXED.size :]
        if len(rest) < layout.size:
            return b""
        self._take(_told(command, family >> 4, layout.unpack_from(rest)), length - layout.size)
        return rest[layout.size :]


def _address(kind: str, host: str, port: str) -> IAddress:
    """Return an address of version 1. :raises BadHeader: it is none."""
    try:
        text, number = str(IPv4(host) if kind == "TCP4" else IPv6(host)), int(port)
    except ValueError as error:
        raise BadHeader(f"a PROXY header of version 1 without an address: {error}") from None
    if number > 65_535 or str(number) != port:
        raise BadHeader(f"a PROXY header of version 1 without a port: {port}")
    return IPv4Address("TCP", text, number) if kind == "TCP4" else IPv6Address("TCP", text, number)


def _told(command: int, family: int, fields: "tuple[Any, ...]") -> Told:
    """Return what the addresses and ports of version 2 mean."""
    if not fields:
        return Told(relayed=command == 0x21)
    client, server, *ports = fields
    if family == 3:
        return Told(UNIXAddress(client.rstrip(b"\0")), UNIXAddress(server.rstrip(b"\0")))
    if family == 1:
        return Told(
            IPv4Address("TCP", str(IPv4(client)), ports[0]), IPv4Address("TCP", str(IPv4(server)), ports[1])
        )
    return Told(
        IPv6Address("TCP", str(IPv6(client)), ports[0]), IPv6Address("TCP", str(IPv6(server)), ports[1])
    )
