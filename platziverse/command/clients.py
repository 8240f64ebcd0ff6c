"""``platziverse clients``: who is connected, what one of them sends, and an end of its connection."""

import argparse
import sys
from datetime import datetime
from typing import Any
from urllib.parse import quote

from platziverse.command.asking import Asked, events
from platziverse.config import Config
from platziverse.settings import ConfigError
from platziverse.words import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``platziverse clients``."""
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="one line for each that is connected")
    listing.set_defaults(run=list_clients)
    for name, run, text in (
        ("show", show_client, "one client and its Topic Filters"),
        ("kick", kick_client, "end its connection; its Session stays, and it may come again"),
        ("trace", trace_client, "its packets as they come and go, until Ctrl-C"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("client_id", metavar="CLIENT", help="its Client Identifier")
        command.set_defaults(run=run)


def list_clients(config: Config, options: argparse.Namespace) -> int:
    """``platziverse clients list``: one line each."""
    for row in Asked(config).pages("/api/clients"):
        print(_line(row))
    return 0


def show_client(config: Config, options: argparse.Namespace) -> int:
    """``platziverse clients show``: its line, then its Will and one for each Topic Filter with its QoS."""
    row = Asked(config).get(_path(options.client_id))
    print(_line(row))
    print(f"  its Session {'stays when it goes' if row['persistent'] else 'ends with the connection'}")
    for text in _asked(row):
        print(f"  {text}")
    if (will := row["will"]) is not None:
        print(f"  Will to {will['topic']!r} QoS {will['qos']}{', retained' if will['retain'] else ''}")
    for one in row["subscriptions"]:
        print(f"  {one['filter']!r} QoS {one['qos']}")
    if (more := row["subscriptionCount"] - len(row["subscriptions"])) > 0:
        print(f"  and {more:,} more")
    return 0


def kick_client(config: Config, options: argparse.Namespace) -> int:
    """``platziverse clients kick``: here, by another worker, or by a daemon elsewhere that is asked."""
    client_id = options.client_id
    answer = Asked(config).get(_path(client_id, "/kick"), "POST")
    if answer["kicked"]:
        print(f"the connection of {client_id!r} has ended")
    else:
        asked = ", ".join(answer["asked"])
        print(f"{client_id!r} is not connected here; asked to end a connection there: {asked}")
    return 0


def trace_client(config: Config, options: argparse.Namespace) -> int:
    """``platziverse clients trace``: all of its connections from now on, whichever worker has them.

    :raises ConfigError: the daemon ends.
    """
    for event, data in events(Asked(config).path, _path(options.client_id, "/trace")):
        if event == "trace" and not data["connected"]:
            print(f"{options.client_id!r} is not connected; its next connections are shown", file=sys.stderr)
        elif event == "packet":
            moment = datetime.fromtimestamp(data["time"] / 1000)
            text = escaped(data["text"])
            print(f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03} {text}", flush=True)
        elif event == "dropped":
            print(f"{data['events']:,} packets are not shown: there were too many", flush=True)
    raise ConfigError("the daemon has ended the trace")


def _path(client_id: str, more: str = "") -> str:
    return f"/api/clients/{quote(client_id, safe='')}{more}"


def _line(row: Any) -> str:
    login = f" user {row['user']!r}" if row["user"] is not None else ""
    worker = f", worker {row['worker']}" if "worker" in row else ""
    since = row["since"].partition(".")[0]
    waiting = f"{row['subscriptionCount']} filters, {row['queue']} messages wait, {row['dropped']} dropped"
    return f"{row['id']!r}{login} {row['address']} MQTT {row['protocol']} since {since}Z, {waiting}{worker}"


def _asked(row: Any) -> list[str]:
    """Return one line for each Property that its CONNECT has, of MQTT 5."""
    lines = [f"{_words(name)} {value!r}" for name, value in (row["properties"] or {}).items()]
    return lines + [f"User Property {pair['name']!r} {pair['value']!r}" for pair in row["userProperties"]]


def _words(name: str) -> str:
    """Return the name of a Property as the standard writes it: ``sessionExpiryInterval`` has three words."""
    spaced = "".join(f" {letter}" if letter.isupper() else letter for letter in name)
    return spaced[:1].upper() + spaced[1:]
