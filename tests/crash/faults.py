"""What happens to databases. Each fault strikes, is held for a while, and is mended."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from attrs import field, frozen

from tests.crash.postgres import Postgres
from tests.crash.waiting import poll

#: The connections of the daemon, whatever it uses them for.
OURS: Final = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'harness'"


@frozen
class Fault:
    """:param strike: begins it; what it returns is given to ``mend``, which ends it, server up and answering.

    :param hold: seconds between the two, at least and at most.
    :param needs: says why it is not possible here, or nothing.
    """

    name: str
    strike: Callable[[Any], Any]
    mend: Callable[[Any, Any], None]
    hold: tuple[float, float] = (0.0, 1.0)
    needs: Callable[[Any], str] = field(default=lambda database: "")

    def during(self, rng: random.Random, longest: float) -> float:
        """How many seconds to hold it, at most ``longest``."""
        return min(longest, rng.uniform(*self.hold))


def _start_again(postgres: Postgres, _: object = None) -> None:
    postgres.start()


def _crash(postgres: Postgres) -> None:
    postgres.end(signal.SIGKILL)


def _shutdown(number: int) -> Callable[[Postgres], None]:
    return lambda postgres: postgres.end(number)


def _freeze(postgres: Postgres) -> None:
    """The postmaster first, so that no child is born while the others are stopped."""
    postgres.process.send_signal(signal.SIGSTOP)
    postgres.signal_all(signal.SIGSTOP)


def _thaw(postgres: Postgres, _: object) -> None:
    postgres.signal_all(signal.SIGCONT)


def _backend_killed(postgres: Postgres) -> None:
    """One backend dies; PostgreSQL then throws out all others and recovers by itself."""
    pids = [pid for (pid,) in postgres.execute(f"SELECT pid {OURS}")]
    with suppress(ProcessLookupError):
        for pid in pids[:1]:
            os.kill(pid, signal.SIGKILL)


def _until_it_answers(server: Any, _: object) -> None:
    poll(server.answers, 60, "PostgreSQL answers again")


def _terminate(postgres: Postgres) -> None:
    """Backends are terminated as they come, for a second."""
    until = time.monotonic() + 1
    poll(lambda: _terminated(postgres) and time.monotonic() > until, 60, "all backends terminated", 0.05)


def _terminated(postgres: Postgres) -> bool:
    postgres.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
    return True


def _lock(postgres: Postgres) -> Any:
    """Nobody can write metrics, nor read them."""
    connection = postgres.connect()
    connection.autocommit = False
    cursor = connection.cursor()
    cursor.execute("SET statement_timeout = '60s'")
    cursor.execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
    return connection


def _unlock(postgres: Postgres, connection: Any) -> None:
    connection.rollback()
    connection.close()


def _read_only(postgres: Postgres) -> None:
    postgres.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    postgres.execute("SELECT pg_reload_conf()")


def _writable(postgres: Postgres, _: object) -> None:
    postgres.execute("ALTER SYSTEM RESET default_transaction_read_only")
    postgres.execute("SELECT pg_reload_conf()")


def _fill(postgres: Postgres) -> None:
    postgres.fill_disk()


def _make_room(postgres: Postgres, _: object) -> None:
    postgres.free_disk()
    if postgres.process.poll() is not None:
        postgres.start()
    _until_it_answers(postgres, None)


#: What can be done to the embedded server, which its daemon starts again.
EMBEDDED: Final = (Fault("SIGKILL, embedded", lambda server: server.kill(), _until_it_answers),)

FAULTS: Final = (
    Fault("SIGKILL", _crash, _start_again),
    Fault("immediate shutdown", _shutdown(signal.SIGQUIT), _start_again),
    Fault("restart", _shutdown(signal.SIGINT), _start_again),
    Fault("SIGSTOP", _freeze, _thaw, hold=(0.2, 15.0)),
    Fault("disk full", _fill, _make_room, hold=(1.0, 4.0), needs=lambda postgres: postgres.no_disk),
    Fault("one backend killed", _backend_killed, _until_it_answers),
    Fault("backends terminated", _terminate, _until_it_answers),
    Fault("metrics locked", _lock, _unlock, hold=(0.2, 12.0)),
    Fault("read-only", _read_only, _writable, hold=(0.5, 3.0)),
)
