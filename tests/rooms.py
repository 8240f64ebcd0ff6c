"""The rooms of the house: who may import whom, and how docs/architecture.rst shows it."""

import ast
import re
from pathlib import Path
from typing import Final

from attrs import frozen

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "platziverse"
PAGE: Final = ROOT / "docs" / "architecture.rst"
DECISIONS: Final = ROOT / "docs" / "adr"


@frozen
class Room:
    """What the modules of one package may import beside the standard library.

    :param ours: prefixes of our own modules, the room itself included.
    :param theirs: prefixes of other people's modules.
    :param never: modules of the standard library that would break the room's promise.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


DEFERRED = ("attrs", "twisted.internet.defer", "twisted.logger", "twisted.python.failure")

ROOMS = {
    "mqtt": Room(
        ours=("platziverse.mqtt",),
        theirs=("msgspec",),
        never=("logging", "time", "random", "secrets", "os", "socket", "threading", "datetime"),
    ),
    "broker": Room(
        ours=("platziverse.broker", "platziverse.mqtt"),
        theirs=(*DEFERRED, "twisted.internet.interfaces", "twisted.internet.task"),
        never=("json", "socket", "time", "os", "logging"),
    ),
    "agents": Room(
        ours=(
            "platziverse.agents",
            "platziverse.errors",
            "platziverse.times",
            "platziverse.mqtt.memo",
            "platziverse.mqtt.packets",
            "platziverse.mqtt.topics",
            "platziverse.broker.reasons",
            "platziverse.broker.records",
        ),
        theirs=(*DEFERRED, "twisted.internet.interfaces", "msgspec"),
        never=("socket", "time", "os", "logging"),
    ),
    "rules": Room(
        ours=(
            "platziverse.rules",
            "platziverse.agents",
            "platziverse.broker.records",
            "platziverse.errors",
            "platziverse.mqtt",
            "platziverse.times",
            "platziverse.words",
        ),
        theirs=("attrs", "msgspec", "twisted.internet.defer"),
        never=("socket", "time", "logging", "threading"),
    ),
    "ingest": Room(
        ours=(
            "platziverse.ingest",
            "platziverse.postgres",
            "platziverse.agents.model",
            "platziverse.broker.records",
            "platziverse.errors",
        ),
        theirs=("attrs", "twisted", "psycopg2"),
    ),
    "durable": Room(
        ours=(
            "platziverse.durable",
            "platziverse.broker.ports",
            "platziverse.broker.places",
            "platziverse.broker.records",
            "platziverse.ingest",
            "platziverse.mqtt.properties",
            "platziverse.postgres",
        ),
        theirs=("attrs", "twisted", "psycopg2"),
    ),
    "postgres": Room(
        ours=("platziverse.postgres", "platziverse.errors"),
        theirs=("attrs", "twisted", "txpostgres", "psycopg2", "msgspec", "zope.interface"),
    ),
    "embedded": Room(
        ours=("platziverse.embedded", "platziverse.postgres.connection", "platziverse.errors"),
        theirs=("attrs", "twisted", "psycopg2"),
    ),
    "net": Room(
        ours=("platziverse.net", "platziverse.broker", "platziverse.mqtt", "platziverse.errors"),
        theirs=("twisted", "cryptography"),
        never=("json",),
    ),
    "door": Room(
        ours=(
            "platziverse.door",
            "platziverse.net",
            "platziverse.broker.addresses",
            "platziverse.broker.complaints",
            "platziverse.broker.limits",
            "platziverse.broker.traffic",
            "platziverse.errors",
        ),
        theirs=("attrs", "twisted", "zope.interface", "wsproto", "OpenSSL", "cryptography"),
        never=("json",),
    ),
    "cluster": Room(
        ours=("platziverse.cluster", "platziverse.broker", "platziverse.mqtt"),
        theirs=(
            "attrs",
            "msgspec",
            "twisted.internet.defer",
            "twisted.internet.interfaces",
            "twisted.internet.task",
            "twisted.logger",
            "twisted.python.failure",
        ),
        never=("json", "socket", "time", "os", "logging", "threading"),
    ),
    "bus": Room(
        ours=(
            "platziverse.bus",
            "platziverse.broker.complaints",
            "platziverse.broker.ports",
            "platziverse.errors",
            "platziverse.postgres",
        ),
        theirs=("attrs", "twisted", "hiredis", "psycopg2", "OpenSSL", "cryptography"),
    ),
    "access": Room(
        ours=(
            "platziverse.access",
            "platziverse.mqtt.memo",
            "platziverse.errors",
            "platziverse.mqtt.topics",
            "platziverse.mqtt.packets",
            "platziverse.mqtt.errors",
            "platziverse.broker.interfaces",
            "platziverse.broker.addresses",
        ),
        theirs=("attrs", "twisted", "zope.interface", "argon2", "scramp"),
    ),
    "web": Room(
        ours=(
            "platziverse.web",
            "platziverse.times",
            "platziverse.broker.addresses",
            "platziverse.broker.ports",
            "platziverse.broker.sessions",
            "platziverse.broker.traffic",
            "platziverse.broker.turn",
            "platziverse.mqtt.details",
        ),
        theirs=("attrs", "twisted", "msgspec", "prometheus_client", "zope.interface"),
    ),
}

#: What stands above the rooms, and who of ours may import it.
ABOVE = {
    "platziverse.command": (),
    "platziverse.daemon": ("platziverse.command", "platziverse.service"),
    "platziverse.config": ("platziverse.command", "platziverse.daemon", "platziverse.service"),
    "platziverse.settings": ("platziverse.command", "platziverse.daemon", "platziverse.config"),
    "platziverse.service": (),
    "platziverse.testing": (),
}


INDEX_HEAD: Final = """\
=========
Decisions
=========

