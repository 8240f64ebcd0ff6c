"""Further rows for the handler table that record: thermometers which do not speak ``agent/message``.

In the configuration, with this file somewhere on PYTHONPATH::

    handlers = ["devices:table"]

Then ``mqtt pub -q 1 -t sensors/kitchen -m '{"temp": 21.5}'`` is acknowledged once the metric is committed in
PostgreSQL, and the agent ``sensor:kitchen`` is connected as long as the publisher is.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from platziverse.agents.interfaces import Record
from platziverse.agents.model import Agent, InvalidReport, Metric, Report
from platziverse.broker.interfaces import Client
from platziverse.broker.reasons import Reason, Refused
from platziverse.mqtt.packets import Publish


def table(publish: Callable[[str, bytes], None], record: Record) -> Mapping[str, Callable[..., Any]]:
    """Topic Filter → handler.

    A handler returns Reports, or a Deferred that fires with them: the acknowledgement waits for their commit.
    Or it calls ``record`` and goes on when they are committed.
    """

    def sensor(message: Publish, client: Client) -> Report:
        """One reading of the sensor that the topic names, e.g. ``sensors/kitchen``."""
        return reading(message, client)

    def alarm(message: Publish, client: Client) -> "Deferred[object]":
        """One reading; whoever subscribed to ``alarms`` hears of it after it is committed.

        :raises Refused: it is retained, and would be raised again. A client of MQTT 5 is told, an older one
            acknowledged.
        """
        if message.retain:
            raise Refused(Reason.NOT_AUTHORIZED, "an alarm is not retained")
        saved = record(message, client, reading(message, client))
        return saved.addCallback(lambda _: publish("alarms", message.payload))

    return {"sensors/+": sensor, "alarms/+/raise": alarm}


def reading(message: Publish, client: Client) -> Report:
    """What the payload says: ``at`` is seconds since the epoch, every other number a metric.

    :raises InvalidReport: the payload is no object; then it is kept in ``rejected_messages``.
    """
    try:
        fields = dict(json.loads(message.payload))
    except (ValueError, TypeError, RecursionError):
        raise InvalidReport("syntax", "the payload is no JSON object") from None
    name = message.topic.split("/")[1]
    agent = Agent(f"sensor:{name}", client.username or "", name, "", 0)
    at = fields.pop("at", None)
    metrics = [Metric(kind, str(value)) for kind, value in fields.items() if type(value) in (int, float)]
    return Report(agent, metrics, measured=at if type(at) in (int, float) else None)
