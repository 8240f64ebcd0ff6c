"""MQTTFactory: makes a connection of every client that knocks."""

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory

from platziverse.net.connection import Connection
from platziverse.net.shared import Shared
from platziverse.net.tracing import traced, traced_by_client


class MQTTFactory(ServerFactory):
    """An MQTTFactory makes connections over any ordered stream of bytes [MQTT-7.1.1-1], and nothing else.

    :param shared: all that the connections have in common.
    """

    noisy = False

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """Make a connection; while somebody traces, one that tells the log of its packets."""
        shared = self.shared
        if shared.tracing:
            return traced(shared)
        return traced_by_client(shared) if shared.traced or shared.heard else Connection(shared)
