"""The load: many agents, publishers and receivers on real sockets, all in one thread."""

import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from tests.crash.bystander import Bystander
from tests.crash.deliveries import Deliveries
from tests.crash.ledger import Ledger
from tests.crash.publications import Publications
from tests.crash.publisher import Profile, Publisher, Work
from tests.crash.receiver import Habit, Receiver
from tests.crash.reports import Reports, reading_of
from tests.crash.talker import Talker
from tests.crash.visitor import ABANDON, RESET, Choice, Visitor

T = TypeVar("T")

#: Seconds between two looks at what every agent has to do.
TICK: Final = 0.01

#: How agents report.
PROFILES: Final = (
    Profile("qos1", (1,), persistent=True, timestamped=True, rate=60),
    Profile("qos1 with bad ones", (1,), persistent=True, timestamped=True, bad_every=12),
    Profile("qos2", (2,), persistent=True, timestamped=True),
    Profile("qos2, no timestamp", (2,), persistent=True, timestamped=False),
    Profile("qos2, no timestamp, resets", (2,), True, False, stay=40, manner=RESET),
    Profile("qos2, no timestamp, taken over", (2,), True, False, stay=60, manner=ABANDON),
    Profile("clean qos1", (1,), persistent=False, timestamped=True, window=64, rate=80),
    Profile("clean qos1, no timestamp", (1,), persistent=False, timestamped=False),
    Profile("clean qos2", (2,), persistent=False, timestamped=True),
    Profile("qos0", (0,), persistent=False, timestamped=True),
    Profile("qos0 comes and goes", (0,), persistent=False, timestamped=True, stay=8),
    Profile("mixed", (0, 1, 2), persistent=True, timestamped=True, bad_every=25),
    Profile("mixed comes and goes", (0, 1, 2), True, True, stay=30),
    Profile("mixed resets", (0, 1, 2), True, True, stay=30, manner=RESET),
    Profile("mixed taken over", (0, 1, 2), True, True, stay=50, manner=ABANDON),
    Profile("clean, taken over", (1,), False, True, stay=40, manner=ABANDON),
)

#: How others publish.
PUBLISHERS: Final = (
    Profile("qos1", (1,), persistent=True, rate=30, retain_every=8),
    Profile("qos2", (2,), persistent=True, rate=30, retain_every=8),
    Profile("clean qos1", (1,), persistent=False, rate=30, retain_every=8),
    Profile("mixed", (0, 1, 2), persistent=True, rate=30, retain_every=20),
    Profile("mixed comes and goes", (0, 1, 2), persistent=True, rate=30, stay=30),
    Profile("mixed resets", (1, 2), persistent=True, rate=30, stay=30, manner=RESET, retain_every=8),
    Profile("mixed taken over", (1, 2), True, rate=30, stay=50, manner=ABANDON, retain_every=8),
    Profile("clean qos2", (2,), persistent=False, rate=30),
)
#: The same, and some that are often somewhere else.
MOVING_PUBLISHERS: Final = (
    *PUBLISHERS,
    Profile("clean qos1 comes and goes", (1,), persistent=False, rate=30, stay=25, retain_every=8),
    Profile("clean mixed comes and goes", (0, 1, 2), persistent=False, rate=30, stay=40),
    Profile("clean qos1 taken over", (1,), persistent=False, rate=30, stay=40, manner=ABANDON),
)

#: How durable receivers behave: every filter of everybody is of another sort.
HABITS: Final = (
    Habit("all at qos1", (("post/#", 1), ("will/#", 1))),
    Habit("all at qos2", (("post/#", 2), ("kept/#", 2), ("will/+", 2))),
    Habit("comes and goes", (("post/+/2/#", 2), ("post/+/1/0", 1)), stay=1.0, away=(0.0, 1.0)),
    Habit("long absent", (("post/+/+/1", 2), ("will/#", 1)), stay=1.5, away=(8.0, 20.0), manner=RESET),
    Habit("hermit", (("+/+/+/2", 2),), stay=1.0, away=(30.0, 90.0), hermit=True),
    Habit("resets", (("post/#", 2),), stay=0.7, manner=RESET),
    Habit("taken over", (("post/#", 1), ("kept/#", 1)), stay=0.7, away=(0.0, 0.0), manner=ABANDON),
    Habit("slow", (("post/+/1/1", 1), ("post/+/2/2", 2)), slow=0.4),
    Habit("slow and taken over", (("post/+/+/0", 2),), 1.0, (0.0, 0.0), ABANDON, slow=0.2),
    Habit("changing", (("will/#", 1),), stay=4.0, changing="post/+/2/+"),
    Habit("changing among retained", (("post/+/0/#", 0),), stay=3.0, manner=RESET, changing="kept/+/1/#"),
    Habit("metrics", (("agent/message", 2),), stay=2.0, away=(0.0, 0.3)),
)
#: Receivers that begin anew wherever they connect.
CLEAN_HABITS: Final = (
    Habit("clean", (("post/#", 2), ("kept/#", 1)), stay=1.5, clean=True),
    Habit("clean, resets", (("post/+/1/#", 1), ("will/#", 1)), stay=0.7, manner=RESET, clean=True),
    Habit("clean, taken over", (("post/#", 0),), 0.7, (0.0, 0.0), ABANDON, clean=True),
)


