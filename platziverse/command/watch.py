"""``platziverse watch``: values as they come, with their agents, types and units."""

import argparse
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from platziverse.command.arguments import topic_filter
from platziverse.command.asking import Asked, events
from platziverse.config import Config
from platziverse.mqtt.topics import matches
from platziverse.settings import ConfigError
from platziverse.words import escaped

#: Rows of a page of the newest values, and agents that are asked about at a time.
PAGE: Final = 1000
#: How often the unit of a type is asked for until it is taken to have none.
TRIES: Final = 5
LATEST: Final = "/api/latest?connected=all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "filter",
        metavar="FILTER",
        type=topic_filter,
        nargs="?",
        default="#",
        help="a Topic Filter over AGENT/TYPE, such as kitchen/# or +/temp; AGENT is a uuid or a name (#)",
    )
    parser.set_defaults(run=watch)


def watch(config: Config, options: argparse.Namespace) -> int:
    """``platziverse watch``: a line for each value, until Ctrl-C."""
    asked = Asked(config)
    names = Names(asked)
    for event, data in events(asked.path, "/api/events"):
        for line in _lines(event, data, names, options.filter):
            print(escaped(line), flush=True)
    raise ConfigError("the daemon has ended the stream")


class Names:
    """Names knows how agents are called, and the units of their types, as far as the daemon does.

    :ivar units: by uuid and type.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._names: dict[str, str] = {}
        # How often a type was asked for, by agent: a value is told before it is stored.
        self._tries: dict[str, dict[str, int]] = {}
        self.units: dict[tuple[str, str], str] = {}
        after: str | None = ""
        while after is not None:
            page = asked.get(f"{LATEST}&limit={PAGE}" + (f"&after={quote(after)}" if after else ""))
            self._note(page["rows"])
            after = page["next"]

    def of(self, uuid: str, types: Any) -> str:
        """Return the name of an agent; one whose name or type is new is asked for."""
        unknown = [type for type in types if (uuid, type) not in self.units]
        tries = self._tries.setdefault(uuid, {})
        if uuid not in self._names or any(tries.get(type, 0) < TRIES for type in unknown):
            tries |= {type: tries.get(type, 0) + 1 for type in unknown}
            self._note(self._asked.get(f"{LATEST}&agent={quote(uuid, safe='')}")["rows"])
            self._names.setdefault(uuid, uuid)
        return self._names[uuid]

    def called(self, uuid: str, name: str) -> None:
        """Note how an agent calls itself."""
        self._names[uuid] = name

    def _note(self, rows: list[Any]) -> None:
        for row in rows:
            self._names[row["uuid"]] = row["name"] or row["uuid"]
            self.units[row["uuid"], row["type"]] = row["unit"] or ""


def _lines(event: str, data: Any, names: Names, wanted: str) -> Iterator[str]:
    if event == "metric":
        uuid, values = data["agent"], data["values"]
        name, now = names.of(uuid, values), _moment(data["time"])
        for type, value in values.items():
            if matches(wanted, f"{uuid}/{type}") or matches(wanted, f"{name}/{type}"):
                unit = names.units.get((uuid, type), "")
                yield f"{now} {name} {type} {value}{' ' if unit else ''}{unit}"
    elif event in ("connected", "disconnected"):
        agent = data["agent"]
        if "name" in agent:
            names.called(agent["uuid"], agent["name"])
        name = names.of(agent["uuid"], ())
        if any(matches(wanted, f"{who}/{event}") for who in (agent["uuid"], name)):
            yield f"{_moment()} {name} {event}"
    elif event == "dropped":
        yield f"{_moment()} {data['events']:,} values are not shown: there were too many"


def _moment(milliseconds: int | None = None) -> str:
    moment = datetime.now() if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000)
    return f"{moment:%H:%M:%S}"
