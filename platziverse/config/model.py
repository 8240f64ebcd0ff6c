"""The configuration as attrs classes: every setting, with its default and its check."""

import os
import re
from typing import Any, Final

from attrs import Attribute, evolve, field, frozen
from attrs.validators import ge, in_, le, max_len
from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn
from twisted.logger import InvalidLogLevelError, LogLevel

from platziverse.agents.limits import AgentLimits
from platziverse.broker.limits import Limits
from platziverse.bus.settings import BusSettings
from platziverse.bus.url import without_password
from platziverse.config.dsn import SECRETS, without_secrets
from platziverse.rules.settings import RecordSettings
from platziverse.web.settings import WebSettings


def _is_dsn(_: Any, __: "Attribute[str]", value: str) -> None:
    try:
        host = parse_dsn(value).get("host", "")
    except ProgrammingError:  # libpq's own message repeats what it could not read, a password perhaps
        host = "@"
    if "@" in host:  # of a password, whose rest would be shown as the name of a host that is not found
        raise ValueError(
            "is not a PostgreSQL connection string; write postgresql://USER:PASSWORD@HOST/NAME,"
            " with %40 for a @ in the password, or 'host=HOST dbname=NAME user=USER'"
        )


def _are_endpoints(_: Any, __: "Attribute[tuple[str, ...]]", value: tuple[str, ...]) -> None:
    for description in value:
        if not re.match(r"[a-z0-9]+:.", description):
            raise ValueError(f"{description!r} is no Twisted endpoint like tcp:1883 or unix:/run/mqtt.sock")


def _are_handlers(_: Any, __: "Attribute[tuple[str, ...]]", value: tuple[str, ...]) -> None:
    for name in value:
        if not re.fullmatch(r"[\w.]+:\w+", name):
            raise ValueError(f"{name!r} does not have the form package.module:name")


def _is_log_level(_: Any, __: "Attribute[str]", value: str) -> None:
    log_levels(value)


#: What precedes a Client Identifier in ``log_level``, where other words are rooms.
CLIENT: Final = "client:"


def log_levels(text: str) -> dict[str, LogLevel]:
    """Return levels by room: ``"info,mqtt=debug"`` → ``{"": LogLevel.info, "mqtt": LogLevel.debug}``.

    A client's have the key ``"client:"`` and its Client Identifier.

    :raises ValueError: a level is unknown.
    """
    levels = {}
    for part in text.split(","):
        room, _, name = part.strip().rpartition("=")
        try:
            levels[room] = LogLevel.levelWithName(name)
        except InvalidLogLevelError:
            raise ValueError(
                f"{name!r} is none of debug, info, warn, error, critical; write info or info,mqtt=debug"
            ) from None
    return levels


def _default_state_dir() -> str:
    """systemd's StateDirectory, else the XDG state directory of the user, else that of services.

    A user without an entry in /etc/passwd, as containers are given one, may have no home.
    """
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    home = os.path.expanduser("~")
    base = os.environ.get("XDG_STATE_HOME") or (
        "/var/lib" if home == "~" else os.path.join(home, ".local", "state")
    )
    return given or os.path.join(base, "platziverse")


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _absolute_or_empty(path: str) -> str:
    return _absolute(path) if path else ""


@frozen
class Access:
    """Access decides who may connect, publish and subscribe."""

    #: Clients without a login: ``local``, from this machine only, ``always`` or ``never``.
    anonymous: str = field(default="local", validator=in_(("local", "always", "never")))
    #: Lines ``user:hash``; empty: there are no logins.
    password_file: str = field(default="", converter=_absolute_or_empty)
    #: There are users in the table ``mqtt_users`` of the database too.
    database_users: bool = False
    #: Access rules in Mosquitto's format; empty: everyone may do everything but speak for the server.
    acl_file: str = field(default="", converter=_absolute_or_empty)
    #: What of an agent must be its client's user name: ``none``, ``username`` or ``uuid``.
    binding: str = field(default="none", validator=in_(("none", "username", "uuid")))
    #: A reload ends the connections of users that are in no table any more.
    disconnect_removed: bool = True


@frozen
class Tls:
    """TLS on every port, beside what is not encrypted."""

    #: PEM files: the certificate with its chain, and its key without a pass phrase; empty: no TLS.
    certificate: str = field(default="", converter=_absolute_or_empty)
    key: str = field(default="", converter=_absolute_or_empty)
    #: PEM file; clients may show a certificate signed by it, and its Common Name is their user name.
    client_ca: str = field(default="", converter=_absolute_or_empty)
    #: Clients must show one.
    require_client: bool = False


@frozen
class Embedded:
    """The private PostgreSQL, used when no ``database`` is configured."""

    #: Listen on loopback too, with a generated password, not on the Unix socket alone.
    tcp: bool = False
    port: int = field(default=5432, validator=[ge(1), le(65535)])


