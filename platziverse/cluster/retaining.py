"""Retaining: every daemon keeps the same Retained Message of a topic in the end."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from platziverse.broker.interfaces import SERVER, Answer, Client
from platziverse.broker.ports import RetainedStore
from platziverse.broker.retaining import DurableRetained
from platziverse.cluster.interest import SYS
from platziverse.mqtt.packets import Publish

#: Seconds in which a message is sent to the others after it was published.
LATE: Final = 10.0
#: Topics whose version is remembered.
LOGGED: Final = 100_000
#: Bits of a version for the number of its daemon, and below a millisecond.
_DAEMON_BITS: Final = 15
_COUNT_BITS: Final = 7


class Retaining:
    """A Retaining gives Retained Messages versions, and knows the highest one of each topic.

    A version is the time in 128ths of a millisecond, or one more than the highest that was ever heard of, and
    the number of the daemon: a hybrid clock. So what is published after something was seen is above it, also
    when clocks differ; two daemons never give the same one; and nobody waits for the database to give it.
    The database keeps the highest version too, and does not know what was cleared: where two were under way
    at once, the one that counts is written again. Decided in ADR 0137.

    :param retained: of the broker; its ``set`` is watched from now on.
    :param daemon: returns our number.
    :param wall_clock: seconds since the epoch.
    """

    def __init__(
        self, retained: RetainedStore, daemon: Callable[[], int], wall_clock: Callable[[], float]
    ) -> None:
        self._retained, self._daemon, self._wall_clock = retained, daemon, wall_clock
        self._highest = 0
        self._versions: OrderedDict[str, int] = OrderedDict()
        # Topic → how many of our own messages are not committed yet.
        self._unsaved: dict[str, int] = {}
        self._set = retained.set
        # Stands before the method of that name, as Loading.publish does. ADR 0116.
        retained.set = self._watched  # type: ignore[method-assign]
        if isinstance(retained, DurableRetained):
            retained.version_of, retained.is_newer = self.version_of, self._is_newer

    def _watched(self, message: Publish, publisher: Client) -> Answer:
        if not message.topic.startswith(SYS):
            self._kept(message.topic)
        return self._save(message, publisher)

    def _save(self, message: Publish, publisher: Client) -> Answer:
        answer = self._set(message, publisher)
        if answer is not None:
            self._unsaved[message.topic] = self._unsaved.get(message.topic, 0) + 1
            answer.addBoth(self._saved, message.topic)
        return answer

    def _saved(self, result: Any, topic: str) -> Any:
        left = self._unsaved.pop(topic) - 1
        if left:
            self._unsaved[topic] = left
        return result

    def version_at(self, seconds: float) -> int:
        """Return the lowest version of a time in seconds since the epoch."""
        return max(0, int(seconds * 1000)) << _COUNT_BITS + _DAEMON_BITS

    def missed_after(self, heard: int) -> int:
        """Return behind which version something may be missing of a daemon up to whose ``heard`` all came.

        What was delayed for a Session on its way is sent behind what is newer.
        """
        return max(0, heard - self.version_at(LATE))

    def _kept(self, topic: str) -> None:
        """Give a message that is published here the next version."""
        now = self.version_at(self._wall_clock()) >> _DAEMON_BITS
        self._note(topic, max(now, (self._highest >> _DAEMON_BITS) + 1) << _DAEMON_BITS | self._daemon())

    def version_of(self, topic: str) -> int:
        """Return the version of what was published last, as far as we know; 0: nobody has said."""
        return self._versions.get(topic, 0)

    def _is_newer(self, topic: str, version: int) -> bool:
        """Return whether a stored message is newer than what we have heard of, and so counts.

        Its daemon may have died before anybody else heard of it, and so has to be able to say it again.
        """
        known = self._versions.get(topic)
        if known is not None and (version < known or (version == known and self._retained.get(topic))):
            return False
        if version > 0:
            self._note(topic, version)
        return True

    def _note(self, topic: str, version: int) -> None:
        self._highest = max(self._highest, version)
        self._versions[topic] = version
        self._versions.move_to_end(topic)
        if len(self._versions) > LOGGED:
            self._versions.popitem(last=False)

    def came(self, message: Publish, publisher: Client, version: int, live: bool) -> None:
        """Keep a message of another daemon, unless a later one is known.

        :param live: it was published a moment ago.
        """
        topic = message.topic
        known = self._versions.get(topic, 0)
        if version > known:
            self._note(topic, version)
            if topic in self._unsaved:
                self._write(message, publisher)  # or ours, which is older, would be written last
            else:
                self._retained.take(message, publisher)
        elif live and known & (1 << _DAEMON_BITS) - 1 == self._daemon():
            self._write_ours(topic)  # the other one, which is older, may be written after it

    def _write_ours(self, topic: str) -> None:
        kept = self._retained.get(topic)
        if kept is None:
            self._write(Publish(topic, b"", 0, True), SERVER)
        else:
            self._write(kept, self._retained.publisher(topic))

    def _write(self, message: Publish, publisher: Client) -> None:
        if (answer := self._save(message, publisher)) is not None:
            answer.addErrback(lambda _: None)  # whoever has published it is answered by its own daemon

    def since(self, version: int) -> list[tuple[str, int]]:
        """Return the topics, with their versions, that were changed after ``version``."""
        return [(topic, known) for topic, known in self._versions.items() if known > version]
