"""A store that keeps its answers to itself, and clients without a broker."""

from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed

from platziverse.agents.model import Entry
from platziverse.mqtt.packets import Publish

NOW = 1_511_128_000.5

COURSE = (
    b'{"agent": {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10, '
    b'"hostname": "platzibogota"}, "metrics": [{"type": "memory", "value": "1001"}, '
    b'{"type": "temp", "value": "33"}]}'
)


def of_agent(uuid: str, more: bytes = b"") -> bytes:
    """The course's message from another agent; ``more`` goes before the last bracket."""
    return COURSE.replace(b"yyy", uuid.encode())[:-1] + more + b"}"


def message(
    payload: bytes = COURSE, qos: int = 0, packet_id: int | None = None, dup: bool = False
) -> Publish:
    return Publish("agent/message", payload, qos, packet_id=packet_id, dup=dup)


@frozen
class FakeClient:
    client_id: str
    number: int = 1
    username: str | None = None
    persistent: bool = False
    address: str = "192.0.2.1:50000"


class HeldStore:
    """A ReportStore that commits when it is told to.

    :ivar entries: everything saved, in order.
    """

    def __init__(self, held: bool = True) -> None:
        self.entries: list[Entry] = []
        self.held = held
        self.stopped = False
        self._answers: list[Deferred[None]] = []

    def save(self, entry: Entry) -> "Deferred[None]":
        self.entries.append(entry)
        if self.stopped:
            return fail(RuntimeError("stopped"))
        if not self.held:
            return succeed(None)
        answer: Deferred[None] = Deferred()
        self._answers.append(answer)
        return answer

    def commit(self) -> None:
        """Fire everything saved so far."""
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.callback(None)

    def refuse(self, error: Exception) -> None:
        """Refuse what waits."""
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.errback(error)

    def stop(self) -> None:
        """Refuse what waits and what comes."""
        self.stopped = True
        self.refuse(RuntimeError("stopped"))

    def of(self, kind: type) -> list[Entry]:
        return [entry for entry in self.entries if isinstance(entry, kind)]
