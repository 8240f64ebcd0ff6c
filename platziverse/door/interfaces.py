"""The port of the door: what it needs of the room behind it."""

from typing import Any, Protocol

from twisted.internet.interfaces import IAddress

from platziverse.net.shared import Shared


class MQTTSide(Protocol):
    """What is needed of the ``MQTTFactory``. The protocols it builds can be given a deadline."""

    shared: Shared

    def buildProtocol(self, addr: IAddress | None) -> Any: ...

    def doStart(self) -> None: ...

    def doStop(self) -> None: ...
