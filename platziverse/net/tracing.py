"""Tracing: connections that tell the log, at level debug, what happens on them.

The room ``net`` says who comes and goes, the room ``mqtt`` which Control Packets do. Such connections
are made while somebody wants to know; the others pay nothing for it. Where one client is to be traced, its
CONNECT makes its connection such a one.

An operator who traces a client hears the same, instead of the log, and of a connection that is there already.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast, get_args

from twisted.logger import Logger

from platziverse.broker.interfaces import DROPPED
from platziverse.broker.session import Session
from platziverse.mqtt.codec import encode_pubacks
from platziverse.mqtt.details import VERSIONS, answer_in_words, in_words, packets_in
from platziverse.mqtt.packets import Connect, Packet, Publish, Subscribe
from platziverse.net.connected import PacketTable
from platziverse.net.connection import TABLES, Connection, Tables
from platziverse.net.dialect import MQTT5
from platziverse.net.outbox import Outbox
from platziverse.net.shared import Hear, Shared

log = Logger()
#: The room is the wire's, which has no log of its own.
wire = Logger("platziverse.mqtt")

#: By the upper half of their first byte.
NAMES: Final = {number: kind.__name__.upper() for number, kind in enumerate(get_args(Packet), 1)}
PUBLISH: Final = 3
#: How the log says where a PUBLISH goes, either way.
_TO: Final = " to {topic!r}, QoS {qos}"


class TracedOutbox(Outbox):
    """A TracedOutbox tells the log which packets leave, who comes and who goes."""

    __slots__ = ()

    def tell(self, log: Logger, format: str, **fields: object) -> None:
        """Write one line about this client; its Client Identifier may be among ``fields``."""
        if (owner := self._owner) is not None:
            who: dict[str, object] = {"address": owner.address, "client_id": owner.client_id}
            event = who | fields
            for hear in self.shared.heard.get(cast(str, event["client_id"]), ()):
                hear(format, event)
            log.debug(format, **event)

    def serve(self, session: Session) -> None:
        """Tell that the client is connected."""
        username = session.client.username if session.client is not None else None
        self.tell(log, "Connected {address} {client_id!r}, user {username!r}", username=username)
        super().serve(session)

    def shut(self, text: str) -> bool:
        """Tell that we close, and why."""
        self.tell(log, "Closing {address} {client_id!r}: {reason}", reason=text)
        return super().shut(text)

    def end(self) -> None:
        """Tell that the connection has ended."""
        self.tell(log, "Gone {address} {client_id!r}")
        super().end()

    def send(self, data: bytes) -> None:
        """Tell of a packet that may not be dropped: any but a PUBLISH with QoS 0."""
        self._tell_sent(data)
        super().send(data)

    def send_together(self, pieces: Sequence[bytes]) -> None:
        """Tell of each of the PUBLISHes."""
        for piece in pieces:
            self._tell_sent(piece)
        super().send_together(pieces)

    def send_shared(self, head: bytes, payload: bytes) -> None:
        """Tell of a large PUBLISH."""
        self._tell_sent(head, payload)
        super().send_shared(head, payload)

    def acknowledge(
        self,
        packet_ids: list[int],
        place: int | None = None,
        encode: Callable[[Sequence[int]], bytes] = encode_pubacks,
    ) -> int | None:
        """Send each PUBACK on its own, so that each is told."""
        for packet_id in packet_ids:
            place = super().acknowledge([packet_id], place, encode)
        return place

    def offer(self, data: bytes) -> int:
        """Tell of a PUBLISH with QoS 0, unless it was dropped."""
        taken = super().offer(data)
        if taken != DROPPED:
            self._tell_sent(data)
        return taken

    def _tell_sent(self, head: bytes, payload: bytes = b"") -> None:
        owner = self._owner
        if not isinstance(owner, Connection) or not isinstance(owner.dialect, MQTT5):
            text, more = _written(head) if head[0] >> 4 == PUBLISH else ("", {})
            self._tell_packet(NAMES[head[0] >> 4] + text, len(head) + len(payload), more)
            return
        for packet, size in packets_in(head + payload):
            text, more = ("", {}) if type(packet) is not Publish else (_TO, _where(packet.topic, packet.qos))
            says = answer_in_words(packet) + in_words(getattr(packet, "properties", None))
            self._tell_packet(type(packet).__name__.upper() + text + "{says}", size, more | {"says": says})

    def _tell_packet(self, text: str, size: int, more: dict[str, object]) -> None:
        self.tell(wire, "to {address} {client_id!r}: " + text + ", {size} bytes", size=size, **more)


def _written(head: bytes) -> tuple[str, dict[str, object]]:
    """Return where a PUBLISH goes that is written for a client of 3.1.1, and the text that says so."""
    start = next(place for place in range(1, 5) if head[place] < 0x80) + 3  # behind both lengths
    end = start + int.from_bytes(head[start - 2 : start], "big")
    return _TO, _where(head[start:end].decode(), head[0] >> 1 & 3)


def _where(topic: str, qos: int) -> dict[str, object]:
    return {"topic": topic, "qos": qos}


def _traced(table: PacketTable) -> PacketTable:
    return {kind: _telling(handle) for kind, handle in table.items()}


def _telling(handle: Callable[[Any, Any], int]) -> Callable[[Any, Any], int]:
    def tell(state: Any, run: list[Packet]) -> int:
        """Handle the first packet alone, so that each is told before it is handled."""
        text, more = _details(run[0])
        if says := answer_in_words(run[0]) + in_words(getattr(run[0], "properties", None)):
            text, more = text + "{says}", more | {"says": says}
        packet = type(run[0]).__name__.upper()
        state.outbox.tell(wire, "from {address} {client_id!r}: {packet}" + text, packet=packet, **more)
        return handle(state, run[:1])

    return tell


def _details(packet: Packet) -> tuple[str, dict[str, object]]:
    if type(packet) is Publish:
        return _TO + ", {size} bytes", {**_where(packet.topic, packet.qos), "size": len(packet.payload)}
    if type(packet) is Connect:
        more: dict[str, object] = {"client_id": packet.client_id, "username": packet.username}
        more |= {"keep_alive": packet.keep_alive, "version": VERSIONS[packet.protocol_level]}
        return ", MQTT {version}, user {username!r}, Keep Alive {keep_alive} s", more
    if type(packet) is Subscribe:
        filters = [(subscription.topic_filter, subscription.qos) for subscription in packet.subscriptions]
        return " to {filters!r}", {"filters": filters}
    return "", {}


_TABLES: Final = Tables(*map(_traced, TABLES))


def traced(shared: Shared) -> Connection:
    """Make a connection that tells the log of its packets."""
    return Connection(shared, TracedOutbox, _TABLES)


def _begin(connection: Connection, run: list[Connect]) -> int:
    if not _is_wanted(connection.shared, run[0].client_id):
        return connection.begin(run)
    connection.become(TracedOutbox, _TABLES)
    return _TABLES.before_connect[Connect](connection, run)


_BY_CLIENT: Final = Tables({**TABLES.before_connect, Connect: _begin}, *TABLES[1:])


def traced_by_client(shared: Shared) -> Connection:
    """Make a connection that tells the log of its packets if its client is among ``shared.traced``."""
    return Connection(shared, tables=_BY_CLIENT)


def trace(shared: Shared, client_id: str, hear: Hear) -> Callable[[], None]:
    """Let ``hear`` be told of each packet of a client from now on; return what ends that.

    It goes on with the next connections of the same Client Identifier, from their CONNECT on.
    """
    shared.heard.setdefault(client_id, []).append(hear)
    _become(shared, client_id, Outbox, TracedOutbox, _TABLES)
    return partial(_end_trace, shared, client_id, hear)


def _end_trace(shared: Shared, client_id: str, hear: Hear) -> None:
    shared.heard[client_id].remove(hear)
    if not shared.heard[client_id]:
        del shared.heard[client_id]
    if not shared.tracing and not _is_wanted(shared, client_id):
        _become(shared, client_id, TracedOutbox, Outbox, TABLES)


def _is_wanted(shared: Shared, client_id: str) -> bool:
    return client_id in shared.traced or client_id in shared.heard


def _become(shared: Shared, client_id: str, old: type[Outbox], new: type[Outbox], tables: Tables) -> None:
    """Let the connection of a client, if it has one, go on with another kind of outbox."""
    session = shared.broker.sessions.get(client_id)
    outbox: Any = session.connection if session is not None else None
    if type(outbox) is old and isinstance(connection := outbox.owner, Connection):
        connection.become(new, tables)