Each page is a decision that someone may want to undo: what was decided, because of what, and what it costs.
They are numbered by subject, so numbers are missing. ``make conformance`` writes this index.
"""


def page() -> str:
    """The text of the page."""
    return PAGE.read_text(encoding="utf-8")


def architecture(text: str) -> str:
    """``text`` with the tree and the table of this moment between their marks."""
    for name, part in (("tree", tree()), ("table", table())):
        text = re.sub(
            rf"(\.\. {name}: begin\n).*?(\.\. {name}: end)",
            lambda found, part=part: f"{found[1]}\n{part}\n{found[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def decisions() -> str:
    """The index of the pages of decisions, by their titles."""
    pages = sorted(path for path in DECISIONS.glob("*.rst") if path.stem != "README")
    titles = {path.name: path.read_text(encoding="utf-8").partition("\n")[0] for path in pages}
    lines = [f"* `{title.replace('`', '')} <{name}>`_" for name, title in titles.items()]
    return "\n".join([INDEX_HEAD, *lines]) + "\n"


def tree() -> str:
    """Each room with its purpose and its modules."""
    lines = ["::", "", "    platziverse/"]
    for folder in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        purpose = text.partition("\n\n")[0].partition(": ")[2]
        lines.append(f"      {folder.name + '/':<11} {purpose.replace('``', '')}")
        names = " ".join(sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__"))
        lines += [f"                  {line}" for line in _wrapped(names)]
    alone = " ".join(sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"))
    lines += [f"      {line}" for line in _wrapped(alone)]
    return "\n".join(lines) + "\n"


def table() -> str:
    """Each room with what it may import."""
    rows = [("room", "of ours", "of others", "never")]
    for name, room in ROOMS.items():
        ours = [one.removeprefix("platziverse.") for one in room.ours if one != f"platziverse.{name}"]
        rows.append((name, ", ".join(ours) or "–", ", ".join(room.theirs), ", ".join(room.never) or "–"))
    head, *body = rows
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *body):
        lines += [f"   {'*' if not index else ' '} - {cell}" for index, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def _wrapped(names: str, width: int = 84) -> list[str]:
    lines = [""]
    for name in names.split():
        if len(lines[-1]) + len(name) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {name}".strip()
    return lines
