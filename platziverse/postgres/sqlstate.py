"""What to do about a failure: by SQLSTATE, and by what psycopg2 raises without one."""

import re
from enum import Enum, auto
from typing import Final

import psycopg2
from psycopg2.extensions import QueryCanceledError


class ConnectFailed(Exception):
    """There is no connection; the cause says why."""


class Action(Enum):
    """What to do with a batch that was not committed."""

    #: The connection or the node is gone, the outcome is unknown: connect anew, same batch, same number.
    RECONNECT = auto()
    #: A conflict: at once again, later with pauses.
    RETRY = auto()
    #: The server lacks something: again after a pause, over the same connection.
    PAUSE = auto()
    #: It took too long: in halves.
    HALVE = auto()
    #: Some row is wrong: find it.
    BAD_ROW = auto()
    #: Rights, tables or logins are wrong, which no data is to blame for: alarm, and again after a long pause.
    SETUP = auto()
    #: Agents are no longer as we left them: again, without relying on memory.
    STALE = auto()
    #: Again a few times; then it must be some row.
    UNKNOWN = auto()


#: The longest prefix of a SQLSTATE decides.
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
    "58": Action.PAUSE,
    "57014": Action.HALVE,
    "22": Action.BAD_ROW,
    "23": Action.BAD_ROW,
    "42804": Action.BAD_ROW,
    "42846": Action.BAD_ROW,
    "42": Action.SETUP,  # tables, columns, rights: all others of this class are about the statement
    "28": Action.SETUP,
    "3D": Action.SETUP,
    "3F": Action.SETUP,
    "PV001": Action.STALE,
}

#: libpq gives no SQLSTATE for a refused login, only the server's words.
_LOGIN: Final = re.compile(
    r"(?<!canceling )authentication|pg_hba\.conf|no password supplied|permission denied"
    r"|(role|database) .* does not exist|not permitted to log in|certificate"
)


def classify(error: BaseException, closed: bool = False) -> Action:
    """What to do about ``error``.

    :param closed: the connection is closed by now, so that the outcome is unknown.
    """
    if isinstance(error, ConnectFailed):
        return _classify_connecting(error.__cause__ or error)
    if isinstance(error, QueryCanceledError):
        return Action.HALVE  # 57014, as ``timed`` passes it on; the server said so, thus it is not committed
    state: str | None = getattr(error, "pgcode", None)
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
    """What went wrong, for a log line or a reason."""
    if isinstance(error, ConnectFailed) and error.__cause__ is not None:
        error = error.__cause__
    said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    return " ".join(said.split()) or type(error).__name__
