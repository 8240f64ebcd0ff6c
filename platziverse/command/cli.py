"""The command ``platziverse``: what an operator asks about a daemon, running or not."""

import argparse
import sys
from collections.abc import Sequence

from platziverse import __version__
from platziverse.command import check, explain, passwd, rejected
from platziverse.config import load
from platziverse.errors import Unusable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit code is that of the process."""
    options = _parser().parse_args(arguments)
    try:
        config = load(options.config, {"database": options.database} if options.database else {})
        return int(options.run(config, options))
    except Unusable as error:
        return int(options.refused(error, options))


def _refused(error: Unusable, options: argparse.Namespace) -> int:
    print(f"platziverse: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="platziverse", description=__doc__)
    parser.add_argument("--version", action="version", version=f"platziverse {__version__}")
    parser.add_argument("--config", "-c", help="TOML file with settings")
    parser.add_argument("--database", help="connection string of PostgreSQL")
    parser.set_defaults(refused=_refused)
    commands = parser.add_subparsers(required=True, metavar="command")
    check.add_arguments(
        commands.add_parser("check", help="whether the daemon can do its work here, and what to do if not")
    )
    passwd.add_arguments(commands.add_parser("passwd", help="users and their passwords"))
    acl = commands.add_parser("acl", help="access rules").add_subparsers(required=True, metavar="command")
    explain.add_arguments(acl.add_parser("explain", help="which rule decides"))
    _add_rejected(commands.add_parser("rejected", help="messages that could not be stored"))
    return parser


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
