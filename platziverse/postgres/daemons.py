"""Daemons: what the rows of ``mqtt_daemons`` say about the daemons that share a database."""

import socket
from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import field, frozen

from platziverse.postgres.requests import DEAD

#: All rows, but for the one of the identity given. Nobody is silent right after a start of the database.
LOOK: Final = f"""SELECT id, instance, incarnation, "seenAt", coalesce(name, ''), coalesce(version, ''),
    coalesce(bus, ''), coalesce(heir, 0), "leftAt" IS NOT NULL, "seenAt" > now() - interval '{DEAD} s',
    "seenAt" < now() - interval '{DEAD} s' AND pg_postmaster_start_time() < now() - interval '{DEAD} s'
    FROM mqtt_daemons WHERE instance IS DISTINCT FROM %s ORDER BY id"""
#: Whether nobody has taken over from the daemon with this number since it has had this incarnation.
IS_THERE: Final = "SELECT EXISTS (SELECT FROM mqtt_daemons WHERE id = %s AND incarnation = %s)"
#: What operators see of each daemon: the columns of ``LISTED``.
LIST: Final = f"""SELECT id, coalesce(name, ''), coalesce(version, ''), coalesce(bus, ''), incarnation,
    CASE WHEN "leftAt" IS NOT NULL THEN 'left' WHEN heir IS NOT NULL THEN 'dead'
        WHEN "seenAt" > now() - interval '{DEAD} s' THEN 'alive' ELSE 'silent' END,
    {{seen}}, heir, coalesce(sessions, 0)
    FROM mqtt_daemons LEFT JOIN (
        SELECT daemon, count(*) AS sessions FROM mqtt_sessions GROUP BY daemon) AS owned ON daemon = id
    ORDER BY id"""
LISTED: Final = ("number", "name", "version", "bus", "incarnation", "state", "seenAt", "heir", "sessions")


@frozen
class Registration:
    """A Registration is what a daemon says about itself in its row.

    :ivar instance: the identity in its state directory.
    :ivar version: of platziverse.
    :ivar bus: the daemons with the same one share their clients; empty: it shares them with nobody.
    :ivar name: of its host; of a worker with its number, as in ``host/2``.
    """

    instance: UUID
    version: str = ""
    bus: str = ""
    name: str = field(factory=socket.gethostname)


@frozen
class DaemonRow:
    """A DaemonRow is the row of a daemon, as the database judges it now.

    :ivar instance: its identity, as a text.
    :ivar seen: its last sign of life.
    :ivar bus: the daemons with the same one share their clients; empty: it shares them with nobody.
    :ivar heir: number of the daemon that has fenced it and takes over what it left; 0: nobody has.
    :ivar left: it has stopped, and left everything to the others.
    :ivar fresh: it has given a sign of life lately.
    :ivar silent: it has given none for so long that it is dead. Right after a start of the database a
        daemon may be neither.
    """

    number: int
    instance: str
    incarnation: int
    seen: datetime
    name: str
    version: str
    bus: str
    heir: int
    left: bool
    fresh: bool
    silent: bool

    @property
    def lives(self) -> bool:
        """Return whether it is there."""
        return self.fresh and not self.heir and not self.left

    def __str__(self) -> str:
        return f"daemon {self.number} on {self.name or 'a host without a name'}"
