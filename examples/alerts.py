"""Further rows for the handler table: an alert for every metric above its threshold.

In the configuration, with this file somewhere on PYTHONPATH::

    handlers = ["alerts:table"]

Then ``mqtt sub -t 'alert/#' -v`` shows ``alert/yyy {"type": "temp", "value": 33.0, "above": 30.0}``.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from platziverse.broker.interfaces import Client, Handler
from platziverse.mqtt.packets import Publish

THRESHOLDS: Final[Mapping[str, float]] = {"temp": 30.0, "memory": 4096.0}


def table(publish: Callable[[str, bytes], None]) -> Mapping[str, Handler]:
    """Topic Filter → handler.

    A handler that answers with a Deferred holds back the acknowledgement until it fires; this one has
    nothing to wait for. Whether the message is valid is decided, and told, elsewhere.
    """

    def check(message: Publish, client: Client) -> None:
        try:
            report = json.loads(message.payload)
            uuid, metrics = str(report["agent"]["uuid"]), report["metrics"]
            readings = [(str(metric["type"]), float(metric["value"])) for metric in metrics]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return
        for kind, value in readings:
            if value > THRESHOLDS.get(kind, float("inf")) and not set("+#") & set(uuid):
                publish(f"alert/{uuid}", _encoded(kind, value))

    return {"agent/message": check}


def _encoded(kind: str, value: float) -> bytes:
    alert: dict[str, Any] = {"type": kind, "value": value, "above": THRESHOLDS[kind]}
    return json.dumps(alert).encode()
