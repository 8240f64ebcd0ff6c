"""Banner: what the daemon says when it is up, for someone who has just started it."""

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from platziverse import __version__
from platziverse.broker.limits import Limits
from platziverse.config import Config
from platziverse.daemon.listening import is_proxied, readable

log = Logger("platziverse.service")

EXAMPLE: Final = (
    '{"agent": {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10,'
    ' "hostname": "platzibogota"}, "metrics": [{"type": "memory", "value": "1001"},'
    ' {"type": "temp", "value": "33"}]}'
)
#: Who may report what ``EXAMPLE`` does, by ``access.binding``.
REPORTERS: Final = {"none": "USER", "username": "platzi", "uuid": "yyy"}
#: Of ``PROTOCOLS``: nothing is taken there that is not encrypted.
TLS_ALONE: Final = ("tls", "mqtts")

#: Endpoint description, one of ``PROTOCOLS``, and the port.
Listener: TypeAlias = tuple[str, str, IListeningPort]


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


def say_rules(count: int) -> None:
    """Log that messages of devices are recorded, if they are."""
    if count:
        log.info("records messages of devices, by {count} rules", count=count)


def say_ready(listeners: Iterable[Listener], config: Config, psql_commands: Iterable[str]) -> None:
    """Say what to paste into another terminal: what reaches one of the listeners, and is let in."""
    for command in psql_commands:
        log.info("look at the data: {command}", command=command)
    if command := example(listeners, config):
        log.info("try: {command}", command=command)


def example(listeners: Iterable[Listener], config: Config) -> str:
    """Return a command of the course for the first listener that it reaches, best without TLS; else nothing.

    USER and PASSWORD stand in it where nobody is let in without, or where reports belong to their user.
    """
    reachable: list[tuple[bool, Any]] = [
        (protocol in TLS_ALONE, port.getHost())
        for description, protocol, port in listeners
        if not is_proxied(description) and isinstance(port.getHost(), IPv4Address | IPv6Address)
    ]
    if not reachable:
        return ""
    over_tls, address = min(reachable, key=lambda found: (found[0], found[1].port != 1883))
    host = "localhost" if address.host in ("0.0.0.0", "::", "127.0.0.1") else address.host
    words = ["mqtt pub", "-h", host]
    words += [] if address.port == 1883 and not over_tls else ["-p", str(address.port)]
    words += _credentials(over_tls, config)
    return " ".join([*words, "-t", "agent/message", "-m", f"'{EXAMPLE}'"])


def _credentials(over_tls: bool, config: Config) -> list[str]:
    """Return the options of somebody who is let in."""
    words = ["-C", "mqtts", "--insecure"] if over_tls else []
    if over_tls and config.tls.require_client:
        return [*words, "--cert", "CERTIFICATE", "--key", "KEY"]
    access = config.access
    if access.anonymous == "never" or access.binding != "none":
        words += ["-u", REPORTERS[access.binding], "-P", "PASSWORD"]
    return words
