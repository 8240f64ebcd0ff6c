"""Connection: one Network Connection, from its first byte to its last."""

from typing import Any, Final, NamedTuple

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.errors import ConnectRefused, MalformedPacket, MQTTError
from platziverse.mqtt.packets import Auth, Connect, Disconnect, Puback, Pubcomp, Publish
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.admission import Admission
from platziverse.net.connected import CONNECTED, Connected, PacketTable
from platziverse.net.connected5 import CONNECTED5, Connected5
from platziverse.net.deadlines import LINGER
from platziverse.net.dialect import MQTT5, MQTT_3_1_1, Dialect, out_of_place
from platziverse.net.flow import CLOSED, LOGIN
from platziverse.net.outbox import Outbox
from platziverse.net.peer import format_peer
from platziverse.net.reading import Reading
from platziverse.net.renewal import Renewal
from platziverse.net.shared import Shared

#: Packets that ask for nothing but make room: ten of them count as one of ``packets_per_turn``. ADR 0125.
LIGHT: Final = (Puback, Pubcomp)


class Tables(NamedTuple):
    """Tables are the packets that may come, by the state of the connection."""

    before_connect: PacketTable
    connected: PacketTable
    connected5: PacketTable

    def of(self, state: Connected) -> PacketTable:
        """Return the packets of a client that is connected."""
        return self.connected if type(state) is Connected else self.connected5


