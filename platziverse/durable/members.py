"""Members: the daemons that share our clients, by what their rows in the database say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from twisted.logger import Logger

from platziverse.broker.ports import MembershipWatcher
from platziverse.postgres.daemons import DaemonRow

log = Logger("platziverse.database")

#: What the operator of a daemon is told who may expect that it shares its clients with another one.
ALONE: Final = (
    "{others} use this database too. This daemon may record beside them, but it shares neither clients nor"
    " messages with them: for that, all of them need the same [bus]"
)


class Members:
    """Members are a ``Membership`` that is told the rows of ``mqtt_daemons`` with every sign of life.

    A daemon that gives none any more stays until it is fenced: after an outage of the database nobody has
    left. Decided in ADR 0140.

    :param bus: the daemons with the same one share our clients; empty: nobody does.
    :param holding: returns our number and incarnation; ``None``: we are not registered.
    :ivar seen: other daemons that use the database and live, whether they share our clients or not.
    """

    def __init__(self, bus: str, holding: Callable[[], tuple[int, int] | None]) -> None:
        self.bus = bus
        self.seen: list[DaemonRow] = []
        self._holding = holding
        self._others: dict[int, int] = {}
        self._watchers: list[MembershipWatcher] = []
        self._has_looked = False

    @property
    def ours(self) -> tuple[int, int] | None:
        """Return our number and incarnation; ``None``: we are not registered."""
        return self._holding()

    @property
    def others(self) -> Mapping[int, int]:
        """Return the incarnation of each other daemon that lives and shares our clients, by its number."""
        return self._others

    def watch(self, watcher: MembershipWatcher) -> None:
        """Tell ``watcher`` of the daemons in ``others``, at once, and of every change from now on."""
        self._watchers.append(watcher)
        for number, incarnation in self._others.items():
            watcher.joined(number, incarnation)

    def looked(self, rows: Sequence[DaemonRow]) -> None:
        """Take note of the rows of all other daemons."""
        self.seen = [row for row in rows if row.lives]
        if not self._has_looked:
            self._has_looked = True
            self._say_alone()
        members = {row.number: row for row in rows if self.bus and row.bus == self.bus}
        for number, incarnation in list(self._others.items()):
            row = members.get(number)
            if row is None or row.left or row.incarnation != incarnation:
                self._left(number, dead=row is not None and row.heir > 0)
        for number, row in members.items():
            if row.lives and number not in self._others:
                self._joined(row)

    def buried(self, number: int) -> None:
        """Take note that we have fenced a daemon, which did not live any more."""
        if number in self._others:
            self._left(number, dead=True)

    def fenced(self) -> None:
        """Tell everybody that we were taken for dead, if that means that others have taken our clients."""
        if self.bus:
            for watcher in self._watchers:
                watcher.fenced()

    def _say_alone(self) -> None:
        """Say, at the start, which daemons would share our clients if they were meant to."""
        strangers = [str(row) for row in self.seen if not self.bus or row.bus != self.bus]
        if strangers:
            log.warn(ALONE, others=", ".join(strangers))

    def _joined(self, row: DaemonRow) -> None:
        self._others[row.number] = row.incarnation
        log.info("{daemon} shares our clients", daemon=row)
        for watcher in self._watchers:
            watcher.joined(row.number, row.incarnation)

    def _left(self, number: int, dead: bool) -> None:
        del self._others[number]
        how = "is dead" if dead else "has stopped, or begun anew"
        log.info("daemon {number}, which shared our clients, {how}", number=number, how=how)
        for watcher in self._watchers:
            watcher.left(number, dead)
