"""One store that several daemons share, of which each writes what it has in its own time."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail, succeed

from platziverse.broker.places import StoredInterest, StoredPlace
from platziverse.broker.records import (
    ELSEWHERE,
    Absent,
    Back,
    Begun,
    Ended,
    Freed,
    Present,
    Queued,
    SessionRecord,
    Settled,
    StoredMessage,
    StoredSession,
    StoredWill,
    Taken,
    WillLeft,
)
from platziverse.ingest.errors import EntryRefused, StoreStopped
from platziverse.testing import MemorySessionStore


@define
class Table:
    """What is committed, and which daemon has which Session; below 0 the daemon has freed it.

    :ivar before: daemons that have died with a Session that is not settled.
    :ivar wills: which daemon has the Will of a client; below 0 it has inherited it.
    :ivar stamps: of each change of the attendance of a Session, instead of times that are all alike.
    """

    store: MemorySessionStore = field(factory=MemorySessionStore)
    owners: dict[int, int] = field(factory=dict)
    before: dict[int, tuple[int, ...]] = field(factory=dict)
    wills: dict[str, int] = field(factory=dict)
    stamps: dict[int, float] = field(factory=dict)
    _stamp: float = 0.0

    def write(self, record: SessionRecord, daemon: int) -> None:
        """Commit a record of a daemon, unless the Session is another one's."""
        if isinstance(record, Begun) and self.place(record.client_id) is not None:
            record.session = ELSEWHERE
        elif isinstance(record, Freed | Absent | Present | Ended):
            if self.owners.get(record.session, daemon) == daemon:
                self._change(record, daemon)
        elif isinstance(record, Back):
            if self.owners.get(record.session) == -daemon:
                self.owners[record.session] = daemon
        elif isinstance(record, Taken):
            there = self.owners.get(record.session), self.stamps.get(record.session)
            if there == (-record.before, record.since):
                self.owners[record.session] = daemon
        elif isinstance(record, Settled):
            for session in record.sessions:
                if self.owners.get(session) == daemon:
                    self.before.pop(session, None)
        else:
            self.store.save(record).addErrback(lambda failure: None)
            if isinstance(record, Begun):
                self.owners[record.session] = daemon
            elif isinstance(record, WillLeft):
                self.wills[record.client_id] = daemon

    def _change(self, record: Freed | Absent | Present | Ended, daemon: int) -> None:
        self.store.save(record)
        self._stamp += 1.0
        self.stamps[record.session] = self._stamp
        if isinstance(record, Freed):
            self.owners[record.session] = -daemon
        elif isinstance(record, Ended):
            self.owners.pop(record.session, None)

    def inherit(self, dead: int, heir: int) -> list[int]:
        """Give the Sessions and Wills of a dead daemon to its heir; return the numbers of the Sessions."""
        mine = [one for one, owner in self.owners.items() if owner == dead]
        theirs = [one for one, owner in self.wills.items() if abs(owner) == dead]
        self.wills.update(dict.fromkeys(theirs, -heir))
        for one in mine:
            before = self.before.get(one, ())
            self.before[one] = before if dead in before else (*before, dead)
            self.owners[one] = heir
        return mine

    def sessions(self, after: int = 0) -> list[StoredSession]:
        """Return all Sessions behind this number."""
        found: list[StoredSession] = []
        self.store.sessions(after, 10**6).addCallback(found.extend)
        return [evolve(one, inherited_from=self.before.get(one.session, ())) for one in found]

    def place(self, client_id: str) -> StoredPlace | None:
        """Return where the Session of a client is."""
        for one in self.sessions():
            if one.client_id == client_id and one.session in self.owners:
                since = self.stamps.get(one.session)
                return StoredPlace(one.session, self.owners[one.session], since, tuple(one.subscriptions))
        return None


