"""Options: the command line of ``twistd platziverse``."""

import os
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.python import usage

from platziverse import __version__
from platziverse.config import Config, config_file, load, shown
from platziverse.daemon.listening import CannotListen, try_to_listen
from platziverse.daemon.process import while_somebody_reads
from platziverse.settings import ConfigError

#: What twistd calls its pid file unless it is told.
PID_FILE: Final = "twistd.pid"


class Options(usage.Options):
    """The command line of ``twistd platziverse``; ``config`` holds the outcome."""

    optParameters = [
        ["config", "c", None, "TOML file with settings; see examples/platziverse.toml"],
        ["database", None, None, "connection string of PostgreSQL; default: an embedded one"],
        ["state-dir", None, None, "directory of the embedded database"],
        ["log-level", None, None, "e.g. warn, or info,mqtt=debug,client:sensor-7=debug"],
        ["log-format", None, None, "text or json"],
        ["workers", None, None, "how many daemons share the ports, one for each core; default: one alone"],
    ]
    optFlags = [["check", None, "print the configuration without secrets, try to listen, and exit"]]
    longdesc = (
        "Runs the broker: twistd -n platziverse stays in the foreground,"
        " twistd platziverse goes to the background."
        " The command platziverse is about a daemon that runs or is to run: see platziverse --help."
    )

    config: Config
    #: What the command line says, by dotted name, and the file that is read.
    given: dict[str, Any]
    path: str | None
    #: Reads the same sources again; raises ``ConfigError`` when they cannot be used any more.
    read: Callable[[], Config]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Twisted endpoint to listen on, e.g. tcp:1883 (may be repeated)"""
        self["listen"].append(endpoint)

    def opt_version(self) -> None:
        """Print the version and exit"""
        raise SystemExit(while_somebody_reads(lambda: print(f"platziverse {__version__}")))

    def opt_help(self) -> None:
        """Print this and exit"""
        raise SystemExit(while_somebody_reads(lambda: print(self)))

    def postOptions(self) -> None:
        """Load the configuration; what is wrong with it ends the process with one line."""
        self._write_no_pid_file()
        names = ("listen", "database", "state-dir", "log-level", "log-format")
        given = {name.replace("-", "_"): self[name] for name in names if self[name]}
        if self["workers"] is not None:
            given["workers.count"] = self["workers"]
        path = config_file(self["config"])
        path = os.path.abspath(path) if path else None  # twistd may go elsewhere
        self.given, self.path = given, path
        self.read = lambda: load(path, given)
        try:
            self.config = self.read()
        except ConfigError as error:
            raise SystemExit(f"platziverse: {error}") from None
        if self["check"]:
            raise SystemExit(while_somebody_reads(self._check))

    def _check(self) -> int:
        """Print what a start would use and what would stop it; return the exit code.

        A port that is taken is said and no error, as the daemon itself may hold it.
        """
        print(shown(self.config))
        code = 0
        for description in self.config.listen:
            try:
                try_to_listen(description)
            except CannotListen as error:
                print(f"platziverse: {error}", file=sys.stderr)
                code = code if error.taken else 1
        return code

    def _write_no_pid_file(self) -> None:
        """Let twistd in the foreground write a pid file only where ``--pidfile`` names one.

        A container ends without removing twistd's default, and its next process 1 finds in it that process 1
        is running: twistd would refuse to start for ever. It looks for the file after our options were read.
        See ADR 0097.
        """
        of_twistd = self.parent
        if of_twistd is not None and of_twistd.get("nodaemon") and of_twistd.get("pidfile") == PID_FILE:
            of_twistd["pidfile"] = ""
