"""From outcomes to figures, tables and documents."""

from twisted.trial.unittest import SynchronousTestCase

from bench import documents, results
from bench.__main__ import available, chosen
from bench.flat import each, panel_table
from bench.measure import alternating
from bench.peers import Peer, peers
from bench.scenarios import ALL, FLOWS, IDLE, Scenario

RUN = {
    "messages": 1000,
    "seconds": 2.0,
    "cpu": 0.004,
    "server_cpu": 0.0,
    "generator_cpu": 0.5,
    "resident": 2**21,
    "p50": 0.001,
    "p99": 0.002,
}


class FigureTests(SynchronousTestCase):
    def test_a_run_has_its_rate_and_its_cost(self) -> None:
        expected = {
            "rate": 500,
            "cpu_us": 4.0,
            "p50_ms": 1.0,
            "p99_ms": 2.0,
            "memory_mib": 2.0,
            "generator": 0.25,
        }
        self.assertEqual(results.figures(RUN), expected)

    def test_idle_connections_have_theirs(self) -> None:
        run = {
            "connections": 100,
            "seconds": 0.5,
            "cpu": 0.01,
            "memory": 204_800,
            "idle_seconds": 2.0,
            "idle_cpu": 0.004,
            "pings": 3,
        }
        expected = {"rate": 200, "cpu_us": 100.0, "kib": 2.0, "idle_ms": 2.0, "count": 100}
        self.assertEqual(results.figures(run), expected)

    def test_the_median_of_the_runs_counts(self) -> None:
        runs = [RUN | {"cpu": cpu} for cpu in (0.004, 0.1, 0.005)]
        found = results.summary(FLOWS[0], {"platziverse": runs, "amqtt": []})["peers"]
        self.assertEqual(found.keys(), {"platziverse"})
        self.assertEqual(found["platziverse"]["cpu_us"], 5.0)
        self.assertEqual(found["platziverse"]["cpu_us_range"], [4.0, 100.0])

    def test_latency_is_shown_where_it_says_something(self) -> None:
        for scenario in FLOWS:
            found = results.summary(scenario, {"platziverse": [RUN]})["peers"]["platziverse"]
            self.assertEqual("p99_ms" in found, scenario.latency)

    def test_the_cost_of_a_row_is_the_median_too(self) -> None:
        self.assertEqual(each([RUN, RUN | {"cpu": 0.1}, RUN], "cpu"), 4.0)
        self.assertIsNone(each([], "cpu"))


class TableTests(SynchronousTestCase):
    def test_a_table_is_one_of_restructuredtext(self) -> None:
        table = results.simple_table(["name", "µs"], [["a", "1"], ["long name", "22.5"]])
        rule = "=========  ===="
        self.assertEqual(
            table.split("\n"), [rule, "name         µs", rule, "a             1", "long name  22.5", rule]
        )

    def test_ours_is_compared_with_theirs(self) -> None:
        found = {
            "qos0": {"peers": {"platziverse": {"cpu_us": 2.0}, "mosquitto": {"cpu_us": 8.0}}},
            "idle": {"peers": {"platziverse": {"cpu_us": 60.0, "kib": 3.0}, "amqtt": {"kib": 60.0}}},
        }
        lines = results.comparison({"scenarios": found}).split("\n")[3:-1]
        self.assertEqual(lines[0].split()[-7:], ["2", "8", "–", "–", "0.25", "–", "–"])
        self.assertEqual(lines[1].split()[-7:], ["60", "–", "–", "–", "–", "–", "–"])
        self.assertEqual(lines[2].split()[-7:], ["3.0", "–", "–", "60.0", "–", "–", "0.05"])

    def test_a_size_that_could_not_be_measured_stays_empty(self) -> None:
        table = panel_table({"sizes": [0, 1000], "lines": {"platziverse": [1.234, None]}})
        self.assertEqual(table.split("\n")[3].split(), ["0", "1.23"])
        self.assertEqual(table.split("\n")[4].split(), ["1,000", "–"])


class DocumentTests(SynchronousTestCase):
    def test_the_documents_say_what_was_measured(self) -> None:
        """If not: ``python -m bench --documents``."""
        for part in documents.PARTS:
            self.assertEqual(part.document.read_text(), part.written(), f"{part.document} is not up to date")

    def test_what_is_around_the_markers_stays(self) -> None:
        before = "a\n\n.. bench: written by make bench\n\nold\n\n.. bench: end\n\nb\n"
        self.assertEqual(documents.replaced(before, "bench", "new"), before.replace("old", "new"))
        self.assertEqual(documents.replaced(before, "bench", "old"), before)
        self.assertRaises(ValueError, documents.replaced, "no markers", "bench", "new")


class ChoiceTests(SynchronousTestCase):
    there = peers("")

    def names(self, *words: str) -> tuple[list[str], list[str]]:
        scenarios, wanted = chosen(list(words), self.there)
        return [scenario.key for scenario in scenarios], [peer.name for peer in wanted]

    def test_everything_is_measured_by_default(self) -> None:
        self.assertEqual(self.names(), ([s.key for s in ALL], [p.name for p in self.there]))

    def test_scenarios_are_named_by_number_or_key(self) -> None:
        self.assertEqual(self.names("6", "qos0")[0], ["qos0", "pingpong-10", "pingpong-100"])

    def test_brokers_are_named_too(self) -> None:
        self.assertEqual(self.names("3", "mosquitto"), (["qos1-in"], ["mosquitto"]))

    def test_a_wrong_word_is_named(self) -> None:
        error = self.assertRaises(SystemExit, self.names, "qos7")
        self.assertIn("there is no qos7", str(error))

    def test_what_is_not_installed_is_skipped_by_name(self) -> None:
        class Missing(Peer):
            def missing(self) -> str:
                return "it is not installed"

        there, skipped = available([Peer("here"), Missing("gone")])
        self.assertEqual([peer.name for peer in there], ["here"])
        self.assertEqual(skipped, {"gone": "it is not installed"})

    def test_every_round_begins_with_another_one(self) -> None:
        self.assertEqual("".join(alternating(3, "abc")), "abcbcacab")
        self.assertEqual(list(alternating(3, [])), [])

    def test_the_scenarios_have_the_numbers_of_the_documents(self) -> None:
        self.assertEqual([s.number for s in ALL], sorted(s.number for s in ALL))
        self.assertEqual(len({s.key for s in ALL}), len(ALL))
        self.assertIsInstance(IDLE, Scenario)
