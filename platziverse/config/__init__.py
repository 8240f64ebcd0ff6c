"""Config: one frozen class, read from the command line, the environment and a TOML file.

Command line > environment (``PLATZIVERSE_*``, then the original's ``DB_*``) > file > defaults. No other
module reads settings from the environment; of the rooms this one needs only the classes of their settings.
"""

from platziverse.config.dsn import without_secrets
from platziverse.config.load import config_file, flat, load, shown
from platziverse.config.model import (
    CLIENT,
    Access,
    Config,
    Embedded,
    Ingest,
    Sessions,
    Sys,
    Tls,
    holds_secret,
    log_levels,
    with_bus,
)

__all__ = [
    "CLIENT",
    "Access",
    "Config",
    "Embedded",
    "Ingest",
    "Sessions",
    "Sys",
    "Tls",
    "config_file",
    "flat",
    "holds_secret",
    "load",
    "log_levels",
    "shown",
    "with_bus",
    "without_secrets",
]
