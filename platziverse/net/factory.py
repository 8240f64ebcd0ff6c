"""MQTTFactory: makes a connection of every client that knocks."""

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory

from platziverse.net.connection import Connection
from platziverse.net.shared import Shared
from platziverse.net.tracing import traced


class MQTTFactory(ServerFactory):
    """An MQTTFactory makes connections over any ordered stream of bytes [MQTT-7.1.1-1], and nothing else.

    :param shared: all that the connections have in common.
    """

    noisy = False

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """Make a connection, one that tells the log of its packets while tracing is on."""
        return traced(self.shared) if self.shared.tracing else Connection(self.shared)
