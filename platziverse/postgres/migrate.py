"""Migrate: brings the tables of a database to the version that this daemon writes. Decided in ADR 0031.

Every file ``schema/NNN*.sql`` is one step, applied once, in order, in one transaction with the row of
``platziverse_schema`` that remembers it. The tables of the original become ours within the first step, and
once more when the setup of the original has dropped ours and made its own; see docs/adr/0086.
"""

import importlib.resources
import re
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

import psycopg2
from attrs import frozen
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from platziverse.errors import Unusable
from platziverse.postgres.connection import Connection, DeadlinePassed, connect, force_close, timed
from platziverse.postgres.sqlstate import Action, classify, one_line

if TYPE_CHECKING:
    from importlib.abc import Traversable

log = Logger("platziverse.store")

#: "plat" and "zive": the advisory lock of whoever changes the tables.
LOCK: Final = (0x706C6174, 0x7A697665)
#: The files that surround ``001.sql`` when the tables of the original are there.
ASIDE, CONVERT = "original-aside.sql", "original-convert.sql"
#: And those that surround all steps when only agents and metrics have to be made again.
REMADE_ASIDE, REMADE_HOME = "remade-aside.sql", "remade-home.sql"

#: What has nothing to do with the tables.
_ANOTHER_TIME: Final = (Action.RECONNECT, Action.RETRY, Action.PAUSE, Action.HALVE)

_BEGIN: Final = "BEGIN; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0"
_TRY_LOCK: Final = f"SELECT pg_try_advisory_xact_lock({LOCK[0]}, {LOCK[1]})"
_MAKE_VERSIONS: Final = """CREATE TABLE platziverse_schema (
    version integer PRIMARY KEY,
    file text NOT NULL,
    applied timestamptz NOT NULL DEFAULT now()
)"""
_STATE: Final = """SELECT coalesce((SELECT max(version) FROM platziverse_schema), 0),
    array_remove(ARRAY[to_regclass('agents')::text, to_regclass('metrics')::text], NULL)"""
#: Of agents and metrics: those that are there, and those that have a column which only ours have.
PRESENT: Final = """SELECT count(to_regclass(name)), count(*) FILTER (WHERE EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass(name) AND attname = ours AND NOT attisdropped))
    FROM (VALUES ('agents', 'connectedBy'), ('metrics', 'timestampAdjusted')) AS wanted (name, ours)"""

_Steps = Generator["Deferred[Any]", Any, Any]


class SchemaError(Unusable):
    """The tables cannot be brought to our version; the text says why in one line. Nothing was changed."""


@frozen
class Step:
    """A Step is one file of the schema."""

    version: int
    name: str
    sql: str


def read_steps(schema: "Traversable") -> list[Step]:
    """Return the steps of a directory in order; version ``N`` is the file that begins with ``00N``."""
    numbered = sorted(file.name for file in schema.iterdir() if re.match(r"\d{3}.*\.sql$", file.name))
    return [Step(int(name[:3]), name, (schema / name).read_text(encoding="utf-8")) for name in numbered]


@inlineCallbacks
def migrate(
    dsn: str,
    reactor: Any,
    *,
    schema: "Traversable | None" = None,
    make: bool = True,
    patience: float = 60.0,
    step_deadline: float = 4 * 3600.0,
    begin: Callable[[int, int], None] = lambda version, last: None,
) -> Generator["Deferred[Any]", Any, int]:
    """Apply the steps that are missing. The Deferred fires with the version reached.

    :param schema: directory of the steps; ``None``: our own.
    :param make: make the tables where there are none of ours; not when they were there before: then only
        their schema is hidden (``search_path``), or somebody restores them.
    :param patience: seconds to wait while another daemon changes the tables.
    :param step_deadline: seconds for one step; converting a large database of the original takes long.
    :param begin: called before each step with its version and that of the last one.
    :raises SchemaError: a newer daemon was here, the tables are somebody else's, or a step was refused.
    :raises psycopg2.OperationalError: the database is away, busy or full; try again later.
    """
    schema = schema or importlib.resources.files("platziverse.postgres") / "schema"
    steps, version = read_steps(schema), None
    connection = yield connect(dsn, reactor)
    try:
        while version is None:
            version = yield _next_step(connection, schema, steps, make, patience, step_deadline, begin)
        return int(version)
    except psycopg2.OperationalError:
        raise
    except psycopg2.Error as error:
        raise _told_apart(error, connection) from error
    finally:
        force_close(connection)


def _told_apart(error: psycopg2.Error, connection: Connection) -> Exception:
    """Return an ``OperationalError`` if the step may go better another time, else a ``SchemaError``."""
    if classify(error, bool(connection.closed)) in _ANOTHER_TIME:
        return psycopg2.OperationalError(one_line(error))
    said = ", ".join(filter(None, (error.diag.message_primary, error.diag.message_detail))) or str(error)
    return SchemaError(f"the database refused to change its tables: {' '.join(said.split())}")


