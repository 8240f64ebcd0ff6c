"""Retaining: Retained Messages that outlive the process, in memory and in the store."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import SERVER, Answer, Client
from platziverse.broker.limits import Limits
from platziverse.broker.ports import RetainedStore, SessionStore
from platziverse.broker.records import Cleared, Kept, StoredRetained
from platziverse.broker.retained import RetainedMessages
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import restored, store_properties

#: Topic Names that begin so are figures of this process.
OF_THE_PROCESS: Final = "$SYS/"


class DurableRetained:
    """DurableRetained is a RetainedStore that answers from memory, and saves each change.

    :param memory: has the messages, within its limits.
    :ivar version_of: returns the version with which the message of a topic is saved; 0: it is the newest.
    :ivar is_newer: returns whether a stored message, of a topic and a version, is newer than what is known.
    """

    def __init__(self, memory: RetainedMessages, store: SessionStore) -> None:
        self._memory, self._store = memory, store
        self.version_of: Callable[[str], int] = lambda topic: 0
        self.is_newer: Callable[[str, int], bool] = lambda topic, version: True
        self.get, self.publisher = memory.get, memory.publisher
        self.match, self.may_match, self.take = memory.match, memory.may_match, memory.take
        self.expire = memory.expire

    def __len__(self) -> int:
        return len(self._memory)

    @property
    def bytes(self) -> int:
        """Return the bytes of Topic Names and payloads together."""
        return self._memory.bytes

    @property
    def refused(self) -> int:
        """Return how many messages were not kept because of a limit."""
        return self._memory.refused

    def set(self, message: Publish, publisher: Client) -> Answer:
        """Keep ``message`` as the only one of its topic; an empty one clears it.

        It is saved also when nothing changes in memory: what was there may not be committed as gone yet.

        :return: a Deferred that fires on commit; ``None`` for figures of the process, which end with it.
        """
        topic, memory = message.topic, self._memory
        memory.set(message, publisher)
        if topic.startswith(OF_THE_PROCESS):
            return None
        kept = memory.get(topic)
        version = self.version_of(topic)
        record: Kept | Cleared = Cleared(topic, version)
        if kept is not None:
            who, user = publisher.client_id, publisher.username
            properties = store_properties(kept.properties)
            record = Kept(topic, kept.payload, kept.qos, who, user, version, properties)
        saved: Deferred[Any] = self._store.save(record)
        return saved

    def forget(self) -> Iterator[None]:
        """Forget what is in memory, but for figures of the process; the store keeps it."""
        for topic in self._memory.topics:
            if not topic.startswith(OF_THE_PROCESS):
                self._memory.clear(topic)
            yield

    def restore(self, stored: StoredRetained) -> None:
        """Keep a message that the store has, unless other daemons have sent a newer one meanwhile."""
        if not self.is_newer(stored.topic, stored.version):
            return
        client_id, username = stored.client_id, stored.username
        publisher = Client(client_id, 0, username=username) if client_id else SERVER
        properties = restored(stored.properties)
        self.take(Publish(stored.topic, stored.payload, stored.qos, True, properties=properties), publisher)


def retained_store(limits: Limits, store: SessionStore | None) -> RetainedStore:
    """Return where Retained Messages are kept; without a store they end with the process."""
    memory = RetainedMessages(limits.max_retained_messages, limits.max_retained_bytes)
    return memory if store is None else DurableRetained(memory, store)
