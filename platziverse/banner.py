"""Banner: what the daemon says when it is up, for someone who has just started it."""

from collections.abc import Iterable, Sequence
from typing import Final

from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from platziverse import __version__
from platziverse.listening import readable

log = Logger("platziverse.service")

WHO: Final = {
    "local": "without a login only clients on this machine may connect",
    "always": "everyone may connect, with or without a login",
    "never": "nobody may connect without a login",
}
EXAMPLE: Final = (
    '{"agent": {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10,'
    ' "hostname": "platzibogota"}, "metrics": [{"type": "memory", "value": "1001"},'
    ' {"type": "temp", "value": "33"}]}'
)


def say_listening(ports: Iterable[IListeningPort], anonymous: str) -> None:
    """Where, and who may connect without a login."""
    log.info(
        "platziverse {version} listens for MQTT on {ports}; {who}",
        version=__version__,
        ports=", ".join(readable(port) for port in ports),
        who=WHO[anonymous],
    )


def say_ready(ports: Sequence[IListeningPort], psql_commands: Iterable[str]) -> None:
    """What to paste into another terminal."""
    for command in psql_commands:
        log.info("look at the data: {command}", command=command)
    log.info("try: {command}", command=_example(ports))


def _example(ports: Sequence[IListeningPort]) -> str:
    """A command of the course, for the first of our TCP ports."""
    numbers = [getattr(port.getHost(), "port", None) for port in ports]
    known = [number for number in numbers if number is not None]
    port = "" if not known or 1883 in known else f" -p {known[0]}"
    return f"mqtt pub -h localhost{port} -t agent/message -m '{EXAMPLE}'"
