"""Statement: is made of those parts of all kinds that one batch needs."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from attrs import frozen

from platziverse.ingest.kinds import Kinds, Part
from platziverse.postgres.literals import Column, written


@frozen
class Statement:
    """A Statement is the SQL of one batch, its parameters, and the columns that they were made of."""

    sql: str
    parameters: dict[str, Any]
    columns: Any


class Template:
    """A Template makes the statements of a table of kinds: a ticket, the parts that a batch needs, an answer.

    The text depends on which parts there are and on nothing else, so each of them is made once.

    :param ticket: the common table expression that every statement begins with.
    :param answer: called with the names of the parts of a statement; returns the columns that it selects.
    """

    def __init__(self, kinds: Kinds, ticket: str, answer: Callable[[frozenset[str]], str]) -> None:
        self._add = {entry_class: kind.add for entry_class, kind in kinds.items()}
        self._parts = tuple(dict.fromkeys(part for kind in kinds.values() for part in kind.parts))
        self._ticket, self._answer = ticket, answer
        self._text = cache(self._join)

    def fill(self, columns: Any, entries: Sequence[object], **ticket: Any) -> Statement:
        """Return the statement that writes ``entries``.

        :param columns: the entries are added to them, in order.
        :param ticket: the parameters that every statement has.
        """
        add = self._add
        for entry in entries:
            add[type(entry)](columns, entry)
        columns.settle()
        parts: list[Part] = []
        given: dict[str, Column] = {}
        for part in self._parts:
            if part.wanted(columns):
                parts.append(part)
                if part.parameters is not None:
                    given |= part.parameters(columns)
        return Statement(self._text(tuple(parts)), ticket | written(given), columns)

    def _join(self, parts: tuple[Part, ...]) -> str:
        present = frozenset(part.name for part in parts)
        clauses = [self._ticket, *filter(None, (part.text(present) for part in parts))]
        return f"WITH {', '.join(clauses)} SELECT {self._answer(present)}"
