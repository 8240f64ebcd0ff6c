"""The command ``platziverse``: what an operator asks about a daemon, running or not."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

from platziverse import __version__
from platziverse.command import (
    agents,
    check,
    clients,
    daemons,
    explain,
    exporting,
    importing,
    passwd,
    rejected,
    retained,
    rollup,
    rules,
    sessions,
    stats,
    top,
    watch,
)
from platziverse.config import load
from platziverse.daemon.process import while_somebody_reads
from platziverse.errors import Unusable

DESCRIPTION: Final = "Looks after a platziverse daemon, running or not."
EPILOG: Final = """\
The daemon itself is a program of twistd:
  twistd -n platziverse         run it in the foreground
  twistd platziverse --help     all of its options

`platziverse COMMAND --help` has those of a command."""


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
    commands = parser.add_subparsers(required=True, metavar="command")
    check.add_arguments(
        commands.add_parser("check", help="whether the daemon can do its work here, and what to do if not")
    )
    passwd.add_arguments(commands.add_parser("passwd", help="users and their passwords"))
    acl = commands.add_parser("acl", help="access rules").add_subparsers(required=True, metavar="command")
    explain.add_arguments(acl.add_parser("explain", help="which rule decides"))
    _add_metrics(commands)
    _add_clients(commands)
    rules.add_arguments(commands.add_parser("rules", help="what messages of other devices mean"))
    daemons.add_arguments(commands.add_parser("daemons", help="daemons that use the database"))
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


def _add_clients(commands: Any) -> None:
    watch.add_arguments(commands.add_parser("watch", help="values as they come"))
    stats.add_arguments(commands.add_parser("stats", help="how a running daemon is"))
    top.add_arguments(commands.add_parser("top", help="the same and more, on one screen, each second"))
    clients.add_arguments(commands.add_parser("clients", help="clients that are connected to a daemon"))
    sessions.add_arguments(commands.add_parser("sessions", help="durable Sessions, and what waits for them"))
    retained.add_arguments(commands.add_parser("retained", help="Retained Messages that are stored"))


def _add_metrics(commands: Any) -> None:
    agents.add_arguments(commands.add_parser("agents", help="agents, and what they have measured"))
    importing.add_arguments(commands.add_parser("import", help="readings of the past, from a file"))
    exporting.add_arguments(commands.add_parser("export", help="metrics, into a file"))
    rollup.add_arguments(commands.add_parser("roll-up", help="make roll-ups at once"))
    _add_rejected(commands.add_parser("rejected", help="messages that could not be stored"))


def _add_rejected(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="one line for each, the newest last")
    listing.add_argument("--all", action="store_true", help="also those that were replayed")
    listing.add_argument("--limit", type=int, default=100, help="the newest of them (100)")
    listing.set_defaults(run=rejected.list_rows)
    show = commands.add_parser("show", help="one message and its payload")
    show.add_argument("id", type=int)
    show.add_argument("--raw", action="store_true", help="the bytes of the payload and nothing else")
    show.set_defaults(run=rejected.show_row)
    replay = commands.add_parser("replay", help="try again; what is valid by now becomes rows")
    replay.add_argument("ids", type=int, nargs="*", help="which; none: all not replayed yet")
    replay.set_defaults(run=rejected.replay_rows)