@frozen
class Ingest:
    """How reports become rows. Times are in seconds."""

    #: Batches that may commit at the same time, each on a connection of its own.
    slots: int = field(default=2, validator=[ge(1), le(64)])
    #: Most messages of one batch, which is one statement.
    batch: int = field(default=500, validator=[ge(1), le(10_000)])
    #: A statement that takes longer is given up together with its connection, and tried again.
    statement_deadline: float = field(default=10.0, validator=ge(0.1))
    #: Months of metrics that are kept besides the current one; 0: all of them, for ever.
    keep_months: int = field(default=0, validator=[ge(0), le(1200)])
    #: Months of roll-ups of 5 minutes, and of 1 hour, that are kept likewise.
    keep_5m_months: int = field(default=13, validator=[ge(0), le(1200)])
    keep_1h_months: int = field(default=0, validator=[ge(0), le(1200)])
    #: Days that rejected messages are kept; 0: for ever.
    keep_rejected_days: int = field(default=90, validator=[ge(0), le(36_500)])
    #: Bytes that all rejected messages may take, the oldest go first; 0: any.
    keep_rejected_bytes: int = field(default=1024**3, validator=ge(0))
    #: Bytes of the payload of a rejected message; what is longer is cut, its length and hash are kept.
    keep_rejected_payload: int = field(default=64 * 1024, validator=ge(0))


@frozen
class Sessions:
    """Sessions with Clean Session 0, and whether they outlive the daemon."""

    #: Keep them in the database; false: in memory, and they end with the daemon.
    durable: bool = True
    #: Seconds that a QoS 1 message waits for connected receivers before it is written for them, up to four
    #: times as long for those that are on the way to it; 0: none.
    grace: float = field(default=0.005, validator=[ge(0), le(1)])


@frozen
class Workers:
    """Several daemons of one machine behind the same ports, with one process that looks after them."""

    #: How many; 0: one daemon, and nobody looks after it.
    count: int = field(default=0, validator=[ge(0), le(256)])
    #: Which of them this is; set for each by the process that looks after them, and by nobody else.
    number: int = field(default=0, validator=[ge(0), le(256)])


@frozen
class Sys:
    """The ``$SYS/broker/...`` topics."""

    #: Seconds between two reports; 0 switches them off.
    interval: float = field(default=10.0, validator=ge(0))


@frozen
class Config:
    """Every setting of the daemon. ``repr`` shows no secret."""

    #: Where to listen, as Twisted endpoint descriptions.
    listen: tuple[str, ...] = field(default=("tcp:1883", "tcp:8083"), validator=_are_endpoints)
    #: Another server, which clients of MQTT 5 are told of when this one stops or cannot take them:
    #: ``host``, ``host:port`` or several of them with spaces between; empty: none.
    server_reference: str = field(default="", validator=max_len(1000))
    #: Connection string of PostgreSQL; empty: the embedded one.
    database: str = field(default="", validator=_is_dsn, repr=lambda dsn: repr(without_secrets(dsn)))
    #: Directory of what must survive a restart: the embedded database.
    state_dir: str = field(factory=_default_state_dir, converter=_absolute)
    #: debug, info, warn, error or critical; rooms may have their own: ``info,mqtt=debug``.
    log_level: str = field(default="info", validator=_is_log_level)
    log_format: str = field(default="text", validator=in_(("text", "json")))
    #: Further rows of the handler table: ``package.module:name``, called with the broker's ``publish``.
    handlers: tuple[str, ...] = field(default=(), validator=_are_handlers)
    access: Access = field(factory=Access)
    tls: Tls = field(factory=Tls)
    web: WebSettings = field(factory=WebSettings)
    agents: AgentLimits = field(factory=AgentLimits)
    record: RecordSettings = field(factory=RecordSettings)
    embedded: Embedded = field(factory=Embedded)
    ingest: Ingest = field(factory=Ingest)
    sessions: Sessions = field(factory=Sessions)
    bus: BusSettings = field(factory=BusSettings)
    limits: Limits = field(factory=Limits)
    sys: Sys = field(factory=Sys)
    workers: Workers = field(factory=Workers)


def with_bus(config: "Config") -> "Config":
    """Return a configuration with the bus that its daemons have: workers have a database in common."""
    if not config.workers.count or config.bus.url:
        return config
    return evolve(config, bus=evolve(config.bus, url="postgresql:"))


def holds_secret(config: "Config") -> bool:
    """Return whether a password stands in the configuration itself."""
    bus = config.bus.password or without_password(config.bus.url) != config.bus.url
    return bool(bus) or any(key in SECRETS and key != "passfile" for key in parse_dsn(config.database))
