"""``platziverse import``: readings of the past, from files, become rows as if they had been recorded."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID, uuid4

from attrs import define

from platziverse.agents.model import InvalidReport, Report
from platziverse.agents.vocabulary import Vocabulary
from platziverse.command.database import connected, find_dsn
from platziverse.command.meanings import Agents, Ignored, Meaning, OfRules, Own
from platziverse.command.progress import Progress
from platziverse.command.rules import Somebody, add_rules, chosen_rules
from platziverse.command.sources import INFLUX, SUFFIXES, BadRecord, Source, open_source
from platziverse.config import Config
from platziverse.ingest.bulk import Bulk
from platziverse.rules.templates import Template
from platziverse.settings import ConfigError

USAGE: Final = """\
CSV with a line of column names, NDJSON, or the line protocol of InfluxDB. With --topic each record is read
as a message to this topic, by its rule; a row of CSV as an object of its cells. Holes as in {$.device} are
filled from the record. Without --topic it is what `platziverse export` writes: uuid, type, value, measured,
and perhaps more.

What is stored already is not stored again. A command that was interrupted is simply given again, and goes on
where it was. Exit code: 0, all of it is stored; 1, a record was rejected; each is named, up to twenty."""

#: Metrics of one transaction, and rejected records that are named.
PORTION, NAMED = 20_000, 20
#: Bytes at the beginning that a file is recognised by.
BEGINNING: Final = 64 * 1024
#: The topic of what agents of platziverse send.
AGENTS: Final = "agent/message"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    parser.add_argument("--format", choices=sorted(set(SUFFIXES.values())), help="else by the file's name")
    parser.add_argument("--topic", help="Topic Name, perhaps with holes, whose rule reads the records")
    parser.add_argument("--user", help="user name of the agents (none)")
    parser.add_argument(
        "--from-start", action="store_true", help="read all of it, whatever was stored before"
    )
    add_rules(parser)
    parser.set_defaults(run=import_records)
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, USAGE


def import_records(config: Config, options: argparse.Namespace) -> int:
    """``platziverse import``: the exit code is 1 if a record was rejected."""
    form = _format(options)
    meaning = _meaning(config, options, form)
    dsn = find_dsn(config)
    with (
        closing(open_source(options.file, lambda: sys.stdin.buffer)) as file,
        connected(dsn, copies=True) as connection,
    ):
        connection.autocommit = False
        bulk = Bulk(connection, _writer(options, file, form, meaning))
        since = bulk.position()
        source = Source(file, form)
        if since:
            print(f"{since:,} bytes of it are stored already (--from-start reads them again)")
        size = 0 if options.file == "-" else os.fstat(file.fileno()).st_size
        progress = Progress("metrics", max(size - since, 0))
        run = _Import(source, meaning, bulk, Vocabulary(config.agents.max_types), progress)
        try:
            run.run(since)
        finally:
            run.tell()
    _warn(run.oldest, config.ingest.keep_months)
    return 1 if run.rejected else 0


def _format(options: argparse.Namespace) -> str:
    """Return the format of the file. :raises ConfigError: nobody says it."""
    if options.format:
        return str(options.format)
    ending = os.path.splitext(options.file)[1].lower()
    if ending not in SUFFIXES:
        raise ConfigError(f"{options.file}: name its --format: csv, ndjson or influx")
    return SUFFIXES[ending]


def _meaning(config: Config, options: argparse.Namespace, form: str) -> Meaning:
    """Return what makes Reports of records. :raises Unusable: there is no rule, or it cannot be used."""
    now = time.time()
    if options.topic is None:
        if form == INFLUX or options.rules or options.preset:
            raise ConfigError("name the --topic whose rule reads the records")
        return Own(now)
    if options.topic == AGENTS:
        return Agents(config.agents, now)
    try:
        topic = Template(options.topic, ())
    except ValueError as error:
        raise ConfigError(f"--topic: {error}") from None
    rules = chosen_rules(config, options).rules
    return OfRules(rules, config.agents, topic, form, Somebody("import", options.user), now)


def _writer(options: argparse.Namespace, file: Any, form: str, meaning: Meaning) -> UUID:
    """Return what recognises a file, as long as it, and what it is read by, stay the same.

    Standard input may be another one each time, so all of it is read, and each metric is looked up.
    """
    if options.file == "-" or options.from_start:
        return uuid4()
    status = os.fstat(file.fileno())
    known = blake2b(digest_size=16)
    for part in (status.st_size, status.st_mtime_ns, form, options.user, meaning.identity):
        known.update(f"{part}\0".encode())
    known.update(file.read(BEGINNING))
    file.seek(0)
    return UUID(bytes=known.digest())


def _warn(oldest: float, keep_months: int) -> None:
    limit = datetime.now(timezone.utc) - timedelta(days=31 * keep_months)
    if keep_months and oldest < limit.timestamp():
        print(
            f"what is older than {keep_months} months will be deleted (ingest.keep_months)", file=sys.stderr
        )


@define
class _Import:
    """An _Import reads one portion while the one before it is stored, over a thread of its own."""

    source: Source
    meaning: Meaning
    bulk: Bulk
    vocabulary: Vocabulary
    progress: Progress
    count: int = 0
    rejected: int = 0
    ignored: int = 0
    oldest: float = float("inf")

    def run(self, since: int) -> None:
        """Store everything from a position on. :raises psycopg2.Error: the database refuses, or is away."""
        storing: Future[None] | None = None
        with ThreadPoolExecutor(1) as pool:
            for reports in self._portions(since):
                if storing is not None:
                    storing.result()
                storing = pool.submit(self.bulk.store, reports, self.source.position)
                self.progress.show(self.bulk.added + self.bulk.known, self.source.position - since)
            if storing is not None:
                storing.result()

    def _portions(self, since: int) -> Iterator[list[Report]]:
        reports: list[Report] = []
        metrics = 0
        for record in self.source.records(since):
            self.count += 1
            try:
                if isinstance(record, BadRecord):
                    raise record
                found = self.meaning.reports(record)
                for problem in self.meaning.problems():
                    self._reject(problem)
            except Ignored:
                self.ignored += 1
                continue
            except (BadRecord, InvalidReport) as error:
                self._reject(str(error))
                continue
            for report in found:
                metrics += self._admit(report)
            reports += found
            if metrics >= PORTION:
                yield reports
                reports, metrics = [], 0
        if self.source.position > since:
            yield reports

    def _admit(self, report: Report) -> int:
        """Take the metrics out of types too many; return how many remain."""
        metrics, others, learnt = self.vocabulary.admit(report.agent.uuid, report.metrics)
        if others:
            self._reject(f"{len(others)} metrics of new types of {report.agent.uuid!r} (max_types)")
        report.metrics = metrics
        if learnt:
            report.series = self.meaning.series(report, learnt)
        self.oldest = min(self.oldest, report.arrived)
        return len(metrics)

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        if self.rejected <= NAMED:
            self.progress.end()
            text = reason if reason.isprintable() else repr(reason)
            print(f"line {self.source.line}: {text}", file=sys.stderr)
        elif self.rejected == NAMED + 1:
            print("and more", file=sys.stderr)

    def tell(self) -> None:
        """Say what has become of the records."""
        self.progress.end()
        stored, seconds = self.bulk.added, self.progress.seconds
        print(
            f"{self.count:,} records: {stored:,} metrics stored, {self.bulk.known:,} were there;"
            f" {self.rejected:,} records rejected, {self.ignored:,} ignored"
            f" ({seconds:.1f} s, {(stored + self.bulk.known) / seconds:,.0f} metrics a second)"
        )
