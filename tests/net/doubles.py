"""Handlers for tests of connections."""

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import Answer, Client
from platziverse.mqtt.packets import Publish


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
