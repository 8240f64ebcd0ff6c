"""The configuration: one frozen class, read from the command line, the environment and a TOML file.

Command line > environment (``PLATZIVERSE_*``, then the original's ``DB_*``) > file > defaults. No other
module reads settings from the environment; of the rooms this one needs only the classes of their settings.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import Attribute, asdict, field, frozen
from attrs.validators import ge, in_, le
from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn, parse_dsn
from twisted.logger import InvalidLogLevelError, LogLevel
from twisted.python import usage
from typed_settings import load_settings
from typed_settings.converters import TSConverter
from typed_settings.loaders import Loader

from platziverse import __version__
from platziverse.agents.limits import AgentLimits
from platziverse.broker.limits import Limits
from platziverse.settings import ConfigError, EnvironmentLoader, GivenLoader, TomlLoader
from platziverse.web.settings import WebSettings

#: Connection parameters that are never shown, and what is shown in their place.
SECRETS: Final = ("password", "sslpassword", "passfile", "oauth_client_secret")


def holds_secret(config: "Config") -> bool:
    """Whether a password stands in the configuration itself."""
    return any(key in SECRETS and key != "passfile" for key in parse_dsn(config.database))


def without_secrets(dsn: str) -> str:
    """``dsn`` in keyword form, without its passwords; fit for a log."""
    shown = {key: value for key, value in parse_dsn(dsn).items() if key not in SECRETS}
    return make_dsn(**shown) if dsn else ""


def _is_dsn(_: Any, __: "Attribute[str]", value: str) -> None:
    try:
        parse_dsn(value)
    except ProgrammingError:
        # libpq's own message repeats what it could not read, a password perhaps.
        raise ValueError(
            "is not a PostgreSQL connection string; write postgresql://USER:PASSWORD@HOST/NAME"
            " or 'host=HOST dbname=NAME user=USER'"
        ) from None


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


def log_levels(text: str) -> dict[str, LogLevel]:
    """``"info,mqtt=debug"`` → ``{"": LogLevel.info, "mqtt": LogLevel.debug}``; :raises ValueError:"""
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
    """systemd's StateDirectory, else the XDG state directory of the user."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return given or os.path.join(base, "platziverse")


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _absolute_or_empty(path: str) -> str:
    return _absolute(path) if path else ""


@frozen
class Access:
    """Who may connect."""

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
    #: Days that rejected messages are kept; 0: for ever.
    keep_rejected_days: int = field(default=90, validator=[ge(0), le(36_500)])
    #: Bytes that all rejected messages may take, the oldest go first; 0: any.
    keep_rejected_bytes: int = field(default=1024**3, validator=ge(0))
    #: Bytes of the payload of a rejected message; what is longer is cut, its length and hash are kept.
    keep_rejected_payload: int = field(default=64 * 1024, validator=ge(0))


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
    embedded: Embedded = field(factory=Embedded)
    ingest: Ingest = field(factory=Ingest)
    limits: Limits = field(factory=Limits)
    sys: Sys = field(factory=Sys)


def _original(environ: Mapping[str, str]) -> dict[str, str]:
    """The database of the original's variables, with its defaults, if any of them is set."""
    defaults = {"DB_HOST": "localhost", "DB_NAME": "platziverse", "DB_USER": "platzi", "DB_PASS": "platzi"}
    if not defaults.keys() & environ.keys():
        return {}
    host, name, user, password = (environ.get(key, default) for key, default in defaults.items())
    return {"database": make_dsn(host=host, dbname=name, user=user, password=password)}


def config_file(path: str | None = None, environ: Mapping[str, str] | None = None) -> str | None:
    """The TOML file that :func:`load` reads with the same arguments, if any."""
    return path or (os.environ if environ is None else environ).get("PLATZIVERSE_CONFIG")


def load(
    path: str | None = None,
    given: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration in force.

    :param path: the TOML file; ``None``: the one that ``PLATZIVERSE_CONFIG`` names, if any.
    :param given: from the command line, by dotted name, e.g. ``{"listen": ["tcp:1883"]}``.
    :param environ: the environment; ``None``: that of the process.
    :raises ConfigError: one line that names the source, the key and what to do.
    """
    environ = os.environ if environ is None else environ
    path = config_file(path, environ)
    loaders: list[Loader] = [TomlLoader(Path(path))] if path else []
    loaders.append(GivenLoader("environment", _original(environ)))
    loaders.append(EnvironmentLoader("PLATZIVERSE_", environ, reserved=("CONFIG",)))
    loaders.append(GivenLoader("command line", given or {}))
    return load_settings(Config, loaders, converter=TSConverter())


def shown(config: Config) -> str:
    """All settings as lines ``section.key = value``, without secrets."""
    values = flat(config) | {"database": without_secrets(config.database)}
    return "\n".join(f"{name} = {value!r}" for name, value in values.items())


def flat(config: Config) -> dict[str, object]:
    """All settings by dotted name; the secrets too."""
    found: dict[str, object] = {}
    for key, value in asdict(config).items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            found[key] = value
    return found


class Options(usage.Options):
    """The command line of ``twistd platziverse``; ``config`` holds the outcome."""

    optParameters = [
        ["config", "c", None, "TOML file with settings; see examples/platziverse.toml"],
        ["database", None, None, "connection string of PostgreSQL; default: an embedded one"],
        ["state-dir", None, None, "directory of the embedded database"],
        ["log-level", None, None, "e.g. warn, or info,mqtt=debug"],
        ["log-format", None, None, "text or json"],
    ]
    optFlags = [["check", None, "validate the configuration, print it without secrets, and exit"]]

    config: Config
    #: Reads the same sources again. :raises ConfigError:
    read: Callable[[], Config]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Twisted endpoint to listen on, e.g. tcp:1883 (may be repeated)"""
        self["listen"].append(endpoint)

    def opt_version(self) -> None:
        """Print the version and exit"""
        raise SystemExit(print(f"platziverse {__version__}"))

    def postOptions(self) -> None:
        """Load the configuration; what is wrong with it ends the process with one line."""
        names = ("listen", "database", "state-dir", "log-level", "log-format")
        given = {name.replace("-", "_"): self[name] for name in names if self[name]}
        path = config_file(self["config"])
        path = os.path.abspath(path) if path else None  # twistd may go elsewhere
        self.read = lambda: load(path, given)
        try:
            self.config = self.read()
        except ConfigError as error:
            raise SystemExit(f"platziverse: {error}") from None
        if self["check"]:
            print(shown(self.config))
            raise SystemExit(0)
