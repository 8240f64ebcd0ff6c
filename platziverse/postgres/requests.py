"""Requests: what an operator asks of running daemons, through a table that each of them looks at.

The daemon answers by doing it: whoever asks looks at the tables until it is done. A daemon that runs has the
truth in memory, so nobody else may write its tables. Decided in ADR 0118.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from platziverse.errors import Unusable

END_SESSION: Final = "end session"
CLEAR_RETAINED: Final = "clear retained"
DRAIN: Final = "drain"
KICK: Final = "end connection"
#: Seconds without a sign of life until a daemon is dead.
DEAD: Final = 10.0
#: Seconds that a daemon may take for most things, and between two looks.
PATIENCE: Final = 15.0
LOOK: Final = 0.1

_ALIVE: Final = f"""SELECT id FROM mqtt_daemons WHERE "seenAt" > now() - interval '{DEAD} s'
    AND (%(owner)s IS NULL OR id = %(owner)s)"""
_ASK: Final = """INSERT INTO mqtt_requests (daemon, request, argument)
    SELECT daemon, %(request)s, %(argument)s FROM unnest(%(daemons)s::smallint[]) AS daemon
    ON CONFLICT DO NOTHING"""
#: Asks all that are there for one thing, but the one with an instance, and those of a host; has their names.
ASK_OTHERS: Final = f"""WITH others AS (
    SELECT id, coalesce(name, '') AS name FROM mqtt_daemons WHERE "seenAt" > now() - interval '{DEAD} s'
        AND "leftAt" IS NULL AND heir IS NULL AND instance <> %s
        AND split_part(coalesce(name, ''), '/', 1) <> %s),
    asked AS (INSERT INTO mqtt_requests (daemon, request, argument) SELECT id, %s, %s FROM others
        ON CONFLICT DO NOTHING)
    SELECT 'daemon ' || id || ' on ' || name FROM others ORDER BY id"""
_WITHDRAW: Final = "DELETE FROM mqtt_requests WHERE request = %s AND argument = %s AND daemon = ANY(%s)"
#: Takes the requests to one daemon, oldest first.
TAKE: Final = """WITH taken AS (DELETE FROM mqtt_requests WHERE daemon = %s
    RETURNING "requestedAt", request, argument) SELECT request, argument FROM taken ORDER BY taken"""


def carry_out(
    connection: Any,
    request: str,
    argument: str,
    owner: int | None,
    otherwise: str,
    is_done: Callable[[], bool],
    patience: float = PATIENCE,
    **parameters: object,
) -> None:
    """Have a request carried out by the daemons that run, or here if there is none.

    :param connection: of psycopg2, in autocommit.
    :param owner: number of the one daemon that can do it; ``None``: it is for all of them.
    :param otherwise: SQL that does it; gets ``argument`` and ``parameters``.
    :param is_done: looks at the tables.
    :param patience: seconds that a daemon may take.
    :raises Unusable: a daemon runs, and has not done it by then. It will not do it later either, as nobody
        expects that any more.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ALIVE, {"owner": owner})
        daemons = [number for (number,) in cursor]
        if not daemons:
            cursor.execute(otherwise, {"argument": argument, **parameters})
            return
        give_up = time.monotonic() + patience
        cursor.execute(_ASK, {"request": request, "argument": argument, "daemons": daemons})
        try:
            while not is_done():
                if time.monotonic() > give_up:
                    raise Unusable(
                        f"the daemon has not done it in {patience:g} s; look at its log, then ask again"
                    )
                time.sleep(LOOK)
        except (Unusable, KeyboardInterrupt):
            cursor.execute(_WITHDRAW, (request, argument, daemons))
            raise
