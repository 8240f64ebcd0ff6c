"""Sources: the records of a file, or of standard input, and where each of them ends."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from platziverse.settings import ConfigError

CSV, NDJSON, INFLUX = "csv", "ndjson", "influx"
#: How a file's name ends → its format.
SUFFIXES: Final = {
    ".csv": CSV,
    ".tsv": CSV,
    ".ndjson": NDJSON,
    ".jsonl": NDJSON,
    ".json": NDJSON,
    ".lp": INFLUX,
    ".line": INFLUX,
    ".influx": INFLUX,
}
_BOM: Final = b"\xef\xbb\xbf"
#: Bytes of one record; a longer one is no record, and would fill the memory.
MAX_RECORD: Final = 16 * 1024 * 1024

#: A record: a row of CSV as column → cell, without empty cells; a line of all else.
Record: TypeAlias = "bytes | dict[str, str]"


class BadRecord(Exception):
    """A record cannot be read; the text says why."""


class Source:
    """A Source yields records.

    :param file: binary.
    :ivar position: bytes up to the end of the last record.
    :ivar line: the number of its last line, from 1.
    """

    def __init__(self, file: Any, form: str) -> None:
        self._file, self._form = file, form
        self.position = self.line = 0

    def skip(self, position: int) -> None:
        """Go on at a position. :raises ConfigError: the source ends before it."""
        while self.position < position:
            data = self._file.read(min(1 << 20, position - self.position))
            if not data:
                raise ConfigError(f"the file has {self.position} bytes, {position} of it were stored before")
            self.position += len(data)
            self.line += data.count(b"\n")

    def records(self, since: int = 0) -> "Iterator[Record | BadRecord]":
        """Yield all records that begin at a position or behind it, and what is none."""
        if self._form == CSV:
            yield from self._rows(since)
            return
        self.skip(since)
        for line in self._long_lines() if self._form == INFLUX else self._lines():
            stripped = line.strip()
            if stripped and not (self._form == INFLUX and stripped.startswith(b"#")):
                yield stripped

    def _lines(self) -> Iterator[bytes]:
        """Yield all lines with their ends. :raises ConfigError: one is too long."""
        for line in iter(lambda: self._file.readline(MAX_RECORD), b""):
            if len(line) == MAX_RECORD and not line.endswith(b"\n"):
                raise ConfigError(
                    f"line {self.line + 1} has {MAX_RECORD} bytes and more; is it {self._form}?"
                )
            begins = self.position == 0
            self.position += len(line)
            self.line += 1
            yield line.removeprefix(_BOM) if begins else line

    def _long_lines(self) -> Iterator[bytes]:
        """Yield lines of the line protocol, whose quoted texts may have line feeds."""
        waiting = b""
        for line in self._lines():
            waiting += line
            quotes = waiting.count(b'"') - waiting.count(b'\\"') if b'"' in waiting else 0
            if quotes % 2 == 0 or len(waiting) > MAX_RECORD:
                yield waiting
                waiting = b""
        if waiting:
            yield waiting

    # -- CSV -------------------------------------------------------------------------------------

    def _rows(self, since: int) -> "Iterator[Record | BadRecord]":
        lines = self._lines()
        first = next(lines, b"").decode("utf-8", "surrogateescape")
        delimiter = max(",;\t|", key=first.count)
        texts = (line.decode("utf-8", "surrogateescape") for line in lines)
        columns = _columns(next(_cells([first], delimiter), []))
        if since:
            self.skip(since)
        for cells in _cells(texts, delimiter):
            if isinstance(cells, BadRecord):
                yield cells
            elif len(cells) == len(columns):
                yield {column: cell for column, cell in zip(columns, cells, strict=True) if cell}
            elif cells:
                yield BadRecord(f"{len(cells)} cells, the header has {len(columns)}")


def _cells(lines: Iterable[str], delimiter: str) -> "Iterator[Any]":
    """Yield the cells of each row, and what is no row."""
    rows = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRecord(f"no row of CSV: {error}")


def _columns(header: object) -> list[str]:
    """Return the names of the columns. :raises ConfigError: they are none."""
    names = [name.strip() for name in header] if isinstance(header, list) else []
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError("the first line of CSV names the columns, each with another name")
    return names


def open_source(path: str, standard: Callable[[], Any]) -> Any:
    """Return a file, or standard input for ``-``. :raises ConfigError: it cannot be read."""
    if path == "-":
        return standard()
    try:
        return open(path, "rb", buffering=io.DEFAULT_BUFFER_SIZE * 16)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
