"""Requests to a site over a transport in memory."""

import json
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import StringTransportWithDisconnection

from platziverse.web.site import GuardedSite

LOCAL = IPv4Address("TCP", "127.0.0.1", 50_000)
REMOTE = IPv4Address("TCP", "192.0.2.7", 50_000)


@frozen
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One HTTP connection."""

    def __init__(self, site: GuardedSite, address: IAddress = LOCAL, operator: bool = False) -> None:
        self.channel = site.for_operator(address) if operator else site.buildProtocol(address)
        self.transport: Any = StringTransportWithDisconnection(IPv4Address("TCP", "127.0.0.1", 8083), address)
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)

    @property
    def closed(self) -> bool:
        return not self.transport.connected or self.transport.disconnecting

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def responses(self) -> list[Response]:
        """What was answered since the last look; each body has its length in Content-Length."""
        data: bytes = self.transport.value()
        self.transport.clear()
        found = []
        while data:
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", "0"))
            found.append(Response(int(first.split(" ")[1]), headers, data[:length]))
            data = data[length:]
        return found

    def request(self, path: str, method: str = "GET", **headers: str) -> Response:
        """Send one request; :raises ValueError: it was not answered at once."""
        given = {"Host": "localhost:8083"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        if method == "HEAD":
            head: bytes = self.transport.value().partition(b"\r\n\r\n")[0]
            self.transport.clear()
            return Response(int(head.split(b" ")[1]), {}, b"")
        [response] = self.responses()
        return response
