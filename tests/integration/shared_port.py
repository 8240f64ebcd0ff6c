"""The shared port alone, without a database: a broker behind it, a page at ``/``, and perhaps a certificate.

``python -m tests.integration.shared_port [CERTIFICATE KEY [CLIENT_CA]]`` prints the port it has opened.
"""

import sys
import time
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.logger import globalLogPublisher, textFileLogObserver
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from twisted.web.static import Data, File

from platziverse.broker.broker import Broker
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.limits import Limits
from platziverse.broker.open_authority import OpenAuthority
from platziverse.net.factory import MQTTFactory
from platziverse.net.port import guard
from platziverse.net.sniff import SniffingFactory
from platziverse.net.tls import ServerCertificate
from platziverse.net.upgrade import WebSocketResource, wants_websocket, websocket_resource

HERE = Path(__file__).parent


class Root(Resource):
    """A page, and WebSocket when it is asked for."""

    def __init__(self, websocket: WebSocketResource) -> None:
        super().__init__()
        self.websocket = websocket
        self.putChild(b"", self)
        self.putChild(b"mqtt", websocket)
        self.putChild(b"browser.html", File(str(HERE / "browser.html")))
        self.putChild(b"mqtt.js", File(str(HERE / "node_modules" / "mqtt" / "dist" / "mqtt.min.js")))
        self.putChild(b"done", Data(b"", "text/plain"))

    def getChild(self, path: bytes, request: Request) -> Resource:
        return cast(Resource, notFound())

    def render_GET(self, request: Request) -> "bytes | int":
        return self.websocket.render(request) if wants_websocket(request) else b"a page\n"


def main(*files: str) -> None:
    reactor: Any = _reactor
    broker = Broker(Limits(), TopicDispatcher({}), OpenAuthority(), reactor, time.time, [])
    mqtt = MQTTFactory(broker, reactor)
    site = Site(Root(websocket_resource(mqtt)))
    certificate = ServerCertificate(*files) if files else None
    port = reactor.listenTCP(0, SniffingFactory(mqtt, site, certificate), interface="127.0.0.1")
    guard(port, mqtt.crowd)
    globalLogPublisher.addObserver(textFileLogObserver(sys.stdout))
    # Not before signals are handled.
    reactor.callWhenRunning(print, f"port {port.getHost().port}", flush=True)
    reactor.addSystemEventTrigger("after", "shutdown", lambda: print(broker.traffic))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
