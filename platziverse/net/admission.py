"""Admission: the steps of a client between its CONNECT and CONNACK."""

from sys import getsizeof
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Exchange
from platziverse.broker.session import Session
from platziverse.broker.terms import ANY_SIZE
from platziverse.mqtt.errors import ConnectRefused, ProtocolViolation
from platziverse.mqtt.packets import Auth, Connect, ConnectReturnCode, Properties, Publish
from platziverse.mqtt.properties import is_as_it_says, weigh, weigh_asked
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.dialect import encode_auth
from platziverse.net.flow import LOGIN, is_due
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

    def expect_auth(self) -> None:
        """Let AUTH through from now on: CONNECT is not all that there is of this login."""

    def proven(self, method: str, data: bytes) -> None:
        """Tell the client, in CONNACK, what ``data`` says by this Authentication Method."""

    def fail(self, failure: Failure) -> None:
        """Refuse the CONNECT, or end the connection for a bug."""


class Admission:
    """An Admission logs a client in, delays it if it comes too often, and opens its Session.

    Each step may take time, during which nothing more is read, and the connection may end.
    """

    __slots__ = ("_connection", "_delayed", "_exchange", "_method", "connect")

    def __init__(self, connection: Candidate, connect: Connect) -> None:
        self._connection = connection
        self._delayed: IDelayedCall | None = None
        # A login in steps is under way.
        self._exchange: Exchange | None = None
        self._method = ""
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
        if connect.will is not None:
            _check_will(connect.will)
        if refusal := shared.pressure.refusal(connect.client_id):
            raise ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, refusal)
        if connect.properties is not None and connect.properties.authentication_method is not None:
            self._begin_exchange(connect.properties)
            return
        transport = connection.transport
        user, near = certificate_user(transport), is_near(transport)
        answer = shared.broker.authority.login(connect, connection.address, user, near)
        if answer is None:
            self._delay(connect.username)
        else:
            self._hold(0.0)
            answer.addCallback(self._delay).addErrback(connection.fail)

    def _begin_exchange(self, asked: Properties) -> None:
        """Log the client in by its Authentication Method.

        :raises ConnectRefused: there is no such method.
        """
        connection = self._connection
        self._method = method = asked.authentication_method or ""
        authority = connection.shared.broker.authority
        self._exchange = authority.exchange(method, self.connect.client_id, connection.address)
        if self._exchange is None:  # [MQTT5-4.12.0-1]
            text, code = (
                f"there is no Authentication Method {method!r:.100}",
                ReasonCode.BAD_AUTHENTICATION_METHOD,
            )
            raise ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, text, "MQTT5-4.12.0-1", code)
        connection.expect_auth()
        self._step(self._exchange, asked.authentication_data)

    def authenticate(self, packet: Auth) -> None:
        """Go on with a login in steps: the client has sent AUTH.

        :raises ProtocolViolation: it is not its turn, or of another method.
        """
        told, exchange = packet.properties or Properties(), self._exchange
        right = told.authentication_method == self._method
        if exchange is None or not right or packet.reason_code != ReasonCode.CONTINUE_AUTHENTICATION:
            text = f"AUTH {packet.reason_code:#04x} with method {told.authentication_method!r:.100}"
            raise ProtocolViolation(text, "MQTT5-4.12.0-5")
        self._step(exchange, told.authentication_data)

    def _step(self, exchange: Exchange, data: bytes | None) -> None:
        answer = exchange.step(data or b"")
        if is_due(answer):
            self._hold(0.0)
        answer.addCallback(self._stepped, exchange).addErrback(self._connection.fail)

    def _stepped(self, data: bytes, exchange: Exchange) -> None:
        connection = self._connection
        if connection.outbox.closed:
            return
        if exchange.username is not None:
            connection.proven(self._method, data)
            self._exchange = None
            self._delay(exchange.username)
            return
        asked = self.connect.properties or Properties()
        largest, code = asked.maximum_packet_size or ANY_SIZE, ReasonCode.CONTINUE_AUTHENTICATION
        connection.outbox.send(encode_auth(code, self._method, data, largest))  # [MQTT5-4.12.0-2]
        connection.reading.resume_reading(LOGIN)

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


def _check_will(will: Publish) -> None:
    """Check that a Will is the UTF-8 that it says.

    :raises ConnectRefused: it is not.
    """
    if not is_as_it_says(will):
        text, code = "its Will is not UTF-8, as it says", ReasonCode.PAYLOAD_FORMAT_INVALID
        raise ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, text, "3.1.3.2.3", code)
