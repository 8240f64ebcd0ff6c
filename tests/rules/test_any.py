"""Any bytes on any rule are stored, rejected or ignored, and counted once; never is there an exception."""

import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import msgpack
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Departure, Rejection, Report
from platziverse.agents.recorder import Recorder
from platziverse.mqtt.packets import Publish
from platziverse.rules.compiling import compiled
from platziverse.rules.errors import BadKey
from platziverse.rules.recording import IGNORED, REJECTED, STORED, RuleHandler
from platziverse.rules.rule import Rule
from platziverse.rules.ruleset import RuleSet
from tests.agents.doubles import FakeClient, HeldStore
from tests.rules.reading import NOW
from tests.rules.test_formats import FORMATS, cbor2

#: Keys of rules, and of the messages that they meet.
NAMES = ["a", "b", "t", "values", "state", "on", "", "a.b", "\0", "é", "x" * 300]
PATHS = st.sampled_from(
    ["$", "$.a", "$.b.a", "$.t", "$[0]", "$.values", "$.values[-1].a", "@", "@.a", "@.t", "@[1]"]
)
GLOBS = st.lists(st.sampled_from(["*", "a*", "?", "[ab]", "values.*", "x*"]), max_size=2)
STATES = st.dictionaries(
    st.sampled_from(["on", "OFF", "x", "true"]), st.sampled_from([0, 1, -2.5, 10**30]), max_size=3
)
METRIC = st.one_of(
    PATHS,
    st.fixed_dictionaries(
        {"path": PATHS},
        optional={
            "states": STATES,
            "scale": st.sampled_from([2, 0.001, 1e300, -1]),
            "offset": st.sampled_from([1, -273.15]),
            "round": st.integers(-15, 15),
            "unit": st.sampled_from(["W", "°C"]),
            "text": st.booleans(),
            "required": st.booleans(),
        },
    ),
)
#: Every key of a rule, with values of which many are usable together.
TABLES = st.fixed_dictionaries(
    {
        "topic": st.sampled_from(["t/{x}", "t/#", "t/{x...}", "{z}/{x}"]),
        "agent": st.sampled_from(["a:{x}", "a", "a:{client}", "a:{$.a}", "a:{@.a}", "{$.t}", "{user}"]),
    },
    optional={
        "name": st.sampled_from(["{x}", "{$.a}", "n"]),
        "username": st.sampled_from(["{user}", "{$.b}", ""]),
        "hostname": st.sampled_from(["{client}", "{@.b}"]),
        "format": st.sampled_from([*FORMATS, "telegraf"]),
        "values": PATHS,
        "type": st.sampled_from(["{key}", "{key}!", "{x}.{key}", "{$.a}{key}", "{@.a}.{key}", "{{{key}}}"]),
        "include": GLOBS,
        "exclude": GLOBS,
        "rename": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NAMES), max_size=2),
        "metrics": st.dictionaries(
            st.sampled_from(["m", "{x}", "{@.a}", "{$.b}", "m.{client}"]), METRIC, max_size=3
        ),
        "states": STATES,
        "strings": st.booleans(),
        "each": PATHS,
        "time": PATHS,
        "time_format": st.sampled_from(["auto", "unix", "unix_ns", "%Y-%m-%d", "%c"]),
        "time_zone": st.sampled_from(["UTC", "Europe/Madrid", "America/New_York"]),
        "presence": st.fixed_dictionaries(
            {"online": st.just(["on", "true"]), "offline": st.just(["off", "false"])},
            optional={"path": PATHS},
        ),
        "unmatched": st.sampled_from(["reject", "ignore"]),
        "units": st.dictionaries(st.sampled_from(["*", "m"]), st.just("W"), max_size=2),
    },
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["on", "OFF", "21.5", "NaN", "x" * 5000, NOW, NOW * 1000, "2026-11-28T16:20:38", 10**400]
    ),
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES[:6]), st.one_of(VALUES, TREES), min_size=1, max_size=6)
LINES = st.text('at,= \\"\n1i.', max_size=30)


def written(document: Any, form: str) -> bytes:
    """A document as a device writes it, if its format can say it."""
    try:
        if form == "msgpack":
            return msgpack.encode(document)
        if form == "cbor" and cbor2 is not None:
            return bytes(cbor2.dumps(document))
    except (OverflowError, UnicodeEncodeError):
        pass
    return json.dumps(document).encode()


