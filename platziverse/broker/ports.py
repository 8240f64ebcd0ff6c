"""Ports: where the broker keeps what outlives it, Retained Messages, other daemons and the bus to them.

An ``Answer`` is ``None`` when nothing has to be waited for: in memory it always is.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Protocol

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.places import StoredInterest, StoredPlace
from platziverse.broker.records import SessionRecord, StoredMessage, StoredRetained, StoredSession, StoredWill
from platziverse.broker.session import Session
from platziverse.broker.sessions import Opened
from platziverse.broker.subscriptions import Match
from platziverse.mqtt.packets import Publish

__all__ = [
    "Elsewhere",
    "FrameReceiver",
    "Listening",
    "Membership",
    "MembershipWatcher",
    "MessageBus",
    "Opened",
    "RetainedStore",
    "Session",
    "SessionStore",
]


class SessionStore(Protocol):
    """A SessionStore keeps what must outlive the process: Sessions, their messages, Retained Messages, Wills.

    Records are committed in the order in which they are saved. A Queued whose receiver has acknowledged is
    withdrawn as long as that is possible; an Acknowledged is for rows that a batch has taken.
    """

    @property
    def available(self) -> bool:
        """Return whether what is saved now is likely to be committed soon."""

    def save(self, record: SessionRecord) -> "Deferred[None]":
        """Save one record; the Deferred fires on commit, and errbacks when there never will be one."""

    def page(self, session: int, after: int, through: int, limit: int) -> "Deferred[list[StoredMessage]]":
        """Return the first messages that wait for a Session, in order; fewer than ``limit``: no more wait.

        :param session: its number, or that of a link.
        :param after: their positions are higher; always as high as possible, as what is below may have been
            deleted a moment ago, and is slow to pass.
        :param through: and not higher than this.
        """

    def links(self, target: int) -> "Deferred[list[int]]":
        """Return the numbers of the links to daemon ``target`` in which messages wait; see ``records.link``.

        A link is read with :meth:`page`, and a message of it is deleted with an Acknowledged, or by a Queued
        that says it has ``crossed``.
        """

    def elsewhere(self, after: int, limit: int) -> "Deferred[list[StoredInterest]]":
        """Return the Sessions of daemons that share our clients, whose number is higher than ``after``.

        In order of numbers; of ``limit`` Sessions, each once for every daemon to which it is owed something.
        """

    def heirs(self, daemon: int) -> "Deferred[set[int]]":
        """Return the daemons with Sessions for which something may be owed to ``daemon``: itself, heirs."""

    def sessions(self, after: int, limit: int) -> "Deferred[list[StoredSession]]":
        """Return the Sessions of this daemon whose number is higher than ``after``, in order of numbers."""

    def retained(self, after: str, limit: int) -> "Deferred[list[StoredRetained]]":
        """Return the Retained Messages whose Topic Name is behind ``after``, in order of the code points."""

    def shared(self, limit: int) -> "Deferred[Iterable[tuple[int, int]]]":
        """Return the numbers of messages that rows refer to, each with how many rows do.

        :param limit: the most; it does not matter which are left out.
        """

    def inherited(self, numbers: Sequence[int]) -> "Deferred[list[StoredSession]]":
        """Return the Sessions with these numbers, as far as they are ours, which were another daemon's."""

    def find(self, client_id: str) -> "Deferred[StoredPlace | None]":
        """Return where the Session of a client is; ``None``: there is none."""

    def wills(self) -> "Deferred[list[StoredWill]]":
        """Return the Wills that connections of this daemon have left, and those that it has inherited."""

    def inherited_wills(self) -> "Deferred[list[StoredWill]]":
        """Return the Wills that it has inherited from other daemons, which nobody has published."""


class RetainedStore(Protocol):
    """A RetainedStore has the Retained Message of each Topic Name.

    :ivar bytes: of Topic Names and payloads together.
    :ivar refused: messages that were not kept because of a limit.
    """

    @property
    def bytes(self) -> int: ...
    @property
    def refused(self) -> int: ...
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

    def take(self, message: Publish, publisher: Client) -> None:
        """Keep ``message`` as :meth:`set` does, but in memory alone: another daemon saves it."""

    def expire(self, now: float) -> list[Publish]:
        """Forget messages that are over, or some of them, and return these.

        :param now: seconds since the epoch.
        """

    def match(self, topic_filter: str) -> list[Publish]:
        """Return the messages whose Topic Name matches, in no particular order."""


