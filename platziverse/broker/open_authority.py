"""OpenAuthority: everyone may do everything but speak for the server itself."""

from typing import Final

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import Client
from platziverse.mqtt.packets import Connect

#: Announcements are the server's own; in the original any client could announce any agent.
SERVER_TOPICS: Final = frozenset({"agent/connected", "agent/disconnected"})


class OpenAuthority:
    """The :class:`Authority` of a broker without logins and access rules."""

    restricts = False

    def login(
        self, connect: Connect, address: str, certificate_user: str | None
    ) -> "Deferred[str | None] | None":
        return None

    def reserved(self, topic: str) -> bool:
        return topic in SERVER_TOPICS or topic[0] == "$"

    def may_publish(self, client: Client, topic: str) -> bool:
        return not self.reserved(topic)

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        return True

    def may_receive(self, client: Client, topic: str) -> bool:
        return True
