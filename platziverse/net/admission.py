"""Admission: the steps of a client between its CONNECT and CONNACK."""

from sys import getsizeof
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from platziverse.broker.session import Session
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connect, ConnectReturnCode
from platziverse.mqtt.properties import is_as_it_says, weigh, weigh_asked
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.flow import LOGIN
from platziverse.net.outbox import Outbox
from platziverse.net.peer import certificate_user, is_near
from platziverse.net.reading import Reading
from platziverse.net.shared import Shared


class Candidate(Protocol):
    """A Candidate is a connection that is to be admitted."""

    transport: Any
    address: str
    shared: Shared
    outbox: Outbox
    reading: Reading

    def allow(self, seconds: float) -> None:
        """Set the next deadline, so many seconds from now."""

    def admit(self, session: Session, present: bool, connect: Connect) -> None:
        """Accept the CONNECT."""

    def fail(self, failure: Failure) -> None:
        """Refuse the CONNECT, or end the connection for a bug."""


class Admission:
    """An Admission logs a client in, delays it if it comes too often, and opens its Session.

    Each step may take time, during which nothing more is read, and the connection may end.
    """

    __slots__ = ("_connection", "_delayed", "connect")

    def __init__(self, connection: Candidate, connect: Connect) -> None:
        self._connection = connection
        self._delayed: IDelayedCall | None = None
        self.connect = connect

    @property
    def size(self) -> int:
        """How many bytes its CONNECT takes."""
        connect, size = self.connect, getsizeof(self.connect.client_id) + getsizeof(self.connect.username)
        if (will := connect.will) is not None:
            size += getsizeof(will.topic) + len(will.payload)
            size += weigh(will.properties) if will.properties is not None else 0
        if connect.properties is not None:
            size += weigh_asked(connect.properties)
        return size + len(connect.password or b"")

    def begin(self) -> None:
        """Log the client in.

        :raises ConnectRefused: its Client Identifier is too long, or nobody is let in at the moment.
        """
        connection, connect = self._connection, self.connect
        shared = connection.shared
        if len(connect.client_id.encode()) > shared.limits.max_client_id_bytes:
            rejected = ConnectReturnCode.IDENTIFIER_REJECTED  # [MQTT-3.1.3-5] [MQTT-3.1.3-9] [MQTT5-3.1.3-8]
            raise ConnectRefused(
                rejected, "its Client Identifier is too long (max_client_id_bytes)", "3.1.3.1"
            )
        if connect.properties is not None or connect.will is not None:
            _check_properties(connect)
        if refusal := shared.pressure.refusal(connect.client_id):
            raise ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, refusal)
        transport = connection.transport
        user, near = certificate_user(transport), is_near(transport)
        answer = shared.broker.authority.login(connect, connection.address, user, near)
        if answer is None:
            self._delay(connect.username)
        else:
            self._hold(0.0)
            answer.addCallback(self._delay).addErrback(connection.fail)

    def cancel(self) -> None:
        """Go no further: the connection has ended."""
        if self._delayed is not None and self._delayed.active():
            self._delayed.cancel()

    def _hold(self, delay: float) -> None:
        """Read nothing more; the steps after CONNECT have a time of their own, as the client is not to blame.

        :param delay: seconds that it takes at least.
        """
        self._connection.reading.hold_reading(LOGIN)
        self._connection.allow(delay + self._connection.shared.limits.connect_deadline)

    def _delay(self, username: str | None) -> None:
        if self._connection.outbox.closed:
            return
        shared, client_id = self._connection.shared, self.connect.client_id
        old = shared.broker.sessions.get(client_id)
        # Health checks and cron jobs come often, one after the other; who takes a living connection over, and
        # is taken over in turn, keeps two clients and everybody else busy.
        living = old is not None and old.connection is not None
        delay = shared.flapping.delay(client_id, shared.clock.seconds()) if living else 0.0
        if delay:
            shared.traffic.takeovers_delayed += 1
            reason = f"delayed {delay:g} s, as it is taken over again and again (max_connects_per_minute)"
            shared.complaints.warn(
                "take-overs",
                "{address} {client_id!r}: {reason}",
                address=self._connection.address,
                client_id=client_id,
                reason=reason,
            )
            self._hold(delay)
            self._delayed = shared.clock.callLater(delay, self._open_late, username)
        else:
            self._open(username)

    def _open_late(self, username: str | None) -> None:
        try:
            self._open(username)
        except Exception:
            self._connection.fail(Failure())

    def _open(self, username: str | None) -> None:
        connection, flow = self._connection, self._connection.shared.flow
        broker = connection.shared.broker
        answer = broker.connect(self.connect, connection.outbox, connection.address, username)
        if not isinstance(answer, Deferred):
            self._opened(answer)
            return
        self._hold(0.0)
        flow.started(connection.reading, 0)
        answer.addCallback(self._opened).addErrback(connection.fail)
        answer.addBoth(lambda _: flow.finished(connection.reading, 0))

    def _opened(self, answer: tuple[Session, bool]) -> None:
        connection, (session, present) = self._connection, answer
        if connection.outbox.closed:  # meanwhile; the client has never heard that it is connected
            connection.shared.broker.disconnect(session, connection.outbox, graceful=True)
        else:
            connection.admit(session, present, self.connect)


def _check_properties(connect: Connect) -> None:
    """Check what a CONNECT of MQTT 5 asks for.

    :raises ConnectRefused: there is no such Authentication Method, or the Will is not the UTF-8 that it says.
    """
    asked, will = connect.properties, connect.will
    if asked is not None and (method := asked.authentication_method) is not None:  # [MQTT5-4.12.0-1]
        text = f"there is no Authentication Method {method!r:.100}"
        code = ReasonCode.BAD_AUTHENTICATION_METHOD
        raise ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, text, "MQTT5-4.12.0-1", code)
    if will is not None and not is_as_it_says(will):
        text, code = "its Will is not UTF-8, as it says", ReasonCode.PAYLOAD_FORMAT_INVALID
        raise ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, text, "3.1.3.2.3", code)
