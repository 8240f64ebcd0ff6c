"""Receiving: the QoS 2 messages of one client that have come, and whose PUBREL has not."""

from collections.abc import Callable
from typing import TypeAlias

from platziverse.broker.limits import Limits
from platziverse.mqtt.errors import ProtocolViolation

#: Called when a QoS 2 message that came twice has been stored (true) or could not be (false).
Waiter: TypeAlias = Callable[[bool], None]


class Receiving:
    """A Receiving is the half of a Session that recognises QoS 2 messages that come again.

    Messages of QoS 0 and 1 need no memory.
    """

    __slots__ = ("_awaiting_pubrel", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Made when first needed: an idle client costs as little as possible.
        self._awaiting_pubrel: dict[int, float | list[Waiter]] | None = None

    def receive(self, packet_id: int, now: float) -> bool:
        """Note a QoS 2 PUBLISH; return whether it is new and has to be routed. [MQTT-4.3.3-2]

        :param now: steady time in seconds; Packet Identifiers that were never released expire.
        :raises ProtocolViolation: too many await their PUBREL.
        """
        awaiting = self._awaiting_pubrel
        if awaiting is None:
            awaiting = self._awaiting_pubrel = {}
        if packet_id in awaiting:
            return False
        if len(awaiting) >= self._limits.max_awaiting_pubrel:
            self._expire(awaiting, now - self._limits.awaiting_pubrel_expiry)
            if len(awaiting) >= self._limits.max_awaiting_pubrel:
                text = f"{len(awaiting)} QoS 2 messages await their PUBREL (max_awaiting_pubrel)"
                raise ProtocolViolation(text, "4.3.3")
        awaiting[packet_id] = []
        return True

    @staticmethod
    def _expire(awaiting: "dict[int, float | list[Waiter]]", before: float) -> None:
        for packet_id, state in list(awaiting.items()):
            if not isinstance(state, list) and state <= before:
                del awaiting[packet_id]

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

    def release(self, packet_id: int) -> bool:
        """Note that PUBREL came; return whether the Packet Identifier was known. PUBCOMP is due anyway.

        :raises ProtocolViolation: PUBREC has not been sent yet.
        """
        awaiting = self._awaiting_pubrel
        if not awaiting:
            return False
        if isinstance(awaiting.get(packet_id), list):
            raise ProtocolViolation(f"PUBREL before PUBREC, packet id {packet_id}", "MQTT-4.3.3-1")
        return awaiting.pop(packet_id, None) is not None
