"""A rule-based state machine: several clients, every QoS, retained messages, Wills, against a small model.

Each client comes by MQTT 3.1.1 or 5, now so and then so, and goes on with its Session. Of Shared
Subscriptions the model does not say which member gets a message, but that one does.
"""

from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import (
    Connack,
    Disconnect,
    Packet,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from platziverse.mqtt.topics import matches
from platziverse.testing import BrokerHarness, FakeClient

NAMES = st.sampled_from(["anna", "berta", "clara"])
TOPICS = st.sampled_from(["a", "a/b", "a/b/c", "b", "/", "a//c"])
FILTERS = st.sampled_from(["a", "a/b", "#", "+", "a/#", "+/b", "a/+/c", "/", "+/+", "a/b/#"])
#: The Topic Name that a group gets, by Shared Subscription; "#" is the only other one that matches it.
GROUPS = {"$share/g/jobs/a/b/c": "jobs/a/b/c", "$share/h/work/+/+/+": "work/a/b/c"}
SHARED = st.sampled_from(sorted(GROUPS))
WINDOW = 20
QOS = st.integers(0, 2)
EXPIRY = 1000.0
#: Session Expiry Intervals that clients of MQTT 5 ask for, and what they get.
ASKED = {0: 0.0, 300: 300.0, 5000: EXPIRY, 0xFFFF_FFFF: EXPIRY}


@define
class Model:
    """What one Client Identifier should see."""

    name: str
    fake: FakeClient | None = None
    persistent: bool = False
    exists: bool = False
    acknowledges: bool = True
    will: Publish | None = None
    absent_since: float = 0.0
    expiry: float = 0.0
    subscriptions: dict[str, int] = field(factory=dict)
    #: (topic, payload, qos) sent at QoS 1 or 2 and not acknowledged, in order.
    inflight: list[tuple[str, bytes, int]] = field(factory=list)
    queued: list[tuple[str, bytes, int]] = field(factory=list)
    #: (topic, payload, qos, retain, dup) that should arrive next.
    expected: list[tuple[str, bytes, int, bool, bool]] = field(factory=list)


@define
class Job:
    """A message for a group that nobody has acknowledged yet.

    :ivar holder: the client that it was sent to, and has not acknowledged it.
    :ivar lost: no member was left for it, so it may have been dropped.
    """

    group: str
    holder: str | None = None
    sent_qos: int = 0
    lost: bool = False


class BrokerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.harness = BrokerHarness(limits=Limits(connect_delay=0, session_expiry=EXPIRY))
        self.models = {name: Model(name) for name in ("anna", "berta", "clara")}
        #: By payload.
        self.jobs: dict[bytes, Job] = {}
        self.retained: dict[str, tuple[bytes, int]] = {}
        self.serial = 0

    # -- the model -------------------------------------------------------------------------------

    def _deliver(self, model: Model, topic: str, payload: bytes, qos: int, retain: bool = False) -> None:
        if not qos:
            if model.fake is not None:
                model.expected.append((topic, payload, 0, retain, False))
        elif model.fake is not None and self._inflight(model) < WINDOW and not model.queued:
            model.expected.append((topic, payload, qos, retain, False))
            if not model.acknowledges:
                model.inflight.append((topic, payload, qos))
        else:
            model.queued.append((topic, payload, qos))

    def _route(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if retain:
            self.retained.pop(topic, None)
            if payload:
                self.retained[topic] = (payload, qos)
        for model in self.models.values():
            granted = [g for f, g in model.subscriptions.items() if matches(f, topic)]
            if model.exists and granted:
                self._deliver(model, topic, payload, min(qos, max(granted)))

    def _gone(self, model: Model, graceful: bool) -> None:
        model.fake = None
        model.absent_since = self.harness.clock.seconds()
        model.expected.clear()
        if model.will is not None and not graceful:
            will = model.will
            self._route(will.topic, will.payload, will.qos, will.retain)
        if not model.persistent:
            self._forget(model)

    def _forget(self, model: Model) -> None:
        """End a Session: what it has of a group goes to another member, but not what may be there twice."""
        model.exists = False
        model.subscriptions.clear()
        model.inflight.clear()
        model.queued.clear()
        for payload, job in [*self.jobs.items()]:
            if job.holder == model.name:
                job.holder = None
                if job.sent_qos == 2:
                    del self.jobs[payload]
            if job.holder is None and not self._members(job.group):
                job.lost = True

    def _inflight(self, model: Model) -> int:
        return len(model.inflight) + sum(job.holder == model.name for job in self.jobs.values())

    def _members(self, group: str, connected: bool = False) -> list[Model]:
        """Those that may get a message of a group at QoS 1 or 2, now or, unless ``connected``, later."""
        return [
            model
            for model in self.models.values()
            if group in model.subscriptions
            and (model.fake is not None or (not connected and model.subscriptions[group] > 0))
        ]

    def _work(self, model: Model, packet: Publish) -> None:
        """A member gets its copy: nobody else has it, or has had it."""
        job = self.jobs.get(packet.payload)
        assert job is not None, f"{model.name} gets what was done: {packet}"
        assert GROUPS[job.group] == packet.topic
        assert job.holder in (None, model.name), f"{job.holder} has {packet}, and {model.name} gets it"
        if not packet.qos or model.acknowledges:
            del self.jobs[packet.payload]
        else:
            job.holder, job.sent_qos = model.name, packet.qos

    # -- the real thing --------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let every client read, and acknowledge if it does, until nothing moves."""
        self.harness.turn()
        moved = True
        while moved:
            moved = False
            for model in self.models.values():
                for packet in model.fake.received() if model.fake is not None else ():
                    moved = True
                    self._take(model, packet)

    def _take(self, model: Model, packet: Packet) -> None:
        assert model.fake is not None
        if isinstance(packet, Publish):
            got = (packet.topic, packet.payload, packet.qos, packet.retain, packet.dup)
            if packet.topic in GROUPS.values() and model.expected[:1] != [got]:
                self._work(model, packet)
            else:
                assert model.expected, f"not expected: {got}"
                assert got == model.expected.pop(0)
            if packet.packet_id is not None and model.acknowledges:
                answer = Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id)
                model.fake.send(answer)
        elif isinstance(packet, Pubrel):
            model.fake.send(Pubcomp(packet.packet_id))
        elif isinstance(packet, Pubrec):
            model.fake.send(Pubrel(packet.packet_id))

    @rule(
        name=NAMES,
        clean=st.booleans(),
        will=st.none() | st.tuples(TOPICS, QOS, st.booleans()),
        five=st.none() | st.sampled_from(sorted(ASKED)),
    )
    def connect(self, name: str, clean: bool, will: tuple[str, int, bool] | None, five: int | None) -> None:
        """:param five: the Session Expiry Interval of a client of MQTT 5."""
        model = self.models[name]
        if model.fake is not None:
            old = model.fake
            self._gone(model, graceful=False)
        else:
            old = None
        if model.exists and clean:
            self._forget(model)
        present = model.exists
        model.persistent, model.exists, model.acknowledges = not clean, True, True
        model.expiry, more = EXPIRY, dict[str, Any]()
        if five is not None:
            model.persistent, model.expiry = five > 0, ASKED[five]
            more = {"protocol_level": 5, "properties": Properties(session_expiry_interval=five)}
        model.will = None
        if will is not None:
            model.will = Publish(will[0], b"will of " + name.encode(), will[1], will[2])
        fake = self.harness.connect(name, clean_session=clean, will=model.will, **more)
        assert old is None or old.closed
        model.fake = fake
        again, model.inflight = model.inflight, []
        model.expected = [(t, p, q, False, True) for t, p, q in again]
        waiting, model.queued = model.queued, []
        model.expected += [(t, p, q, False, False) for t, p, q in waiting]
        connack = fake.connack.pop(0)
        assert isinstance(connack, Connack)
        assert (connack.session_present, connack.return_code) == (present, 0)
        for packet in fake.connack:
            self._take(model, packet)
        self._settle()

    def _with(self, name: str) -> tuple[Model, Any]:
        model = self.models[name]
        return model, model.fake

    @rule(name=NAMES)
    def lose(self, name: str) -> None:
        model, fake = self._with(name)
        if fake is not None:
            self._gone(model, graceful=False)
            fake.lose()
            self._settle()

    @rule(name=NAMES)
    def disconnect(self, name: str) -> None:
        model, fake = self._with(name)
        if fake is not None:
            self._gone(model, graceful=True)
            fake.send(Disconnect())
            self._settle()

    @rule(name=NAMES)
    def stop_acknowledging(self, name: str) -> None:
        self.models[name].acknowledges = False

    @rule(name=NAMES, topic_filter=FILTERS, qos=QOS)
    def subscribe(self, name: str, topic_filter: str, qos: int) -> None:
        model, fake = self._with(name)
        if fake is None or not model.acknowledges:  # retained messages wait outside the queue
            return
        model.subscriptions[topic_filter] = qos
        fake.send(Subscribe(1, [Subscription(topic_filter, qos)]))
        found = {t: kept for t, kept in self.retained.items() if matches(topic_filter, t)}
        packets = [packet for packet in fake.received()[1:] if isinstance(packet, Publish)]
        assert {p.topic: (p.payload, p.qos, p.retain) for p in packets} == {
            topic: (payload, min(qos, kept), True) for topic, (payload, kept) in found.items()
        }
        for packet in packets:
            model.expected.append((packet.topic, packet.payload, packet.qos, True, False))
            self._take(model, packet)
        self._settle()

    @rule(name=NAMES, topic_filter=FILTERS)
    def unsubscribe(self, name: str, topic_filter: str) -> None:
        model, fake = self._with(name)
        if fake is not None:
            model.subscriptions.pop(topic_filter, None)
            fake.send(Unsubscribe(2, [topic_filter]))
            self._settle()

    @rule(group=SHARED, qos=st.tuples(QOS, QOS, QOS), five=st.none() | st.sampled_from(sorted(ASKED)))
    def gather(self, group: str, qos: tuple[int, int, int], five: int | None) -> None:
        """Let all come, if they are not there, and be members."""
        for (name, model), granted in zip(self.models.items(), qos, strict=True):
            if model.fake is None:
                self.connect(name, clean=False, will=None, five=five)
            assert model.fake is not None
            model.subscriptions[group] = granted
            model.fake.send(Subscribe(3, [Subscription(group, granted)]))
        self._settle()

    @rule(name=NAMES, group=SHARED)
    def leave(self, name: str, group: str) -> None:
        """Be a member no more; what it has it keeps."""
        self.unsubscribe(name, group)

    @rule(group=SHARED, all_qos=st.lists(QOS, min_size=1, max_size=6))
    def publish_to_a_group(self, group: str, all_qos: list[int]) -> None:
        """Let whoever is connected publish."""
        fakes = [model.fake for model in self.models.values() if model.fake is not None]
        for qos in all_qos if fakes else ():
            self.serial += 1
            topic, payload = GROUPS[group], b"%d" % self.serial
            self._route(topic, payload, qos, False)
            present, may = self._members(group, connected=True), self._members(group)
            full = any(self._inflight(model) >= WINDOW for model in present)
            if present or (qos and may):
                self.jobs[payload] = Job(group)
            fakes[0].publish(topic, payload, qos, self.serial if qos else None)
            self._settle()
            job = self.jobs.get(payload)
            assert job is None or job.holder is not None or not present or full, "no member has got it"

    def teardown(self) -> None:
        """Let everybody come and acknowledge: nothing of a group is missing."""
        if hasattr(self, "harness"):
            for name, model in self.models.items():
                if model.exists:
                    self.connect(name, clean=False, will=None, five=None)
            missing = {payload: job for payload, job in self.jobs.items() if not job.lost}
            assert not missing, f"nobody got {missing}"

    @rule(name=NAMES, topic=TOPICS, qos=QOS, retain=st.booleans(), empty=st.booleans())
    def publish(self, name: str, topic: str, qos: int, retain: bool, empty: bool) -> None:
        _, fake = self._with(name)
        if fake is not None:
            self.serial += 1
            payload = b"" if empty else b"%d" % self.serial
            self._route(topic, payload, qos, retain)
            fake.publish(topic, payload, qos, self.serial if qos else None, retain=retain)
            self._settle()

    @rule(seconds=st.sampled_from([1.0, 400.0, 1100.0]))
    def wait(self, seconds: float) -> None:
        self.harness.clock.advance(seconds)
        self.harness.broker.expire()
        for model in self.models.values():
            if (
                model.exists
                and model.fake is None
                and self.harness.clock.seconds() - model.absent_since >= model.expiry
            ):
                self._forget(model)

    @invariant()
    def nothing_is_missing(self) -> None:
        for name, model in getattr(self, "models", {}).items():
            assert not model.expected, f"{name} did not get {model.expected}"
            assert model.fake is None or not model.fake.closed

    @invariant()
    def the_broker_holds_what_the_model_holds(self) -> None:
        if hasattr(self, "harness"):
            broker = self.harness.broker
            assert len(broker.sessions) == sum(model.exists for model in self.models.values())
            assert broker.connected == sum(model.fake is not None for model in self.models.values())
            assert len(broker.subscriptions) == sum(
                len(model.subscriptions) for model in self.models.values()
            )
            assert len(broker.retained) == len(self.retained)
            assert broker.traffic.internal_errors == 0


BrokerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBroker = BrokerMachine.TestCase
