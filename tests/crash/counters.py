"""The counters of a daemon, as its page of them says."""

import urllib.error
import urllib.request
from collections.abc import Mapping


def scrape(port: int) -> "dict[str, float] | None":
    """``/metrics`` of the daemon at this port by name and labels, ``None`` without such a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
    rows = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, _, value in rows}


def books(scraped: Mapping[str, float]) -> "dict[str, float | None]":
    """received, stored, duplicates, rejected, given up and pending, in this order."""
    names = ("received", "stored", "duplicates", "rejected", "given_up", "pending")
    return {name: _counter(scraped, name) for name in names}


def _counter(scraped: Mapping[str, float], name: str) -> "float | None":
    wanted = (f"platziverse_ingest_{name}", f"platziverse_ingest_{name}_total")
    return next((value for key, value in scraped.items() if key in wanted), None)
