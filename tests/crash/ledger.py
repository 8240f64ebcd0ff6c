"""The ledger: what every agent sent, what was acknowledged, and what the tables say about it.

A message is known by the uuid of its agent and a number ``n``, counted from 0. Both are in the values
of its metrics, ``"<uuid>:<n>"``, once under the type ``n`` and once under the type ``again``.
"""

import re
import threading
from collections import Counter
from typing import Final

from attrs import define, field

#: What becomes of a message: both rows; a row and a rejection; a rejection.
GOOD, MIXED, BAD = 0, 1, 2

ACKED: Final = 1
#: Exactly once is promised for it.
ONCE: Final = 2
#: QoS 0 and the connection, or the daemon, ended: it may be there or not.
FREE: Final = 4
MIXED_FLAG: Final = 8
BAD_FLAG: Final = 16
QOS0: Final = 32

MARK: Final = re.compile(rb"(agent-[0-9a-f]+-\d+):(\d+)")

#: Violations that are kept word for word; all of them are counted.
KEPT: Final = 20


@define
class Account:
    """The messages of one agent. ``flags[n]``, ``rows[n]`` and so on belong to message ``n``."""

    flags: bytearray = field(factory=bytearray)
    rows: bytearray = field(factory=bytearray)
    again: bytearray = field(factory=bytearray)
    rejected: bytearray = field(factory=bytearray)
    #: Messages that are not yet both acknowledged and found.
    open: set[int] = field(factory=set)
    #: The largest number found so far, of those whose order is promised.
    newest: int = -1

    def found(self, n: int) -> bool:
        """Whether everything that has to be there of message ``n`` is there."""
        flags = self.flags[n]
        rows = bool(self.rows[n]) and (bool(self.again[n]) or bool(flags & MIXED_FLAG))
        if flags & BAD_FLAG:
            return self.rejected[n] > 0
        return rows and (self.rejected[n] > 0 if flags & MIXED_FLAG else True)


