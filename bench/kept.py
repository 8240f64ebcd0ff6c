"""A client that is away while messages are published to it: how they come later, and which are left."""

import asyncio
import time
from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

from attrs import frozen

from tests.crash import wire

READ: Final = 256 * 1024
WINDOW: Final = 100
#: Seconds without a message after which the rest will not come.
SILENCE: Final = 3.0
#: Seconds until a publisher has been answered.
PATIENCE: Final = 60.0
TOPIC: Final = "kept/messages"

#: Called with the number of messages that were acknowledged so far; may kill the broker.
Enough: TypeAlias = Callable[[int], None]


@frozen
class Came:
    """The messages that came to a client which was back.

    :param first: seconds from its CONNECT to the first message, and to the ``last``.
    :param numbers: of the messages.
    """

    first: float
    last: float
    numbers: set[int]


async def leave(port: int, name: str) -> None:
    """Begin a Session that outlives its connection, with one Subscription, and go."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire.connect(name, False, 0) + wire.subscribe(TOPIC, 1, 1))
    await asyncio.wait_for(reader.readexactly(9), PATIENCE)
    writer.write(wire.DISCONNECT)
    await reader.read()
    writer.close()


async def publish(port: int, name: str, most: int, acknowledged: set[int], enough: Enough) -> None:
    """Publish numbered messages at QoS 1 with a window, until all are acknowledged or the broker is gone.

    :param most: how many.
    :param acknowledged: gets the numbers of those that were.
    :param enough: called whenever some were.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire.connect(name, True, 0))
    await asyncio.wait_for(reader.readexactly(4), PATIENCE)
    numbers, sent, rest = iter(range(most)), 0, bytearray()
    under_way: dict[int, int] = {}
    try:
        while len(acknowledged) < most:
            for number in numbers:
                packet_id = sent % 65_535 + 1
                sent, under_way[packet_id] = sent + 1, number
                writer.write(wire.publish(TOPIC, b"%010d" % number + b"x" * 54, 1, packet_id))
                if len(under_way) >= WINDOW:
                    break
            if not (data := await asyncio.wait_for(reader.read(READ), PATIENCE)):
                break
            rest += data
            acknowledged.update(under_way.pop(wire.packet_id_of(body)) for _, body in wire.split(rest))
            enough(len(acknowledged))
    except ConnectionError:
        pass  # it was killed
    finally:
        writer.close()


async def come_back(port: int, name: str, wanted: int) -> Came:
    """Connect again, and take messages until there are as many as ``wanted``, or no more come."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire.connect(name, False, 0))
    rest, numbers, times = bytearray(), set[int](), [0.0, 0.0]
    while len(numbers) < wanted:
        try:
            data = await asyncio.wait_for(reader.read(READ), SILENCE)
        except asyncio.TimeoutError:
            break
        rest += data
        answers = bytearray()
        for first, body in wire.split(rest):
            if first >> 4 == wire.PUBLISH:
                message = wire.received(first, body)
                numbers.add(int(message.payload[:10]))
                answers += wire.puback(message.packet_id)
        if answers:
            times = [times[0] or time.perf_counter() - began, time.perf_counter() - began]
            writer.write(answers)
        if not data:
            break
    writer.write(wire.DISCONNECT)
    writer.close()
    return Came(times[0], times[1], numbers)


_number = count()


def fresh_name() -> str:
    """A Client Identifier that nobody has."""
    return f"kept-{time.time():.0f}-{next(_number)}"
