"""AgentHandlers: what ``agent/message`` means."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from platziverse.agents.interfaces import Client
from platziverse.agents.model import InvalidReport
from platziverse.agents.payload import parse
from platziverse.agents.pending import Redeliveries, refused_or
from platziverse.agents.recorder import Recorder
from platziverse.broker.records import Delivery
from platziverse.mqtt.packets import Publish


class AgentHandlers:
    """An AgentHandlers is the handler of ``agent/message``, and has it as a table.

    :param recorder: saves the Reports.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.table: Mapping[str, Callable[[Publish, Client], Deferred[Any]]] = {"agent/message": self}
        self._recorder = recorder
        self._redeliveries = Redeliveries()

    def __call__(self, message: Publish, client: Client, /) -> "Deferred[Any]":
        """Save an ``agent/message``; the Deferred fires when it is stored, as rows or as a Rejection."""
        recorder = self._recorder
        outlives = client.persistent and message.packet_id is not None
        if outlives:
            answer = self._redeliveries.find(message, client)
            if answer is not None:
                recorder.redelivered += 1
                return answer.addCallback(refused_or, self.repeated, message, client)
        now = recorder.wall_clock()
        try:
            report = parse(message, client.client_id, now, recorder.limits)
            known = recorder.admit(report, client)
        except InvalidReport as error:
            answer = recorder.reject(message, client, error, now)
        else:
            if outlives and message.qos == 2:
                report.delivery = Delivery.of(message, client.client_id)
            answer = recorder.save(report, client, known)
        if outlives:
            self._redeliveries.watch(message, client, answer)
        return answer

    def repeated(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Let the connection speak for the agent of a message that is stored, and has come again over it."""
        recorder = self._recorder
        try:
            report = parse(message, client.client_id, recorder.wall_clock(), recorder.limits)
        except InvalidReport:  # as when it came first, and was rejected
            return None
        return recorder.arrive(report, client)
