"""Renewal: a client that is connected proves again who it is (section 4.12.1 of MQTT 5)."""

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Client, Exchange
from platziverse.broker.reasons import Reason
from platziverse.mqtt.errors import ConnectRefused, ProtocolViolation
from platziverse.mqtt.packets import Auth, Properties
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.dialect import encode_auth
from platziverse.net.outbox import Outbox


class Renewal:
    """A Renewal is made when a client has logged in by an Authentication Method.

    :param method: its name; every AUTH must have the same.
    :param largest: bytes of a packet that the client takes.
    """

    __slots__ = ("_client", "_exchange", "_largest", "_method", "_outbox", "_patience")

    def __init__(self, method: str, client: Client, outbox: Outbox, largest: int) -> None:
        self._method, self._client = method, client
        self._outbox, self._largest = outbox, largest
        self._exchange: Exchange | None = None
        self._patience: IDelayedCall | None = None

    def take(self, packet: Auth) -> "Deferred[None]":
        """Take an AUTH; fires when it is answered, or the connection is closed.

        :raises ProtocolViolation: it is not its turn, or of another method.
        """
        properties = packet.properties or Properties()
        if properties.authentication_method != self._method:  # [MQTT5-4.12.1-1] [MQTT5-4.12.0-5]
            text = f"AUTH with method {properties.authentication_method!r:.100}, not {self._method!r:.100}"
            raise ProtocolViolation(text, "MQTT5-4.12.1-1")
        begins = packet.reason_code == ReasonCode.REAUTHENTICATE
        if begins is (self._exchange is not None) or packet.reason_code == ReasonCode.SUCCESS:
            raise ProtocolViolation(f"AUTH {packet.reason_code:#04x} out of turn", "4.12.1")
        if self._exchange is None:
            self._begin()
        assert self._exchange is not None
        answer = self._exchange.step(properties.authentication_data or b"")
        return answer.addCallback(self._answer).addErrback(self._refuse)

    def end(self) -> None:
        """Wait for nothing more."""
        self._exchange = None
        patience, self._patience = self._patience, None
        if patience is not None and patience.active():
            patience.cancel()

    def _begin(self) -> None:
        client, shared = self._client, self._outbox.shared
        authority = shared.broker.authority
        self._exchange = authority.exchange(self._method, client.client_id, client.address)
        if self._exchange is None:  # there are no users any more
            raise ProtocolViolation("there is no such Authentication Method any more", "4.12.1")
        self._patience = shared.clock.callLater(shared.limits.connect_deadline, self._out_of_time)

    def _answer(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or self._outbox.closed:
            return
        if exchange.username is None:
            self._send(ReasonCode.CONTINUE_AUTHENTICATION, data)
            return
        self.end()
        if exchange.username != self._client.username:
            self._close(f"it has logged in again as {exchange.username!r:.100}")
        else:
            self._send(ReasonCode.SUCCESS, data)

    def _send(self, code: ReasonCode, data: bytes) -> None:
        self._outbox.send(encode_auth(code, self._method, data, self._largest))

    def _refuse(self, failure: Failure) -> None:
        failure.trap(ConnectRefused)
        self.end()
        self._close(str(failure.value))

    def _close(self, text: str) -> None:
        """Close: the login is not renewed; there is no second CONNACK. [MQTT5-4.12.1-2]"""
        if not self._outbox.closed:
            shared, client = self._outbox.shared, self._client
            shared.complain("a login is not renewed", text, client.address, client.client_id)
            self._outbox.close(Reason.NOT_AUTHORIZED, "its login is not renewed")

    def _out_of_time(self) -> None:
        if (owner := self._outbox.owner) is not None:
            owner.expel(Reason.NOT_AUTHORIZED, "no login in time", "connect_deadline")