class Former(Protocol):
    """A Former knows of Sessions that were ours when we died, or somebody else's. ADR 0229."""

    def ask(self) -> "Deferred[Set[int]]":
        """Return which other daemons have Sessions that were ours, and that they have not settled."""

    def restored(self) -> None:
        """Note that all Sessions that are ours are in memory; nothing was published since."""


class Elsewhere(Protocol):
    """Elsewhere stands for the clients of other daemons that share ours."""

    def receivers(self, topic: str) -> "Match[Session]":
        """Return what a match of ``topic`` ends with; it is given back to ``route``, and is no Session."""

    def route(
        self, message: Publish, receivers: "Match[Session]", client: Client, more: object = True
    ) -> Answer:
        """Hand a message to the others, and to our own receivers as ``Router.route`` does."""

    def route_retained(self, message: Publish, receivers: "Match[Session]", client: Client) -> Answer:
        """Hand on a message with RETAIN likewise, as ``Router.route_retained`` does."""

    def pass_on(self, run: Sequence[Publish], client: Client) -> int:
        """Publish messages of a client, none of QoS 2, that the others get and nobody here.

        :return: how many of them, up to the first that is not such a one.
        """


class Listening(Protocol):
    """A Listening lets other daemons know what our clients listen to."""

    def subscribed(self, session: Session, topic_filter: str) -> None:
        """Note that a Session has a Subscription that it did not have."""

    def unsubscribed(self, session: Session, topic_filter: str) -> None:
        """Note that a Session has this Subscription no more."""

    def told(self) -> Answer:
        """Return a Deferred that SUBACK waits for, or ``None``: all know what was noted so far."""


class FrameReceiver(Protocol):
    """A FrameReceiver is told the frames of other daemons."""

    def frame(self, origin: int, frame: bytes) -> None:
        """Take the next frame of daemon ``origin``, in the order in which it sent them."""

    def lost(self, origin: int) -> None:
        """Note that frames of daemon ``origin`` may be missing before the next one."""


class MessageBus(Protocol):
    """A MessageBus carries frames between the daemons of one set of clients. It may lose some, and says so.

    :ivar lost: how many frames of ours it knows to have lost.
    :ivar missed: messages, of some frames each, that others have sent and that have not come.
    :ivar refused: messages that were not of this set.
    """

    @property
    def lost(self) -> int: ...
    @property
    def missed(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def state(self) -> str:
        """Return ``"connecting"``, ``"ready"`` or ``"away: <reason>"``."""

    def start(self, receiver: FrameReceiver) -> "Deferred[None]":
        """Begin to receive; the Deferred fires when frames of the others can arrive."""

    def send(self, daemons: int, frame: bytes) -> None:
        """Send ``frame`` to every daemon whose bit is set in ``daemons``, except to ourselves."""

    def stop(self) -> "Deferred[None]":
        """Send and receive nothing more; the Deferred fires when that is so."""


class MembershipWatcher(Protocol):
    """A MembershipWatcher is told which daemons begin and cease to share our clients."""

    def joined(self, number: int, incarnation: int) -> None:
        """Note that this daemon lives and shares our clients; told once for each of its incarnations.

        It knows nothing of what an earlier incarnation was told, and ``left`` was called for that one.
        """

    def left(self, number: int, dead: bool) -> None:
        """Note that this incarnation of the daemon has ended.

        :param dead: it gave no sign of life, and was fenced: nothing that it writes is committed any more.
            ``False``: it has stopped, or begun anew.
        """

    def fenced(self) -> None:
        """Note that we were taken for dead, and go on as a new incarnation, which ``ours`` is already.

        Nothing that was not committed before is, and whoever shares our clients has begun to take them over.
        """


class Membership(Protocol):
    """A Membership knows which daemons share our clients."""

    @property
    def ours(self) -> tuple[int, int] | None:
        """Return our number, 1 to 32767, and incarnation; ``None``: we are not registered yet.

        ``1 << number`` is the bit of a daemon in the masks of a :class:`MessageBus`.
        """

    @property
    def others(self) -> Mapping[int, int]:
        """Return the incarnation of each other daemon that lives and shares our clients, by its number."""

    def watch(self, watcher: MembershipWatcher) -> None:
        """Tell ``watcher`` of the daemons in ``others``, at once, and of every change from now on."""
