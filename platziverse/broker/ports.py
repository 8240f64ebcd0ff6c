"""The ports for what the broker keeps and passes on; its own classes are the implementations in memory.

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
    """Every Session of a broker, one for each Client Identifier; those of absent clients for their time."""

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

    def leave(self, session: Session, now: float) -> None:
        """Keep a Session whose connection is gone for its time, or end it.

        :param now: seconds of any steady clock.
        """

    def end(self, session: Session) -> None:
        """Give a Session up with everything in it."""

    def expire(self, now: float) -> int:
        """End the Sessions whose client has been absent too long; return how many."""


class RetainedStore(Protocol):
    """The Retained Message of each Topic Name.

    :ivar bytes: Topic Names and payloads together.
    :ivar refused: messages that were not kept because of a limit.
    """

    bytes: int
    refused: int

    def __len__(self) -> int: ...

    def set(self, message: Publish, publisher: Client) -> Answer:
        """Keep ``message`` as the only one of its topic; an empty one clears. The answer: it is kept.

        What a limit forbids is counted, and takes away the message that it would have replaced.
        """

    def get(self, topic: str) -> Publish | None:
        """Return the message kept for this topic."""

    def publisher(self, topic: str) -> Client:
        """Return who published the message kept for this topic. :raises KeyError: there is none."""

    def may_match(self, topic_filter: str) -> bool:
        """Return ``False`` only when nothing matches for certain; immediate."""

    def match(self, topic_filter: str) -> list[Publish]:
        """Return the messages whose Topic Name matches, in no particular order."""


class FrameReceiver(Protocol):
    """Told what other daemons send."""

    def frame(self, origin: int, frame: bytes) -> None:
        """The next frame of daemon ``origin``, in the order in which it sent them."""

    def lost(self, origin: int) -> None:
        """Frames of daemon ``origin`` may be missing from here on."""


class MessageBus(Protocol):
    """Carries frames between the daemons that serve one set of clients. It may lose them, and says so.

    :ivar lost: frames that it knows to have lost.
    """

    lost: int

    def start(self, receiver: FrameReceiver) -> "Deferred[None]":
        """Begin to receive; fires when frames of the others arrive."""

    def send(self, daemons: int, frame: bytes) -> None:
        """Send to every daemon whose bit is set in ``daemons``, ourselves excepted."""

    def stop(self) -> "Deferred[None]":
        """Send and receive no more."""
