"""Sharing: each message of a Shared Subscription goes to one member of its group. ADR 0192."""

from collections import deque
from collections.abc import Callable, Iterable, Set
from functools import partial
from typing import Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from platziverse.broker.complaints import Complaints
from platziverse.broker.dispatcher import joined
from platziverse.broker.farewells import log_failure
from platziverse.broker.interfaces import SERVER, Answer, Authority, Client
from platziverse.broker.limits import Limits
from platziverse.broker.routing import Router
from platziverse.broker.session import Session
from platziverse.broker.shares import Share, Shares, is_shared
from platziverse.broker.subscriptions import Match
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import brought_by

#: In the place of a QoS, with the last receiver of a match: groups get the message too. It has neither
#: a QoS nor an option.
GROUPS: Final = -16

#: Seconds until a member is looked for again: one may be on its way from daemon to daemon.
AGAIN: Final = 0.2

Route = Callable[..., Answer]


class OtherDaemons(Protocol):
    """OtherDaemons have members of groups too."""

    def groups(self, topic: str) -> Iterable[str]:
        """Return the groups that listen to a Topic Name and have members there."""

    def choose(self, topic_filter: str, qos: int, share: Share | None) -> int:
        """Return the daemon whose turn it is to get a message for a group; 0: it is ours."""

    def hand(self, daemon: int, copy: Publish, client: Client) -> Answer:
        """Hand the copy of a group to a daemon."""


class Alone:
    """Alone is a daemon that shares its clients with no other."""

    def groups(self, topic: str) -> Iterable[str]:
        """Return nothing."""
        return ()

    def choose(self, topic_filter: str, qos: int, share: Share | None) -> int:
        """Return 0: ours."""
        return 0

    def hand(self, daemon: int, copy: Publish, client: Client) -> Answer:
        """Do nothing, which is never asked for."""

    def ask(self) -> "Deferred[Set[int]]":
        """Return nobody: our Sessions are ours alone."""
        return succeed(frozenset())

    def restored(self) -> None:
        """Do nothing."""