@st.composite
def rules_that_can_be_used(draw: Any) -> list[Rule]:
    """One rule or two, of which most are asked."""
    rules = []
    for number, table in enumerate(draw(st.lists(TABLES, min_size=1, max_size=2)), 1):
        try:
            rules.append(compiled(f"rules.toml#{number}", table, False))
        except BadKey:
            meaningless = {"metrics", "presence", "each", "time_format", "time_zone"}
            try:
                less = {key: value for key, value in table.items() if key not in meaningless}
                rules.append(compiled(f"rules.toml#{number}", less, False))
            except BadKey:
                assume(False)
    return rules


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["t/a", "t/b", "t/c", "t/d", "t/", "t/a/b", "x/b", "agent/b", "none"]),
        st.one_of(OBJECTS, OBJECTS, TREES, LINES, st.binary(max_size=40)),
        st.integers(0, 2),
    ),
    max_size=8,
)


class AnyRuleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.answers: list[Deferred[Any]] = []

    @given(rules_that_can_be_used(), MESSAGES, st.booleans())
    def test_the_books_balance(
        self, rules: list[Rule], messages: list[tuple[str, Any, int]], persistent: bool
    ) -> None:
        """Row 419."""
        store, self.answers = HeldStore(), []
        limits = AgentLimits(max_metrics=20, max_agents=3, max_types=5)
        recorder = Recorder(store, lambda *_: None, lambda: NOW, limits, warn=lambda *_, **__: None)
        found = RuleSet(rules, limits)
        handler = RuleHandler(recorder, found, lambda topic, make: json.loads(make()))
        client = FakeClient("any", 1, persistent=persistent)
        recorder.client_connected(client)
        for number, (topic, document, qos) in enumerate(messages, 1):
            rule, before, saved = found.find(topic), handler.outcomes.copy(), len(store.entries)
            form = rule.rule.table.format if rule is not None else "json"
            payload = document if isinstance(document, bytes) else written(document, form)
            payload = document.encode() if isinstance(document, str) and form == "influx" else payload
            message = Publish(topic, payload, qos, packet_id=number if qos else None)
            answer = handler(message, client)
            counted = handler.outcomes - before
            self.assertEqual(counted.total(), rule is not None)
            if rule is not None:
                ((_, outcome),) = counted
                self.check(outcome, answer, store.entries[saved:])
        self.settle(store, recorder, handler)

    def check(self, outcome: str, answer: "Deferred[Any] | None", entries: list[Any]) -> None:
        """One message: what was counted is what was saved, and the answer waits for that alone."""
        if outcome == IGNORED:
            self.assertEqual((answer, entries), (None, []))
        elif outcome == REJECTED:
            (rejection,) = entries
            assert isinstance(rejection, Rejection)
            self.assertTrue(rejection.reason.startswith("rules.toml#"), rejection.reason)
            self.assertTrue(rejection.reason.isprintable(), rejection.reason)
        else:
            self.assertEqual(outcome, STORED)
            self.assertTrue(all(isinstance(entry, Report | Departure) for entry in entries))
            self.assertEqual(answer is None, not entries)  # an agent that nobody has heard cannot go
        if answer is not None:
            self.assertNoResult(answer)
            self.answers.append(answer)

    def settle(self, store: HeldStore, recorder: Recorder, handler: RuleHandler) -> None:
        """All together: every rejection is counted, every text fits its column, every answer comes."""
        rejected = sum(count for (_, outcome), count in handler.outcomes.items() if outcome == REJECTED)
        self.assertEqual(rejected, len(store.of(Rejection)))
        self.assertEqual(rejected, recorder.rejected.total())
        for report in store.of(Report):
            assert isinstance(report, Report)
            self.fits(report)
        store.commit()
        for answer in self.answers:
            self.successResultOf(answer)

    def fits(self, report: Report) -> None:
        for text in (report.agent.uuid, report.agent.username, report.agent.name, report.agent.hostname):
            self.assertTrue(len(text) <= 255 and "\0" not in text)
            text.encode()
        self.assertTrue(report.agent.uuid)
        self.assertLessEqual(len(report.metrics), 20)
        for metric in report.metrics:
            self.assertTrue(0 < len(metric.type) <= 255 and len(metric.value.encode()) <= 4096)
            self.assertNotIn("\0", metric.type + metric.value)