@define
class Ledger:
    """Written by the load, read and completed by whoever looks into the tables.

    :ivar crossing: agents move between daemons: what went to one at QoS 0 may be stored after what went later
        to another one.
    """

    accounts: dict[str, Account] = field(factory=dict)
    sent: int = 0
    acked: int = 0
    found_rows: int = 0
    found_rejections: int = 0
    #: Messages without a promise of exactly once that are there more than once.
    repeated: int = 0
    #: CONNECTs with Clean Session 0 that were answered 0x03, which is allowed while the database is away.
    unavailable: int = 0
    violations: list[str] = field(factory=list)
    violated: Counter[str] = field(factory=Counter)
    crossing: bool = False
    _lock: threading.Lock = field(factory=threading.Lock)

    def violation(self, rule: str, text: str) -> None:
        """Something that must not happen did."""
        with self._lock:
            self.violated[rule] += 1
            if self.violated[rule] <= KEPT:
                self.violations.append(f"{rule}: {text}")

    def raise_violations(self) -> None:
        """:raises AssertionError: there was any violation so far."""
        if self.violated:
            counts = ", ".join(f"{rule}: {count}" for rule, count in self.violated.items())
            raise AssertionError("\n".join([counts, *self.violations]))

    # -- from the load ---------------------------------------------------------------------------

    def opened(self, uuid: str) -> Account:
        return self.accounts.setdefault(uuid, Account())

    def sending(self, uuid: str, once: bool, kind: int, qos: int) -> int:
        """A new message is about to be sent; its number."""
        account = self.accounts[uuid]
        n = len(account.rows)
        for column in (account.rows, account.again, account.rejected):
            column.append(0)
        flags = (ONCE if once else 0) | (0 if qos else QOS0)
        account.flags.append(flags | (0, MIXED_FLAG, BAD_FLAG)[kind])
        account.open.add(n)
        self.sent += 1
        return n

    def acknowledged(self, uuid: str, n: int) -> None:
        account = self.accounts[uuid]
        if not account.flags[n] & ACKED:
            account.flags[n] |= ACKED
            self.acked += 1

    def freed(self, uuid: str, n: int) -> None:
        """A message of QoS 0 whose fate nobody can know."""
        self.accounts[uuid].flags[n] |= FREE

    def daemon_killed(self) -> None:
        """No connection is open any more, and what came at QoS 0 may be lost."""
        for uuid, account in self.accounts.items():
            for n in account.open.copy():
                if account.flags[n] & QOS0:
                    self.freed(uuid, n)

    # -- from the tables -------------------------------------------------------------------------

    def row(self, agent: str | None, kind: str, value: str) -> None:
        """One row of ``metrics``, in the order of their ids, with the uuid of its agent."""
        match = MARK.fullmatch(value.encode())
        account = self.accounts.get(match[1].decode()) if match else None
        if match is None or account is None or int(match[2]) >= len(account.rows):
            self.violation("stored but never sent", f"{kind}={value!r} of {agent}")
            return
        if agent != match[1].decode():
            self.violation("stored for another agent", f"{value} under {agent}")
        self.found_rows += 1
        n = int(match[2])
        column = account.rows if kind == "n" else account.again
        column[n] = min(255, column[n] + 1)
        self._judge(account, value, n, column[n])
        ordered = account.flags[n] & ONCE and not (self.crossing and account.flags[n] & QOS0)
        if kind == "n" and column[n] == 1 and ordered:
            if n < account.newest:
                self.violation("stored out of order", f"{value} after {account.newest}")
            account.newest = max(n, account.newest)

    def _judge(self, account: Account, value: str, n: int, count: int) -> None:
        if account.flags[n] & BAD_FLAG:
            self.violation("stored though it has no valid metric", value)
        if count > 1 and account.flags[n] & ONCE:
            self.violation("stored twice", f"{value}, {count} times")
        elif count > 1:
            self.repeated += 1

    def rejection(self, payload: bytes) -> None:
        """One row of ``rejected_messages``."""
        match = MARK.search(payload)
        account = self.accounts.get(match[1].decode()) if match else None
        if match is None or account is None or int(match[2]) >= len(account.rejected):
            self.violation("rejected but never sent", repr(payload[:200]))
            return
        n = int(match[2])
        self.found_rejections += 1
        account.rejected[n] = min(255, account.rejected[n] + 1)
        if not account.flags[n] & (BAD_FLAG | MIXED_FLAG):
            self.violation("rejected though it is valid", repr(payload[:200]))

    def is_settled(self, uuid: str, n: int) -> bool:
        """Whether a message is acknowledged, or nobody can wait for that any more."""
        return bool(self.accounts[uuid].flags[n] & (ACKED | FREE))

    def open_messages(self, acknowledged: bool) -> "list[tuple[str, int]]":
        """Messages to be settled once everything committed up to now has been read.

        :param acknowledged: those acknowledged (or free) alone; otherwise all, because nothing is on its way.
        """
        wanted = ACKED | FREE
        return [
            (uuid, n)
            for uuid, account in self.accounts.items()
            for n in account.open.copy()
            if not acknowledged or account.flags[n] & wanted
        ]

    def settle(self, messages: "list[tuple[str, int]]") -> None:
        """Judge ``messages``: everything that must be in the tables has been read from them."""
        for uuid, n in messages:
            account = self.accounts[uuid]
            flags = account.flags[n]
            if not account.found(n) and not flags & FREE:
                rule = "acknowledged but lost" if flags & ACKED else "not stored"
                self.violation(rule, f"{uuid}:{n}")
            elif not flags & (BAD_FLAG | MIXED_FLAG) and account.rows[n] != account.again[n]:
                counts = f"{account.rows[n]} and {account.again[n]} times"
                self.violation("stored in part", f"the metrics of {uuid}:{n}, {counts}")
            account.open.discard(n)
