"""Ports: where the broker keeps Sessions and Retained Messages, and the bus between daemons.

The broker's own classes are the implementations in memory.

An ``Answer`` is ``None`` when nothing has to be waited for: in memory it always is.
"""

from collections.abc import Iterator
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.session import Session
from platziverse.mqtt.packets import Publish

__all__ = ["FrameReceiver", "MessageBus", "Opened", "RetainedStore", "Session", "SessionStore"]

#: A Session to go on with, and whether it was there before (Session Present).
Opened: TypeAlias = tuple[Session, bool]


class SessionStore(Protocol):
    """A SessionStore has one Session for each Client Identifier; those of absent clients have an end."""

    @property
    def absent(self) -> int:
        """How many Sessions have no connection."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Session]: ...

    def get(self, client_id: str) -> Session | None:
        """Return the Session of this client, connected or not."""

    def longest_absent(self) -> Session | None:
        """Return the Session whose client has been absent longest."""

    def open(self, client_id: str, clean: bool) -> "Opened | Deferred[Opened]":
        """Resume the client's Session, or begin one; ``clean`` ends the one that is there first."""

    def leave(self, session: Session, now: float) -> int:
        """Keep a Session whose connection is gone for its time, or end it.

        :param now: seconds of any steady clock.
        :return: how many Sessions had to end as there are too many whose client is absent.
        """

    def end(self, session: Session) -> None:
        """Give a Session up with everything in it."""

    def expire(self, now: float) -> int:
        """End the Sessions whose client has been absent too long; return how many."""


class RetainedStore(Protocol):
    """A RetainedStore has the Retained Message of each Topic Name.

    :ivar bytes: of Topic Names and payloads together.
    :ivar refused: messages that were not kept because of a limit.
    """

    bytes: int
    refused: int

    def __len__(self) -> int: ...

    def set(self, message: Publish, publisher: Client) -> Answer:
        """Keep ``message`` as the only one of its topic; an empty one clears it.

        A message that a limit forbids is counted, and the one that it would have replaced goes all the same.

        :return: an ``Answer``, which fires when the message is kept.
        """

    def get(self, topic: str) -> Publish | None:
        """Return the message kept for this topic."""

    def publisher(self, topic: str) -> Client:
        """Return the client that published the message kept for this topic.

        :raises KeyError: there is none.
        """

    def may_match(self, topic_filter: str) -> bool:
        """Return ``False`` only when nothing matches for certain; immediate."""

    def match(self, topic_filter: str) -> list[Publish]:
        """Return the messages whose Topic Name matches, in no particular order."""


class FrameReceiver(Protocol):
    """A FrameReceiver is told the frames of other daemons."""

    def frame(self, origin: int, frame: bytes) -> None:
        """Take the next frame of daemon ``origin``, in the order in which it sent them."""

    def lost(self, origin: int) -> None:
        """Note that frames of daemon ``origin`` may be missing before the next one."""


class MessageBus(Protocol):
    """A MessageBus carries frames between the daemons of one set of clients. It may lose some, and says so.

    :ivar lost: how many frames it knows to have lost.
    """

    lost: int

    def start(self, receiver: FrameReceiver) -> "Deferred[None]":
        """Begin to receive; the Deferred fires when frames of the others can arrive."""

    def send(self, daemons: int, frame: bytes) -> None:
        """Send ``frame`` to every daemon whose bit is set in ``daemons``, except to ourselves."""

    def stop(self) -> "Deferred[None]":
        """Send and receive nothing more; the Deferred fires when that is so."""
