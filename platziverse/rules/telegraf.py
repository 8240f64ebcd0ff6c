"""Telegraf: what its outputs.mqtt sends, as lines or as JSON, one metric or a batch, in one form."""

from typing import Any

from platziverse.agents.model import InvalidReport
from platziverse.rules.formats import read_json
from platziverse.rules.influx import read_lines


def read(topic: str, payload: bytes) -> dict[str, Any]:
    """Return the points of a message as ``{"metrics": [...]}``; each has ``name``, ``fields``, ``timestamp``.

    The tags of a point are a part of its name, but for the host, which the topic has: the usage of each
    processor is a metric of its own.

    :raises InvalidReport: it is neither JSON of Telegraf nor lines.
    """
    points: Any
    if payload[:1] == b"{":
        document = read_json(topic, payload)
        points = document.get("metrics", [document])
    else:
        points = _lines(payload)
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InvalidReport("fields", "metrics is no array of objects")
    return {"metrics": [_named(point) for point in points]}


def _lines(payload: bytes) -> list[dict[str, Any]]:
    try:
        return read_lines(payload.decode())
    except ValueError as error:
        raise InvalidReport("syntax", " ".join(str(error).split())) from None


def _named(point: dict[str, Any]) -> dict[str, Any]:
    tags = point.get("tags")
    others = sorted(tags.items()) if isinstance(tags, dict) else []
    name = ".".join([f"{point.get('name', '')}", *(f"{value}" for key, value in others if key != "host")])
    return {"name": name, "fields": point.get("fields"), "timestamp": point.get("timestamp")}
