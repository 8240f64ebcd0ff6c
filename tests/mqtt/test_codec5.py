"""MQTT 5 on the wire: decoding undoes encoding, and every pair of packet and Property, or Reason Code."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.codec5 import ENCODERS5, encode5
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.errors import MalformedPacket, MQTTError, ProtocolViolation
from platziverse.mqtt.framing import encode_length
from platziverse.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.properties import ALLOWED, MAX_USER_PROPERTIES, PACKETS, PROPERTIES, Kind
from platziverse.mqtt.reasoncodes import REASON_CODES, ReasonCode
from tests.mqtt.strategies5 import LATER, connects
from tests.mqtt.strategies5 import PACKETS as ANY
from tests.mqtt.test_decoder import drain, kind


def open_decoder(**options: Any) -> PacketDecoder:
    decoder = PacketDecoder(268_435_455, **options)
    decoder.connected(268_435_455, 5)
    return decoder


def decode(data: bytes) -> Packet | None:
    decoder = open_decoder()
    decoder.feed(data)
    packet = decoder.next_packet()
    assert decoder.pending == 0
    return packet


class RoundTrip(SynchronousTestCase):
    @given(ANY)
    def test_decoding_undoes_encoding(self, packet: Packet) -> None:
        """[MQTT5-3.3.2-17]: User Properties keep their order"""
        self.assertEqual(decode(encode5(packet)), packet)

    def test_there_are_fifteen_packets(self) -> None:
        self.assertEqual(len(ENCODERS5), 15)

    @given(st.lists(LATER, min_size=1, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
    def test_any_split_of_a_stream_gives_the_same_packets(self, sent: list[Packet], cuts: list[int]) -> None:
        stream = b"".join(map(encode5, sent))
        edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        decoder, packets = open_decoder(), list[Packet]()
        for start, stop in itertools.pairwise(edges):
            decoder.feed(stream[start:stop])
            packets += drain(decoder)
        self.assertEqual((packets, decoder.pending), (sent, 0))

    @given(st.lists(st.tuples(LATER, st.integers(1, 5)), max_size=8), st.integers(1, 7))
    def test_packets_of_a_kind_come_together(self, several: list[tuple[Packet, int]], most: int) -> None:
        sent = [packet for packet, count in several for _ in range(count)]
        decoder = open_decoder()
        decoder.feed(b"".join(map(encode5, sent)))
        packets: list[Packet] = []
        while run := decoder.take(most):
            self.assertEqual({kind(packet) for packet in run}, {kind(run[0])})
            packets += run
        self.assertEqual(packets, sent)

    def test_many_publishes_alike_are_decoded_in_one_call(self) -> None:
        for qos in (0, 1, 2):
            sent: list[Packet] = [
                Publish("t", b"%d" % number, qos, False, False, number if qos else None)
                for number in range(1, 10)
            ]
            some = Publish("t", b"", qos, False, False, 9 if qos else None, PublishProperties(1))
            decoder = open_decoder()
            decoder.feed(b"".join(map(encode5, [*sent, some, *sent])))
            self.assertEqual(drain(decoder), [*sent, some, *sent])


class Matrix(SynchronousTestCase):
    """Every packet with every Property."""

    VALUES: dict[Kind, bytes] = {
        Kind.BYTE: b"\1",
        Kind.TWO_BYTES: b"\0\1",
        Kind.FOUR_BYTES: b"\0\0\0\1",
        Kind.VARIABLE: b"\1",
        Kind.BINARY: b"\0\1b",
        Kind.TEXT: b"\0\1t",
        Kind.PAIR: b"\0\1n\0\1v",
    }

    def build(self, packet: str, properties: bytes) -> bytes:
        """A packet with these Properties, written from the standard."""
        listed = encode_length(len(properties)) + properties
        first, content = {
            "CONNECT": (0x10, b"\0\4MQTT\5\2\0\0" + listed + b"\0\1c"),
            "WILL": (0x10, b"\0\4MQTT\5\6\0\0\0\0\1c" + listed + b"\0\1w\0\1m"),
            "CONNACK": (0x20, b"\0\0" + listed),
            "PUBLISH": (0x32, b"\0\1t\0\7" + listed + b"p"),
            "PUBACK": (0x40, b"\0\7\0" + listed),
            "PUBREC": (0x50, b"\0\7\0" + listed),
            "PUBREL": (0x62, b"\0\7\0" + listed),
            "PUBCOMP": (0x70, b"\0\7\0" + listed),
            "SUBSCRIBE": (0x82, b"\0\7" + listed + b"\0\1f\1"),
            "SUBACK": (0x90, b"\0\7" + listed + b"\1"),
            "UNSUBSCRIBE": (0xA2, b"\0\7" + listed + b"\0\1f"),
            "UNSUBACK": (0xB0, b"\0\7" + listed + b"\0"),
            "DISCONNECT": (0xE0, b"\0" + listed),
            "AUTH": (0xF0, b"\x18" + listed),
        }[packet]
        return bytes((first,)) + encode_length(len(content)) + content

    def test_each_packet_may_have_the_properties_of_its_own_alone(self) -> None:
        """Section 2.2.2.2."""
        method = b"\x15\0\1m"
        for packet in PACKETS:
            for row in PROPERTIES:
                data = bytes((row.identifier,)) + self.VALUES[row.kind]
                if row.name == "authentication_data":
                    data += method
                built = self.build(packet, data)
                if row.identifier in ALLOWED[packet]:
                    self.assertIsNotNone(decode(built), f"{packet} {row.name}")
                else:
                    error = self.assertRaises(MalformedPacket, decode, built)
                    self.assertEqual(error.code, 0x81, f"{packet} {row.name}")

    def test_a_property_may_be_there_once_unless_the_table_says_more(self) -> None:
        """Row 500. Section 2.2.2.2."""
        for packet in PACKETS:
            for row in ALLOWED[packet].values():
                data = bytes((row.identifier,)) + self.VALUES[row.kind]
                built = self.build(packet, data * 2)
                if row.repeatable:
                    self.assertIsNotNone(decode(built), f"{packet} {row.name}")
                else:
                    error = self.assertRaises(ProtocolViolation, decode, built)
                    self.assertEqual(error.code, 0x82, f"{packet} {row.name}")

    def test_a_property_that_is_cut_short_or_unknown_is_malformed(self) -> None:
        """Row 501: Properties that lie about their length"""
        for packet in PACKETS:
            for row in ALLOWED[packet].values():
                value = self.VALUES[row.kind]
                for size in range(len(value)):
                    built = self.build(packet, bytes((row.identifier,)) + value[:size])
                    self.assertRaises(MalformedPacket, decode, built)
            for unknown in (b"\x7f", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff\x7f", b"\x81\x00"):
                self.assertRaises(MalformedPacket, decode, self.build(packet, unknown))

    def test_a_number_that_is_out_of_bounds_is_a_protocol_error(self) -> None:
        for packet in PACKETS:
            for row in ALLOWED[packet].values():
                wrong = {Kind.BYTE: b"\2", Kind.TWO_BYTES: b"\0\0", Kind.FOUR_BYTES: b"\0" * 4}
                wrong[Kind.VARIABLE] = b"\0"
                if row.kind not in wrong or (row.kind is not Kind.BYTE and not row.least):
                    continue
                built = self.build(packet, bytes((row.identifier,)) + wrong[row.kind])
                self.assertRaises(ProtocolViolation, decode, built)

    def test_topic_alias_0_has_its_own_code(self) -> None:
        """Row 502. [MQTT5-3.3.2-8]"""
        error = self.assertRaises(ProtocolViolation, decode, self.build("PUBLISH", b"\x23\0\0"))
        self.assertEqual(error.code, ReasonCode.TOPIC_ALIAS_INVALID)

    def test_a_response_topic_is_a_topic_name(self) -> None:
        """[MQTT5-3.3.2-14]"""
        for packet in ("PUBLISH", "WILL"):
            for topic in (b"#", b"a/+", b""):
                built = self.build(packet, b"\x08" + len(topic).to_bytes(2, "big") + topic)
                self.assertRaises(MalformedPacket, decode, built)

    def test_user_properties_by_the_thousand_are_refused(self) -> None:
        """Row 503."""
        for packet in PACKETS:
            most = self.build(packet, b"\x26\0\0\0\0" * MAX_USER_PROPERTIES)
            self.assertIsNotNone(decode(most))
            more = self.build(packet, b"\x26\0\0\0\0" * (MAX_USER_PROPERTIES + 1))
            error = self.assertRaises(ProtocolViolation, decode, more)
            self.assertEqual(error.code, ReasonCode.QUOTA_EXCEEDED)

    def test_authentication_data_needs_a_method(self) -> None:
        for packet in ("CONNECT", "AUTH"):
            self.assertRaises(ProtocolViolation, decode, self.build(packet, b"\x16\0\1d"))


class Codes(SynchronousTestCase):
    """Every packet with every Reason Code."""

    def packets(self, code: int) -> list[tuple[type, bytes]]:
        byte = bytes((code,))
        return [
            (Connack, b"\x20\3\0" + byte + b"\0"),
            (Puback, b"\x40\3\0\7" + byte),
            (Pubrec, b"\x50\3\0\7" + byte),
            (Pubrel, b"\x62\3\0\7" + byte),
            (Pubcomp, b"\x70\3\0\7" + byte),
            (Suback, b"\x90\4\0\7\0" + byte),
            (Unsuback, b"\xb0\4\0\7\0" + byte),
            (Disconnect, b"\xe0\1" + byte),
            (Auth, b"\xf0\1" + byte),
        ]

    def test_each_packet_may_have_the_codes_of_its_own_alone(self) -> None:
        """[MQTT5-3.6.2-1] [MQTT5-3.7.2-1] [MQTT5-3.15.2-1]"""
        for code in range(256):
            for kind_of, data in self.packets(code):
                if code in REASON_CODES[kind_of]:
                    packet: Any = decode(data)
                    codes = (
                        packet.return_codes
                        if kind_of in (Suback, Unsuback)
                        else [packet.return_code if kind_of is Connack else packet.reason_code]
                    )
                    self.assertEqual((type(packet), codes), (kind_of, [code]))
                else:
                    self.assertRaises(ProtocolViolation, decode, data)

    def test_each_code_has_a_name_and_a_packet(self) -> None:
        named = {int(code) for code in ReasonCode}
        self.assertEqual(set().union(*REASON_CODES.values()), named)

    def test_success_and_the_length_of_no_properties_may_be_left_out(self) -> None:
        """Row 504: a DISCONNECT of length 1 or 2 is none that is malformed"""
        for data, packet in (
            ("40020007", Puback(7)),
            ("4003000700", Puback(7)),
            ("400400070000", Puback(7)),
            ("5003000799", Pubrec(7, 0x99)),
            ("e000", Disconnect()),
            ("e00104", Disconnect(4)),
            ("e0020400", Disconnect(4)),
            ("f000", Auth()),
            ("f00118", Auth(0x18)),
        ):
            self.assertEqual(decode(bytes.fromhex(data)), packet, data)


class Wrong(SynchronousTestCase):
    def test_what_the_standard_forbids(self) -> None:
        for data, code, statement in (
            ("10100004 4d515454 05030000 00 000163 0000", 0x81, "MQTT5-3.1.2-3"),
            ("100e0004 4d515454 050a0000 00 000163", 0x81, "MQTT5-3.1.2-11"),
            ("100e0004 4d515454 051e0000 00 000163", 0x81, "MQTT5-3.1.2-12"),
            ("100e0004 4d515454 04020000 00 000163", 0x81, "MQTT5-3.1.2-1"),
            ("11 00", 0x81, "MQTT5-2.1.3-1"),
            ("2003 020000", 0x81, "MQTT5-3.2.2-1"),
            ("2003 018000", 0x81, "MQTT5-3.2.2-1"),
            ("3000", 0x81, "MQTT5-3.3.2-1"),
            ("3003 000000", 0x82, "MQTT5-3.3.2-1"),
            ("3003 000174", 0x81, "MQTT5-2.2.2-1"),
            ("3205 0001740007", 0x81, "MQTT5-2.2.2-1"),
            ("3206 000174000000", 0x81, "MQTT5-2.2.1-3"),
            ("3606 000174000700", 0x81, "MQTT5-3.3.1-4"),
            ("3804 00017400", 0x81, "MQTT5-3.3.1-2"),
            ("3004 00027400", 0x81, "MQTT5-2.2.2-1"),
            ("8203 000700", 0x82, "MQTT5-3.8.3-2"),
            ("8207 000700 00016640", 0x81, "MQTT5-3.8.3-5"),
            ("8207 000700 00016680", 0x81, "MQTT5-3.8.3-5"),
            ("8207 000700 00016603", 0x82, "MQTT5-3.8.3-5"),
            ("8207 000700 00016630", 0x82, "MQTT5-3.8.3-5"),
            ("8210 000700 000a 2473686172652f612f66 04", 0x82, "MQTT5-3.8.3-4"),
            ("9003 000700", 0x82, "MQTT5-3.8.4-6"),
            ("a203 000700", 0x82, "MQTT5-3.10.3-2"),
            ("b003 000700", 0x82, "MQTT5-3.8.4-6"),
            ("c001 00", 0x81, "4.8"),
            ("0000", 0x81, "2.2.1"),
        ):
            try:
                decode(bytes.fromhex(data.replace(" ", "")))
            except MQTTError as error:
                self.assertEqual((error.code, error.statement), (code, statement), data)
            else:
                self.fail(f"{data} is decoded")

    def test_a_flag_that_is_reserved_has_the_value_of_the_table(self) -> None:
        """[MQTT5-2.1.3-1] [MQTT5-3.6.1-1] [MQTT5-3.8.1-1]

        [MQTT5-3.10.1-1] [MQTT5-3.14.1-1] [MQTT5-3.15.1-1]
        """
        for packet in (
            Connack(False, 0),
            Puback(7),
            Pubrec(7),
            Pubrel(7),
            Pubcomp(7),
            Subscribe(7, [Subscription("f", 1)]),
            Suback(7, [1]),
            Unsubscribe(7, ["f"]),
            Unsuback(7, [0]),
            Pingreq(),
            Pingresp(),
            Disconnect(),
            Auth(),
        ):
            good = encode5(packet)
            for flags in range(16):
                first = good[0] & 0xF0 | flags
                if first != good[0]:
                    error = self.assertRaises(MalformedPacket, decode, bytes((first,)) + good[1:])
                    self.assertEqual((error.code, error.statement), (0x81, "MQTT5-2.1.3-1"), packet)

    def test_the_flags_of_connect_say_what_is_there(self) -> None:
        """[MQTT5-3.1.2-13] [MQTT5-3.1.2-16] [MQTT5-3.1.2-17] [MQTT5-3.1.2-18] [MQTT5-3.1.2-19]"""
        text = b"\0\1x"
        for flags, texts in (
            (0x02, 1),  # a user name or password that no flag tells of
            (0x82, 0),
            (0x82, 2),
            (0x42, 0),
            (0x42, 2),
            (0xC2, 1),
            (0xC2, 3),
            (0x22, 0),  # Will Retain, and no Will
            (0x22, 2),
            (0x06, 0),  # a Will that is not there
            (0x06, 1),
        ):
            content = b"\0\4MQTT\5" + bytes((flags,)) + b"\0\0\0\0\1c" + text * texts
            self.assertRaises(MalformedPacket, decode, b"\x10" + encode_length(len(content)) + content)

    def test_every_text_is_utf8_without_nul(self) -> None:
        """[MQTT5-1.5.7-1] [MQTT5-3.3.2-13] [MQTT5-3.3.2-19] [MQTT5-3.8.3-1] [MQTT5-3.10.3-1]"""
        build = Matrix().build
        for text in (b"\0\1\xff", b"\0\1\0", b"\0\3\xed\xa0\x80", b"\0\2\xc0\x80", b"\0\5a"):
            for first in (0x82, 0xA2):
                content = b"\0\7\0" + text + (b"\1" if first == 0x82 else b"")
                data = bytes((first, len(content))) + content
                self.assertRaises(MalformedPacket, decode, data)
            for packet in PACKETS:
                for row in ALLOWED[packet].values():
                    values = {Kind.TEXT: [text], Kind.PAIR: [text + b"\0\1v", b"\0\1n" + text]}
                    for value in values.get(row.kind, []):
                        data = build(packet, bytes((row.identifier,)) + value)
                        self.assertRaises(MalformedPacket, decode, data)

    def test_a_length_has_as_few_bytes_as_it_needs(self) -> None:
        """That of Properties; of the Remaining Length row 2 tells. [MQTT5-1.5.5-1]"""
        for length in (b"\x80\0", b"\x81\0", b"\x80\x80\0", b"\x80\x80\x80\0", b"\x80\x80\x80\x80\0"):
            for first, head in ((0x82, b"\0\7"), (0xF0, b"\x18"), (0x30, b"\0\1t"), (0x40, b"\0\7\0")):
                content = head + length + b"\0\1f\1"
                self.assertRaises(MalformedPacket, decode, bytes((first, len(content))) + content)

    def test_dup_at_qos_0_can_be_allowed(self) -> None:
        decoder = open_decoder(strict_dup=False)
        decoder.feed(bytes.fromhex("380400017400"))
        self.assertEqual(decoder.next_packet(), Publish("t", b"", 0, False, True))

    def test_an_error_in_connect_says_that_it_is_of_version_5(self) -> None:
        error = self.assertRaises(MalformedPacket, decode, bytes.fromhex("100700044d51545405"))
        self.assertEqual(error.protocol_level, 5)

    @given(st.binary(max_size=200))
    def test_nothing_but_our_own_errors_escapes(self, data: bytes) -> None:
        decoder = open_decoder()
        decoder.feed(data)
        try:
            drain(decoder)
        except MQTTError as error:
            self.assertLess(len(str(error)), 500)

    @given(LATER | connects(), st.data())
    def test_nothing_but_our_own_errors_escapes_a_mutated_packet(
        self, packet: Packet, data: st.DataObject
    ) -> None:
        encoded = bytearray(encode5(packet))
        for _ in range(data.draw(st.integers(1, 4))):
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
        decoder = open_decoder()
        decoder.feed(bytes(encoded))
        try:
            drain(decoder)
        except MQTTError as error:
            self.assertTrue(error.statement)

    def test_the_first_packet_may_be_a_connect_of_mqtt_5(self) -> None:
        decoder = PacketDecoder(1000)
        sent = Connect("c", protocol_level=5, properties=Properties(receive_maximum=7))
        decoder.feed(encode5(sent))
        self.assertEqual(decoder.next_packet(), sent)