class Connection(Protocol):
    """A Connection feeds the decoder, looks runs of packets up in the table of its state, and ends it all.

    :ivar address: of the peer, for logs.
    :ivar state: ``None`` until CONNACK.
    :ivar bucket: belongs to :class:`Deadlines`, -1: none was set yet.
    """

    # Slots: an object with more than 30 attributes has a dict of its own in CPython, of 1.5 KiB. ADR 0070.
    __slots__ = (
        "_admission",
        "_decoder",
        "_table",
        "_tables",
        "address",
        "bucket",
        "connected",
        "dialect",
        "outbox",
        "reading",
        "shared",
        "state",
        "transport",
    )

    def __init__(self, shared: Shared, outbox: type[Outbox] = Outbox, tables: "Tables | None" = None) -> None:
        limits = shared.limits
        self.shared = shared
        self.transport: Any = None
        self.connected = 0
        self.address = ""
        self.bucket = -1
        self.outbox = outbox(shared, self)
        self.reading = Reading(shared, self)
        self.dialect: Dialect = MQTT_3_1_1
        self.state: Connected | None = None
        self._admission: Admission | None = None
        self._tables = tables = tables or TABLES
        # Of the packets that may come now.
        self._table = tables.before_connect
        self._decoder = PacketDecoder(limits.max_connect_size, limits.max_topic_levels, limits.strict_dup)

    @property
    def client_id(self) -> str:
        """The Client Identifier, as far as it is known; for logs."""
        if self.state is not None:
            return self.state.session.client_id
        return self._admission.connect.client_id if self._admission is not None else ""

    @property
    def closed(self) -> bool:
        """True when it has ended, or was closed and is about to end."""
        return self.outbox.closed

    # -- IProtocol -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Wait for CONNECT, which has to be complete in time; nothing is sent before it. [MQTT-3.1.0-1]"""
        shared, transport = self.shared, self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)  # or a windowed publisher waits 40 ms for each PUBACK
        transport.registerProducer(self.outbox, True)
        self.address = format_peer(transport.getPeer())
        shared.opened(self)
        self.reading.last_read = shared.deadlines.now
        if self.bucket < 0:  # or whoever had the connection before has passed on the time for CONNECT
            self.allow(shared.limits.connect_deadline)

    def dataReceived(self, data: bytes) -> None:
        """Handle every packet that is complete, in order."""
        reading, shared = self.reading, self.shared
        if reading.holds & CLOSED:  # TLS reads on until the client closes as well
            return
        if shared.seconds() > shared.deadlines.latest:
            shared.waking.overslept()
        reading.last_read = shared.deadlines.now
        size = len(data)
        reading.bytes += size
        shared.traffic.bytes_received += size
        self._decoder.feed(data)
        self.take_packets()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """End it all: every connection ends here, whatever the reason."""
        shared, state = self.shared, self.state
        if shared.waking.is_asleep:
            shared.waking.lost(self, reason)
            return
        gone = not self.outbox.closed
        self.outbox.end()
        if gone and state is not None and self.reading.holds:
            self._take_leftovers(state)
        self.reading.end()
        shared.connections.discard(self)
        shared.deadlines.remove(self)
        shared.flow.forget(self.reading)
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.cancel()
        if state is not None:
            state.end()

    # -- packets ---------------------------------------------------------------------------------

    def take_packets(self) -> None:
        """Take packets until there is none, something holds reading, or the others have to get their turn."""
        shared = self.shared
        shared.current = reading = self.reading
        flushes = shared.flushes
        nested = flushes.first
        if nested is None:
            flushes.first = self.outbox
        left, taken = self._handle_packets(shared.limits.packets_per_turn)
        shared.traffic.messages_received += taken
        decoder = self._decoder
        if decoder.has_more or decoder.partial is not None or reading.partial_since is not None:
            reading.note_partial(self._waiting, taken > 0)
        reading.packets += taken
        rates = shared.rates
        if reading.packets > rates.packets or reading.bytes > rates.bytes:
            reading.pace()
        if not left and not reading.holds and decoder.has_more:
            reading.yield_turn()
        if nested is None:
            flushes.first = None
            self.outbox.answer()
            if flushes.touched:
                flushes.flush()

    def _handle_packets(self, left: int) -> tuple[int, int]:
        """Handle at most ``left`` packets; return how many more there might have been, and how many it were.

        :param left: of ``LIGHT`` packets ten count as one.
        """
        decoder, reading, taken = self._decoder, self.reading, 0
        try:
            while left > 0 and not reading.holds and (run := decoder.take(left)):
                kind, count = type(run[0]), len(run)
                taken += count
                left -= count if kind not in LIGHT else -(-count // 10)
                handle = self._table.get(kind)
                if handle is None:
                    raise out_of_place(run[0])
                if (handled := handle(self.state or self, run)) < count:
                    left, taken = left + count - handled, taken + handled - count
                    decoder.give_back(run[handled:])
                if not decoder.has_more:
                    break
        except BaseException:  # what goes on to the reactor ends no turn: nobody would be answered
            self.fail(Failure())
        return left, taken

    def become(self, outbox: type[Outbox], tables: Tables) -> None:
        """Go on with another kind of outbox and other tables, which differ in what they tell alone.

        The outbox stays the same object, in another class without attributes of its own: the broker, the
        Session and the transport know it, and what waits in it would have to be moved. ADR 0175.
        """
        self.outbox.__class__ = outbox
        self._tables = tables
        self._table = tables.before_connect if self.state is None else tables.of(self.state)

    def begin(self, run: list[Connect]) -> int:
        """Begin the :class:`Admission` of a client: CONNECT has come."""
        if self._admission is not None:
            raise out_of_place(run[0])  # there is one CONNACK [MQTT5-3.2.0-2]
        if run[0].protocol_level == 5:
            shared = self.shared
            self.dialect = MQTT5(run[0], shared.limits, shared.traffic, shared.server_reference)
        self._admission = Admission(self, run[0])
        self._admission.begin()
        if self._admission is not None and not self.outbox.closed:
            self.reading.note_partial(self._waiting, True)
        return 1

    def expect_auth(self) -> None:
        """Let AUTH through from now on: CONNECT is not all that there is of this login."""
        self._decoder.connected(self.shared.limits.max_connect_size, 5)

    def proven(self, method: str, data: bytes) -> None:
        """Tell the client, in CONNACK, what ``data`` says by this Authentication Method."""
        assert isinstance(self.dialect, MQTT5)
        self.dialect.proof = method, data

    def proceed(self, run: "list[Auth] | list[Disconnect]") -> int:
        """Go on with a login in steps, or give it up; nothing else may come now. [MQTT5-3.1.4-6]"""
        if self._admission is None:
            raise out_of_place(run[0])
        if isinstance(run[0], Auth):
            self._admission.authenticate(run[0])
        else:
            self.close(Reason.GRACEFUL, "it has disconnected")
        return 1

    @property
    def _waiting(self) -> int:
        """How many bytes have come and are not handled, a CONNECT that waits for its login among them."""
        size = self._decoder.pending
        return size if self._admission is None else size + self._admission.size

    def admit(self, session: Session, present: bool, connect: Connect) -> None:
        """Answer CONNECT with CONNACK; from now on the client is connected.

        :raises ConnectRefused: the client takes no packet that is as large as its CONNACK.
        """
        try:
            accepted = self.dialect.accept(present, session)
        except ConnectRefused:  # it has never heard that it is connected
            self.shared.broker.disconnect(session, self.outbox, graceful=True)
            raise
        self._decoder.connected(self.shared.limits.max_packet_size, connect.protocol_level)
        five = connect.protocol_level == 5
        self.state = state = self._connected5(session) if five else Connected(*self._parts(session))
        self._table = self._tables.of(state)
        self._admission = None
        self.reading.start_keep_alive(self.dialect.keep_alive(connect.keep_alive))
        self._look_again(self.shared.deadlines.now)
        self.outbox.send(accepted)
        self.outbox.serve(session)
        if present or session.persistent:  # or it has just begun, and has nothing for its client
            session.resume()
        self.reading.resume_reading(LOGIN)

    def _connected5(self, session: Session) -> Connected5:
        state, client = Connected5(*self._parts(session)), session.client
        if isinstance(self.dialect, MQTT5) and self.dialect.proof is not None and client is not None:
            state.renewal = Renewal(self.dialect.proof[0], client, self.outbox, session.terms.largest)
        return state

    def _parts(self, session: Session) -> tuple[Session, Outbox, Reading, Dialect]:
        return session, self.outbox, self.reading, self.dialect

    def _take_leftovers(self, state: Connected) -> None:
        """Publish the messages that came before the peer went, while reading was held, if there is room."""
        try:
            while not state.graceful and (packet := self._decoder.next_packet()) is not None:
                if type(packet) is Publish and self.shared.flow.full:
                    # It comes again, as it was not acknowledged; at QoS 0 it is lost.
                    self.shared.traffic.leftovers_dropped += packet.qos == 0
                elif type(packet) is Publish or type(packet) is Disconnect:
                    TABLES.of(state)[type(packet)](state, [packet])
        except Exception:
            self.fail(Failure())

    # -- the end ---------------------------------------------------------------------------------

    def fail(self, failure: Failure) -> None:
        """End the connection because of an exception, by the client's fault or by ours."""
        error = failure.value
        if not isinstance(error, MQTTError):
            self.shared.broke_down(failure, self.address, self.client_id)
            self.close(Reason.INTERNAL_ERROR, "internal error")  # [MQTT-4.8.0-2]
        elif self.outbox.closed:
            return  # nobody is there to be told
        elif isinstance(error, ConnectRefused) and self.state is not None:
            self.fail(Failure(out_of_place(Connect(""))))  # a second CONNECT has no answer [MQTT-3.1.0-2]
        elif isinstance(error, ConnectRefused):
            self.shared.traffic.connect_refused(error.return_code.name.lower())
            self._complain(error.return_code.name, str(error))
            if answer := self.dialect.refuse(error):
                self.outbox.send(answer)
            # [MQTT-3.2.2-5] [MQTT-3.1.4-5] [MQTT5-3.2.2-7] [MQTT5-3.1.4-2] [MQTT5-4.12.0-4]
            self.close(Reason.REFUSED, str(error))
        else:
            self.shared.traffic.protocol_error(error.statement)
            self._complain(error.statement, str(error))
            malformed = isinstance(error, MalformedPacket)
            # [MQTT-4.8.0-1] [MQTT-3.1.4-1] [MQTT-3.2.2-6] [MQTT5-3.1.4-1] [MQTT5-4.13.1-1]
            reason = Reason.MALFORMED if malformed else Reason.PROTOCOL_ERROR
            if self.state is None and (error.protocol_level == 5 or self.dialect is not MQTT_3_1_1):
                self.outbox.send(MQTT5(None, self.shared.limits, self.shared.traffic).refuse(error))
            self.close(reason, str(error), error.code)

    def close(self, reason: Reason, text: str, code: ReasonCode | None = None) -> None:
        """Write the queued packets, if the client takes them, and close. Harmless when repeated.

        [MQTT5-3.14.4-1] [MQTT5-3.14.4-2] [MQTT5-4.13.2-1]

        :param code: what MQTT 5 says, more exactly than ``reason``.
        """
        if self.state is not None:
            self.state.settle()
        if self.outbox.closed:
            return
        admitted = self.state is not None and not self.outbox.congested  # [MQTT5-3.14.0-1]
        if admitted and (farewell := self.dialect.goodbye(reason, text, code)):
            self.outbox.send(farewell)
        taken = self.outbox.shut(text)
        self.reading.end()
        self._decoder.clear()
        self.transport.unregisterProducer()
        if taken:
            self.allow(LINGER)
            self.transport.loseConnection()
        else:
            self.transport.abortConnection()

    def _complain(self, cause: str, reason: str) -> None:
        self.shared.complain(cause, reason, self.address, self.client_id)

    # -- deadlines -------------------------------------------------------------------------------

    def allow(self, seconds: float) -> None:
        """Set the next deadline, so many seconds from now."""
        deadlines = self.shared.deadlines
        deadlines.add(self, deadlines.now + seconds)

    def deadline_reached(self, now: float) -> None:
        """Close if a deadline has passed; it may also have moved on since it was set."""
        if self.outbox.closed:
            self.transport.abortConnection()
            return
        missed = self._missed(now)
        if missed is None:
            self._look_again(now)
            return
        self.expel(*missed)

    def expel(self, reason: Reason, text: str, setting: str) -> None:
        """Count, log and close a client that has not kept to a limit.

        :param text: in words; counted as well.
        :param setting: the name of that limit; empty: there is none.
        """
        self.shared.traffic.protocol_error(text)
        self._complain(text, f"{text} ({setting})" if setting else text)
        self.close(reason, text)

    def _missed(self, now: float) -> tuple[Reason, str, str] | None:
        """Return the reason for closing, in words too, and the setting behind it, or an empty one."""
        reading = self.reading
        if self.state is None:  # section 3.1.4
            text = "no CONNECT in time" if self._admission is None else "no login in time"
            return Reason.TOO_SLOW, text, "connect_deadline"
        if self.outbox.overdue(now):
            return Reason.TOO_SLOW, "it does not read", "write_deadline"
        if reading.is_partial(now):
            return Reason.TOO_SLOW, "an incomplete packet", "packet_deadline"
        if not reading.is_silent(now):
            return None
        most = self.shared.limits.max_keep_alive
        capped = most == reading.keep_alive and self.dialect is not MQTT_3_1_1
        return Reason.KEEP_ALIVE, "Keep Alive", "max_keep_alive" if capped else ""

    def _look_again(self, now: float) -> None:
        """Ask again when the first deadline may be due, or before a new one could be missed."""
        self.shared.deadlines.add(self, min(self.outbox.due(now), self.reading.due(now)))


TABLES: Final = Tables(
    {Connect: Connection.begin, Auth: Connection.proceed, Disconnect: Connection.proceed},
    CONNECTED,
    CONNECTED5,
)
