"""Reading the configuration: command line, environment, file, defaults, in this order of rank."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict
from psycopg2.extensions import make_dsn
from typed_settings import load_settings
from typed_settings.converters import TSConverter
from typed_settings.loaders import Loader

from platziverse.bus.url import without_password
from platziverse.config.dsn import without_secrets
from platziverse.config.model import Config
from platziverse.settings import EnvironmentLoader, GivenLoader, TomlLoader


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
    values = flat(config) | {
        "database": without_secrets(config.database),
        "bus.url": without_password(config.bus.url),
        "bus.password": "***" if config.bus.password else "",
    }
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
