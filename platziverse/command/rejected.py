"""``platziverse rejected``: messages that could not become rows, with their bytes, and a second chance."""

import argparse
import sys
from typing import Any

import psycopg2

from platziverse.agents.model import InvalidReport
from platziverse.command.database import connected, find_dsn
from platziverse.command.progress import Progress
from platziverse.config import Config
from platziverse.daemon.recording import load_rules
from platziverse.daemon.replays import Row, reports_of, rows
from platziverse.ingest.replay import replay
from platziverse.rules.ruleset import RuleSet
from platziverse.settings import ConfigError


def find_rows(dsn: str, condition: str, *parameters: object) -> list[Row]:
    """Return rows of ``rejected_messages``, the oldest first."""
    with connected(dsn) as connection:
        return rows(connection, condition, *parameters)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="one line for each, the newest last")
    listing.add_argument("--all", action="store_true", help="also those that were replayed")
    listing.add_argument("--limit", type=int, default=100, help="the newest of them (100)")
    listing.set_defaults(run=list_rows)
    show = commands.add_parser("show", help="one message and its payload")
    show.add_argument("id", type=int)
    show.add_argument("--raw", action="store_true", help="the bytes of the payload and nothing else")
    show.set_defaults(run=show_row)
    replay = commands.add_parser("replay", help="try again; what is valid by now becomes rows")
    replay.add_argument("ids", type=int, nargs="*", help="which; none: all not replayed yet")
    replay.set_defaults(run=replay_rows)


def list_rows(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rejected list``: one line each."""
    waiting = "" if options.all else 'WHERE "replayedAt" IS NULL'
    for row in find_rows(find_dsn(config), f"{waiting} ORDER BY id DESC LIMIT %s", options.limit)[::-1]:
        print(row)
    return 0


def show_row(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rejected show``: all of it; with ``--raw`` the payload alone, byte by byte."""
    found = find_rows(find_dsn(config), "WHERE id = %s", options.id)
    if not found:
        raise ConfigError(f"there is no rejected message {options.id}")
    if options.raw:
        sys.stdout.buffer.write(found[0].payload)
    else:
        print(found[0])
        for name, value in (found[0].properties or {}).items():
            print(f"  {name} {value!r}")
        print(_readable(found[0].payload))
    return 0


def replay_rows(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rejected replay``: what is valid today becomes rows; exit code 1 if anything is not."""
    dsn = find_dsn(config)
    condition = "WHERE \"replayedAt\" IS NULL AND (%s::bigint[] = '{}' OR id = ANY(%s)) ORDER BY id"
    found = find_rows(dsn, condition, options.ids, options.ids)
    left = sorted(set(options.ids) - {row.id for row in found})
    for number in left:
        print(f"{number}: there is no such message, or it was replayed before")
    with connected(dsn) as connection:
        connection.autocommit = False
        refused = _replay_all(connection, found, config)
    print(f"{len(found) - refused} replayed, {refused + len(left)} not")
    return 1 if refused or left else 0


def _replay_all(connection: Any, found: list[Row], config: Config) -> int:
    """Try all again; return how many could not be stored."""
    rules, progress, refused = load_rules(config), Progress("messages", len(found)), 0
    try:
        for number, row in enumerate(found, 1):
            progress.end()  # or the line of the message would be behind it
            refused += not _replay(connection, row, config, rules)
            progress.show(number, number)
    finally:
        progress.end()
    return refused


def _replay(connection: Any, row: Row, config: Config, rules: RuleSet) -> bool:
    try:
        added = replay(connection, row.id, reports_of(row, config.agents, rules))
    except (InvalidReport, psycopg2.DataError, psycopg2.IntegrityError) as error:
        print(f"{row.id}: {' '.join(str(error).split())}")
        return False
    print(f"{row.id}: {'somebody else is at it' if added is None else f'{added} metrics added'}")
    return added is not None


def _readable(payload: bytes) -> str:
    """Return the payload as text if that can do nothing to a terminal, else in Python's notation."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return repr(payload)
    return (
        text if all(character.isprintable() or character in "\n\t" for character in text) else repr(payload)
    )
