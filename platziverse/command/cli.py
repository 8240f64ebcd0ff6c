"""The command ``platziverse``: what an operator asks about a daemon, running or not."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

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

#: Command → its module, and what it is for. Only that of the command that is given is imported: all of them,
#: with the daemon that they look at, take most of a second.
COMMANDS: Final = {
    "check": ("check", "whether the daemon can do its work here, and what to do if not"),
    "passwd": ("passwd", "users and their passwords"),
    "acl": ("explain", "access rules"),
    "agents": ("agents", "agents, and what they have measured"),
    "import": ("importing", "readings of the past, from a file"),
    "export": ("exporting", "metrics, into a file"),
    "roll-up": ("rollup", "make roll-ups at once"),
    "rejected": ("rejected", "messages that could not be stored"),
    "watch": ("watch", "values as they come"),
    "stats": ("stats", "how a running daemon is"),
    "top": ("top", "the same and more, on one screen, each second"),
    "clients": ("clients", "clients that are connected to a daemon"),
    "sessions": ("sessions", "durable Sessions, and what waits for them"),
    "retained": ("retained", "Retained Messages that are stored"),
    "rules": ("rules", "what messages of other devices mean"),
    "daemons": ("daemons", "daemons that use the database"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit code is that of the process."""
    return while_somebody_reads(lambda: _run(_parser(_command(arguments)).parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    try:
        config = load(options.config, {"database": options.database} if options.database else {})
        return int(options.run(config, options))
    except Unusable as error:
        return int(options.refused(error, options))


def _refused(error: Unusable, options: argparse.Namespace) -> int:
    print(f"platziverse: {error}", file=sys.stderr)
    return 1


def _command(arguments: Sequence[str] | None) -> str:
    """Return the word that stands where the name of a command does."""
    parser = argparse.ArgumentParser(prog="platziverse", add_help=False)
    _add_sources(parser, None)
    parser.add_argument("command", nargs="?")
    return str(parser.parse_known_args(arguments)[0].command)


def _parser(chosen: str) -> argparse.ArgumentParser:
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
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if name == chosen:
            import_module(f"platziverse.command.{module}").add_arguments(command)
    _complete(parser)
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
