"""The command ``platziverse``: what an operator asks about a daemon, running or not."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from platziverse import __version__
from platziverse.config import load
from platziverse.daemon.process import while_somebody_reads
from platziverse.errors import Unusable

DESCRIPTION: Final = "Looks after a platziverse daemon, running or not."
EPILOG: Final = """\
The daemon itself is a program of twistd:
  twistd -n platziverse         run it in the foreground
  twistd platziverse --help     all of its options

`platziverse COMMAND --help` has those of a command."""
#: Name, module below ``platziverse.command``, and what ``--help`` says.
COMMANDS: Final = (
    ("check", "check", "whether the daemon can do its work here, and what to do if not"),
    ("passwd", "passwd", "users and their passwords"),
    ("acl", "explain", "access rules"),
    ("agents", "agents", "agents, and what they have measured"),
    ("import", "importing", "readings of the past, from a file"),
    ("export", "exporting", "metrics, into a file"),
    ("roll-up", "rollup", "make roll-ups at once"),
    ("rejected", "rejected", "messages that could not be stored"),
    ("watch", "watch", "values as they come"),
    ("stats", "stats", "how a running daemon is"),
    ("top", "top", "the same and more, on one screen, each second"),
    ("clients", "clients", "clients that are connected to a daemon"),
    ("sessions", "sessions", "durable Sessions, and what waits for them"),
    ("retained", "retained", "Retained Messages that are stored"),
    ("rules", "rules", "what messages of other devices mean"),
    ("daemons", "daemons", "daemons that use the database"),
)


class _Command(argparse.ArgumentParser):
    """A _Command is one command. Its module is imported once it is given: all of them take a second.

    :ivar module: its name below ``platziverse.command``; ``None``: its arguments are there.
    """

    module: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments of the command, as argparse does."""
        if self.module is not None:
            import_module(f"platziverse.command.{self.module}").add_arguments(self)
            self.module = None
            _complete(self)
        return super().parse_known_args(args, namespace)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit code is that of the process."""
    return while_somebody_reads(lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    try:
        config = load(options.config, {"database": options.database} if options.database else {})
        return int(options.run(config, options))
    except Unusable as error:
        return int(options.refused(error, options))


def _refused(error: Unusable, options: argparse.Namespace) -> int:
    print(f"platziverse: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="platziverse",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"platziverse {__version__}", help="print the version and exit"
    )
    _add_sources(parser, None)
    parser.set_defaults(refused=_refused)
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Command)
    for name, module, text in COMMANDS:
        command = commands.add_parser(name, help=text)
        command.module = module
        _add_sources(command, argparse.SUPPRESS)
    return parser


def _add_sources(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument("--config", "-c", default=default, help="TOML file with settings")
    parser.add_argument("--database", default=default, help="connection string of PostgreSQL")


def _complete(parser: argparse.ArgumentParser) -> None:
    """Let the options of all commands stand behind each command too; there they have no default."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _add_sources(command, argparse.SUPPRESS)
                _complete(command)
