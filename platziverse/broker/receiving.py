"""Receiving: the QoS 2 messages of one client that have come, and whose PUBREL has not."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from twisted.internet.defer import Deferred

from platziverse.broker.limits import Limits
from platziverse.mqtt.errors import ProtocolViolation
from platziverse.mqtt.reasoncodes import ReasonCode

#: Called when a QoS 2 message that came twice has been stored (true) or could not be (false).
Waiter: TypeAlias = Callable[[bool], None]


#: Answers of :meth:`Receiving.receive`: to be ignored, published, or only handled.
REPEATED, NEW, ROUTED = range(3)


def _nothing(count: int) -> None:
    """Do nothing."""


class _Recalled(float):
    """A _Recalled is the moment of a message that was routed before this process began."""

    __slots__ = ()


class Receiving:
    """A Receiving is the half of a Session that recognises QoS 2 messages that come again.

    Messages of QoS 0 and 1 need no memory.
    """

    __slots__ = ("_awaiting_pubrel", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Made when first needed: an idle client costs as little as possible.
        self._awaiting_pubrel: dict[int, float | list[Waiter]] | None = None

    def receive(self, packet_id: int, now: float, missed: Callable[[int], None] = _nothing) -> int:
        """Note a QoS 2 PUBLISH; return ``REPEATED``, ``NEW`` or ``ROUTED``. [MQTT-4.3.3-2]

        A message that was ``ROUTED`` before this process began is a matter of handlers alone: they save it in
        a transaction of their own, and know themselves which of them was committed. ADR 0119.

        :param now: steady time in seconds; Packet Identifiers that were never released expire.
        :param missed: called with how many have expired to make room for this one.
        :raises ProtocolViolation: too many await their PUBREL.
        """
        awaiting = self._awaiting_pubrel
        if awaiting is None:
            awaiting = self._awaiting_pubrel = {}
        if packet_id in awaiting:
            if not isinstance(awaiting[packet_id], _Recalled):
                return REPEATED
            awaiting[packet_id] = []
            return ROUTED
        if len(awaiting) >= self._limits.max_awaiting_pubrel:
            if expired := self._expire(awaiting, now - self._limits.awaiting_pubrel_expiry):
                missed(expired)
            if len(awaiting) >= self._limits.max_awaiting_pubrel:
                text = f"{len(awaiting)} QoS 2 messages await their PUBREL (max_awaiting_pubrel)"
                raise ProtocolViolation(text, "4.3.3", ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
        awaiting[packet_id] = []
        return NEW

    @staticmethod
    def _expire(awaiting: "dict[int, float | list[Waiter]]", before: float) -> int:
        expired = [one for one, state in awaiting.items() if not isinstance(state, list) and state <= before]
        for packet_id in expired:
            del awaiting[packet_id]
        return len(expired)

    def stored(self, packet_id: int, now: float) -> None:
        """Note that the QoS 2 message may be answered with PUBREC; so may its repetitions.

        :param now: steady time in seconds.
        """
        awaiting = self._awaiting_pubrel
        waiters = awaiting.get(packet_id) if awaiting else None
        if awaiting is not None and isinstance(waiters, list):
            awaiting[packet_id] = now
            for waiter in waiters:
                waiter(True)

    def failed(self, packet_id: int) -> None:
        """Note that the QoS 2 message could not be stored: a later repetition is a new message."""
        waiters = self._awaiting_pubrel.pop(packet_id, None) if self._awaiting_pubrel else None
        if isinstance(waiters, list):
            for waiter in waiters:
                waiter(False)

    def when_stored(self, packet_id: int, waiter: Waiter) -> None:
        """Call ``waiter`` once a message that has come again is stored, or has failed; perhaps at once."""
        state = self._awaiting_pubrel.get(packet_id) if self._awaiting_pubrel else None
        if isinstance(state, list):
            state.append(waiter)
        else:
            waiter(True)

    def awaits(self, packet_id: int) -> bool:
        """Return whether a message has come with this Packet Identifier, and its PUBREL has not."""
        return self._awaiting_pubrel is not None and packet_id in self._awaiting_pubrel

    @property
    def unreleased(self) -> int:
        """How many messages have come whose PUBREL has not."""
        return len(self._awaiting_pubrel) if self._awaiting_pubrel is not None else 0

    @property
    def identifiers(self) -> tuple[int, ...]:
        """Packet Identifiers of the messages whose PUBREL has not come."""
        return tuple(self._awaiting_pubrel or ())

    def handled(self) -> "list[Deferred[bool]]":
        """Return a Deferred for each message that is being stored; it fires when it is, or has failed."""
        waits: list[Deferred[bool]] = []
        for state in (self._awaiting_pubrel or {}).values():
            if isinstance(state, list):
                stored: Deferred[bool] = Deferred()
                state.append(stored.callback)
                waits.append(stored)
        return waits

    def recall(self, packet_ids: Iterable[int], now: float) -> None:
        """Note QoS 2 messages that were routed before this process began, and whose PUBREL has not come.

        :param now: steady time in seconds.
        """
        self._awaiting_pubrel = dict.fromkeys(packet_ids, _Recalled(now))

    def release(self, packet_id: int) -> "Deferred[None] | None":
        """Note that PUBREL came. PUBCOMP is due, for an unknown Packet Identifier too. [MQTT5-4.3.3-12]

        So it is for a message that has expired. [MQTT5-4.3.3-13]

        :return: ``None``; or, while the message is being stored, a Deferred that fires when it is released.
        """
        awaiting = self._awaiting_pubrel
        if not awaiting:
            return None
        state = awaiting.get(packet_id)
        if isinstance(state, list):
            stored: Deferred[bool] = Deferred()
            state.append(stored.callback)
            return stored.addCallback(self._released, packet_id)
        awaiting.pop(packet_id, None)
        return None

    def _released(self, stored: bool, packet_id: int) -> None:
        self.release(packet_id)
