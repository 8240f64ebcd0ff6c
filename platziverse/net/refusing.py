"""Refusing: while the store is away, clients of MQTT 5 are told no, where older ones are held."""

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from platziverse.broker.turn import Turn
from platziverse.net.flow import MAY_BE_TOLD, STORE, TOLD, FlowControl, Source


class Refusing:
    """A Refusing looks once a second for clients that are held by the store, and lets those be told no.

    They are read from again. What the store needs, and has not been handed, is answered with 0x97 by
    :class:`Connected5`; what was handed to it is answered when it is committed. ADR 0196.

    :ivar is_away: returns whether the store was asked and did not answer.
    """

    def __init__(self, flow: FlowControl, clock: IReactorTime) -> None:
        self._flow, self._clock = flow, clock
        self.is_away: Callable[[], bool] = lambda: False
        self._turn = Turn(clock)
        # Those that are still to be read from again, of this look.
        self._waiting: Iterator[Source] | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin to look."""
        self._loop.start(1.0, now=False)

    def stop(self) -> None:
        """Look no more."""
        self._waiting = None
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        if self._waiting is None and self._flow.held and self.is_away():
            self._waiting = iter(self._flow.sources())
            self._go_on()

    def _go_on(self) -> None:
        """Read from as many as there is time for in a turn; what they have sent may be much."""
        for source in self._waiting or ():
            if source.telling in (MAY_BE_TOLD, TOLD) and source.holds & STORE:
                source.telling = TOLD
                source.resume_reading(STORE)
                if self._turn.is_over:
                    self._clock.callLater(0, self._go_on)
                    return
        self._waiting = None