@inlineCallbacks
def _next_step(
    connection: Connection,
    schema: "Traversable",
    steps: list[Step],
    make: bool,
    patience: float,
    deadline: float,
    begin: Callable[[int, int], None],
) -> Generator["Deferred[Any]", Any, int | None]:
    """Apply the next step, in one transaction. Fires with ``None``; with the version if none was missing."""
    yield _begin(connection, patience)
    ((found,),) = yield timed(connection, connection.runQuery("SELECT to_regclass('platziverse_schema')"), 30)
    if found is None:
        if not make:
            raise SchemaError("platziverse_schema is gone: is the search_path, or the role, another one?")
        yield timed(connection, connection.runOperation(_MAKE_VERSIONS), 30)
    ((version, present),) = yield timed(connection, connection.runQuery(_STATE), 30)
    known = steps[-1].version if steps else 0
    if version > known:
        newer = f"the database has tables of version {version}, this platziverse knows {known}"
        raise SchemaError(f"{newer}; install a newer one")
    missing = [step for step in steps if step.version > version]
    if missing:
        begin(missing[0].version, known)
        yield _apply(connection, missing[0], _surrounded(missing[0], schema, version, present), deadline)
    elif version:
        yield _look_again(connection, schema, steps, deadline)
    yield timed(connection, connection.runOperation("COMMIT"), deadline)
    return None if missing else version


@inlineCallbacks
def _look_again(connection: Connection, schema: "Traversable", steps: list[Step], deadline: float) -> _Steps:
    """Convert agents and metrics once more, if they are those of the original in spite of our version."""
    ((present, ours),) = yield timed(connection, connection.runQuery(PRESENT), 30)
    if ours == 2:
        return
    if present < 2 or ours:
        raise SchemaError(
            "agents or metrics is gone or somebody else's; restore both, or drop both and let"
            " the setup of the original make them"
        )
    log.warn(
        "the setup of the original has dropped agents and metrics and made its own; converting them again"
    )
    yield timed(connection, connection.runOperation(_remade(schema, steps)), deadline)
    log.info("agents and metrics are ours again; all other tables are as they were")


def _remade(schema: "Traversable", steps: list[Step]) -> str:
    """SQL that turns agents and metrics of the original into ours, and leaves all other tables alone."""
    first, *others = (step.sql for step in steps)
    aside, hidden, convert, home = (
        (schema / name).read_text(encoding="utf-8") for name in (ASIDE, REMADE_ASIDE, CONVERT, REMADE_HOME)
    )
    return "\n;\n".join([aside, hidden, first, convert, *others, home])


@inlineCallbacks
def _begin(connection: Connection, patience: float) -> _Steps:
    """Open a transaction that holds the advisory lock; it goes with the transaction, whatever happens."""
    reactor = connection.reactor
    give_up, said = reactor.seconds() + patience, False
    while True:
        yield timed(connection, connection.runOperation(_BEGIN), 10)
        ((locked,),) = yield timed(connection, connection.runQuery(_TRY_LOCK), 10)
        if locked:
            return
        yield timed(connection, connection.runOperation("ROLLBACK"), 10)
        if reactor.seconds() > give_up:
            raise DeadlinePassed(f"another daemon has been changing the tables for {patience:g} s")
        if not said:
            said = True
            log.info("another daemon is changing the tables; waiting for it")
        yield deferLater(reactor, 0.1)


def _surrounded(step: Step, schema: "Traversable", version: int, present: list[str]) -> str:
    """Return the SQL of ``step``; that of the first one takes over the tables of the original, if any.

    :param present: names of the tables of the original that are there.
    :raises SchemaError: only one of the two is.
    """
    if version or not present:
        return step.sql
    if len(present) == 1:
        raise SchemaError(f"the database has a table {present[0]} that is not platziverse's; use another one")
    log.info("converting the tables of the original; it takes some seconds for every million metrics")
    aside, convert = ((schema / name).read_text(encoding="utf-8") for name in (ASIDE, CONVERT))
    return f"{aside}\n;\n{step.sql}\n;\n{convert}"


@inlineCallbacks
def _apply(connection: Connection, step: Step, sql: str, deadline: float) -> _Steps:
    remember = "INSERT INTO platziverse_schema (version, file) VALUES (%s, %s)"
    yield timed(connection, connection.runOperation(sql), deadline)
    yield timed(connection, connection.runOperation(remember, (step.version, step.name)), 30)
    log.info("the tables reach version {version} ({name})", version=step.version, name=step.name)
