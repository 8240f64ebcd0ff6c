"""A rule-based state machine: bursts, receivers that lag, leave and come back, and a clock that jumps."""

from collections import deque
from itertools import count

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Packet, Puback, Publish, Subscribe, Subscription
from platziverse.net.deadlines import TICK
from platziverse.testing import BrokerHarness, FakeClient

QUEUE = 30
#: Seconds in which nobody is closed for taking nothing, by default.
WRITE_DEADLINE = 60.0
#: What one receiver may hold its publishers of any sixty seconds, by default.
PATIENCE = 10.0
RECEIVERS = st.sampled_from([0, 1])
PUBLISHERS = st.sampled_from([0, 1])


@define
class Sender:
    """A publisher: what it still has to send, and which messages the broker has taken."""

    fake: FakeClient
    waiting: deque[Publish] = field(factory=deque)
    #: Packet Identifier → receiver and number of a message that is not acknowledged.
    sent: dict[int, tuple[int, int]] = field(factory=dict)
    #: The ticks of the last minute in which it was held.
    held: deque[float] = field(factory=deque)


@define
class Receiver:
    """A subscriber at QoS 1 that acknowledges, or at QoS 0 that reads, while it is ``taking``."""

    name: str
    qos: int
    fake: FakeClient | None = None
    taking: bool = True
    #: Seconds since it takes nothing.
    still: float = 0.0
    #: Messages acknowledged to publishers while it was subscribed and, at QoS 0, there.
    accepted: int = 0
    #: Publisher → numbers of its messages, in the order in which they came.
    got: dict[int, list[int]] = field(factory=lambda: {0: [], 1: []})

    @property
    def came(self) -> int:
        return sum(map(len, self.got.values()))


