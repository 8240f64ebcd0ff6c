"""QoS 2 messages on their way, and what of their client has to come after them."""

from collections import Counter
from collections.abc import Callable

from platziverse.broker.records import Delivery, Forget, Release


class Deliveries:
    """Lets a Release or a Forget wait for the messages it is about, which may be in another shard."""

    def __init__(self) -> None:
        self._unfinished: dict[str, Counter[int]] = {}
        self._behind: dict[str, list[tuple[Release | Forget, Callable[[], None]]]] = {}

    def begun(self, delivery: Delivery) -> None:
        """A message has been saved."""
        self._unfinished.setdefault(delivery.client_id, Counter())[delivery.packet_id] += 1

    def finished(self, delivery: Delivery) -> None:
        """It is committed, or never will be; whatever waited for it goes on."""
        client, packet_id = delivery.client_id, delivery.packet_id
        unfinished = self._unfinished[client]
        unfinished[packet_id] -= 1
        if not unfinished[packet_id]:
            del unfinished[packet_id]
        if not unfinished:
            del self._unfinished[client]
        for entry, proceed in self._behind.pop(client, ()):
            self.after(entry, proceed)

    def after(self, entry: Release | Forget, proceed: Callable[[], None]) -> None:
        """Call ``proceed``, at once or when nothing on its way is touched by ``entry`` any more."""
        unfinished = self._unfinished.get(entry.client_id)
        if unfinished is None or (type(entry) is Release and entry.packet_id not in unfinished):
            proceed()
        else:
            self._behind.setdefault(entry.client_id, []).append((entry, proceed))
