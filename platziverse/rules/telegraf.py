"""Telegraf: what its outputs.mqtt sends, as lines or as JSON, one metric or a batch, in one form."""

from typing import Any

from platziverse.agents.model import InvalidReport


def in_one_form(document: Any) -> dict[str, Any]:
    """Return the points of a message as ``{"metrics": [...]}``; each has ``name``, ``fields``, ``timestamp``.

    The tags of a point are a part of its name, but for the host, which the topic has: the usage of each
    processor is a metric of its own.

    :param document: of lines or of JSON.
    :raises InvalidReport: it has no points.
    """
    points = document.get("metrics", [document]) if isinstance(document, dict) else None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InvalidReport("fields", "metrics is no array of objects")
    return {"metrics": [_named(point) for point in points]}


def _named(point: dict[str, Any]) -> dict[str, Any]:
    tags = point.get("tags")
    others = sorted(tags.items()) if isinstance(tags, dict) else []
    name = ".".join([f"{point.get('name', '')}", *(f"{value}" for key, value in others if key != "host")])
    return {"name": name, "fields": point.get("fields"), "timestamp": point.get("timestamp")}
