"""Banner: what the daemon says when it is up, for someone who has just started it."""

from collections.abc import Iterable, Sequence
from typing import Final

from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from platziverse import __version__
from platziverse.broker.limits import Limits
from platziverse.daemon.listening import readable

log = Logger("platziverse.service")

EXAMPLE: Final = (
    '{"agent": {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10,'
    ' "hostname": "platzibogota"}, "metrics": [{"type": "memory", "value": "1001"},'
    ' {"type": "temp", "value": "33"}]}'
)


def say_listening(ports: Iterable[IListeningPort], who: str) -> None:
    """Log where the daemon listens, and who may connect."""
    log.info(
        "platziverse {version} listens for MQTT on {ports}; {who}",
        version=__version__,
        ports=", ".join(readable(port) for port in ports),
        who=who,
    )


def say_limits(limits: Limits, asked: Limits) -> None:
    """Log for how many connections there is room, and that more were asked for, if so."""
    log.info(
        "room for {connections} connections, and {mebibytes} MiB of sessions and messages",
        connections=limits.max_connections,
        mebibytes=limits.max_memory >> 20,
    )
    if asked.max_connections > limits.max_connections:
        log.warn(
            "limits.max_connections is {asked}: the process may not open so many files",
            asked=asked.max_connections,
        )


def say_ready(ports: Sequence[IListeningPort], psql_commands: Iterable[str]) -> None:
    """Log commands to paste into another terminal."""
    for command in psql_commands:
        log.info("look at the data: {command}", command=command)
    log.info("try: {command}", command=_example(ports))


def _example(ports: Sequence[IListeningPort]) -> str:
    """Return a command of the course, for the first of our TCP ports."""
    numbers = [getattr(port.getHost(), "port", None) for port in ports]
    known = [number for number in numbers if number is not None]
    port = "" if not known or 1883 in known else f" -p {known[0]}"
    return f"mqtt pub -h localhost{port} -t agent/message -m '{EXAMPLE}'"
