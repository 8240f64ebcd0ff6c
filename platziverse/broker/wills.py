"""UnfinishedWills: Wills that handlers still work on; their clients are gone and cannot be held."""

from twisted.internet.defer import Deferred


class UnfinishedWills:
    """UnfinishedWills counts the Wills that were published and whose handlers have not finished.

    :ivar count: how many there are.
    :ivar bytes: of their payloads together.
    """

    def __init__(self) -> None:
        self.count = self.bytes = 0

    def watch(self, answer: "Deferred[object]", size: int) -> None:
        """Count a Will of ``size`` bytes until ``answer`` fires."""
        self.count += 1
        self.bytes += size
        answer.addCallback(self._finished, size)

    def _finished(self, _: object, size: int) -> None:
        self.count -= 1
        self.bytes -= size
