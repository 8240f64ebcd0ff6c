"""A TCP proxy between a program and its server, which can become as bad as networks are."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


class Proxy:
    """Passes everything on between a free port of 127.0.0.1 and a server, in a thread of its own.

    :param target: a port of 127.0.0.1, or the path of a Unix socket.
    :ivar port: where it listens.
    """

    def __init__(self, target: "int | str") -> None:
        self._target = target
        self._delay, self._swallowing = 0.0, False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _run(self, work: "Coroutine[Any, Any, Any]") -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # -- what a network may do ---------------------------------------------------------------------

    def slow_down(self, seconds: float) -> None:
        """From now on everything comes later by so many seconds, in each direction."""
        self._delay = seconds

    def swallow(self, swallowing: bool) -> None:
        """Let nothing through, and no end either, until that is over: then the connections go on.

        Those that are made meanwhile are accepted, and reach nobody.
        """
        self._swallowing = swallowing

    def forget(self) -> None:
        """End all connections on the side of the server alone: the other side hears nothing, ever."""
        self._run(self._forget())

    async def _forget(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def stop(self) -> None:
        """End everything."""
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # the transports close their sockets

    # -- one connection ----------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._let_through()
            far = await self._connect()
        except asyncio.CancelledError:
            return  # ours stays open, and nobody listens
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pump(reader, far[1]), self._pump(far[0], writer))
            writer.close()
        except asyncio.CancelledError:
            pass
        finally:
            far[1].close()

    async def _connect(self) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
        if isinstance(self._target, int):
            return await asyncio.open_connection("127.0.0.1", self._target)
        return await asyncio.open_unix_connection(self._target)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on from one side to the other, each piece as late as it was when it came."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.ensure_future(self._send(pieces, writer))
        try:
            data = b"-"
            while data:
                with suppress(OSError):
                    data = b""
                    data = await reader.read(65_536)
                pieces.put_nowait((self._loop.time() + self._delay, data))
            await sending
        finally:
            sending.cancel()

    async def _send(self, pieces: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            moment, data = await pieces.get()
            await asyncio.sleep(max(0.0, moment - self._loop.time()))
            await self._let_through()
            with suppress(OSError):
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

    async def _let_through(self) -> None:
        while self._swallowing:
            await asyncio.sleep(0.02)
