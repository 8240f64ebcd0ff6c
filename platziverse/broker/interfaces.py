"""Interfaces: the ports of the broker, to connections, handlers, observers and access, as ``Protocol``."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, runtime_checkable

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred

from platziverse.broker.reasons import Reason
from platziverse.broker.records import WillGone
from platziverse.mqtt.packets import Connect, Publish

__all__ = [
    "DROPPED",
    "FULL",
    "OWED",
    "SERVER",
    "TAKEN",
    "TOO_LARGE",
    "WAITING",
    "Answer",
    "Authority",
    "Client",
    "ClientObserver",
    "Exchange",
    "Handler",
    "NetworkConnection",
    "Recognising",
]


@frozen
class Client:
    """A Client is the party at the other end of one Network Connection; every connection has a new one.

    :ivar number: counts the connections of this process; a take-over has a higher one.
    :ivar address: peer address for logs, e.g. ``"127.0.0.1:51234"``.
    :ivar persistent: the Session outlives the connection (Clean Session 0).
    :ivar since: seconds since the epoch, wall clock.
    :ivar protocol_level: 5, 4 or 3.
    :ivar clean: it has ended the Session that it had before (Clean Session or Clean Start 1).
    :ivar bridge: another broker: none of its own messages come back to it, and RETAIN is as published.
    :ivar will: it has gone, and this deletes what is stored of its Will; committed with the message that the
        Will is. ``None``: that is done afterwards, or there is nothing to be done. ADR 0231.
    """

    client_id: str
    number: int = field(eq=False)
    address: str = field(default="", eq=False)
    username: str | None = field(default=None, eq=False)
    persistent: bool = field(default=False, eq=False)
    since: float = field(default=0.0, eq=False)
    bridge: bool = field(default=False, eq=False)
    protocol_level: int = field(default=4, eq=False)
    clean: bool = field(default=False, eq=False)
    will: WillGone | None = field(default=None, eq=False)

    def in_steps(self) -> "Client":
        """Return the publisher of a message that is several records: its Will is gone after all of them."""
        return self if self.will is None else evolve(self, will=None)


#: What becomes of a message for one receiver: it is sent or queued; it is queued, and the queue is full;
#: there is no room for it; it is the first that is queued; it is larger than the client takes. The usual case
#: is false. ``OWED`` is added for a durable Session that gets it.
TAKEN: Final = 0
FULL: Final = 1
DROPPED: Final = 2
WAITING: Final = 3
OWED: Final = 4
TOO_LARGE: Final = -1

#: The broker itself, as the origin of messages of its own.
SERVER: Final = Client("", 0, "server")


class NetworkConnection(Protocol):
    """A NetworkConnection is the way back to a client. Bytes are those of whole Control Packets."""

    #: The client takes less than it is sent; QoS 1 and 2 wait in its Session meanwhile.
    congested: bool

    @property
    def out_bytes(self) -> int:
        """How many bytes wait because the client is slow."""

    def send(self, data: bytes) -> None:
        """Queue bytes that may not be dropped; they leave at the end of the turn at the latest."""

    def send_shared(self, head: bytes, payload: bytes) -> None:
        """Queue a large PUBLISH that may not be dropped, without a copy of its payload."""

    def send_together(self, pieces: Sequence[bytes]) -> None:
        """Queue PUBLISHes of any QoS in one step, each a piece; only while it is not congested."""

    def offer(self, data: bytes) -> int:
        """Queue one QoS 0 PUBLISH; return ``DROPPED``, ``TAKEN`` or ``FULL``."""

    def hold(self) -> None:
        """Read nothing more from this client, as a receiver of its messages has a full queue."""

    def release(self) -> None:
        """Read from it again, in the next turn."""

    def soon(self, function: Callable[[], None]) -> None:
        """Call ``function`` in the next turn, when the others have had theirs."""

    def close(self, reason: Reason, text: str) -> None:
        """Close, as the client's protocol does for this reason; ``Broker.disconnect`` is called in the end.

        :param text: the reason in words, for the log.
        """


#: What a handler returns: ``None`` when it is done, or a Deferred that holds back the acknowledgement.
Answer: TypeAlias = "Deferred[object] | None"


class Handler(Protocol):
    """One row of the handler table. An errback closes the connection without acknowledgement."""

    def __call__(self, message: Publish, client: Client, /) -> Answer: ...


@runtime_checkable
class Recognising(Protocol):
    """A Recognising is a handler that is told of messages that come again, perhaps over a new connection."""

    def repeated(self, message: Publish, client: Client, /) -> Answer:
        """Note that a QoS 2 message which the handler was called with, and which is stored, has come again.

        :param client: of the connection over which it has.
        """


class ClientObserver(Protocol):
    """A ClientObserver is told when connections and Sessions begin and end."""

    def client_connected(self, client: Client) -> None: ...

    def client_disconnected(self, client: Client, taken_over: bool) -> None:
        """A connection has ended.

        :param taken_over: a newer connection of the same Client Identifier is the reason.
        """

    def message_released(self, client: Client, packet_id: int) -> Answer:
        """PUBREL came on a persistent Session; PUBCOMP waits for the answer."""

    def session_ended(self, client_id: str) -> None:
        """A persistent Session is gone: expired, or replaced by one with Clean Session 1."""


class Exchange(Protocol):
    """An Exchange is a login in which client and server speak in turn (section 4.12 of MQTT 5)."""

    @property
    def username(self) -> str | None:
        """The user name that the client has proven; ``None``: none yet."""

    def step(self, data: bytes) -> "Deferred[bytes]":
        """Take what the client says; fire with what it is answered.

        Errbacks with :class:`ConnectRefused` when the login fails.
        """


class Authority(Protocol):
    """An Authority decides who may do what; it answers at once, except for ``login``."""

    @property
    def checks_names(self) -> bool:
        """Return whether a user name is more than what CONNECT says: somebody has checked it."""

    #: False when all may publish wherever it is not ``reserved``, and receive everything: nobody asks then.
    restricts: bool

    def login(
        self, connect: Connect, address: str, certificate_user: str | None, near: bool
    ) -> "Deferred[str | None] | None":
        """Find out who the client is.

        :param certificate_user: the name in the client's certificate, if it showed one.
        :param near: the client is on this machine.
        :return: ``None``: its user name is what CONNECT says. Otherwise a Deferred of the user name, or of
            ``None`` for an anonymous client, that errbacks with :class:`ConnectRefused` when the login fails.
        """

    def exchange(self, method: str, client_id: str, address: str) -> Exchange | None:
        """Begin a login by an Authentication Method of MQTT 5; ``None``: there is none of this name."""

    def reserved(self, topic: str) -> bool:
        """Return whether no client may ever publish to ``topic``; the answer never changes."""

    def may_publish(self, client: Client, topic: str) -> bool: ...

    def may_subscribe(self, client: Client, topic_filter: str) -> bool: ...

    def may_receive(self, client: Client, topic: str) -> bool:
        """Return whether the client may receive a message; asked at every delivery.

        So new rules end what old Subscriptions were allowed.
        """
