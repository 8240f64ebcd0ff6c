"""Interfaces: the one port of the door, to the room behind it."""

from typing import Any, Protocol

from twisted.internet.interfaces import IAddress

from platziverse.net.shared import Shared


class MQTTSide(Protocol):
    """MQTTSide is the part of ``MQTTFactory`` that the door uses; deadlines can be set for its protocols."""

    shared: Shared

    def buildProtocol(self, addr: IAddress | None) -> Any: ...

    def doStart(self) -> None: ...

    def doStop(self) -> None: ...
