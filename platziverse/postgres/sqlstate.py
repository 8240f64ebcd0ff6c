"""SQLSTATE: the action after a failure, by its SQLSTATE or by the exception of psycopg2 without one."""

import re
from enum import Enum, auto
from typing import Final

import psycopg2
from psycopg2.extensions import QueryCanceledError

#: Where an error of the server names what it is about.
_OBJECTS: Final = ("table_name", "column_name", "constraint_name", "context")


class ConnectFailed(Exception):
    """No connection could be made; ``__cause__`` says why."""


class Action(Enum):
    """An Action is what to do with a batch that was not committed."""

    #: The connection or the node is gone, the outcome is unknown: connect anew, same batch, same number.
    RECONNECT = auto()
    #: A conflict: at once again, later with pauses.
    RETRY = auto()
    #: The server lacks something: again after a pause, over the same connection.
    PAUSE = auto()
    #: It took too long: in halves.
    HALVE = auto()
    #: Some row may be wrong: find it, and try whether the tables take others.
    BAD_ROW = auto()
    #: Rights, tables or logins are wrong, which no data is to blame for: alarm, and again after a pause.
    SETUP = auto()
    #: Agents are no longer as we left them: again, without relying on memory.
    STALE = auto()
    #: This daemon counts as dead: without what only its old incarnation may write, again.
    FENCED = auto()
    #: Again a few times; then it must be some row.
    UNKNOWN = auto()


#: The longest prefix of a SQLSTATE decides. Only class 22 is about values, and even that is not believed
#: before a trial; what constraints, triggers and sequences refuse is the fault of who made them: ADR 0085.
POLICY: Final = {
    "08": Action.RECONNECT,
    "57P01": Action.RECONNECT,  # admin shutdown
    "57P02": Action.RECONNECT,  # crash shutdown
    "57P03": Action.RECONNECT,  # starting up
    "57P04": Action.RECONNECT,  # the database was dropped
    "57P05": Action.RECONNECT,  # idle session
    "25006": Action.RECONNECT,  # read-only: the node we talk to is no longer the primary
    "25P03": Action.RECONNECT,  # idle in transaction
    "25P04": Action.HALVE,  # transaction_timeout
    "40": Action.RETRY,
    "55P03": Action.RETRY,
    "55": Action.PAUSE,
    "53": Action.PAUSE,
    "54": Action.PAUSE,
    "54000": Action.BAD_ROW,  # a name too long for an index
    "58": Action.PAUSE,
    "57014": Action.HALVE,
    "22": Action.BAD_ROW,
    "2200H": Action.SETUP,  # a sequence has no numbers left
    "22P02": Action.SETUP,  # the literals are ours, and not read as they were written
    "23": Action.SETUP,  # we write into every column what its type takes, and have no CHECK
    "23505": Action.RETRY,  # on a key that we generate: each try takes the next number
    "23P99": Action.BAD_ROW,  # our own: the agent belongs to another username
    "0A": Action.SETUP,
    "2F": Action.SETUP,
    "38": Action.SETUP,
    "39": Action.SETUP,
    "42": Action.SETUP,  # tables, columns, types, rights
    "44": Action.SETUP,
    "HV": Action.SETUP,
    "P0": Action.SETUP,  # a trigger of somebody else raises
    "XX001": Action.SETUP,  # a damaged table or index
    "XX002": Action.SETUP,
    "28": Action.SETUP,
    "3D": Action.SETUP,
    "3F": Action.SETUP,
    "PV001": Action.STALE,
    "PV003": Action.FENCED,
}

#: libpq gives no SQLSTATE for a refused login, only the server's words.
_LOGIN: Final = re.compile(
    r"(?<!canceling )authentication|pg_hba\.conf|no password supplied|permission denied"
    r"|(role|database) .* does not exist|not permitted to log in|certificate"
)


def classify(error: BaseException, closed: bool = False) -> Action:
    """Return the action after ``error``.

    :param closed: the connection is closed by now, so that the outcome is unknown.
    """
    if isinstance(error, ConnectFailed):
        return _classify_connecting(error.__cause__ or error)
    if isinstance(error, QueryCanceledError):
        return Action.HALVE  # 57014, as ``timed`` passes it on; the server said so, thus it is not committed
    state: str | None = getattr(error, "pgcode", None)
    if state == "23514" and not error.diag.constraint_name:  # type: ignore[attr-defined]
        return Action.RETRY  # no partition takes the row: one is being attached or detached
    if state == "23505" and (error.diag.table_name or "").startswith("mqtt_"):  # type: ignore[attr-defined]
        return Action.BAD_ROW  # on a key that the broker has made up
    if state is not None:
        found = (POLICY.get(state[:length]) for length in (5, 2))
        return next((action for action in found if action is not None), Action.UNKNOWN)
    if closed or isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return Action.RECONNECT
    if isinstance(
        error, ValueError | psycopg2.ProgrammingError | psycopg2.DataError | psycopg2.IntegrityError
    ):
        return Action.BAD_ROW  # a NUL, a lone surrogate, something psycopg2 cannot adapt
    return Action.UNKNOWN


def _classify_connecting(cause: BaseException) -> Action:
    if not isinstance(cause, psycopg2.OperationalError):
        return Action.SETUP
    if cause.pgcode is not None:
        action = classify(cause)
        return action if action is Action.SETUP else Action.RECONNECT
    return Action.SETUP if _LOGIN.search(str(cause)) else Action.RECONNECT


def one_line(error: BaseException) -> str:
    """Return what went wrong in one line, for a log or a reason."""
    if isinstance(error, ConnectFailed) and error.__cause__ is not None:
        error = error.__cause__
    diag = getattr(error, "diag", None)
    said = getattr(diag, "message_primary", None) or str(error)
    names = [getattr(diag, field, None) or "" for field in _OBJECTS]
    # What a function of ours raises says all there is to say.
    named = [name for name in names if name and name not in said and "function platziverse_" not in name]
    if named:
        said = f"{said} ({'; '.join(named)})"
    return " ".join(said.split()) or type(error).__name__
