"""Handlers and a broker for tests of connections."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from platziverse.broker.broker import Broker
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.interfaces import Answer, Client, Handler
from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Publish
from platziverse.net.factory import MQTTFactory
from platziverse.net.shared import Shared
from platziverse.testing import BrokerHarness, OpenAuthority


class Store:
    """A handler that commits when it is told to."""

    def __init__(self) -> None:
        self.messages: list[Publish] = []
        self.clients: list[Client] = []
        self.answers: list[Deferred[object]] = []

    def __call__(self, message: Publish, client: Client) -> Answer:
        self.messages.append(message)
        self.clients.append(client)
        self.answers.append(Deferred())
        return self.answers[-1]

    def commit(self, *numbers: int) -> None:
        for number in numbers or range(len(self.answers)):
            if not self.answers[number].called:
                self.answers[number].callback(None)


class LateBroker(Broker):
    """A broker whose answers come when the test says so.

    :ivar late: names of the methods that wait; every other answers at once.
    :ivar waiting: for each call that waits, its Deferred and what it will do.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.late: set[str] = set()
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def connect(self, *arguments: Any) -> Any:
        return self._later("connect", super().connect, *arguments)

    def subscribe(self, *arguments: Any) -> Any:
        return self._later("subscribe", super().subscribe, *arguments)

    def unsubscribe(self, *arguments: Any) -> Any:
        return self._later("unsubscribe", super().unsubscribe, *arguments)

    def received(self, *arguments: Any) -> Any:
        return self._later("received", super().received, *arguments)

    def released(self, *arguments: Any) -> Any:
        return self._later("released", super().released, *arguments)

    def answer(self, *numbers: int) -> None:
        """Do what was asked for and say so; ``numbers`` count all calls that waited, from 0."""
        for number in numbers or range(len(self.waiting)):
            answer, function = self.waiting[number]
            if not answer.called:
                answer.callback(function())

    def refuse(self, error: Exception, number: int = 0) -> None:
        """The answer is that it failed."""
        self.waiting[number][0].errback(error)

    def _later(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if name not in self.late:
            return function(*arguments)
        answer: Deferred[Any] = Deferred()
        self.waiting.append((answer, partial(function, *arguments)))
        return answer


class LateHarness(BrokerHarness):
    """A harness with a :class:`LateBroker`.

    :param late: names of its methods that wait.
    """

    def __init__(
        self,
        *late: str,
        limits: Limits | None = None,
        table: Mapping[str, Handler] | None = None,
        broker: type[LateBroker] = LateBroker,
    ) -> None:
        super().__init__(table, limits)
        self.shared.stop()
        dispatcher, clock = TopicDispatcher(table or {}), self.clock
        self.late = broker(limits or Limits(), dispatcher, OpenAuthority(), clock, clock.seconds)
        self.late.late.update(late)
        self.broker = self.late
        self.shared = Shared(self.late, self.clock)
        self.factory = MQTTFactory(self.shared)
