"""Delays: wrong passwords slow their sender down; nobody is ever shut out."""

from typing import Final

from attrs import define
from twisted.internet.interfaces import IReactorTime

from platziverse.broker.addresses import neighbourhood
from platziverse.mqtt.memo import Recent

#: Failures that anyone may have before it counts.
FREE: Final = 3
#: Seconds between two attempts after the first failure that counts; doubled by each further one.
FIRST: Final = 0.5
LONGEST: Final = 5.0
#: Seconds without a failure after which an address has a clean record.
FORGIVEN: Final = 300.0
#: Addresses remembered at most; the one whose failure is longest ago goes first.
REMEMBERED: Final = 10_000


@define
class _Record:
    failures: int = 0
    last: float = 0.0
    #: When the next attempt of this address may be looked at.
    free_at: float = 0.0


class LoginDelays:
    """LoginDelays takes attempts of an address with many failures one after the other, slowly.

    :param clock: steady time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._records: Recent[str, _Record] = Recent(REMEMBERED)

    def wait(self, host: str) -> float | None:
        """Return the seconds until an attempt of ``host`` may be checked; ``None``: too many wait already."""
        record = self._records.get(neighbourhood(host))
        now = self._clock.seconds()
        if record is None or now - record.last >= FORGIVEN or record.failures < FREE:
            return 0.0
        starts = max(now, record.free_at)
        if starts - now > LONGEST:
            return None
        record.free_at = starts + min(LONGEST, FIRST * 2.0 ** min(record.failures - FREE, 16))
        return starts - now

    def failed(self, host: str) -> None:
        """Note a failed attempt of ``host``."""
        now = self._clock.seconds()
        host = neighbourhood(host)
        record = self._records.get(host)
        if record is None or now - record.last >= FORGIVEN:
            record = _Record()
        record.failures += 1
        record.last = now
        if record.failures == FREE:
            record.free_at = now + FIRST
        self._records.put(host, record)
