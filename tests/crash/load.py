"""The load: many agents on real sockets, all in one thread."""

import random
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from tests.crash.bystander import Bystander
from tests.crash.client import Agent, Profile
from tests.crash.ledger import Ledger
from tests.crash.talker import Talker

T = TypeVar("T")

#: Seconds between two looks at what every agent has to do.
TICK: Final = 0.01

PROFILES: Final = (
    Profile("qos1", (1,), persistent=True, timestamped=True, rate=60),
    Profile("qos1 with bad ones", (1,), persistent=True, timestamped=True, bad_every=12),
    Profile("qos2", (2,), persistent=True, timestamped=True),
    Profile("qos2, no timestamp", (2,), persistent=True, timestamped=False),
    Profile("qos2, no timestamp, resets", (2,), True, False, stay=40, manner="reset"),
    Profile("qos2, no timestamp, taken over", (2,), True, False, stay=60, manner="abandon"),
    Profile("clean qos1", (1,), persistent=False, timestamped=True, window=64, rate=80),
    Profile("clean qos1, no timestamp", (1,), persistent=False, timestamped=False),
    Profile("clean qos2", (2,), persistent=False, timestamped=True),
    Profile("qos0", (0,), persistent=False, timestamped=True),
    Profile("qos0 comes and goes", (0,), persistent=False, timestamped=True, stay=8),
    Profile("mixed", (0, 1, 2), persistent=True, timestamped=True, bad_every=25),
    Profile("mixed comes and goes", (0, 1, 2), True, True, stay=30),
    Profile("mixed resets", (0, 1, 2), True, True, stay=30, manner="reset"),
    Profile("mixed taken over", (0, 1, 2), True, True, stay=50, manner="abandon"),
    Profile("clean, taken over", (1,), False, True, stay=40, manner="abandon"),
)


class Load(threading.Thread):
    """:param agents: how many, dealt out over the profiles in turn."""

    def __init__(self, port: int, ledger: Ledger, seed: int, agents: int, rate: float = 1.0) -> None:
        super().__init__(name="load", daemon=True)
        self.ledger = ledger
        self._rng = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._watched: dict[Talker, tuple[socket.socket, int]] = {}
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._sending, self._going = True, True
        self._trigger: tuple[int, Callable[[], None]] | None = None
        self._rate = rate
        address = ("127.0.0.1", port)
        self.bystander = Bystander(name=f"bystander-{seed:x}", address=address, ledger=ledger)
        self.agents = [self._agent(f"agent-{seed:x}-{number}", number, address) for number in range(agents)]

    def _agent(self, uuid: str, number: int, address: tuple[str, int]) -> Agent:
        self.ledger.opened(uuid)
        profile = PROFILES[number % len(PROFILES)]
        rng = random.Random(self._rng.random())
        return Agent(uuid=uuid, profile=profile, ledger=self.ledger, address=address, rng=rng)

    # -- the thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """Until ``stop``; an error in here is a violation, or nothing would notice that the load is gone."""
        try:
            self._loop()
        except Exception as error:
            self.ledger.violation("the load broke", repr(error))
            raise
        finally:
            for talker in self._talkers():
                talker.end()
            self._selector.close()

    def _talkers(self) -> "list[Talker]":
        return [*self.agents, self.bystander]

    def _loop(self) -> None:
        ticked = time.monotonic()
        while self._going:
            for key, events in self._selector.select(max(0.0, ticked + TICK - time.monotonic())):
                self._serve(key.data, events)
            while not self._orders.empty():
                self._orders.get()()
            now = time.monotonic()
            if now - ticked >= TICK:
                elapsed, ticked = (now - ticked) * self._rate, now
                for talker in self._talkers():
                    talker.tick(now, elapsed, self._sending)
                    self._flush(talker, now)

    def _serve(self, talker: Talker, events: int) -> None:
        now = time.monotonic()
        if events & selectors.EVENT_READ and talker.sock is not None:
            talker.readable(now)
        if events & selectors.EVENT_WRITE and talker.sock is not None:
            talker.writable(now)
        self._flush(talker, now)
        if self._trigger and self.ledger.acked >= self._trigger[0]:
            (_, act), self._trigger = self._trigger, None
            act()

    def _flush(self, talker: Talker, now: float) -> None:
        if talker.out and talker.state != "dialing" and talker.sock is not None:
            talker.writable(now)
        self._watch(talker)

    def _watch(self, talker: Talker) -> None:
        """Ask the selector for what this one waits for."""
        before, sock = self._watched.get(talker), talker.sock
        writing = talker.out or talker.state == "dialing"
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if before is not None and sock is not before[0]:
            self._selector.unregister(before[0])
            del self._watched[talker]
            before = None
        if sock is not None and before is None:
            self._selector.register(sock, events, talker)
            self._watched[talker] = sock, events
        elif sock is not None and before is not None and before[1] != events:
            self._selector.modify(sock, events, talker)
            self._watched[talker] = sock, events

    # -- from other threads ----------------------------------------------------------------------

    def ask(self, question: Callable[[], T]) -> T:
        """The answer of ``question``, which is called in the thread of the load."""
        answer: Future[T] = Future()

        def run() -> None:
            answer.set_result(question())

        self._orders.put(run)
        return answer.result(30)

    def after_acks(self, count: int, act: Callable[[], Any]) -> None:
        """Call ``act``, between two packets, as soon as ``count`` further messages are acknowledged."""
        self._trigger = (self.ledger.acked + count, act)

    def pause(self) -> None:
        """No new messages, and nobody leaves; those cut off come back, and finish what they have begun."""
        self.ask(lambda: setattr(self, "_sending", False))

    def resume(self) -> None:
        self.ask(lambda: setattr(self, "_sending", True))

    def stop(self) -> None:
        """End the thread, if it was ever started."""
        self._going = False
        if self.ident is not None:
            self.join(30)

    def live(self) -> int:
        """How many agents are connected."""
        return sum(agent.state in ("live", "leaving") for agent in self.agents)

    def unfinished(self) -> "list[tuple[str, int]]":
        """Messages of QoS 1 and 2 that wait for their acknowledgement."""
        return self.ask(
            lambda: [
                (agent.uuid, message.n)
                for agent in self.agents
                for message in agent.waiting()
                if not message.released
            ]
        )

    def idle(self) -> bool:
        """Whether all are connected and everything is finished, up to the last PUBCOMP."""
        return self.ask(lambda: all(agent.idle() for agent in self.agents))

    def speaking(self) -> tuple[set[str], set[str]]:
        """The agents that have said something on the connection they have now, and all that may count.

        Those that took over their own connection count by that alone, unless the daemon was killed since.
        """
        agents = self.agents

        def sets() -> tuple[set[str], set[str]]:
            speaking = {agent.uuid for agent in agents if agent.speaks}
            return speaking, speaking | {agent.uuid for agent in agents if agent.heir}

        return self.ask(sets)

    def cut_off(self) -> int:
        """Connections that ended though nobody here ended them."""
        return sum(talker.cut_off for talker in self._talkers())
