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
        from rich.live import Live
    except ModuleNotFoundError:
        raise ConfigError(MISSING) from None
    if not sys.stdout.isatty():
        raise ConfigError("top needs a terminal; platziverse stats writes the same once")
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
    slow = handlers(page, before)
    happened = [row for row in counted(page) if row[2] != "0"]
    first = [_table(rows) for rows in (happened, latencies(page), [("now", ""), *holdings(page)], slow)]
    return Group(head, Text(), Columns(first, padding=(0, 4)), Text(), _table(_rows(clients)))


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
    return [("client", "user", "address", "filters", "messages wait", "dropped"), *rows]


def _table(rows: list[tuple[str, ...]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    head, *body = rows
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(head):
        left = number == 0 or (head[0] == "client" and number < 3)
        table.add_column(Text(name), justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for row in body:
        table.add_row(*map(Text, row))
    return table
