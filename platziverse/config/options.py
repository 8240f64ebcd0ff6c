"""Options: the command line of ``twistd platziverse``."""

import os
from collections.abc import Callable

from twisted.python import usage

from platziverse import __version__
from platziverse.config.load import config_file, load, shown
from platziverse.config.model import Config
from platziverse.settings import ConfigError


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
