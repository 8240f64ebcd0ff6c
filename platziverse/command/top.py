"""``platziverse top``: one screen of a running daemon, new each second, by rich (the extra ``top``)."""

import argparse
import sys
import time
from typing import Any, Final

from platziverse.command.asking import Asked
from platziverse.command.stats import counted, handlers, headline, holdings, latencies
from platziverse.config import Config
from platziverse.settings import ConfigError
from platziverse.words import escaped

#: Seconds between two looks.
EVERY: Final = 1.0
#: Clients that are shown: those for which most waits.
CLIENTS: Final = 20
MISSING: Final = "top needs the package rich: pip install 'platziverse[top]'; platziverse stats needs nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes: nothing."""
    parser.set_defaults(run=top)


def top(config: Config, options: argparse.Namespace) -> int:
    """``platziverse top``: until Ctrl-C."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ModuleNotFoundError:
        raise ConfigError(MISSING) from None
    if not sys.stdout.isatty() or Console().is_dumb_terminal:
        raise ConfigError(
            "top needs a terminal whose cursor can be moved (TERM); platziverse stats writes the same once"
        )
    asked = Asked(config)
    page = asked.get("/api/broker")
    before = page
    with Live(screen(page, before, _clients(asked)), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY)
            before, page = page, asked.get("/api/broker")
            live.update(screen(page, before, _clients(asked)), refresh=True)


def _clients(asked: Asked) -> list[Any]:
    """Return some of the first clients, those first for which most waits."""
    rows = asked.get("/api/clients?limit=1000")
    rows.sort(key=lambda row: (row["queue"], row["dropped"]), reverse=True)
    found: list[Any] = rows[:CLIENTS]
    return found


def screen(page: Any, before: Any, clients: list[Any]) -> Any:
    """Return what rich shows.

    :param page: of ``/api/broker``; ``before`` is that of the second before.
    """
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    ready = page["database"]["state"] == "ready"
    head = Text(escaped(headline(page)), style="bold" if ready else "bold red")
    happened = [row for row in counted(page) if row[2] not in ("0", "0 B")]
    held = [row for row in holdings(page) if row[1] != "0"]
    slow = handlers(page, before)
    left = _below(happened if len(happened) > 1 else [], latencies(page))
    right = _below([("now", ""), *held], slow if page["handlers"] else [])
    return Group(head, Text(), Columns([left, right], padding=(0, 2)), Text(), _table(_rows(clients)))


def _below(*tables: list[tuple[str, ...]]) -> Any:
    """Return the tables that have rows, one below the other: so two columns fit 80, and clients 24 lines."""
    from rich.console import Group
    from rich.text import Text

    shown = [part for rows in tables if rows for part in (Text(), _table(rows))]
    return Group(*shown[1:])


def _rows(clients: list[Any]) -> list[tuple[str, ...]]:
    rows = [
        (
            escaped(row["id"]),
            escaped(row["user"] or "–"),
            row["address"],
            f"{row['subscriptionCount']:,}",
            f"{row['queue']:,}",
            f"{row['dropped']:,}",
        )
        for row in clients
    ]
    return [("client", "user", "address", "filters", "waiting", "dropped"), *rows]


def _table(rows: list[tuple[str, ...]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    head, *body = rows
    clients = head[0] == "client"
    table = Table(box=None, pad_edge=False, expand=clients)
    for number, name in enumerate(head):
        left = number == 0 or (clients and number < 3)
        # Client Identifiers have the room that is left, and are cut.
        ratio = 1 if clients and number == 0 else None
        justify: Any = "left" if left else "right"
        table.add_column(Text(name), justify=justify, ratio=ratio, no_wrap=True, overflow="ellipsis")
    for row in body:
        table.add_row(*map(Text, row))
    return table
