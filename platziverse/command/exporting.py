"""``platziverse export``: metrics as CSV or NDJSON, one in each line, which PostgreSQL itself writes."""

import argparse
import sys
from datetime import datetime
from typing import Any, BinaryIO, Final

from platziverse.command.database import connected, find_dsn
from platziverse.command.progress import Progress
from platziverse.command.sources import CSV, NDJSON, SUFFIXES
from platziverse.config import Config
from platziverse.settings import ConfigError
from platziverse.times import read_time

USAGE: Final = """\
One metric in each line: uuid, name, username, hostname, type, value, unit, measured, stored.
`platziverse import` reads it again, here or elsewhere; what is there is not stored twice. Nothing is sorted.
Times are UTC; those of --since and --until are of the column stored."""

_MOMENT: Final = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_MEASURED: Final = _MOMENT.format('coalesce(metrics."timestamp", metrics."createdAt")')
_STORED: Final = _MOMENT.format('metrics."createdAt"')
_SELECT: Final = f"""SELECT uuid, name, username, hostname, metrics.type, value, unit,
    {_MEASURED} AS measured, {_STORED} AS stored
    FROM metrics JOIN agents ON agents.id = metrics."agentId"
    LEFT JOIN series ON series."agentId" = metrics."agentId" AND series.type = metrics.type
    WHERE isfinite(metrics."createdAt")"""
_CSV: Final = "COPY ({}) TO STDOUT (FORMAT csv, HEADER)"
# JSON has no control characters, so nothing is quoted, and each line is as row_to_json makes it.
_NDJSON: Final = r"""COPY (SELECT row_to_json(row) FROM ({}) AS row)
    TO STDOUT (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="a new file; - is standard output"
    )
    parser.add_argument("--format", choices=(CSV, NDJSON), help="else by the file's name, or csv")
    parser.add_argument("--agent", metavar="UUID", action="append", default=[], help="of these agents only")
    parser.add_argument("--type", metavar="TYPE", action="append", default=[], help="of these types only")
    parser.add_argument("--since", metavar="TIME", type=_time, help="stored from then on; RFC 3339")
    parser.add_argument("--until", metavar="TIME", type=_time, help="stored before")
    parser.set_defaults(run=export_metrics)
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, USAGE


def _time(text: str) -> datetime:
    try:
        return read_time(text if "T" in text or " " in text else f"{text}T00:00:00")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Counted:
    """A _Counted passes on what PostgreSQL writes, and counts its lines."""

    def __init__(self, file: Any, progress: Progress) -> None:
        self._file, self._progress, self._lines = file, progress, 0

    def write(self, data: bytes) -> int:
        """Write some bytes."""
        self._lines += data.count(b"\n")
        self._progress.show(self._lines)
        return int(self._file.write(data))


def export_metrics(config: Config, options: argparse.Namespace) -> int:
    """``platziverse export``: memory stays the same, however many metrics there are.

    :raises Unusable: it cannot be written, or the database is away; what is written already stays.
    """
    form = options.format or SUFFIXES.get(f".{options.file.rpartition('.')[2].lower()}", CSV)
    if form not in (CSV, NDJSON):
        raise ConfigError(f"{options.file}: only csv and ndjson are written")
    dsn, progress = find_dsn(config), Progress("metrics")
    try:
        with (
            _open(options.file) as file,
            connected(dsn, copies=True) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SET statement_timeout = 0; SET synchronize_seqscans = off")
            query = _query(cursor, options)
            command = (_CSV if form == CSV else _NDJSON).format(query)
            cursor.copy_expert(command, _Counted(file, progress))
            count, seconds = cursor.rowcount, progress.seconds
    except BrokenPipeError:
        raise  # somebody has read enough
    except OSError as error:
        raise ConfigError(f"{options.file}: cannot be written: {error.strerror}") from None
    finally:
        progress.end()
    print(f"{count:,} metrics ({seconds:.1f} s, {count / seconds:,.0f} a second)", file=sys.stderr)
    return 0


def _query(cursor: Any, options: argparse.Namespace) -> str:
    conditions: list[tuple[str, object]] = []
    if options.agent:
        conditions.append(("uuid = ANY(%s)", options.agent))
    if options.type:
        conditions.append(("metrics.type = ANY(%s)", options.type))
    if options.since is not None:
        conditions.append(('metrics."createdAt" >= %s', options.since))
    if options.until is not None:
        conditions.append(('metrics."createdAt" < %s', options.until))
    given = [cursor.mogrify(f" AND {text}", (value,)).decode() for text, value in conditions]
    return _SELECT + "".join(given)


def _open(path: str) -> "BinaryIO | Any":
    """Return a new file, or standard output. :raises ConfigError: it cannot be made."""
    try:
        return open(path, "xb") if path != "-" else open(sys.stdout.fileno(), "wb", closefd=False)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made: {error.strerror}") from None
