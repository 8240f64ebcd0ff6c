"""``platziverse rejected``: messages that could not become rows, with their bytes, and a second chance."""

import argparse
import sys
from datetime import datetime
from typing import Any, Final

import psycopg2
from attrs import frozen

from platziverse.agents.model import InvalidReport, Report
from platziverse.agents.payload import parse
from platziverse.command.database import connected, find_dsn
from platziverse.config import Config
from platziverse.daemon.reload import load_rules
from platziverse.ingest.replay import replay
from platziverse.mqtt.packets import Publish
from platziverse.rules.ruleset import RuleSet
from platziverse.settings import ConfigError

_SELECT: Final = """SELECT id, "createdAt", topic, "clientId", payload, reason, "replayedAt", "fullSize",
    address FROM rejected_messages"""


@frozen
class Row:
    """A Row is one row of ``rejected_messages``.

    :param full_size: bytes of the payload as it came; ``None``: all of them are kept.
    :param address: of the sender; ``None``: nobody knows it.
    """

    id: int
    arrived: datetime
    topic: str
    client_id: str
    payload: bytes
    reason: str
    replayed: datetime | None
    full_size: int | None
    address: str | None
    #: Of the sender; it is not kept.
    username: None = None

    def __str__(self) -> str:
        reason = f"replayed; {self.reason}" if self.replayed else self.reason
        reason = f"{reason}; {self.cut}" if self.cut else reason
        sender = f"{self.client_id!r} {self.address}" if self.address else f"{self.client_id!r}"
        return f"{self.id} {self.arrived.isoformat('T', 'seconds')} {sender} {self.topic!r} {reason}"

    @property
    def cut(self) -> str:
        """Words for the part of a long payload that is kept; empty when all of it is."""
        return f"only {len(self.payload)} of {self.full_size} bytes are kept" if self.full_size else ""


def find_rows(dsn: str, condition: str, *parameters: object) -> list[Row]:
    """Return rows of ``rejected_messages``, the oldest first."""
    with connected(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"{_SELECT} {condition}", parameters)
        return [
            Row(number, arrived, topic, client_id, bytes(payload), *more)
            for number, arrived, topic, client_id, payload, *more in cursor
        ]


def list_rows(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rejected list``: one line each."""
    waiting = "" if options.all else 'WHERE "replayedAt" IS NULL'
    for row in find_rows(find_dsn(config), f"{waiting} ORDER BY id DESC LIMIT %s", options.limit)[::-1]:
        print(row)
    return 0


def show_row(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rejected show``: all of it; with ``--raw`` the payload alone, byte by byte."""
    rows = find_rows(find_dsn(config), "WHERE id = %s", options.id)
    if not rows:
        raise ConfigError(f"there is no rejected message {options.id}")
    if options.raw:
        sys.stdout.buffer.write(rows[0].payload)
    else:
        print(rows[0])
        print(_readable(rows[0].payload))
    return 0


def replay_rows(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rejected replay``: what is valid today becomes rows; exit code 1 if anything is not."""
    dsn = find_dsn(config)
    condition = "WHERE \"replayedAt\" IS NULL AND (%s::bigint[] = '{}' OR id = ANY(%s)) ORDER BY id"
    rows = find_rows(dsn, condition, options.ids, options.ids)
    left = sorted(set(options.ids) - {row.id for row in rows})
    for number in left:
        print(f"{number}: there is no such message, or it was replayed before")
    with connected(dsn) as connection:
        connection.autocommit = False
        rules = load_rules(config)
        refused = [row for row in rows if not _replay(connection, row, config, rules)]
    print(f"{len(rows) - len(refused)} replayed, {len(refused) + len(left)} not")
    return 1 if refused or left else 0


def _reports(row: Row, config: Config, rules: RuleSet) -> list[Report]:
    """Return the Reports of a message, by the rule of its topic if there is one now.

    :raises InvalidReport: a part of it cannot become rows.
    """
    message, arrived = Publish(row.topic, row.payload, 1), row.arrived.timestamp()
    found = rules.find(row.topic)
    if found is None or found.rule.ignore:
        reports = [parse(message, row.client_id, arrived, config.agents)]
        errors = [InvalidReport("metrics", one.reason) for report in reports for one in report.rejections]
    else:
        readings = found.read(message, row, arrived)
        reports, errors = readings.reports, readings.errors
    if errors:
        raise errors[0]
    return reports


def _replay(connection: Any, row: Row, config: Config, rules: RuleSet) -> bool:
    try:
        if row.cut:
            raise InvalidReport("size", row.cut)
        added = replay(connection, row.id, _reports(row, config, rules))
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