class BurstMachine(RuleBasedStateMachine):
    @initialize(queue_drop=st.sampled_from(["newest", "oldest"]))
    def start(self, queue_drop: str) -> None:
        limits = Limits(max_queued_messages=QUEUE, max_inflight=5, connect_delay=0, queue_drop=queue_drop)
        self.harness, self.numbers = BrokerHarness(limits=limits), count(1)
        self.senders = [Sender(self.harness.connect(f"sender-{number}")) for number in (0, 1)]
        self.receivers = [Receiver("acknowledging", 1), Receiver("reading", 0)]
        for receiver in self.receivers:
            self._come(receiver)
        self.innocent = self.harness.connect("innocent")
        self.innocent.subscribe("innocent", 1)

    # -- what clients do ---------------------------------------------------------------------------

    def _come(self, receiver: Receiver) -> None:
        receiver.fake = self.harness.connect(receiver.name, clean_session=False)
        receiver.taking, receiver.still = True, 0.0
        receiver.fake.send(Subscribe(1, [Subscription(receiver.name, receiver.qos)]))
        for packet in receiver.fake.connack:
            self._take(receiver, packet)

    def _take(self, receiver: Receiver, packet: Packet) -> None:
        if isinstance(packet, Publish):
            sender, number = map(int, packet.payload.split())
            receiver.got[sender].append(number)
            if packet.packet_id is not None and receiver.fake is not None:
                receiver.fake.send(Puback(packet.packet_id))

    def _settle(self) -> None:
        """Let everybody send and take until nothing moves."""
        moved = True
        while moved:
            self.harness.turn()
            moved = sum(self._send(number) for number in (0, 1)) > 0
            for receiver in self.receivers:
                if receiver.fake is not None and receiver.taking:
                    packets = receiver.fake.received()
                    moved = moved or bool(packets)
                    for packet in packets:
                        self._take(receiver, packet)
            self._note_acknowledged()

    def _send(self, number: int) -> bool:
        sender = self.senders[number]
        before = len(sender.waiting)
        while sender.waiting and not sender.fake.held:
            sender.fake.send(*[sender.waiting.popleft() for _ in range(min(7, len(sender.waiting)))])
        return len(sender.waiting) < before

    def _note_acknowledged(self) -> None:
        for sender in self.senders:
            for packet in sender.fake.received():
                assert isinstance(packet, Puback)
                to, _ = sender.sent.pop(packet.packet_id)
                receiver = self.receivers[to]
                receiver.accepted += receiver.qos == 1 or receiver.fake is not None

    # -- rules -------------------------------------------------------------------------------------

    @rule(sender=PUBLISHERS, receiver=RECEIVERS, size=st.sampled_from([1, 20, 80]))
    def burst(self, sender: int, receiver: int, size: int) -> None:
        one = self.senders[sender]
        for _ in range(size):
            number = next(self.numbers)
            one.sent[number] = receiver, number
            payload = b"%d %d" % (sender, number)
            one.waiting.append(Publish(self.receivers[receiver].name, payload, 1, packet_id=number))
        self._settle()

    @rule(receiver=RECEIVERS)
    def stop_taking(self, receiver: int) -> None:
        one = self.receivers[receiver]
        if one.fake is not None and one.taking:
            one.taking = False
            if not one.qos:
                one.fake.stop_reading()

    @rule(receiver=RECEIVERS)
    def take_again(self, receiver: int) -> None:
        one = self.receivers[receiver]
        if one.fake is not None and not one.taking:
            one.taking, one.still = True, 0.0
            if not one.qos:
                one.fake.read_again()
            self._settle()

    @rule(count=st.integers(1, 5))
    def take_a_little(self, count: int) -> None:
        """The receiver at QoS 1 acknowledges a few messages, and no more."""
        one = self.receivers[0]
        if one.fake is not None and not one.taking:
            for packet in one.fake.received():
                self._take(one, packet)
            self._settle()

    @rule(receiver=RECEIVERS)
    def leave(self, receiver: int) -> None:
        one = self.receivers[receiver]
        if one.fake is not None:
            one.fake.lose()
            one.fake = None
            self._settle()

    @rule(receiver=RECEIVERS)
    def come_back(self, receiver: int) -> None:
        if self.receivers[receiver].fake is None:
            self._come(self.receivers[receiver])
            self._settle()

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0, 11.0, 61.0]))
    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK)):
            self.harness.advance(TICK)
            self._settle()
            self._look_at_the_held()
            self._look_at_the_closed()

    def _look_at_the_closed(self) -> None:
        for receiver in self.receivers:
            receiver.still += 0.0 if receiver.taking else TICK
            if receiver.fake is not None and receiver.fake.closed:
                assert (receiver.qos, receiver.still >= WRITE_DEADLINE) == (0, True)
                receiver.fake = None

    def _look_at_the_held(self) -> None:
        now = self.harness.clock.seconds()
        for sender in self.senders:
            if sender.fake.held:
                sender.held.append(now)
            while sender.held and sender.held[0] <= now - 60:
                sender.held.popleft()
            # Either receiver for so long, and one more tick for each.
            assert len(sender.held) * TICK <= 2 * (PATIENCE + TICK)

    @rule(seconds=st.sampled_from([20.0, 3600.0]))
    def jump(self, seconds: float) -> None:
        """Row 283: the process was suspended; no receiver is to blame for what it has not taken meanwhile."""
        too_slow = self.harness.broker.traffic.receivers_too_slow
        self.harness.clock.advance(seconds)
        assert self.harness.broker.traffic.receivers_too_slow == too_slow
        for sender in self.senders:
            sender.held.clear()
        self._settle()
        self._look_at_the_closed()  # for the deadlines of connections it was one tick

    # -- what is always so -------------------------------------------------------------------------

    @invariant()
    def nobody_else_waits(self) -> None:
        if hasattr(self, "innocent"):
            self.innocent.publish("innocent", b"0 0", 1, 1)
            packets = self.innocent.received()
            (copy,) = [packet for packet in packets if isinstance(packet, Publish)]
            assert (Puback(1) in packets, self.innocent.held) == (True, False)
            assert copy.packet_id is not None
            self.innocent.send(Puback(copy.packet_id))

    @invariant()
    def each_message_is_delivered_or_waits_or_is_counted_as_dropped(self) -> None:
        if not hasattr(self, "harness"):
            return
        dropped = 0
        for receiver in self.receivers:
            session = self.harness.broker.sessions.get(receiver.name)
            assert session is not None
            assert session.queued <= 2 * QUEUE
            dropped += session.dropped
            if receiver.qos:
                waiting = session.queued + session.inflight
                assert receiver.accepted == receiver.came + waiting + session.dropped
            for numbers in receiver.got.values():
                assert numbers == sorted(set(numbers))
        traffic = self.harness.broker.traffic
        assert (traffic.publish_dropped, traffic.internal_errors) == (dropped, 0)

    def teardown(self) -> None:
        """Everybody takes what there is: nothing waits any more, and nobody is held."""
        if not hasattr(self, "harness"):
            return
        for number in (0, 1):
            self.come_back(number)
            self.take_again(number)
        self.wait(61.0)
        assert not any(sender.fake.held or sender.waiting or sender.sent for sender in self.senders)
        session = self.harness.broker.sessions.get("acknowledging")
        assert session is not None
        assert (session.queued, session.inflight) == (0, 0)
        self.each_message_is_delivered_or_waits_or_is_counted_as_dropped()


BurstMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestBursts = BurstMachine.TestCase
