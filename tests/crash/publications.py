"""What other publishers publish: numbered messages on topics of their own, Retained Messages, and Wills."""

import random
from typing import Final

from attrs import define

from tests.crash.deliveries import Deliveries
from tests.crash.publisher import Message, Profile

#: Topics of one publisher at one QoS.
TOPICS: Final = 3
#: Bytes that a payload has beside its mark.
SIZES: Final = (0, 0, 40, 300, 300, 3000)
#: One of so many retained messages is empty.
CLEARED_EVERY: Final = 6


@define(eq=False)
class Publications:
    """The work of a publisher: ``post/<name>/<QoS>/<number>``, ``kept/…`` with RETAIN, and ``will/<name>``.

    Message ``n`` begins with its mark ``<name>:<n>``. The Will of connection ``n`` is message ``n`` of
    ``<name>-will``, and owed when the connection is lost after a new message with RETAIN was acknowledged
    on it: that was committed after the Will.
    """

    name: str
    profile: Profile
    deliveries: Deliveries
    rng: random.Random
    via: int = 0
    _connection: int = -1
    #: What proves that the Will is committed, once it is acknowledged.
    _proof: Message | None = None
    _proven: bool = False

    def __attrs_post_init__(self) -> None:
        self.deliveries.opened(self.name)
        self.deliveries.opened(self._will)

    @property
    def _will(self) -> str:
        return f"{self.name}-will"

    def next(self) -> Message:
        qos, every = self.rng.choice(self.profile.qos), self.profile.retain_every
        retain = bool(every and qos) and self.rng.randrange(every) == 0
        topic = f"{'kept' if retain else 'post'}/{self.name}/{qos}/{self.rng.randrange(TOPICS)}"
        empty = retain and self.rng.randrange(CLEARED_EVERY) == 0
        n = self.deliveries.sending(
            self.name, topic, qos, self.profile.persistent, promised=not empty, via=self.via
        )
        payload = b"" if empty else self._payload(self.name, n) + b"." * self.rng.choice(SIZES)
        message = Message(n, qos, topic, payload, retain)
        if retain:
            self.deliveries.retained[topic] = payload
            if not empty:  # to clear what was never kept needs no commit
                self._proof = self._proof or message
        return message

    def _payload(self, name: str, n: int) -> bytes:
        return f"{name}:{n} ".encode()

    def said(self, message: Message) -> None:
        self.deliveries.said(self.name, message.n, self.via)

    def acknowledged(self, message: Message) -> None:
        self.deliveries.acknowledged(self.name, message.n)
        self._proven = self._proven or message is self._proof

    def freed(self, message: Message) -> None:
        """Nothing is promised at QoS 0, whatever happens."""

    def will(self) -> "tuple[str, bytes] | None":
        if not self.profile.retain_every:
            return None
        topic = f"will/{self.name}"
        self._connection = self.deliveries.sending(self._will, topic, 1, persistent=False, loose=True)
        self._proof, self._proven = None, False
        return topic, self._payload(self._will, self._connection)

    def left(self, orderly: bool) -> None:
        if self._proven and not orderly:
            self.deliveries.acknowledged(self._will, self._connection)

    def is_settled(self, n: int) -> bool:
        return self.deliveries.is_settled(self.name, n)
