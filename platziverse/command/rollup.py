"""``platziverse roll-up``: makes roll-ups at once, beside the daemon's job or without a daemon."""

import argparse
import time
from typing import Any, Final

from platziverse.command.database import connected, find_dsn
from platziverse.command.progress import Progress
from platziverse.config import Config

#: Buckets of one statement, and seconds to wait while a daemon is at it.
MOST, WAIT = 20, 0.1

_MARK: Final = "SELECT platziverse_mark_all()"
_LEFT: Final = """SELECT count(DISTINCT bucket) FROM metrics_marks
    WHERE bucket < platziverse_bucket(now())"""
_ROLL_UP: Final = "SELECT platziverse_roll_up(platziverse_bucket(now()), %s)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "--all", action="store_true", help="all metrics that are there, not only what has changed"
    )
    parser.set_defaults(run=roll_up)


def roll_up(config: Config, options: argparse.Namespace) -> int:
    """``platziverse roll-up``: make all buckets that are marked. The daemon goes on with the rest of it."""
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        if options.all:
            _mark_all(cursor)
        whole = left = _one(cursor, _LEFT)
        progress = Progress("buckets", whole)
        try:
            while left:
                done = _one(cursor, _ROLL_UP, MOST)
                if not done:  # a daemon is at it
                    time.sleep(WAIT)
                    left = _one(cursor, _LEFT)
                left = max(0, left - done) or _one(cursor, _LEFT)
                progress.show(whole - left, whole - left)
        finally:
            progress.end()
    print(f"{whole:,} buckets were made in {progress.seconds:.1f} s")
    return 0


def _mark_all(cursor: Any) -> None:
    looking = Progress("buckets")
    looking.say("looking where there are metrics")
    try:
        cursor.execute(_MARK)
    finally:
        looking.end()


def _one(cursor: Any, sql: str, *parameters: object) -> int:
    cursor.execute(sql, parameters)
    ((number,),) = cursor.fetchall()
    return int(number)