class Share:
    """A Share is the ``SessionStore`` of one daemon.

    :ivar held: nothing is committed.
    :ivar refusing: messages are refused for their data.
    :ivar losing: who takes a Session is told that it cannot be.
    :ivar failing: pages are not read.
    :ivar slow: pages that were asked for are answered one by one, with :meth:`answer`.
    :ivar asked: those that wait.
    """

    def __init__(self, table: Table, daemon: int) -> None:
        self.available, self.held, self._dead = True, False, False
        self.refusing = self.failing = self.slow = self.losing = False
        self.asked: deque[Callable[[], None]] = deque()
        self._table, self._daemon = table, daemon
        self._waiting: deque[tuple[SessionRecord, Deferred[None]]] = deque()
        store = table.store
        self.retained, self.links, self.shared = store.retained, store.links, store.shared

    def save(self, record: SessionRecord) -> "Deferred[None]":
        saved: Deferred[None] = Deferred()
        if not self._dead:
            self._waiting.append((record, saved))
            if not self.held:
                self.commit()
        return saved

    def commit(self) -> None:
        """Commit what waits."""
        waiting, self._waiting = self._waiting, deque()
        for record, saved in waiting:
            if self.refusing and isinstance(record, Queued | Settled):
                saved.errback(EntryRefused("refused by the test"))
                continue
            if self.losing and isinstance(record, Taken):
                saved.errback(StoreStopped())
                continue
            self._table.write(record, self._daemon)
            saved.callback(None)

    def resume(self) -> None:
        """Commit everything, and from now on at once."""
        self.held = False
        self.commit()

    def kill(self) -> None:
        """Forget what waits, and write nothing any more."""
        self._dead = True
        self._waiting.clear()

    def sessions(self, after: int, limit: int) -> "Deferred[list[StoredSession]]":
        all_, owners = self._table.sessions(after), self._table.owners
        return succeed([one for one in all_ if owners.get(one.session) == self._daemon][:limit])

    def page(self, session: int, after: int, through: int, limit: int) -> "Deferred[list[StoredMessage]]":
        return self._page(partial(self._table.store.page, session, after, through, limit))

    def _page(self, page: "Callable[[], Deferred[list[StoredMessage]]]") -> "Deferred[list[StoredMessage]]":
        if self.failing:
            return fail(OSError("the database is away"))
        if not self.slow:
            return page()
        late: Deferred[list[StoredMessage]] = Deferred()
        self.asked.append(lambda: cast(None, page().chainDeferred(late)))
        return late

    def find(self, client_id: str) -> "Deferred[StoredPlace | None]":
        return succeed(self._table.place(client_id))

    def answer(self) -> None:
        """Answer the first question that waits."""
        self.asked.popleft()()

    def take(self) -> None:
        """Put all that waits into a batch that is under way."""
        for record, _ in self._waiting:
            if isinstance(record, Queued):
                record.taken = True

    def elsewhere(self, after: int, limit: int) -> "Deferred[list[StoredInterest]]":
        owners = self._table.owners
        found = [(one, abs(owners.get(one.session, self._daemon))) for one in self._table.sessions(after)]
        theirs = [(one, owner) for one, owner in found if owner != self._daemon][:limit]
        return succeed(
            [
                StoredInterest(one.session, daemon, tuple(one.subscriptions))
                for one, owner in theirs
                for daemon in (owner, *one.inherited_from)
                if daemon != self._daemon
            ]
        )

    def heirs(self, daemon: int) -> "Deferred[set[int]]":
        owners, before = self._table.owners, self._table.before
        theirs = [
            one for one, owner in owners.items() if abs(owner) == daemon or daemon in before.get(one, ())
        ]
        return succeed({abs(owners[one]) for one in theirs})

    def inherited(self, numbers: Sequence[int]) -> "Deferred[list[StoredSession]]":
        there = [one for one in self._table.sessions() if one.session in numbers]
        return succeed([one for one in there if self._table.owners.get(one.session) == self._daemon])

    def inherited_wills(self) -> "Deferred[list[StoredWill]]":
        return self._wills(lambda owner: owner == -self._daemon)

    def wills(self) -> "Deferred[list[StoredWill]]":
        return self._wills(lambda owner: abs(owner) == self._daemon)

    def _wills(self, are_ours: Callable[[int], bool]) -> "Deferred[list[StoredWill]]":
        owners = self._table.wills
        return self._table.store.wills().addCallback(
            lambda wills: [will for will in wills if are_ours(owners[will.client_id])]
        )
