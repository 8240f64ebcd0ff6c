"""``python -m tests.fuzz [executions] [seed]``: random mutations of the bytes of all vectors."""

import random
import sys
import time
from collections.abc import Callable

from tests.agents.doubles import COURSE, of_agent
from tests.door.test_frames import BINARY, CONTINUATION, PING, frame
from tests.fuzz.targets import TARGETS
from tests.vectors.generate import FILES, load

#: Bytes that mean something in a packet: flags, lengths, wildcards, bad UTF-8.
TOKENS = [
    b"\0",
    b"\xff",
    b"\x80",
    b"\x7f",
    b"#",
    b"+",
    b"/",
    b"$",
    b"\0\0",
    b"\0\1",
    b"\xff\xff\xff\x7f",
    b"\xed\xa0\x80",
]


#: Packets of MQTT 5 with Properties: CONNECT with a Will, PUBLISH, SUBSCRIBE, the answers, AUTH.
FIVE = [
    "102c00044d5154540506003c0b110000000a21000a2200100001630c18000000050101020000000900017700016d",
    "30250001741f010102000000640300016a08000172090001632600016e0001762300010b027b7d",
    "3208000174000700787832080001740008007878",
    "820d0007020b050001662d00016710",
    "a2080007000003612f62",
    "40030007994003000710400200075008000797041f000171620200077003000792",
    "90050007000187b0050007000011",
    "e0098e071f0004676f6e65e00104e000",
    "f00b18091500016d1600026162",
    "201000000d120002616221000a2200102a00",
]


def seeds() -> list[bytes]:
    """What the vectors send, up to 400 bytes, a few of it in WebSocket frames, and the course's message."""
    sent = {
        bytes.fromhex(step["send"])
        for name in FILES
        for vector in load(f"{name}.json")
        for step in vector["steps"]
        if "send" in step and len(step["send"]) <= 800
    }
    few = sorted(sent)[::10]
    frames = {frame(opcode, data) for data in few for opcode in (BINARY, CONTINUATION, PING)}
    frames |= {frame(BINARY, data[:9], fin=False) + frame(CONTINUATION, data[9:]) for data in few}
    return sorted(
        {*sent, *frames, *map(bytes.fromhex, FIVE), COURSE, of_agent("yyy", b', "timestamp": 1511128000000')}
    )


def mutate(data: bytes, random_bits: Callable[[int], int], corpus: list[bytes]) -> bytes:
    """One to four changes: a byte, a token, a cut, a repetition, a splice."""
    mutated = bytearray(data)
    for _ in range(1 + random_bits(2)):
        at = random_bits(9) % (len(mutated) + 1)
        kind = random_bits(3)
        if kind <= 2:
            mutated[at : at + 1] = bytes((random_bits(8),))
        elif kind == 3:
            mutated[at : at + random_bits(2)] = TOKENS[random_bits(8) % len(TOKENS)]
        elif kind == 4:
            del mutated[at:]
        elif kind == 5:
            del mutated[at : at + 1 + random_bits(3)]
        elif kind == 6:
            mutated[at:at] = mutated[: random_bits(5)]
        else:
            mutated[at:] = corpus[random_bits(16) % len(corpus)]
    return bytes(mutated)


def main(executions: int, seed: int) -> int:
    """Run; the number of failures."""
    generator = random.Random(seed)
    bits, corpus = generator.getrandbits, seeds()
    failures = 0
    began = time.monotonic()
    for number in range(executions):
        data = mutate(corpus[bits(16) % len(corpus)], bits, corpus)
        target = TARGETS[number % len(TARGETS)]
        try:
            target(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failures += 1
            print(f"{target.__name__}: {error!r} for {data.hex()}", flush=True)
    took = time.monotonic() - began
    print(f"{executions} executions with seed {seed} in {took:.0f} s, {failures} failures")
    return failures


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(bool(main(*(arguments + [1_000_000, int(time.time())][len(arguments) :]))))
