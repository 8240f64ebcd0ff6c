"""``platziverse stats``: how a running daemon is, once, as text or as JSON; ``top`` shows the same."""

import argparse
import json
from typing import Any, Final

from platziverse.command.asking import Asked
from platziverse.config import Config

#: Of which the names of rates and totals are made.
_COUNTED: Final = (
    ("messages received", "messagesReceived"),
    ("messages sent", "messagesSent"),
    ("messages dropped", "messagesDropped"),
    ("messages denied", "messagesDenied"),
    ("bytes received", "bytesReceived"),
    ("bytes sent", "bytesSent"),
    ("connects", "connectsAccepted"),
    ("connects refused", "connectsRefused"),
    ("reports stored", "reportsStored"),
    ("reports rejected", "reportsRejected"),
)
_LATENCIES: Final = (("PUBLISH to PUBACK", "puback"), ("commit", "commit"), ("turn of the reactor", "turn"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--json", action="store_true", help="as JSON, the answer of /api/broker")
    parser.set_defaults(run=stats)


def stats(config: Config, options: argparse.Namespace) -> int:
    """``platziverse stats``: some lines."""
    page = Asked(config).get("/api/broker")
    if options.json:
        print(json.dumps(page, indent=2))
        return 0
    print(headline(page))
    for rows in (counted(page), latencies(page), holdings(page), handlers(page)):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        print()
        for name, *cells in rows:
            shown = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            print(f"{name.ljust(widths[0])}  {shown}")
    return 0


def headline(page: Any) -> str:
    """Return one line of what runs, since when, and how its database is."""
    workers = f", {page['workers']} workers" if "workers" in page else ""
    state = page["database"]["state"]
    return (
        f"platziverse {page['version']}{workers}, running for {span(page['uptime'])}, the database is {state}"
    )


def counted(page: Any) -> list[tuple[str, ...]]:
    """Return a table of rates and totals."""
    rates, totals = page["rates"], page["totals"]
    rows = [
        (name, size(rates[key]), size(totals[key]))
        if key.startswith("bytes")
        else (name, number(rates[key]), f"{totals[key]:,}")
        for name, key in _COUNTED
    ]
    return [("", "a second", "in all"), *rows]


def latencies(page: Any) -> list[tuple[str, ...]]:
    """Return a table of times."""
    rows = [
        (name, milliseconds(page["latency"][key]["p50"]), milliseconds(page["latency"][key]["p99"]))
        for name, key in _LATENCIES
    ]
    return [("milliseconds", "half", "99 %"), *rows]


def holdings(page: Any) -> list[tuple[str, ...]]:
    """Return a table of what is there now."""
    clients, queues, memory = page["clients"], page["queues"], page["memory"]
    budget = f" of {size(memory['budget'])}" if memory["budget"] else ""
    return [
        ("clients connected", f"{clients['connected']:,}"),
        ("agents connected", f"{clients['agents']:,}"),
        ("Sessions, absent", f"{clients['sessions']:,}, {clients['absent']:,}"),
        ("Subscriptions", f"{clients['subscriptions']:,}"),
        ("Retained Messages", f"{clients['retainedMessages']:,}"),
        ("daemons", f"{clients['daemons']:,}"),
        ("unfinished messages", f"{queues['unfinishedMessages']:,}"),
        ("reports that wait", f"{queues['pendingReports'] + queues['waitingEntries']:,}"),
        ("connections held", f"{queues['heldConnections']:,}"),
        ("memory", f"{size(memory['used'])}{budget}"),
    ]


def handlers(page: Any, before: Any = None) -> list[tuple[str, ...]]:
    """Return a table of the tables of handlers, the slowest first.

    :param before: an earlier page: only what has happened since counts.
    """
    past = {row["name"]: row for row in before["handlers"]} if before is not None else {}
    rows = []
    for row in page["handlers"]:
        old = past.get(row["name"], {"calls": 0, "seconds": 0.0})
        calls, seconds = row["calls"] - old["calls"], row["seconds"] - old["seconds"]
        rows.append((seconds / calls if calls else 0.0, row["name"], calls))
    rows.sort(key=lambda row: row[0], reverse=True)
    shown = [(name, f"{calls:,}", milliseconds(each)) for each, name, calls in rows]
    return [("handlers", "messages", "ms each"), *shown] if shown else [("handlers", "none")]


def number(value: float) -> str:
    """Return a rate with no more digits than it needs."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds, or a sign that there was none."""
    return "–" if seconds is None else f"{1000 * seconds:,.1f}"


def size(count: float) -> str:
    """Return bytes in a unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def span(seconds: float) -> str:
    """Return a time as days, hours, minutes and seconds."""
    whole = int(seconds)
    days, rest = divmod(whole, 86_400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} days {clock}" if days else clock
