"""Resp: a connection to a Redis server, which answers commands in the order in which they were sent."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from hiredis import ProtocolError, Reader, ReplyError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from platziverse.bus.kept import Ending, Gone

#: Seconds between two looks at a connection; one on which nothing was heard meanwhile is sent a PING.
LOOK: Final = 1.0
#: Looks without a sign of life after which the connection is given up. Looks and not seconds: a process
#: that was stopped itself has heard nothing either.
LOOKS: Final = 5
#: Bytes of a reply that is not complete; a server that sends more is none.
LARGEST: Final = 64 * 1024 * 1024

_RIGHTS: Final = (
    "give the user &pv:* +publish +subscribe +ping +select, in a cluster +cluster|slots +spublish +ssubscribe"
)
#: What to do about an error reply, by a part of it.
_ADVICE: Final = (
    ("WRONGPASS", "check bus.password, bus.password_file or the user and password in bus.url"),
    ("ERR invalid password", "check bus.password, bus.password_file or the password in bus.url"),
    ("NOAUTH", "set bus.password_file, or PLATZIVERSE_BUS_PASSWORD in the environment"),
    ("without any password", "it has no password; take ours out of the configuration"),
    ("NOPERM", _RIGHTS),
    ("cluster support disabled", "write redis:// in bus.url"),
    ("Sentinel instances", "it is a Sentinel: write redis+sentinel:// and the name of the master in bus.url"),
)

#: What messages of a channel begin with; of ``SSUBSCRIBE`` the second.
_MESSAGES: Final = (b"message", b"smessage")


class Refused(Gone):
    """A server has answered with an error, which does not end the connection.

    :ivar said: the error as it was answered; the text says more.
    """

    def __init__(self, name: str, said: str) -> None:
        said = _plain(said.partition(", with args")[0])  # which may be a password
        advice = next((advice for beginning, advice in _ADVICE if beginning in said), "")
        super().__init__(f"{name} answers: {said}" + (f"; {advice}" if advice else ""))
        self.said = said


class RespConnection(Protocol):
    """A RespConnection sends commands to one server, any number of them before the first is answered.

    :param name: of the server, for texts: ``host:port``.
    :param message: called with the channel and the payload of each message; for a connection that
        subscribes.
    """

    transport: ITransport

    def __init__(
        self,
        reactor: Any,
        name: str,
        message: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        self.name = name
        self._message = message
        self._reader = Reader()
        self._waiting: deque[Callable[[Any], None]] = deque()
        self._silent = self._unfinished = 0
        self._ending = Ending()
        self.when_finished = self._ending.wait
        self._look = LoopingCall(self._look_after)
        self._look.clock = reactor

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        self._look.start(LOOK, now=False)

    def command(self, *words: bytes) -> "Deferred[Any]":
        """Send one command; the Deferred fires with its reply.

        It errbacks with :class:`Refused` when the reply is an error, and with ``Gone`` when there is none.
        """
        answer: Deferred[Any] = Deferred()
        self.send((packed(*words),), lambda reply: _fire(answer, reply))
        return answer

    def send(self, parts: tuple[bytes, ...], answered: Callable[[Any], None]) -> None:
        """Send a command that is written in ``parts`` already.

        :param answered: called with the reply, which may be :class:`Refused`, or with ``Gone``.
        """
        self._waiting.append(answered)
        self.transport.writeSequence(parts)

    def dataReceived(self, data: bytes) -> None:
        self._silent = 0
        self._unfinished += len(data)
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._unfinished = 0
                self._take(reply)
        except (ProtocolError, MemoryError):  # the latter: an array of a thousand million elements
            self.give_up(f"{self.name} does not speak the Redis protocol")
        if self._unfinished > LARGEST:
            self.give_up(f"{self.name} sends a reply that does not end")

    def _take(self, reply: Any) -> None:
        if self._message is not None and _is_message(reply):
            self._message(reply[1], reply[2])
        elif self._waiting and not _is_farewell(reply):
            if isinstance(reply, ReplyError):
                reply = Refused(self.name, str(reply))
            self._waiting.popleft()(reply)
        else:
            # Nobody has asked: "-DENIED Redis is running in protected mode", "-ERR max number of clients
            # reached", or a slot that moves to another node and takes its subscriptions along.
            self.give_up(f"{self.name} says: {_text(reply)}")

    def give_up(self, reason: str) -> None:
        """Close the connection at once, for ``reason``."""
        self._ending.reason = self._ending.reason or reason
        abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
        abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._look.running:
            self._look.stop()
        text = self._ending.reason or f"{self.name} has closed the connection{_because(reason)}"
        waiting, self._waiting = self._waiting, deque()
        for answered in waiting:
            answered(Gone(text))
        self._ending.come(text)

    def _look_after(self) -> None:
        self._silent += 1
        if self._silent > LOOKS:
            self.give_up(f"{self.name} has not answered for {LOOKS * LOOK:.0f} s")
        elif not self._waiting:
            self.send((_PING,), lambda reply: None)


def packed(*words: bytes) -> bytes:
    """Return one command as it is written: an array of bulk strings."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


_PING: Final = packed(b"PING")


def _fire(answer: "Deferred[Any]", reply: Any) -> None:
    if answer.called:
        return  # cancelled
    if isinstance(reply, Exception):
        answer.errback(reply)
    else:
        answer.callback(reply)


def _is_message(reply: Any) -> bool:
    """Return whether a reply is what a channel carries: its kind, the channel and the payload."""
    return type(reply) is list and len(reply) == 3 and reply[0] in _MESSAGES and type(reply[2]) is bytes


def _is_farewell(reply: Any) -> bool:
    if type(reply) is list:
        return bool(reply) and reply[0] == b"sunsubscribe"
    return isinstance(reply, ReplyError) and str(reply).startswith(("DENIED ", "ERR max number of clients"))


def _text(reply: Any) -> str:
    if isinstance(reply, list):
        return b" ".join(part for part in reply if isinstance(part, bytes)).decode(errors="replace")[:200]
    return _plain(str(reply))


def _plain(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text[:200])


def _because(reason: Failure) -> str:
    return "" if reason.check(ConnectionDone) else f": {reason.getErrorMessage()}"
