"""What agents publish, which becomes rows: ``agent/message``, and messages of devices with a rule."""

import json
import random
import time
from collections.abc import Callable
from typing import Any

from attrs import define

from tests.crash.deliveries import Deliveries
from tests.crash.ledger import BAD, GOOD, MIXED, Ledger
from tests.crash.publisher import Message, Profile

TOPIC = "agent/message"
#: The type of the metric that is a number, which roll-ups are made of.
COUNT = "count"


def payload_of(uuid: str, n: int, kind: int, timestamped: bool, rng: random.Random) -> bytes:
    """An ``agent/message``; of those that are not good, one of several sorts."""
    agent: dict[str, Any] = {"uuid": uuid, "username": "crash", "name": "crash", "hostname": "here", "pid": 1}
    mark = f"{uuid}:{n}"
    metrics: list[Any] = [{"type": "n", "value": mark}, {"type": "again", "value": mark}]
    metrics.append({"type": COUNT, "value": n})
    if kind == MIXED:
        metrics[1] = {"type": "again", "value": {"mark": mark}}
    sort = rng.randrange(3) if kind == BAD else -1
    if sort == 0:
        agent["pid"] = "one"
    elif sort == 1:
        agent["hostname"] = "\0"
    message: dict[str, Any] = {"agent": agent, "metrics": metrics}
    if timestamped:
        message["timestamp"] = int(time.time() * 1000)
    data = json.dumps(message).encode()
    return data[:-1] if sort == 2 else data


def reading_of(uuid: str, n: int, kind: int, timestamped: bool, rng: random.Random) -> bytes:
    """The same of a device, which the rule in devices.toml reads."""
    mark = f"{uuid}:{n}"
    message: Any = {"n": mark, "again": {"mark": mark} if kind == MIXED else mark, COUNT: n}
    if timestamped:
        message["at"] = int(time.time() * 1000)
    sort = rng.randrange(3) if kind == BAD else -1
    if sort == 0:
        message = {"mark": mark}
    elif sort == 1:
        message = [mark]
    data = json.dumps(message).encode()
    return data[:-1] if sort == 2 else data


@define(eq=False)
class Reports:
    """The work of an agent.

    :param name: uuid of the agent.
    :param payload: makes its messages.
    """

    name: str
    profile: Profile
    ledger: Ledger
    deliveries: Deliveries
    rng: random.Random
    topic: str = TOPIC
    payload: Callable[[str, int, int, bool, random.Random], bytes] = payload_of
    via: int = 0

    def __attrs_post_init__(self) -> None:
        self.ledger.opened(self.name)
        self.deliveries.opened(self.name)

    def next(self) -> Message:
        profile = self.profile
        bad = profile.bad_every and self.rng.randrange(profile.bad_every) == 0
        kind = self.rng.choice((MIXED, BAD)) if bad else GOOD
        qos = self.rng.choice(profile.qos)
        n = self.ledger.sending(self.name, self._once(qos), kind, qos)
        self.deliveries.sending(
            self.name, self.topic, qos, profile.persistent, promised=kind == GOOD, via=self.via
        )
        payload = self.payload(self.name, n, kind, profile.timestamped, self.rng)
        return Message(n, qos, self.topic, payload, valid=kind != BAD)

    def _once(self, qos: int) -> bool:
        """Whether a message is promised to be stored exactly once (at QoS 0: at most once)."""
        return self.profile.timestamped or qos == 0 or (qos == 2 and self.profile.persistent)

    def said(self, message: Message) -> None:
        self.deliveries.said(self.name, message.n, self.via)

    def acknowledged(self, message: Message) -> None:
        self.ledger.acknowledged(self.name, message.n)
        self.deliveries.acknowledged(self.name, message.n)

    def freed(self, message: Message) -> None:
        self.ledger.freed(self.name, message.n)

    def will(self) -> None:
        """Agents leave none."""

    def left(self, orderly: bool) -> None:
        """Nothing depends on it."""

    def is_settled(self, n: int) -> bool:
        return self.ledger.is_settled(self.name, n)
