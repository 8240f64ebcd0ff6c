"""amqtt on two ports of loopback, TCP and WebSocket: ``python server.py TCP WEBSOCKET``.

Without the plugins that log every packet, which are on by default.
"""

import asyncio
import logging
import sys

from amqtt.broker import Broker


async def main(port: str, websocket_port: str) -> None:
    configuration = {
        "listeners": {
            "default": {"type": "tcp", "bind": f"127.0.0.1:{port}"},
            "websocket": {"type": "ws", "bind": f"127.0.0.1:{websocket_port}"},
        },
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker = Broker(configuration)
    await broker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(*sys.argv[1:]))
