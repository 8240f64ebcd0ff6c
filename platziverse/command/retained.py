"""``platziverse retained``: the Retained Messages that are stored, and how to be rid of some."""

import argparse
from typing import Any, Final

from platziverse.command.arguments import topic_filter
from platziverse.command.database import connected, find_dsn
from platziverse.config import Config
from platziverse.mqtt.topics import matches
from platziverse.postgres.requests import CLEAR_RETAINED, carry_out
from platziverse.settings import ConfigError

_SELECT: Final = """SELECT topic, octet_length(payload), flags & 3, "clientId", username, "updatedAt"
    FROM mqtt_retained ORDER BY topic"""
_TOPICS: Final = "SELECT topic FROM mqtt_retained"
_CLEAR: Final = "DELETE FROM mqtt_retained WHERE topic = ANY(%(topics)s)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``platziverse retained``."""
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="one line for each, by Topic Name")
    listing.add_argument("topic_filter", metavar="FILTER", type=topic_filter, nargs="?", default="#")
    listing.set_defaults(run=list_retained)
    clear = commands.add_parser("clear", help="forget those whose Topic Name matches")
    clear.add_argument("topic_filter", metavar="FILTER", type=topic_filter)
    clear.set_defaults(run=clear_retained)


def list_retained(config: Config, options: argparse.Namespace) -> int:
    """``platziverse retained list``: one line each."""
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        cursor.execute(_SELECT)
        for topic, size, qos, client_id, username, since in cursor:
            if matches(options.topic_filter, topic):
                login = f" user {username!r}" if username is not None else ""
                print(
                    f"{topic!r} {size} bytes QoS {qos} of {client_id!r}{login} since "
                    f"{since.isoformat('T', 'seconds')}"
                )
    return 0


def clear_retained(config: Config, options: argparse.Namespace) -> int:
    """``platziverse retained clear``: by all daemons that run, or here; exit code 1 if there is none."""
    with connected(find_dsn(config)) as connection:
        topics = _matching(connection, options.topic_filter)
        if not topics:
            raise ConfigError(f"there is no Retained Message that {options.topic_filter!r} matches")
        carry_out(
            connection,
            CLEAR_RETAINED,
            options.topic_filter,
            None,
            _CLEAR,
            lambda: not set(topics) & set(_matching(connection, options.topic_filter)),
            topics=topics,
        )
    print(f"{len(topics)} Retained Messages cleared")
    return 0


def _matching(connection: Any, topic_filter: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_TOPICS)
        return [topic for (topic,) in cursor if matches(topic_filter, topic)]
