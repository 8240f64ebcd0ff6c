"""Notify: the bus over NOTIFY of PostgreSQL, for small sets that want nothing installed.

A payload is text of less than 8,000 bytes: the mark of the sender in 16 digits, one sign that says which
part of a message it is, eight digits that no payload before it had, and Base64. PostgreSQL sends what is
notified twice in one transaction once, hence the digits.
"""

import itertools
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import psycopg2
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, gatherResults, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from platziverse.broker.ports import Membership
from platziverse.bus.distant import DistantBus
from platziverse.bus.envelope import ALL
from platziverse.bus.kept import BusState, Ending, Gone, KeptConnection, Steps
from platziverse.bus.pending import Pending
from platziverse.postgres.connection import Connection, connect, force_close, timed
from platziverse.postgres.sqlstate import one_line

T = TypeVar("T")

#: Bytes of a message in one payload.
PART: Final = 5_940
#: Seconds between two statements: what is sent meanwhile goes with the next one.
PAUSE: Final = 0.001
#: Payloads of one statement.
PAYLOADS: Final = 200
#: Seconds for connecting, and for a statement; one is sent every few looks, so that silence is noticed.
DEADLINE: Final = 5.0
LOOK: Final = 0.1
LOOKS: Final = 20
#: Senders whose messages are not complete, and bytes of one such message; beyond either, all are dropped.
SENDERS: Final = 1000
LARGEST: Final = 64 * 1024 * 1024
#: What is wrong when a connection is not told what it notifies, and what to do.
NOT_HEARD: Final = "what is notified is not heard; is there a pooler? Name the server itself"

#: Signs of the first part, one in the middle, the last one, and of a message in one part.
_FIRST, _MIDDLE, _LAST, _ONLY = "<", "-", ">", "."
_NOTIFY: Final = "SELECT count(pg_notify(c, p)) FROM unnest(%s::text[], %s::text[]) AS parts (c, p)"


def channel(name: str, target: int) -> str:
    """Return the channel of a daemon of the set ``name``, or that of all."""
    return f"pv_{name}_{'all' if target == ALL else target}"


class Parts:
    """Parts cuts the messages of one sender into payloads.

    :param mark: of the sender, in 16 digits.
    """

    def __init__(self, mark: str) -> None:
        self._mark, self._counter = mark, itertools.count()

    def cut(self, message: bytes) -> list[str]:
        """Return the payloads of a message, in order."""
        cut = [message[start : start + PART] for start in range(0, len(message), PART)]
        signs = [_FIRST, *[_MIDDLE] * (len(cut) - 2), _LAST] if len(cut) > 1 else [_ONLY]
        return [
            f"{self._mark}{sign}{next(self._counter) % 2**32:08x}{b64encode(part).decode()}"
            for sign, part in zip(signs, cut, strict=True)
        ]