class Load(threading.Thread):
    """:param agents: how many, dealt out over the profiles in turn; half of them are devices with a rule.

    :param port: of the daemon, or of the first one.
    :param publishers: how many of another sort, likewise over ``profiles``.
    :param habits: of receivers.
    :param others: ports of further daemons.
    :param choose: where each client connects to; by default to ``port``.
    :param patience: seconds after which clients give up a connection that says nothing.
    :ivar deliveries: what they get is judged here.
    :ivar bystanders: one at each daemon.
    """

    def __init__(
        self,
        port: int,
        ledger: Ledger,
        seed: int,
        agents: int,
        rate: float = 1.0,
        publishers: int = 0,
        habits: Sequence[Habit] = (),
        others: Sequence[int] = (),
        profiles: Sequence[Profile] = PUBLISHERS,
        choose: "Choice | None" = None,
        patience: float = float("inf"),
    ) -> None:
        super().__init__(name="load", daemon=True)
        self.ledger, self.deliveries = ledger, Deliveries(ledger)
        self._rng = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._watched: dict[Talker, tuple[socket.socket, int]] = {}
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._sending, self._going = True, True
        self._trigger: tuple[int, Callable[[], None]] | None = None
        self._rate = rate
        self._address = ("127.0.0.1", port)
        self._profiles = profiles
        self._choose, self._patience = choose or (lambda visitor: visitor.address), patience
        self.bystanders = [
            Bystander(name=f"bystander-{seed:x}-{one}", address=("127.0.0.1", one), ledger=ledger)
            for one in (port, *others)
        ]
        self.agents = [self._agent(f"agent-{seed:x}-{number}", number) for number in range(agents)]
        self.publishers = [
            self._publisher(f"publisher-{seed:x}-{number}", number) for number in range(publishers)
        ]
        self.receivers = [
            self._receiver(f"receiver-{seed:x}-{number}", habit) for number, habit in enumerate(habits)
        ]
        self.visitors: list[Visitor] = [*self.agents, *self.publishers, *self.receivers]

    def _agent(self, uuid: str, number: int) -> Publisher:
        profile, rng = PROFILES[number % len(PROFILES)], random.Random(self._rng.random())
        work = Reports(uuid, profile, self.ledger, self.deliveries, rng)
        if (number + number // len(PROFILES)) % 2:  # of each profile every other one
            work.topic, work.payload = f"device/{uuid}", reading_of
        return self._publishing(profile, work, rng)

    def _publisher(self, name: str, number: int) -> Publisher:
        profile, rng = self._profiles[number % len(self._profiles)], random.Random(self._rng.random())
        return self._publishing(profile, Publications(name, profile, self.deliveries, rng), rng)

    def _publishing(self, profile: Profile, work: Work, rng: random.Random) -> Publisher:
        return Publisher(
            name=work.name,
            profile=profile,
            work=work,
            persistent=profile.persistent,
            lasting=profile.persistent and isinstance(work, Publications),
            ledger=self.ledger,
            address=self._address,
            rng=rng,
            choose=self._choose,
            patience=self._patience,
        )

    def _receiver(self, name: str, habit: Habit) -> Receiver:
        return Receiver(
            name=name,
            habit=habit,
            deliveries=self.deliveries,
            persistent=not habit.clean,
            lasting=not habit.clean,
            ledger=self.ledger,
            address=self._address,
            rng=random.Random(self._rng.random()),
            choose=self._choose,
            patience=self._patience,
        )

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
        return [*self.visitors, *self.bystanders]

    @property
    def bystander(self) -> Bystander:
        return self.bystanders[0]

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
        if self._trigger and self.acks() >= self._trigger[0]:
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

    def acks(self) -> int:
        """How many messages are acknowledged."""
        return self.ledger.acked + self.deliveries.acked

    def done(self) -> int:
        """How much has come to its end: messages that are acknowledged, and all that have come."""
        return self.acks() + self.deliveries.delivered - self.deliveries.repeated

    def after_acks(self, count: int, act: Callable[[], Any]) -> None:
        """Call ``act``, between two packets, as soon as ``count`` further messages are acknowledged."""
        self._trigger = (self.acks() + count, act)

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

    def everybody_back(self) -> None:
        """Those come back, too, whom a pause leaves alone."""

        def want() -> None:
            for receiver in self.receivers:
                receiver.wanted = True

        self.ask(want)

    def live(self) -> int:
        """How many clients are connected."""
        return sum(visitor.state in ("live", "leaving") for visitor in self.visitors)

    def unfinished(self) -> "list[tuple[Work, int]]":
        """Messages of QoS 1 and 2 that wait for their acknowledgement."""
        return self.ask(
            lambda: [
                (publisher.work, message.n)
                for publisher in [*self.agents, *self.publishers]
                for message in publisher.waiting()
                if not message.released
            ]
        )

    def busy(self) -> "list[Visitor]":
        """Clients that are not connected, or have something to finish, up to the last PUBCOMP."""
        return self.ask(
            lambda: [one for one in self.visitors if not one.idle() and one not in self._hermits()]
        )

    def _hermits(self) -> "list[Receiver]":
        return [one for one in self.receivers if one.habit.hermit and not one.wanted]

    def idle(self) -> bool:
        """Whether all are connected and everything is finished."""
        return not self.busy()

    def settled(self) -> "list[str]":
        """The receivers that are connected, and have nothing to finish."""
        return self.ask(lambda: [one.name for one in self.receivers if one.idle()])

    def speaking(self) -> tuple[set[str], set[str]]:
        """The agents that have said something on the connection they have now, and all that may count.

        Those that took over their own connection count by that alone, unless the daemon was killed since.
        """
        agents = self.agents

        def sets() -> tuple[set[str], set[str]]:
            speaking = {agent.name for agent in agents if agent.speaks}
            return speaking, speaking | {agent.name for agent in agents if agent.heir}

        return self.ask(sets)

    def cut_off(self) -> int:
        """Connections that ended though nobody here ended them."""
        return sum(talker.cut_off for talker in self._talkers())
