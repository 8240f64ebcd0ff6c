"""What is known of the types of an agent, in the table ``series``."""

from typing import Any

from platziverse.agents.model import Entry, Series
from tests.ingest.entries import key, report
from tests.ingest.test_statement import StatementCase
from tests.servers import execute


def with_series(*series: Series, **fields: Any) -> Entry:
    made = report("1", **fields)
    made.series = series
    return made


class SeriesTests(StatementCase):
    def rows(self) -> list[tuple[Any, ...]]:
        columns, join = "uuid, type, unit, rule", 'JOIN agents ON agents.id = "agentId"'
        sql = f"SELECT {columns} FROM series {join} ORDER BY uuid, type"
        return execute(self.dsn, sql)

    def test_a_new_type_is_written_with_its_unit_and_its_rule(self) -> None:
        entries = [
            with_series(Series("t", "°C", "rules.toml#1"), Series("h"), uuid="a"),
            with_series(Series("t"), uuid="b"),
            report("2", uuid="c"),
        ]
        self.run_statement(entries, 1)
        expected = [("a", "h", None, None), ("a", "t", "°C", "rules.toml#1"), ("b", "t", None, None)]
        self.assertEqual(self.rows(), expected)

    def test_an_agent_that_is_remembered_gets_its_types_too(self) -> None:
        self.run_statement([report("1", uuid="a")], 1)
        self.run_statement([with_series(Series("t"), uuid="a")], 2)
        self.assertEqual(self.rows(), [("a", "t", None, None)])

    def test_only_a_rule_says_more_of_a_type_that_is_known(self) -> None:
        for number, one in enumerate(
            [Series("t", "K", "r#1"), Series("t"), Series("t", "K", "r#1"), Series("t", "°C", "r#2")], 1
        ):
            self.run_statement([with_series(one, uuid="a")], number)
            if number == 3:
                self.assertEqual(self.rows(), [("a", "t", "K", "r#1")])
        self.assertEqual(self.rows(), [("a", "t", "°C", "r#2")])

    def test_one_type_twice_in_a_batch_is_written_as_it_was_said_last(self) -> None:
        entries = [
            with_series(Series("t", "K", "r#1"), uuid="a"),
            with_series(Series("t", "°C", "r#2"), uuid="a"),
        ]
        self.run_statement(entries, 1)
        self.assertEqual(self.rows(), [("a", "t", "°C", "r#2")])

    def test_a_message_that_comes_again_adds_nothing_wrong(self) -> None:
        self.run_statement([with_series(Series("t"), uuid="a", key=key(1))], 1)
        again = [
            with_series(Series("t"), uuid="a", key=key(1)),
            with_series(Series("h"), uuid="a", key=key(1)),
        ]
        self.run_statement(again, 2)
        self.assertEqual(self.rows(), [("a", "t", None, None)])

    def test_the_series_of_an_agent_that_is_deleted_are_deleted(self) -> None:
        self.run_statement([with_series(Series("t"), uuid="a"), with_series(Series("t"), uuid="b")], 1)
        execute(self.dsn, "DELETE FROM agents WHERE uuid = 'a'")
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM series"), [(1,)])
        self.assertEqual(self.rows(), [("b", "t", None, None)])
