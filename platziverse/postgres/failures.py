"""Failures: what background work on the database says when its runs fail, one after the other."""

from typing import Any, Final

import psycopg2
from twisted.logger import Logger

from platziverse.postgres.sqlstate import one_line

#: After so many runs that failed, one a minute, somebody should know.
PATIENCE: Final = 30


class Failures:
    """Failures counts runs that the database has refused, and says so: at *info*, each 30th at *warn*.

    :param log: where it is said.
    :param bug: a line for a failure that is none of the database's.
    :param later: a line with ``{failures}`` and ``{reason}``.
    """

    def __init__(self, log: Logger, bug: str, later: str) -> None:
        self._log, self._bug, self._later = log, bug, later
        self._count = 0

    def ended(self) -> None:
        """Begin to count anew: a run has succeeded."""
        self._count = 0

    def add(self, failure: Any) -> None:
        """Count a run that has failed.

        :param failure: a :class:`~twisted.python.failure.Failure`.
        """
        if not failure.check(psycopg2.Error):
            self._log.failure(self._bug, failure)
            return
        self._count += 1
        say = self._log.warn if self._count % PATIENCE == 0 else self._log.info
        say(self._later, failures=self._count, reason=one_line(failure.value))
