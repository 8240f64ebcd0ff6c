"""AgentHandlers: what ``agent/message`` means."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from platziverse.agents.interfaces import Client
from platziverse.agents.model import InvalidReport
from platziverse.agents.payload import parse
from platziverse.agents.pending import Redeliveries
from platziverse.agents.recorder import Recorder, delivery_of
from platziverse.mqtt.packets import Publish


class AgentHandlers:
    """AgentHandlers are rows of the handler table.

    :param recorder: saves the Reports.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.table: Mapping[str, Callable[[Publish, Client], Deferred[Any]]] = {"agent/message": self.message}
        self._recorder = recorder
        self._redeliveries = Redeliveries()

    def message(self, message: Publish, client: Client, /) -> "Deferred[Any]":
        """Save an ``agent/message``; the Deferred fires when it is stored, as rows or as a Rejection."""
        recorder = self._recorder
        outlives = client.persistent and message.packet_id is not None
        if outlives:
            answer = self._redeliveries.find(message, client)
            if answer is not None:
                recorder.redelivered += 1
                return answer
        now = recorder.wall_clock()
        try:
            report = parse(message, client.client_id, now, recorder.limits)
            known = recorder.admit(report, client)
        except InvalidReport as error:
            answer = recorder.reject(message, client, error, now)
        else:
            if outlives and message.qos == 2:
                report.delivery = delivery_of(message, client)
            answer = recorder.save(report, client, known)
        if outlives:
            self._redeliveries.watch(message, client, answer)
        return answer