class Joints:
    """Joints puts the parts of messages together; those of different senders may be mixed."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, str], list[bytes]] = {}

    def take(self, channel: str, payload: str) -> bytes | None:
        """Take the next payload of a channel; return the message that it completes.

        A part whose beginning has not come is dropped: its message is missed by its number.

        :raises ValueError: it is no payload of ours.
        """
        mark, sign, part = payload[:16], payload[16:17], b64decode(payload[25:].encode(), validate=True)
        if sign == _ONLY:
            return part
        if sign == _FIRST:
            if len(self._begun) >= SENDERS:
                self._begun.clear()
            self._begun[channel, mark] = [part]
            return None
        if sign not in (_MIDDLE, _LAST):
            raise ValueError(sign)
        begun = self._begun.get((channel, mark), [])
        if begun:
            begun.append(part)
        if sign == _LAST or len(begun) * PART > LARGEST:
            self._begun.pop((channel, mark), None)
        return b"".join(begun) if begun and sign == _LAST else None


class _AtOnce:
    """_AtOnce stands in for the Cooperator of txpostgres, which mixes what came at different times."""

    @staticmethod
    def cooperate(tellings: Iterator[object]) -> None:
        for _ in tellings:
            pass


def _uncancelled(answer: "Deferred[T]", give_up: Callable[[T | Failure], object]) -> "Deferred[T]":
    """Return a Deferred that may be cancelled, which ``answer`` of txpostgres must not.

    :param give_up: called with the late result, or failure, when it was.
    """
    shown: Deferred[T] = Deferred()

    def done(result: T | Failure) -> None:
        if shown.called:
            give_up(result)
        else:
            shown.callback(result)

    answer.addBoth(done)
    return shown


class Session:
    """A Session is one connection to the database, which tells why it has ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._ending = Ending()
        self.when_finished = self._ending.wait
        self._running = False

    def look(self, ping: bool) -> None:
        """Notice that the connection has ended; with ``ping`` also that the server does not answer."""
        if self.connection.closed:
            self.give_up("the database has closed the connection")
        elif ping and not self._running:
            self.run("SELECT 1").addErrback(lambda failure: failure.trap(Gone) and None)

    def give_up(self, reason: str) -> None:
        """Close the connection at once, for ``reason``."""
        force_close(self.connection)
        self._ending.come(reason)

    @inlineCallbacks
    def run(self, sql: str, *parameters: object, rows: bool = True) -> Steps:
        """Run one statement; the Deferred fires with its rows.

        :param rows: it returns some.
        :raises Gone: it failed, was too late, or the connection has ended; it is closed then.
        """
        run = self.connection.runQuery if rows else self.connection.runOperation
        self._running = True
        try:
            answer = timed(self.connection, run(sql, parameters or None), DEADLINE)
            return (yield _uncancelled(answer, lambda result: None))
        except psycopg2.Error as error:
            self.give_up(one_line(error))
            raise Gone(one_line(error)) from error
        finally:
            self._running = False


