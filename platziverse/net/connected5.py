"""Connected5: the packets of a client of MQTT 5 from its CONNACK on."""

from collections.abc import Collection
from typing import Final

from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.session import Session
from platziverse.mqtt.codec5 import encode_acknowledgement
from platziverse.mqtt.details import code_name
from platziverse.mqtt.errors import ProtocolViolation
from platziverse.mqtt.framing import encode_length
from platziverse.mqtt.packets import (
    Auth,
    Disconnect,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from platziverse.mqtt.properties import arrived, arrived_properties, identified, is_as_it_says
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.connected import Connected, PacketTable
from platziverse.net.dialect import Dialect
from platziverse.net.flow import MAY_BE_TOLD, NOT_TOLD, STORE, TOLD
from platziverse.net.outbox import Outbox
from platziverse.net.publications import Publications
from platziverse.net.publications5 import Publications5
from platziverse.net.reading import Reading
from platziverse.net.renewal import Renewal

#: Bytes of a payload that is not looked through again and again, should its run be handled in parts.
LARGE: Final = 4096
#: Of most connections, which share it: none is ever added, see ``_before``.
_NONE: Final[set[int]] = set()
_NOT_UTF8: Final = Refused(Reason.PAYLOAD_INVALID, "its payload is not UTF-8, as it says")


class Connected5(Connected):
    """A Connected5 knows Properties, Topic Aliases and Reason Codes beyond what a Connected does."""

    __slots__ = ("_aliases", "_before", "_most", "renewal")

    def __init__(self, session: Session, outbox: Outbox, reading: Reading, dialect: Dialect) -> None:
        super().__init__(session, outbox, reading, dialect)
        reading.telling = MAY_BE_TOLD
        # Of this connection: Topic Alias → Topic Name. [MQTT5-3.3.2-7]
        self._aliases: dict[int, str] = {}
        #: ``None``: the client has not logged in by an Authentication Method.
        self.renewal: Renewal | None = None
        # Messages at QoS 2 that came before this connection: they count in none but theirs.
        self._before = set(session.identifiers) or _NONE
        # PUBLISHes that may be unacknowledged; see :meth:`pubrel`.
        self._most = outbox.shared.limits.receive_maximum

    def publish(self, run: list[Publish]) -> int:
        """Publish a run of messages, all of one QoS, as long as no more are unacknowledged than may be."""
        if not run[0].qos or self._has_room(len(run)):
            return self._publish(run)
        handled = 0
        while handled < len(run):
            part = run[handled : handled + self._room()]
            done = self._publish(part)
            handled += done
            if done < len(part) or self.reading.holds:
                break
        if handled < len(run):  # these have come as well, whenever they are handled
            self._room()
        return handled

    def _make_publications(self) -> Publications:
        return Publications5(self.session, self.outbox, self.reading, self._dialect)

    def _has_room(self, count: int) -> bool:
        """Return whether so many PUBLISHes certainly are not too many: all that waits is counted, roughly."""
        publications = self._publications
        if publications is None:
            return count <= self._most
        owed = len(publications.acks) if publications.acks is not None else 0
        return count + owed + self.reading.unfinished + self.session.unreleased <= self._most

    def _room(self) -> int:
        """Return how many PUBLISHes at QoS 1 and 2 may come before one of those that have is acknowledged.

        :raises ProtocolViolation: there is no room for the one that has come. Section 3.3.4
        """
        unreleased = self.session.unreleased - len(self._before)
        room = self._most - unreleased - (self._publications.unacknowledged if self._publications else 0)
        if room < 1:
            most = self.outbox.shared.limits.receive_maximum
            text = f"more than {most} unacknowledged messages (max_unfinished)"
            raise ProtocolViolation(text, "MQTT5-3.3.4-7", ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
        return room

    def _publish(self, run: list[Publish]) -> int:
        """Publish messages for which there is room."""
        if self.reading.telling == TOLD:
            return self._refuse(run)
        for packet in run:
            if packet.properties is not None:
                break
        else:
            return super().publish(run)
        handled, size = 0, len(run)
        while handled < size:
            part = self._arrived(run[handled:])
            done = super().publish(part) if part else self._publish_one(run[handled])
            handled += done
            if done < len(part) or not done or self.reading.holds:
                break
        return handled

    def _arrived(self, run: list[Publish]) -> list[Publish]:
        """Return the first messages of a run as they are published, up to one that has to be looked at alone.

        That is one that gives a Topic Alias a name, since it may come again with those behind it, and one
        that is refused, or ends the connection.
        """
        now, aliases, found = self.outbox.shared.broker.clients.now(), self._aliases, list[Publish]()
        before: PublishProperties | None = None
        kept: PublishProperties | None = None
        for packet in run:
            properties, topic = packet.properties, packet.topic
            if properties is not None:
                if properties is not before:  # often it is, as the decoder remembers them
                    before, kept = properties, arrived_properties(properties, now)
                if properties.topic_alias is not None:
                    name = aliases.get(properties.topic_alias)
                    if name is None or topic not in ("", name):
                        break
                    topic = name
                if (
                    properties.subscription_identifiers
                    or len(packet.payload) > LARGE
                    or not is_as_it_says(packet)
                ):
                    break
                if kept is not properties:
                    flags = packet.retain, packet.dup
                    packet = Publish(topic, packet.payload, packet.qos, *flags, packet.packet_id, kept)
            found.append(packet)
        return found

    def _refuse(self, run: list[Publish]) -> int:
        """Refuse the messages of a run, while the store is away; see :class:`Refusing`.

        A message that may have been handed to the store before, or that has no answer, holds reading.
        """
        reading, shared = self.reading, self.outbox.shared
        away = shared.refusing.is_away()
        for handled, packet in enumerate(run):
            known = packet.dup or (packet.packet_id is not None and self.session.awaits(packet.packet_id))
            if not away or not packet.qos or known:
                reading.telling = NOT_TOLD if away else MAY_BE_TOLD
                reading.hold_reading(STORE)
                return handled
            self._refuse_one(packet)
        return len(run)

    def _refuse_one(self, packet: Publish) -> None:
        """Answer at once, though messages before it are answered when they are committed. ADR 0196."""
        shared, client, topic = self.outbox.shared, self.session.client, self._topic_of(packet)
        setting = shared.flow.setting()
        shared.traffic.received(packet.qos, 1, len(packet.payload))
        shared.traffic.store_refused(setting)
        reason = f"the database is away, and too much waits for it ({setting})"
        answer = self._dialect.negative(packet, Refused(Reason.QUOTA, reason))
        assert answer is not None
        self.outbox.send(answer)
        if client is not None:
            text = "Refused what {address} {client_id!r} published to {topic!r}: {reason}"
            who = {"address": client.address, "client_id": client.client_id}
            shared.complaints.warn("the store is away", text, **who, topic=topic[:200], reason=reason)

    def _publish_one(self, packet: Publish) -> int:
        """Publish a message; return 0 if it has to come again, as others have their turn."""
        message = arrived(packet, self._topic_of(packet), self.outbox.shared.broker.clients.now())
        if is_as_it_says(message):
            return super().publish([message])
        self._published().refuse(message, _NOT_UTF8)
        return 1

    def _topic_of(self, packet: Publish) -> str:
        """Return the Topic Name of a message, and remember it if it has a Topic Alias.

        :raises ProtocolViolation: there is no such alias, or a Property that only a Server sends.
        """
        properties, topic = packet.properties, packet.topic
        if properties is None:
            return topic
        if properties.subscription_identifiers:
            raise ProtocolViolation("a Subscription Identifier in a client's PUBLISH", "MQTT5-3.3.4-6")
        alias = properties.topic_alias
        if alias is None:
            return topic
        most = self.outbox.shared.limits.topic_alias_maximum
        if alias > most:  # [MQTT5-3.3.2-9] [MQTT5-3.3.2-12]
            text = f"Topic Alias {alias}, at most {most} (topic_alias_maximum)"
            raise ProtocolViolation(text, "MQTT5-3.3.2-9", ReasonCode.TOPIC_ALIAS_INVALID)
        if topic:
            self._aliases[alias] = topic
        elif alias not in self._aliases:  # section 3.3.4
            raise ProtocolViolation(f"Topic Alias {alias} before its Topic Name", "MQTT5-3.3.2-7")
        return self._aliases[alias]

    def puback(self, run: list[Puback]) -> int:
        """Take a run of PUBACKs together; a client that refuses a message is done with it as well."""
        for packet in run:
            if packet.reason_code:
                self.outbox.shared.traffic.refused("client", "PUBACK", packet.reason_code)
        return super().puback(run)

    def pubrec(self, run: list[Pubrec]) -> int:
        """Answer each PUBREC with PUBREL, unless the client refuses the message. [MQTT5-4.3.3-4]

        PUBREL has neither code nor Properties. [MQTT5-3.6.2-1] [MQTT5-3.6.2-2] [MQTT5-3.6.2-3]
        """
        for packet in run:
            if packet.reason_code:
                break
        else:
            return super().pubrec(run)
        for handled, packet in enumerate(run, 1):
            if packet.reason_code < ReasonCode.UNSPECIFIED_ERROR:
                super().pubrec([packet])
            else:
                self.outbox.shared.traffic.refused("client", "PUBREC", packet.reason_code)
                self.session.refused(packet.packet_id)
            if self.reading.holds:
                return handled
        return len(run)

    def pubrel(self, run: list[Pubrel]) -> int:
        """Answer each PUBREL with PUBCOMP, which says so if there is no such message. [MQTT5-4.3.3-11]

        It has no Properties. [MQTT5-3.7.2-1] [MQTT5-3.7.2-2] [MQTT5-3.7.2-3]

        For a client each PUBCOMP makes room for a PUBLISH, also for a message of an earlier connection, which
        took none in this one. Section 4.9
        """
        packet_ids = {packet.packet_id for packet in run}
        if len(packet_ids) == len(run) and self.session.awaits_all(packet_ids) and not self._before:
            return super().pubrel(run)
        for handled, packet in enumerate(run, 1):
            packet_id = packet.packet_id
            if packet_id in self._before or not self.session.awaits(packet_id):
                self._before.discard(packet_id)
                self._most += 1
            if self.session.awaits(packet_id):
                super().pubrel([packet])
            else:
                unknown = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
                self.outbox.shared.traffic.refused("server", "PUBCOMP", unknown)
                answer = self.outbox.shared.broker.released(self.session, packet_id)
                self._answer(encode_acknowledgement(0x70, packet_id, unknown), answer)
            if self.reading.holds:
                return handled
        return len(run)

    def subscribe(self, run: list[Subscribe]) -> int:
        """Answer with SUBACK; the Subscriptions have the Subscription Identifier of their packet."""
        self._check_answer(len(run[0].subscriptions))
        return super().subscribe([identified(run[0])])

    def unsubscribe(self, run: list[Unsubscribe]) -> int:
        """Answer with UNSUBACK, which has a code for each Topic Filter."""
        self._check_answer(len(run[0].topic_filters))
        return super().unsubscribe(run)

    def _check_answer(self, codes: int) -> None:
        """Check that the client takes a SUBACK, or UNSUBACK, with so many codes. [MQTT5-3.1.2-24]

        :raises ProtocolViolation: it would be too large.
        """
        length = 3 + codes
        size, most = 1 + len(encode_length(length)) + length, self.session.terms.largest
        if size > most:
            text = f"its answer has {size} bytes, and the client takes {most}"
            raise ProtocolViolation(text, "MQTT5-3.1.2-24", ReasonCode.PACKET_TOO_LARGE)

    def _silent(self, subscriptions: list[Subscription]) -> Collection[str]:
        """Return the Topic Filters without Retained Messages. [MQTT5-3.3.1-10] [MQTT5-3.3.1-11]"""
        there = self.session.subscriptions
        return {
            one.topic_filter
            for one in subscriptions
            if one.retain_handling == 2 or (one.retain_handling and one.topic_filter in there)
        }

    def _codes_of(self, topic_filters: list[str]) -> list[int]:
        """Return for each Topic Filter whether there is a Subscription to give up. [MQTT5-3.10.4-5]

        [MQTT5-3.11.3-2]
        """
        left, codes = set(topic_filters) & self.session.subscriptions.keys(), []
        for topic_filter in topic_filters:
            there = topic_filter in left
            codes.append(int(ReasonCode.SUCCESS if there else ReasonCode.NO_SUBSCRIPTION_EXISTED))
            left.discard(topic_filter)
        return codes

    def disconnect(self, run: list[Disconnect]) -> int:
        """Close: the client leaves, and says what becomes of its Will and its Session. [MQTT5-3.14.4-3]"""
        packet, session = run[0], self.session
        asked = packet.properties.session_expiry_interval if packet.properties is not None else None
        if asked and not session.persistent:
            raise ProtocolViolation("a Session Expiry Interval that was 0 in CONNECT", "3.14.2.2.2")
        if asked is not None and session.persistent:  # else it was 0 before, and others may have these Terms
            session.persistent = asked > 0
            session.terms.expiry = self.outbox.shared.broker.sessions.expiry_within(asked)
        self.graceful = packet.reason_code == ReasonCode.SUCCESS
        code = code_name(packet.reason_code)
        self.outbox.shared.traffic.refused("client", "DISCONNECT", packet.reason_code)
        self.outbox.close(Reason.GRACEFUL, "it has disconnected" if self.graceful else f"it says {code}")
        return 1

    def auth(self, run: list[Auth]) -> int:
        """Let the client prove again who it is, by the method of its CONNECT. [MQTT5-4.12.0-7]"""
        if self.renewal is None:
            raise ProtocolViolation("AUTH without an Authentication Method in CONNECT", "MQTT5-4.12.0-7")
        self._wait(self.renewal.take(run[0]), lambda _: None, "its login is not renewed")
        return 1

    def end(self) -> None:
        """Give the Session back: the connection has ended."""
        if self.renewal is not None:
            self.renewal.end()
        super().end()


CONNECTED5: Final[PacketTable] = {
    Publish: Connected5.publish,
    Puback: Connected5.puback,
    Pubrec: Connected5.pubrec,
    Pubrel: Connected5.pubrel,
    Pubcomp: Connected5.pubcomp,
    Subscribe: Connected5.subscribe,
    Unsubscribe: Connected5.unsubscribe,
    Pingreq: Connected5.pingreq,
    Disconnect: Connected5.disconnect,
    Auth: Connected5.auth,
}
