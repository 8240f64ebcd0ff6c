"""Columns: the records of one batch, sorted into the columns of the tables."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final

from attrs import define

from platziverse.broker.records import (
    IDENTIFIER,
    OPTIONS,
    Absent,
    Acknowledged,
    Back,
    Begun,
    Cleared,
    Delivery,
    Ended,
    Forget,
    Freed,
    Kept,
    Present,
    Queued,
    Received,
    Release,
    Settled,
    Subscribed,
    Taken,
    Trimmed,
    Unsubscribed,
    WillGone,
    WillLeft,
)
from platziverse.postgres.literals import Column, array, nullable_text_array, text_array

#: Of a version, as the table has it.
_HIGHEST: Final = (1 << 63) - 1
#: In ``flags``, above the two bits of the QoS.
RETAIN: Final = 4
PUBREC: Final = 8
#: Before the payload stand the Properties of MQTT 5. ADR 0181.
PROPERTIES: Final = 16
#: In ``expiry`` of what has changed in a Session: nothing.
UNCHANGED: Final = -(2**62)
#: Values of ``absence``.
AS_IT_IS, HERE, AWAY = range(3)


@define
class _State:
    """A _State is what changes in the row of one Session."""

    head: int = 0
    absence: int = AS_IT_IS
    login: bool = False
    username: str | None = None
    expiry: int = UNCHANGED


class SessionColumns:
    """SessionColumns are all that a statement writes.

    Where several records of a batch are about the same row, the last of them decides what is written.

    :param number: called for the number of a message that several rows refer to.
    :param due: called with the number of a Session of which a message is deleted; whether to note ``head``.
    :ivar shared: whether one of ``messages`` is for several Sessions.
    :ivar received: session and position of each message of QoS 2 that its receiver owns.
    :ivar trims: how many messages to drop, and behind which position, by Session.
    :ivar freed: Sessions that are nobody's any more, each with its ``head``.
    :ivar states: what changes in the rows of Sessions, by their numbers.
    :ivar filters: QoS of each Topic Filter, and if Retained Messages are owed, by Session; ``None``: gone.
    :ivar retained: what becomes of the Retained Message of each Topic Name.
    :ivar wills: the Will of each client; ``None``: whichever it has is gone.
    :ivar over: connections whose Will is gone, by client.
    """

    def __init__(self, number: Callable[[], int], due: Callable[[int], bool]) -> None:
        self._number, self._due = number, due
        self.messages: list[Queued] = []
        self.shared = False
        self.deliveries: list[Delivery] = []
        self.deleted: list[Acknowledged] = []
        self.received: dict[tuple[int, int], None] = {}
        self.trims: dict[int, tuple[int, int]] = {}
        self.begun: list[Begun] = []
        self.ended: dict[int, None] = {}
        self.freed: dict[int, int] = {}
        self.back: list[int] = []
        self.taken: list[Taken] = []
        self.settled: list[int] = []
        self.states: dict[int, _State] = {}
        self.filters: dict[int, dict[str, tuple[int, bool] | None]] = {}
        self.retained: dict[str, Kept | Cleared] = {}
        self.wills: dict[str, WillLeft | None] = {}
        self.over: dict[str, set[int]] = {}
        self.releases: list[Release] = []
        self.forgotten: list[str] = []

    # -- adding ----------------------------------------------------------------------------------

    def add_queued(self, record: Queued) -> None:
        """Add a message; from now on no receiver can be withdrawn."""
        record.taken = True
        if record.rows:
            self.messages.append(record)
        if len(record.rows) > 1:
            self.shared = True
            record.number = record.number or self._number()
        if isinstance(record.delivery, WillGone):
            self.add_will_gone(record.delivery)
        elif record.delivery is not None:
            self.deliveries.append(record.delivery)
        self.deleted += [Acknowledged(*place) for place in record.crossed]

    def add_acknowledged(self, record: Acknowledged) -> None:
        """Add a message that its receiver owns, and the position below which nothing waits, if it is due."""
        self.deleted.append(record)
        if self.received:
            self.received.pop((record.session, record.position), None)
        if record.head and self._due(record.session):
            self._state(record.session).head = record.head

    def add_received(self, record: Received) -> None:
        """Add a message of QoS 2 that its receiver owns."""
        self.received[record.session, record.position] = None

    def add_trimmed(self, record: Trimmed) -> None:
        """Add messages to drop, to those that are dropped of the same Session."""
        after, count = self.trims.get(record.session, (record.after, 0))
        self.trims[record.session] = min(after, record.after), count + record.count

    def add_begun(self, record: Begun) -> None:
        """Add a Session."""
        self.begun.append(record)

    def add_present(self, record: Present) -> None:
        """Add the client of a Session, that is back."""
        state = self._state(record.session)
        state.absence, state.login, state.username = HERE, True, record.username
        if record.expiry is not None:
            state.expiry = record.expiry

    def add_absent(self, record: Absent) -> None:
        """Add the client of a Session, that has gone."""
        state = self._state(record.session)
        state.absence, state.head = AWAY, record.head
        if record.expiry is not None:
            state.expiry = record.expiry

    def add_freed(self, record: Freed) -> None:
        """Add a Session that is nobody's any more."""
        self.freed[record.session] = record.head

    def add_back(self, record: Back) -> None:
        """Add a Session that nobody may take any more."""
        self.back.append(record.session)

    def add_taken(self, record: Taken) -> None:
        """Add a Session that was nobody's."""
        self.taken.append(record)

    def add_settled(self, record: Settled) -> None:
        """Add Sessions that are owed nothing at other daemons any more."""
        self.settled += record.sessions

    def add_subscribed(self, record: Subscribed) -> None:
        """Add Subscriptions."""
        filters, owed = self.filters.setdefault(record.session, {}), record.owed
        for topic_filter, qos in record.filters:
            filters[topic_filter] = qos, topic_filter in owed

    def add_unsubscribed(self, record: Unsubscribed) -> None:
        """Add Subscriptions that are gone."""
        self.filters.setdefault(record.session, {}).update(dict.fromkeys(record.filters))

    def add_ended(self, record: Ended) -> None:
        """Add a Session that has ended, with the Packet Identifiers of its client."""
        self.ended[record.session] = None
        self.forgotten.append(record.client_id)

    def add_kept(self, record: Kept) -> None:
        """Add a Retained Message."""
        self.retained[record.topic] = record

    def add_cleared(self, record: Cleared) -> None:
        """Add a Topic Name that has no Retained Message any more; what is over may not be written yet."""
        there = self.retained.get(record.topic) if record.over else None
        self.retained[record.topic] = record if there is None else Cleared(record.topic, there.version)

    def add_will_left(self, record: WillLeft) -> None:
        """Add a Will, which takes the place of any other of its client, but for one that was inherited."""
        self.wills[record.client_id] = record

    def add_will_gone(self, record: WillGone) -> None:
        """Add a connection whose Will is gone."""
        will = self.wills.get(record.client_id)
        if will is not None and will.connection == record.connection:
            self.wills[record.client_id] = None
        else:
            self.over.setdefault(record.client_id, set()).add(record.connection)

    def add_release(self, record: Release) -> None:
        """Add a Packet Identifier that is free again."""
        self.releases.append(record)

    def add_forget(self, record: Forget) -> None:
        """Add a client whose Packet Identifiers are to be forgotten."""
        self.forgotten.append(record.client_id)

    def settle(self) -> None:
        """Leave out what is about Sessions that end in this batch: a row can be written only once in it."""
        of_sessions: list[dict[int, Any]] = [self.states, self.filters, self.trims, self.freed]
        for session in self.ended:
            for each in of_sessions:
                each.pop(session, None)
        for session in self.freed:
            self.states.pop(session, None)

    def _state(self, session: int) -> _State:
        state = self.states.get(session)
        if state is None:
            state = self.states[session] = _State()
        return state

    # -- the parameters of each part of the statement --------------------------------------------

    def of_messages(self) -> dict[str, Column]:
        """Return the messages and, for each receiver, a row with the number of its message from 1 on."""
        messages = self.messages
        rows = [
            (session, position, qos | _flags(message.retain, message.properties), n)
            for n, message in enumerate(messages, 1)
            for session, (position, qos) in message.rows.items()
        ]
        session, seq, flags, reference = zip(*rows, strict=True)
        return {
            **_packed("", [message.properties + message.payload for message in messages]),
            "id": (array, [message.number for message in messages]),
            "topic": (text_array, [message.topic for message in messages]),
            "published": (array, [message.published for message in messages]),
            "session": (array, session),
            "seq": (array, seq),
            "flags": (array, flags),
            "message": (array, reference),
        }

    def of_trims(self) -> dict[str, Column]:
        """Return the Sessions whose queues are too long."""
        return {
            "t_session": (array, list(self.trims)),
            "t_after": (array, [after for after, _ in self.trims.values()]),
            "t_count": (array, [count for _, count in self.trims.values()]),
        }

    def of_deleted(self) -> dict[str, Column]:
        """Return the rows to delete, and the messages that nobody waits for now."""
        return {
            "gone_session": (array, [record.session for record in self.deleted]),
            "gone_seq": (array, [record.position for record in self.deleted]),
            "over": (array, [record.over for record in self.deleted if record.over]),
        }

    def of_received(self) -> dict[str, Column]:
        """Return the rows of which nothing is kept but the position."""
        return {
            "r_session": (array, [session for session, _ in self.received]),
            "r_seq": (array, [position for _, position in self.received]),
        }

    def of_deliveries(self) -> dict[str, Column]:
        """Return one row for each incoming QoS 2 message."""
        return {
            "d_client": (text_array, [delivery.client_id for delivery in self.deliveries]),
            "d_packet": (array, [delivery.packet_id for delivery in self.deliveries]),
        }

    def of_releases(self) -> dict[str, Column]:
        """Return one row for each Packet Identifier that is free again."""
        return {
            "q_client": (text_array, [release.client_id for release in self.releases]),
            "q_packet": (array, [release.packet_id for release in self.releases]),
        }

    def of_forgotten(self) -> dict[str, Column]:
        """Return the clients whose Packet Identifiers are forgotten."""
        return {"forgotten": (text_array, self.forgotten)}

    def of_begun(self) -> dict[str, Column]:
        """Return the Sessions that begin."""
        return {
            "b_client": (text_array, [begun.client_id for begun in self.begun]),
            "b_username": (nullable_text_array, [begun.username for begun in self.begun]),
            "b_expiry": (array, [begun.expiry for begun in self.begun]),
        }

    def of_states(self) -> dict[str, Column]:
        """Return the Sessions of which something has changed."""
        states = self.states.values()
        return {
            "s_session": (array, list(self.states)),
            "s_head": (array, [state.head for state in states]),
            "s_absence": (array, [state.absence for state in states]),
            "s_login": (array, [state.login for state in states]),
            "s_username": (nullable_text_array, [state.username for state in states]),
            "s_expiry": (array, [state.expiry for state in states]),
        }

    def of_freed(self) -> dict[str, Column]:
        """Return the Sessions that others may take."""
        return {"l_session": (array, list(self.freed)), "l_head": (array, list(self.freed.values()))}

    def of_back(self) -> dict[str, Column]:
        """Return the Sessions that are ours again."""
        return {"back": (array, self.back)}

    def of_taken(self) -> dict[str, Column]:
        """Return the Sessions that others have freed."""
        return {
            "m_session": (array, [record.session for record in self.taken]),
            "m_before": (array, [record.before for record in self.taken]),
            "m_since": (array, [record.since for record in self.taken]),
        }

    def of_settled(self) -> dict[str, Column]:
        """Return the Sessions that are owed nothing at other daemons any more."""
        return {"settled": (array, self.settled)}

    def of_ended(self) -> dict[str, Column]:
        """Return the Sessions that have ended."""
        return {"ended": (array, list(self.ended))}

    def of_filters(self) -> dict[str, Column]:
        """Return the Subscriptions to write, and those to delete."""
        rows = [
            (session, topic_filter, options)
            for session, filters in self.filters.items()
            for topic_filter, options in filters.items()
        ]
        there = [(session, topic_filter, *options) for session, topic_filter, options in rows if options]
        gone = [(session, topic_filter) for session, topic_filter, options in rows if options is None]
        return {
            "f_session": (array, [session for session, *_ in there]),
            "f_filter": (text_array, [topic_filter for _, topic_filter, *_ in there]),
            "f_options": (array, [granted & OPTIONS for *_, granted, _ in there]),
            "f_identifier": (array, [granted >> IDENTIFIER for *_, granted, _ in there]),
            "f_replay": (array, [owed for *_, owed in there]),
            "n_session": (array, [session for session, _ in gone]),
            "n_filter": (text_array, [topic_filter for _, topic_filter in gone]),
        }

    def of_retained(self) -> dict[str, Column]:
        """Return the Retained Messages to write, and the Topic Names that have none any more."""
        kept = [record for record in self.retained.values() if isinstance(record, Kept)]
        cleared = [record for record in self.retained.values() if isinstance(record, Cleared)]
        return {
            **_packed("k_", [record.properties + record.payload for record in kept]),
            "k_topic": (text_array, [record.topic for record in kept]),
            "k_flags": (array, [record.qos | _flags(False, record.properties) for record in kept]),
            "k_client": (text_array, [record.client_id for record in kept]),
            "k_username": (nullable_text_array, [record.username for record in kept]),
            "k_version": (array, [min(record.version, _HIGHEST) for record in kept]),
            "cleared": (text_array, [record.topic for record in cleared]),
            "c_version": (array, [min(record.version, _HIGHEST) for record in cleared]),
            "c_over": (text_array, [record.over.hex() for record in cleared]),
        }

    def of_wills(self) -> dict[str, Column]:
        """Return the Wills to write, and those to delete: of a client, or of one of its connections."""
        left = [record for record in self.wills.values() if record is not None]
        over = [(client, connection) for client, all_ in self.over.items() for connection in all_]
        return {
            **_packed("w_", [record.properties + record.payload for record in left]),
            "w_client": (text_array, [record.client_id for record in left]),
            "w_username": (nullable_text_array, [record.username for record in left]),
            "w_connection": (array, [record.connection for record in left]),
            "w_topic": (text_array, [record.topic for record in left]),
            "w_flags": (array, [one.qos | _flags(one.retain, one.properties) for one in left]),
            "w_due": (array, [record.due for record in left]),
            "x_client": (text_array, [client for client, record in self.wills.items() if record is None]),
            "y_client": (text_array, [client for client, _ in over]),
            "y_connection": (array, [connection for _, connection in over]),
        }


def _flags(retain: bool, properties: bytes) -> int:
    return (RETAIN if retain else 0) | (PROPERTIES if properties else 0)


def _packed(prefix: str, payloads: Sequence[bytes]) -> dict[str, Column]:
    """Return all payloads as one, with where each of them begins and how long it is. See ADR 0111.

    An array of them costs the server nearly twice as much.
    """
    sizes = list(map(len, payloads))
    return {
        f"{prefix}data": (bytes.hex, b"".join(payloads)),
        f"{prefix}at": (array, list(accumulate(sizes, initial=1))[:-1]),
        f"{prefix}size": (array, sizes),
    }
