"""Daemons that share their clients, with a PostgreSQL and a Redis of their own: all may be ill-treated."""

import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from attrs import define, field

from tests.crash.daemon import Daemon
from tests.crash.postgres import Postgres
from tests.crash.waiting import poll
from tests.redis import RedisServer

#: Visitors come and go faster than any client should.
SETTINGS: Final = {"PLATZIVERSE_LIMITS_MAX_CONNECTS_PER_MINUTE": "1000000"}
#: Seconds until anything has happened that takes some, on a machine that may be busy.
PATIENCE: Final = 60.0

_KNOWN: Final = "SELECT count(*) FROM mqtt_daemons"
_HEIR: Final = "SELECT heir FROM mqtt_daemons WHERE id = %s AND heir IS NOT NULL"
_LEFT: Final = """SELECT (SELECT count(*) FROM mqtt_sessions WHERE daemon = %(id)s)
    + (SELECT count(*) FROM mqtt_wills WHERE daemon IN (%(id)s, -%(id)s))"""
_OWNERS: Final = 'SELECT "clientId", daemon FROM mqtt_sessions'


@define(eq=False)
class DaemonSet:
    """Daemon ``n`` of the list has the number ``n + 1`` in the database: they are started one after another.

    :param home: existing directory for what the daemons keep.
    """

    home: str
    postgres: Postgres
    redis: RedisServer
    count: int = 3
    settings: "dict[str, str]" = field(factory=lambda: SETTINGS)
    daemons: list[Daemon] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.daemons = [self._daemon(os.path.join(self.home, str(n + 1))) for n in range(self.count)]

    def _daemon(self, home: str) -> Daemon:
        os.mkdir(home, 0o711)
        settings = {"PLATZIVERSE_BUS_URL": self.redis.url, **self.settings}
        return Daemon(home, "--database", self.postgres.dsn, **settings)

    @property
    def ports(self) -> list[int]:
        return [daemon.port for daemon in self.daemons]

    def execute(self, sql: str, parameters: Any = ()) -> list[Any]:
        """The rows of one statement."""
        return self.postgres.execute(sql, parameters)

    def start(self) -> None:
        """All of them; each knows the others at the end."""
        for number, daemon in enumerate(self.daemons, 1):
            daemon.start()
            daemon.wait_until_listening(PATIENCE)
            poll(partial(self._knows, number), PATIENCE, f"daemon {number} is known", 0.05)
        self.wait_until_acquainted()

    def _knows(self, number: int) -> bool:
        """Whether so many daemons are in the table, which the first one has to make."""
        ((table,),) = self.execute("SELECT to_regclass('mqtt_daemons')")
        return table is not None and self.execute(_KNOWN) == [(number,)]

    def wait_until_acquainted(self) -> float:
        """Each says that it shares its clients with all others; the seconds it took."""

        def acquainted() -> bool:
            return all(
                (daemon.scrape() or {}).get("platziverse_daemons") == self.count for daemon in self.daemons
            )

        return poll(acquainted, PATIENCE, "all daemons know each other", 0.1)

    def wait_for_heir(self, victim: int) -> int:
        """Another daemon has all that this one has left behind; which one."""

        def inherited() -> bool:
            return self.heir_of(victim) is not None and self._left(victim) == 0

        poll(inherited, PATIENCE, f"an heir of daemon {victim + 1}", 0.1)
        heir = self.heir_of(victim)
        assert heir is not None
        return heir

    def heir_of(self, victim: int) -> "int | None":
        """Which daemon has fenced this one, if any."""
        rows = self.execute(_HEIR, (victim + 1,))
        return int(rows[0][0]) - 1 if rows else None

    def _left(self, victim: int) -> int:
        return int(self.execute(_LEFT, {"id": victim + 1})[0][0])

    def owners(self) -> "dict[str, int]":
        """Client Identifier → which daemon has its Session, by the database."""
        return {name: number - 1 for name, number in self.execute(_OWNERS)}

    # -- what may happen to one of them ------------------------------------------------------------

    def kill(self, victim: int) -> None:
        self.daemons[victim].kill()
        self.daemons[victim].wait(PATIENCE)

    def signal(self, victims: Sequence[int], number: int) -> None:
        """E.g. SIGSTOP and SIGCONT."""
        for victim in victims:
            self.daemons[victim].process.send_signal(number)

    def end(self) -> None:
        """Leave nothing behind, whatever state they are in."""
        for daemon in self.daemons:
            daemon.end()
        self.redis.remove()

    def stop(self) -> list[int]:
        """SIGTERM for all at once; the exit codes."""
        for daemon in self.daemons:
            daemon.process.send_signal(signal.SIGTERM)
        return [daemon.wait(PATIENCE) for daemon in self.daemons]