class Sharing:
    """A Sharing stands before the routes of a broker as soon as there is a group.

    The match of a Topic Name that groups listen to ends with a *marker*, so any other message costs no more
    than a look at its last receiver; and nothing where there are no groups.

    What a group gets is a copy of its own, which says which Shared Subscription has brought it: so it can
    wait, be stored, and go to another member.

    :param marker: a Session that stands for all groups, and never gets anything.
    :param limits: say how long, and how many, copies wait for a member; those that found none are counted.
    """

    def __init__(
        self,
        shares: Shares,
        router: Router,
        marker: Session,
        clock: IReactorTime,
        authority: Authority,
        limits: Limits,
        traffic: Traffic,
        complaints: Complaints,
    ) -> None:
        self._shares, self._router, self._authority, self._clock = shares, router, authority, clock
        self._marker, self._turn = marker, Turn(clock)
        self._limits, self._traffic, self._complaints = limits, traffic, complaints
        self._route: Route = router.route
        self._route_retained: Route = router.route_retained
        #: Where else members are.
        self.others: OtherDaemons = Alone()
        self._late = 0
        # Copies that members have left behind.
        self._left: deque[Publish] = deque()

    def stand_before(self, route: Route, route_retained: Route) -> tuple[Route, Route]:
        """Return what hands a message to groups too, as these hand it to others."""
        self._route, self._route_retained = route, route_retained
        return self.route, self.route_retained

    def receivers(self, topic: str) -> "Match[Session]":
        """Return the marker, if a group listens to a Topic Name."""
        return ((self._marker, GROUPS),) if self._shares.of(topic) or self.others.groups(topic) else ()

    def route(
        self, message: Publish, receivers: "Match[Session]", client: Client, more: object = True
    ) -> Answer:
        """Hand a message on as the route behind it does, and to one member of each group."""
        if not receivers or receivers[-1][1] != GROUPS:
            return self._route(message, receivers, client, more)
        client = client.in_steps()
        owed = self._route(message, receivers[:-1], client) if len(receivers) > 1 else None
        return joined(owed, self.hand_out(message, client))

    def route_retained(self, message: Publish, receivers: "Match[Session]", client: Client) -> Answer:
        """Hand on a message with RETAIN likewise."""
        if not receivers or receivers[-1][1] != GROUPS:
            return self._route_retained(message, receivers, client)
        client = client.in_steps()
        owed = self._route_retained(message, receivers[:-1], client)
        return joined(owed, self.hand_out(message, client))

    def hand_out(self, message: Publish, client: Client) -> Answer:
        """Give a copy to each group that listens to its Topic Name."""
        owed: Answer = None
        groups = [share.topic_filter for share in self._shares.of(message.topic)]
        for name in dict.fromkeys((*groups, *self.others.groups(message.topic))):
            owed = joined(owed, self._hand_out(name, brought_by(message, name), client))
        return owed

    def _hand_out(
        self, name: str, copy: Publish, client: Client, crossed: "tuple[tuple[int, int], ...]" = ()
    ) -> Answer:
        """Give a copy to a member here, or hand it to another daemon, which does the same. ADR 0193."""
        share = self._shares.get(name)
        daemon = self.others.choose(name, copy.qos, share)
        if daemon:
            return self.others.hand(daemon, copy, client)
        return self._give(name, copy, client, crossed)

    def _give(
        self, name: str, copy: Publish, client: Client, crossed: "tuple[tuple[int, int], ...]"
    ) -> Answer:
        share = self._shares.get(name)
        if share is not None and share.is_there:
            return self.give(share, copy, client, crossed)
        if not copy.qos:
            return None
        if self._late >= self._limits.max_queued_for_groups:
            self._drop(copy, client, "max_queued_for_groups")
            return None
        self._late += 1
        return self._wait(copy, client, self._clock.seconds() + self._limits.group_patience)

    def _wait(self, copy: Publish, client: Client, until: float) -> Answer:
        left = max(0.0, until - self._clock.seconds())
        return deferLater(self._clock, min(AGAIN, left), self._try_again, copy, client, until)

    def _try_again(self, copy: Publish, client: Client, until: float) -> Answer:
        """Give a copy that nobody could get to whoever can now, here or elsewhere.

        :param until: when it is dropped, by the steady clock.
        """
        assert copy.properties is not None
        name = copy.properties.subscription or ""
        share = self._shares.get(name)
        daemon = self.others.choose(name, copy.qos, share)
        nobody = daemon == 0 and (share is None or not share.is_there)
        if nobody and self._clock.seconds() < until:
            return self._wait(copy, client, until)
        self._late -= 1
        if daemon:
            return self.others.hand(daemon, copy, client)
        if nobody or share is None:
            self._drop(copy, client, "group_patience")
            return None
        return self.give(share, copy, client)

    def _drop(self, copy: Publish, client: Client, setting: str) -> None:
        """Count and log a copy at QoS 1 or 2 that no member was there for."""
        self._traffic.group_dropped(setting)
        assert copy.properties is not None
        self._complaints.warn(
            f"no member of a group ({setting})",
            "Dropped a message for {group!r}, published by {address} {client_id!r}: no member is there,"
            " nor a Session that is kept ({setting})",
            address=client.address,
            client_id=client.client_id,
            group=(copy.properties.subscription or "")[:200],
            setting=setting,
        )

    def take(self, copy: Publish, client: Client, crossed: "tuple[tuple[int, int], ...]" = ()) -> Answer:
        """Give a copy that another daemon has handed to us to a member here."""
        assert copy.properties is not None
        return self._give(copy.properties.subscription or "", copy, client, crossed)

    def give(
        self, share: Share, copy: Publish, client: Client, crossed: "tuple[tuple[int, int], ...]" = ()
    ) -> Answer:
        """Give a copy to one member; to nobody if there is none that may get it. [MQTT5-4.8.2-3]

        From then on it is that member's, also while it is away. [MQTT5-4.8.2-4]

        :param crossed: rows that its own takes the place of, see :class:`Queued`.
        """
        chosen = share.choose(copy.qos, partial(self._may_get, EncodedPublish(copy), client))
        if chosen is None:
            return None
        router = self._router
        if copy.qos and not copy.retain:
            return router.route_owed(copy, (chosen,), client, (), crossed)
        answer = router.route_retained(copy, (chosen,), client)
        router.alike = ()  # nothing may join it
        return answer

    def _may_get(self, encoded: EncodedPublish, client: Client, session: Session) -> bool:
        if not session.terms.fits(encoded) or (client.bridge and session.client_id == client.client_id):
            return False
        if not self._authority.restricts:
            return True
        return session.client is not None and self._authority.may_receive(session.client, encoded.topic)

    # -- members that leave for good -------------------------------------------------------------

    def take_back(self, copies: Iterable[Publish]) -> None:
        """Give copies that a member has left behind to other members, in turns of the reactor."""
        begins = not self._left
        self._left.extend(filter(is_copy, copies))
        if begins and self._left:
            self._clock.callLater(0, self._give_left)

    def pass_on(self, copy: Publish, crossed: "tuple[tuple[int, int], ...]") -> Answer:
        """Give a stored copy that a member has left behind to another one, if there is any.

        :param crossed: its row, which that of the other one takes the place of.
        """
        assert copy.properties is not None
        name = copy.properties.subscription or ""
        share = self._shares.get(name)
        if (share is None or not share.is_there) and name not in self.others.groups(copy.topic):
            self._drop(copy, SERVER, "group_patience")
            return None
        return self._hand_out(name, copy, SERVER, crossed)

    def _give_left(self) -> None:
        while self._left and not self._turn.is_over:
            copy = self._left.popleft()
            assert copy.properties is not None
            answer = self._hand_out(copy.properties.subscription or "", copy, SERVER)
            if answer is not None:
                answer.addErrback(log_failure, SERVER)
        if self._left:
            self._clock.callLater(0, self._give_left)


def is_copy(message: Publish) -> bool:
    """Return whether a message is the copy of a group."""
    properties = message.properties
    return (
        properties is not None and properties.subscription is not None and is_shared(properties.subscription)
    )
