"""Upgrade: the WebSocket handshake, as a resource of twisted.web that takes its connection over."""

import base64
import binascii
from typing import Any, Final, cast

from twisted.logger import Logger
from twisted.web import http
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from wsproto.utilities import generate_accept_token

from platziverse.broker.addresses import FORWARDED
from platziverse.door.handover import hand_over
from platziverse.door.interfaces import MQTTSide
from platziverse.door.websocket import WebSocket
from platziverse.net.peer import format_peer

log = Logger("platziverse.net")

#: The names of MQTT 3.1.1 and of MQTT 3.1, which some libraries still ask for. [MQTT-6.0.0-4]
SUBPROTOCOLS: Final = (b"mqtt", b"mqttv3.1")
VERSION: Final = b"13"
#: A status that twisted.web does not name.
UPGRADE_REQUIRED: Final = 426


def wants_websocket(request: Request) -> bool:
    """Return whether the request asks to be upgraded to a WebSocket."""
    return b"websocket" in _tokens(request, b"Upgrade")


class WebSocketResource(Resource):
    """A WebSocketResource upgrades a GET to a WebSocket that carries MQTT, at ``/mqtt`` and at ``/``.

    :class:`~platziverse.web.guard.Guard` decides before whether the page of the request may do so.

    :param mqtt: the ``MQTTFactory``.
    """

    def __init__(self, mqtt: MQTTSide) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mqtt = mqtt

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return this resource for ``/mqtt/``, and none for what is below it."""
        return self if not path else cast(Resource, notFound())

    def render(self, request: Request) -> bytes | int:
        """Answer 101 and speak MQTT from then on, or refuse."""
        if request.method != b"GET":
            request.setHeader(b"Allow", b"GET")
            return _refuse(request, http.NOT_ALLOWED, "GET only")
        if not wants_websocket(request):
            request.setHeader(b"Upgrade", b"websocket")
            return _refuse(request, UPGRADE_REQUIRED, "WebSocket only")
        key = request.getHeader(b"Sec-WebSocket-Key") or b""
        offered = _tokens(request, b"Sec-WebSocket-Protocol", fold=False)
        subprotocol = next((name for name in offered if name in SUBPROTOCOLS), None)
        if request.getHeader(b"Sec-WebSocket-Version") != VERSION:
            request.setHeader(b"Sec-WebSocket-Version", VERSION)
            return _refuse(request, UPGRADE_REQUIRED, "WebSocket version 13 only")
        upgrades = request.clientproto == b"HTTP/1.1" and b"upgrade" in _tokens(request, b"Connection")
        if not upgrades or not _is_key(key):
            return _refuse(request, http.BAD_REQUEST, "no WebSocket handshake")
        if subprotocol is None:  # [MQTT-6.0.0-3]
            return _refuse(request, http.BAD_REQUEST, "the subprotocol must be mqtt")
        return self._upgrade(request, key, subprotocol)

    def _upgrade(self, request: Request, key: bytes, subprotocol: bytes) -> bytes | int:
        channel: Any = request.channel
        transport = channel.transport
        inner = self._mqtt.buildProtocol(transport.getPeer())
        if inner is None:
            return _refuse(request, http.SERVICE_UNAVAILABLE, "too many connections")
        channel.setTimeout(None)
        transport.unregisterProducer()  # the HTTP channel had registered itself
        early = channel.clearLineBuffer()
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + generate_accept_token(key) + b"\r\n"
            b"Sec-WebSocket-Protocol: " + subprotocol + b"\r\n\r\n"
        )
        forwarded = getattr(transport, "forwarded", False) or any(
            request.requestHeaders.hasHeader(name) for name in FORWARDED
        )
        websocket = WebSocket(self._mqtt, inner, forwarded)
        hand_over(transport, websocket)
        websocket.makeConnection(transport)  # type: ignore[no-untyped-call]
        if early:
            websocket.dataReceived(early)
        return NOT_DONE_YET


def _tokens(request: Request, name: bytes, fold: bool = True) -> list[bytes]:
    """Return the comma-separated values of a header, of all its lines; in lower case if ``fold``."""
    lines = request.requestHeaders.getRawHeaders(name, [])
    tokens = [token.strip() for line in lines for token in line.split(b",")]
    return [token.lower() for token in tokens] if fold else tokens


def _is_key(key: bytes) -> bool:
    """Return whether ``key`` is sixteen bytes in base64."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def _refuse(request: Request, status: int, reason: str) -> bytes:
    address = format_peer(request.getClientAddress())
    log.debug("No WebSocket for {address}: {reason}", address=address, reason=reason)
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    return reason.encode() + b"\n"