class NotifyBus(DistantBus):
    """A NotifyBus is the :class:`~platziverse.broker.ports.MessageBus` over PostgreSQL.

    :param name: of the set.
    :param dsn: returns the connection string of the database; asked whenever it connects.
    :param max_pending: bytes that the database has not taken yet; what is sent beyond is dropped.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        members: Membership,
        dsn: Callable[[], str],
        state: BusState,
        max_pending: int,
    ) -> None:
        super().__init__(reactor, name, members, state)
        self._dsn = dsn
        self._pending = Pending(self._complaints, state.where, max_pending, self._outbox.doubt)
        self._mark = self._outbox.mark.hex()
        self._parts = Parts(self._mark)
        self._joints, self._everyone = Joints(), channel(name, ALL)
        #: Target and payload; with the last one of a message its frames, and its bytes.
        self._waiting: list[tuple[int, str, int, int]] = []
        self._write_soon: Any = None
        self._hello: Deferred[None] = Deferred()
        self._number: int | None = None
        # Two: one that is full of notifications reads no statement, and the other way round.
        self._listener = KeptConnection(reactor, self._open, self._listen, state, "receiving")
        self._notifier = KeptConnection(reactor, self._open, self._greet, state, "sending")
        #: Connections that are being made.
        self._attempts: set[Deferred[Connection]] = set()
        self._looks = 0
        self._look = LoopingCall(self._look_after)
        self._look.clock = reactor

    @property
    def lost(self) -> int:
        """Return how many frames are known to be lost."""
        return self._pending.lost + self._outbox.homeless

    @property
    def pending(self) -> int:
        """Return the bytes that are sent, and that the server has not taken yet."""
        return self._pending.bytes

    def _connect(self) -> "Deferred[Any]":
        self._look.start(LOOK)
        self._notifier.start()
        return gatherResults([self._listener.ready, self._notifier.ready])

    @inlineCallbacks
    def _disconnect(self) -> Steps:
        if self._look.running:
            self._look.stop()
        yield gatherResults([self._listener.stop(), self._notifier.stop()])
        yield DeferredList(list(self._attempts))  # nobody may cancel them; each has its deadline
        self._waiting.clear()
        if self._write_soon is not None and self._write_soon.active():
            self._write_soon.cancel()

    def _post(self, target: int, message: bytes, frames: int) -> None:
        if self._notifier.connection is None:
            self._pending.lose(target, frames)
        elif self._pending.enter(target, len(message), frames):
            payloads = self._parts.cut(message)
            self._waiting += [(target, payload, 0, 0) for payload in payloads[:-1]]
            self._waiting.append((target, payloads[-1], frames, len(message)))
            self._schedule()

    def _schedule(self) -> None:
        if self._write_soon is None and self._waiting:
            self._write_soon = self._reactor.callLater(PAUSE, self._write)

    @inlineCallbacks
    def _write(self) -> Steps:
        """Write what waits; ``_write_soon`` stays until it is written, so statements do not overlap."""
        taken, self._waiting = self._waiting[:PAYLOADS], self._waiting[PAYLOADS:]
        connection = self._notifier.connection
        try:
            if connection is None:
                raise Gone(self.state)
            channels = [channel(self._name, target) for target, _, _, _ in taken]
            yield connection.run(_NOTIFY, channels, [payload for _, payload, _, _ in taken])
        except Gone:
            for target, _, frames, _ in taken:
                self._pending.lose(target, frames)
        self._pending.leave(sum(size for _, _, _, size in taken))
        self._write_soon = None
        self._schedule()

    @inlineCallbacks
    def _open(self) -> Steps:
        dsn = self._dsn()
        if not dsn:
            raise Gone("the database has not started yet")
        try:
            made = connect(dsn, self._reactor, DEADLINE, application_name="platziverse-bus")
            shown = _uncancelled(made, _close)
            self._attempts.add(made)
            made.addBoth(lambda _: self._attempts.discard(made))
            connection = yield shown
        except psycopg2.Error as error:
            raise Gone(one_line(error)) from error
        connection.cooperator = _AtOnce
        connection.addNotifyObserver(self._hear)
        return Session(connection)

    def _greet(self, connection: Session) -> "Deferred[Any]":
        return connection.run("SELECT 1")

    @inlineCallbacks
    def _listen(self, connection: Session) -> Steps:
        """Listen to our channels, and check that we hear: a pooler may have another connection listen."""
        assert self._number is not None
        ours, self._hello = channel(self._name, self._number), Deferred()
        yield connection.run(f'LISTEN "{ours}"; LISTEN "{self._everyone}"', rows=False)
        yield connection.run("SELECT pg_notify(%s, %s)", ours, f"{self._mark}?")
        self._hello.addTimeout(DEADLINE, self._reactor)
        try:
            yield self._hello
        except TimeoutError:
            raise Gone(NOT_HEARD) from None
        if self._listener.ready.called:
            self.inbox.interrupted()

    def _hear(self, notify: Any) -> None:
        if notify.payload[16:17] == "?":
            if notify.payload == f"{self._mark}?" and not self._hello.called:
                self._hello.callback(None)
            return
        if notify.payload.startswith(self._mark):
            return
        try:
            message = self._joints.take(notify.channel, notify.payload)
        except (NotBase64, ValueError):
            message = b""  # which the inbox refuses, as it does all that is none of ours
        if message is not None:
            self.inbox.take(notify.channel == self._everyone, message)

    def _look_after(self) -> None:
        """Connect when we have a number, or another one; notice the end of the connection, and silence."""
        ours = self._members.ours
        if ours is not None and ours[0] != self._number:
            first, self._number = self._number is None, ours[0]
            if first:
                self._listener.start()
            elif self._listener.connection is not None:
                self._listener.connection.give_up(f"we are daemon {self._number} now")
        self._looks += 1
        for kept in (self._listener, self._notifier):
            if kept.connection is not None:
                kept.connection.look(ping=self._looks % LOOKS == 0)


def _close(connection: Connection | Failure) -> None:
    if not isinstance(connection, Failure):
        force_close(connection)
