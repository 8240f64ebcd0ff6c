"""Modules of whoever runs the daemon: what is wrong with one is told in one line."""

import importlib
import sys
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.recorder import Recorder
from platziverse.agents.tables import Tables
from platziverse.broker.complaints import Complaints
from platziverse.broker.interfaces import Client
from platziverse.daemon.extensions import handler_rows, load_handler
from platziverse.errors import Unusable
from platziverse.ingest.memory import MemoryStore
from platziverse.mqtt.packets import Publish


class ExtensionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.patch(sys, "path", [str(self.folder), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)  # sources may have the same size and time
        self.addCleanup(sys.modules.pop, "given", None)
        self.file = self.folder / "given.py"

        self.published: list[str] = []
        self.store = MemoryStore()
        recorder, clock = Recorder(self.store, self.publish, lambda: 0.0), Clock()
        self.tables = Tables(recorder, self.publish, clock, Complaints(clock), deadline=30.0, room=10)

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.published.append(topic)

    def write(self, source: str) -> None:
        self.file.write_text(source)
        sys.modules.pop("given", None)
        importlib.invalidate_caches()

    def reason(self, source: str) -> str:
        self.write(source)
        error = self.assertRaises(Unusable, handler_rows, "given:table", self.tables)
        return str(error)

    def test_rows_are_made_with_the_function_that_publishes(self) -> None:
        self.write("def table(publish):\n    return {'a/+': lambda message, client: publish('b', b'')}\n")
        rows = handler_rows("given:table", self.tables)
        self.assertIsNone(rows["a/+"](Publish("a/1", b""), Client("c", 1)))
        self.assertEqual((list(rows), self.published), (["a/+"], ["b"]))

    def test_a_function_that_asks_for_record_gets_it(self) -> None:
        self.write(
            "from platziverse.agents.model import Agent, Metric, Report\n"
            "def table(publish, record):\n"
            "    report = Report(Agent('u', '', '', '', 0), [Metric('m', '1')])\n"
            "    return {'a': lambda message, client: record(message, client, report)}\n"
        )
        handler = handler_rows("given:table", self.tables)["a"]
        answer = handler(Publish("a", b"", 1, packet_id=1), Client("c", 1))
        assert answer is not None
        self.successResultOf(answer)
        self.assertEqual([report.agent.uuid for report in self.store.reports], ["u"])

    def test_a_module_that_cannot_be_imported_is_told_in_one_line(self) -> None:
        """Row 81."""
        for source, reason in (
            ("def table(publish:\n", "'(' was never closed (given.py, line 1)"),
            ("import nonsense\n", "No module named 'nonsense'"),
            ("\nnonsense\n", f"NameError: name 'nonsense' is not defined ({self.file}, line 2)"),
            ("raise ValueError('one\\ntwo')\n", f"ValueError: one two ({self.file}, line 1)"),
            ("tabel = print\n", "given has no function 'table'"),
            ("table = 1\n", "given has no function 'table'"),
        ):
            self.assertEqual(self.reason(source), f"handlers: given:table: {reason}")
            self.assertRaises(Unusable, load_handler, "given:table")

    def test_a_function_that_makes_no_rows_is_told_in_one_line(self) -> None:
        """Row 81."""
        head = "def table(publish):\n    "
        for source, reason in (
            ("return print.nonsense", "AttributeError: .* has no attribute 'nonsense' .*given.py, line 2.$"),
            ("return None", "TypeError: 'NoneType' object is not iterable$"),
            ("return {'a/#/b': print}", "MalformedPacket: .*a/#/b"),
            ("return {7: print}", "(TypeError|AttributeError): "),
            ("return {'a': 7}", "TypeError: the handler of 'a' is no function$"),
        ):
            told = self.reason(head + source)
            self.assertRegex(told, f"^handlers: given:table: {reason}")
            self.assertNotIn("\n", told)
