"""The port of the door: what it needs of the room behind it."""

from typing import Any, Protocol

from twisted.internet.interfaces import IAddress, IReactorTime

from platziverse.broker.complaints import Complaints
from platziverse.broker.limits import Limits
from platziverse.broker.traffic import Traffic
from platziverse.net.deadlines import Deadlines


class MQTTSide(Protocol):
    """What is needed of the ``MQTTFactory``. The protocols it builds can be given a deadline."""

    limits: Limits
    traffic: Traffic
    complaints: Complaints
    deadlines: Deadlines
    clock: IReactorTime

    def buildProtocol(self, addr: IAddress | None) -> Any: ...

    def doStart(self) -> None: ...

    def doStop(self) -> None: ...
