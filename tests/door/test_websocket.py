"""MQTT over WebSocket on the shared port, from the GET to the last frame."""

from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from platziverse.broker.limits import Limits
from platziverse.door.sniff import SniffingFactory
from platziverse.door.upgrade import WebSocketResource, wants_websocket
from platziverse.door.websocket import WebSocket
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Publish, Subscribe, Subscription
from platziverse.testing import BrokerHarness
from tests.door.test_frames import BINARY, CLOSE, PING, TEXT, frame
from tests.door.test_sniff import CONNACK, CONNECT, Abortable, deliver

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of RFC 6455, section 1.3


class Root(Resource):
    """The page at ``/``, which is a WebSocket too when it is asked to be one."""

    def __init__(self, websocket: WebSocketResource) -> None:
        super().__init__()
        self.websocket = websocket
        self.putChild(b"", self)
        self.putChild(b"mqtt", websocket)

    def getChild(self, path: bytes, request: Request) -> Resource:
        return cast(Resource, notFound())

    def render_GET(self, request: Request) -> "bytes | int":
        return self.websocket.render(request) if wants_websocket(request) else b"a page"


def request(path: bytes = b"/mqtt", **changes: "bytes | None") -> bytes:
    """A WebSocket handshake; a header is changed by its name with ``_`` for ``-``, ``None`` leaves it out."""
    headers: dict[str, bytes | None] = {
        "Host": b"broker",
        "Upgrade": b"websocket",
        "Connection": b"keep-alive, Upgrade",
        "Sec_WebSocket_Key": KEY,
        "Sec_WebSocket_Version": b"13",
        "Sec_WebSocket_Protocol": b"mqtt",
    }
    headers.update(changes)
    lines = [
        name.replace("_", "-").encode() + b": " + value
        for name, value in headers.items()
        if value is not None
    ]
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", *lines, b"", b""])


class WebCase(SynchronousTestCase):
    """A shared port with a web site that has the WebSocket resource."""

    limits = Limits()

    def setUp(self) -> None:
        self.harness = BrokerHarness(limits=self.limits)
        self.web_clock = Clock()
        resource = WebSocketResource(self.harness.factory)
        self.site = Site(Root(resource), reactor=self.web_clock)
        self.factory = SniffingFactory(self.harness.factory, self.site)

    def open(self) -> Abortable:
        transport = Abortable()
        transport.protocol = self.factory.buildProtocol(transport.getPeer())
        transport.protocol.makeConnection(transport)
        return transport

    def upgraded(self) -> Abortable:
        transport = self.open()
        deliver(transport, request())
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 101 "))
        transport.clear()
        return transport

    def connected(self) -> Abortable:
        transport = self.upgraded()
        deliver(transport, frame(BINARY, CONNECT))
        self.assertEqual(received(transport), b"\x82\x04" + CONNACK)
        return transport

    @property
    def errors(self) -> "dict[str, int]":
        return self.harness.broker.traffic.protocol_errors


def received(transport: Abortable) -> bytes:
    data: bytes = transport.value()
    transport.clear()
    return data


class TestHandshake(WebCase):
    def answer(self, data: bytes) -> bytes:
        transport = self.open()
        deliver(transport, data)
        return received(transport)

    def status(self, data: bytes) -> int:
        answer = self.answer(data)
        return int(answer.split(b" ")[1])

    def test_the_subprotocol_is_negotiated(self) -> None:
        """[MQTT-6.0.0-4]"""
        head, _, rest = self.answer(request()).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.assertEqual(lines[0], b"HTTP/1.1 101 Switching Protocols")
        self.assertIn(b"Sec-WebSocket-Accept: " + ACCEPT, lines)
        self.assertIn(b"Sec-WebSocket-Protocol: mqtt", lines)
        self.assertEqual(rest, b"")

    def test_it_is_found_at_mqtt_and_at_the_root(self) -> None:
        for path in (b"/mqtt", b"/mqtt/", b"/mqtt?token=1", b"/"):
            self.assertEqual(self.status(request(path)), 101, path)
        self.assertEqual(self.status(request(b"/elsewhere")), 404)
        self.assertIn(b"a page", self.answer(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n"))

    def test_row_67_old_clients_may_ask_for_mqttv3_1(self) -> None:
        answer = self.answer(request(Sec_WebSocket_Protocol=b"chat, mqttv3.1"))
        self.assertIn(b"Sec-WebSocket-Protocol: mqttv3.1\r\n", answer)

    def test_row_67_missing_or_other_subprotocols_are_refused(self) -> None:
        for name in (None, b"", b"chat", b"MQTT", b"mqtt5"):
            self.assertEqual(self.status(request(Sec_WebSocket_Protocol=name)), 400, name)

    def test_row_67_a_refused_request_opens_no_mqtt_connection(self) -> None:
        self.status(request(Sec_WebSocket_Protocol=None))
        self.assertFalse(self.harness.shared.connections)

    def test_row_69_compression_is_never_negotiated(self) -> None:
        answer = self.answer(request(Sec_WebSocket_Extensions=b"permessage-deflate; client_max_window_bits"))
        self.assertTrue(answer.startswith(b"HTTP/1.1 101"))
        self.assertNotIn(b"extensions", answer.lower())

    def test_what_is_no_handshake_is_refused(self) -> None:
        for status, data in (
            (426, request(Upgrade=None)),
            (426, request(Upgrade=b"h2c")),
            (426, request(Sec_WebSocket_Version=b"8")),
            (400, request(Connection=b"keep-alive")),
            (400, request(Connection=None)),
            (400, request(Sec_WebSocket_Key=None)),
            (400, request(Sec_WebSocket_Key=b"c2hvcnQ=")),
            (400, request(Sec_WebSocket_Key=b"\xff" * 24)),
            (400, request().replace(b"HTTP/1.1", b"HTTP/1.0")),
            (405, request().replace(b"GET", b"POST")),
        ):
            self.assertEqual(self.status(data), status, data)

    def test_a_request_in_pieces_and_frames_in_its_last_segment(self) -> None:
        data = request() + frame(BINARY, CONNECT)
        for cut in range(1, len(data)):
            self.setUp()  # or the broker would take the client for a flapping one
            transport = self.open()
            deliver(transport, data[:cut], data[cut:])
            self.assertTrue(transport.value().endswith(b"\r\n\r\n\x82\x04" + CONNACK), cut)

    def test_an_upgrade_after_another_request_on_the_same_connection(self) -> None:
        transport = self.open()
        deliver(transport, b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n" + request() + frame(BINARY, CONNECT))
        self.assertTrue(transport.value().endswith(b"\x82\x04" + CONNACK))


class TestOddRequests(WebCase):
    def refused(self, data: bytes, answer: bytes = b"HTTP/1.1 400 ") -> None:
        transport = self.open()
        deliver(transport, *(data[start : start + 1000] for start in range(0, len(data), 1000)))
        self.assertFalse(transport.connected, data[:100])
        self.assertTrue(transport.value().startswith(answer), transport.value()[:100])
        self.assertFalse(self.harness.shared.connections)

    def test_row_71_endless_headers(self) -> None:
        self.refused(b"GET /mqtt HTTP/1.1\r\n" + b"X-Header: value\r\n" * 2_000)
        self.refused(b"GET /mqtt HTTP/1.1\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", b"")

    def test_row_71_smuggling(self) -> None:
        for header in (
            b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            b"Content-Length: 5\r\nContent-Length: 6",
            b"Content-Length: +5",
            b"Transfer-Encoding: gzip",
            b"X : y",
            b"X: a\0b",
        ):
            self.refused(request()[:-2] + header + b"\r\n\r\nhello")

    def test_row_75_a_proxy_header_that_is_not_expected(self) -> None:
        self.refused(b"PROXY TCP4 203.0.113.9 192.0.2.2 5555 1883\r\n" + CONNECT)


class TestConnection(WebCase):
    def test_nothing_of_http_stays_on_the_way(self) -> None:
        transport = self.connected()
        self.assertIsInstance(transport.protocol, WebSocket)
        self.assertEqual(self.web_clock.getDelayedCalls(), [])

    def test_publish_and_deliver_at_every_qos(self) -> None:
        transport = self.connected()
        deliver(transport, frame(BINARY, encode(Subscribe(1, [Subscription("t", 2)]))))
        self.assertEqual(received(transport), b"\x82\x05\x90\x03\x00\x01\x02")
        for qos in (0, 1, 2):
            deliver(
                transport, frame(BINARY, encode(Publish("t", b"%d" % qos, qos, packet_id=7 if qos else None)))
            )
            self.harness.turn()
            self.assertIn(b"\x00\x01t", received(transport))

    def test_what_has_no_answer_is_acknowledged_at_once(self) -> None:
        """Row 273."""
        transport: Any = self.connected()
        deliver(transport, frame(BINARY, encode(Publish("t", b""))))  # the transport of this test cannot
        hastened: list[bytes] = []
        transport.acknowledge_now = lambda: hastened.append(b"")
        deliver(transport, frame(BINARY, encode(Publish("t", b"", 1, packet_id=1))))
        deliver(transport, frame(BINARY, encode(Publish("t", b""))))
        self.assertEqual(len(hastened), 1)

    def test_everything_sent_in_a_turn_is_one_message(self) -> None:
        transport = self.connected()
        deliver(transport, frame(BINARY, b"\xc0\x00" * 5) + frame(BINARY, b"\xc0\x00" * 5))
        self.assertEqual(received(transport), b"\x82\x14" + b"\xd0\x00" * 10)

    def test_a_packet_larger_than_a_frame_header_can_say_in_16_bits(self) -> None:
        transport = self.connected()
        deliver(transport, frame(BINARY, encode(Subscribe(1, [Subscription("t", 0)]))))
        received(transport)
        deliver(transport, frame(BINARY, encode(Publish("t", b"x" * 70_000))))
        data = received(transport)
        self.assertEqual(data[:2], b"\x82\x7f")
        self.assertEqual(int.from_bytes(data[2:10], "big"), len(data) - 10)

    def test_a_ping_is_answered(self) -> None:
        transport = self.connected()
        deliver(transport, frame(PING, b"hello"))
        self.assertEqual(received(transport), b"\x8a\x05hello")

    def test_a_malformed_packet_closes_with_a_close_frame(self) -> None:
        transport = self.connected()
        deliver(transport, frame(BINARY, b"\x00\x00"))
        self.assertEqual(received(transport), b"\x88\x02\x03\xe8")
        self.assertFalse(transport.connected)

    def test_a_close_of_the_client_is_answered_and_publishes_the_will(self) -> None:
        watcher = self.harness.connect("watcher")
        watcher.subscribe("gone")
        transport = self.upgraded()
        deliver(transport, frame(BINARY, encode(Connect("mortal", will=Publish("gone", b"x")))))
        received(transport)
        deliver(transport, frame(CLOSE, b"\x03\xe8"))
        self.assertEqual(received(transport), b"\x88\x02\x03\xe8")
        self.assertFalse(transport.connected)
        self.harness.turn()
        self.assertEqual(watcher.received(), [Publish("gone", b"x")])
        self.assertEqual(self.errors, {})

    def test_row_66_and_68_faults_are_answered_with_their_code_and_counted(self) -> None:
        for code, data in (
            (1003, frame(TEXT, b"hello")),
            (1002, frame(BINARY, b"a", mask=None)),
            (1009, b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask"),
            (1008, frame(PING) * 300),
        ):
            transport = self.connected()
            deliver(transport, data)
            answer = received(transport)
            self.assertEqual(answer[answer.rindex(b"\x88") + 2 :][:2], code.to_bytes(2, "big"))
            self.assertFalse(transport.connected)
            self.assertEqual(self.errors.pop(f"WebSocket {code}"), 1)
        self.assertFalse(self.harness.shared.connections)

    def test_nothing_is_read_after_the_end(self) -> None:
        transport = self.connected()
        websocket: Any = transport.protocol
        deliver(transport, frame(TEXT, b"x"))
        websocket.dataReceived(frame(BINARY, b"\xc0\x00"))
        websocket.write(b"late")
        self.assertNotIn(b"late", transport.value())

    def test_the_connect_deadline_holds_after_the_handshake(self) -> None:
        transport = self.upgraded()
        self.harness.advance(11)
        self.assertFalse(transport.connected)

    def test_keep_alive_holds_whatever_pings_the_websocket_gets(self) -> None:
        transport = self.upgraded()
        deliver(transport, frame(BINARY, encode(Connect("lazy", keep_alive=4))))
        for _ in range(8):
            self.harness.advance(1)
            deliver(transport, frame(PING))
        self.assertFalse(transport.connected)


class TestBackPressure(WebCase):
    def test_a_held_connection_is_not_read(self) -> None:
        transport = self.connected()
        [connection] = self.harness.shared.connections
        connection.reading.hold_reading(1)
        self.assertEqual(transport.producerState, "paused")
        connection.reading.resume_reading(1)
        self.assertEqual(transport.producerState, "producing")

    def test_a_client_that_does_not_read_is_noticed(self) -> None:
        transport = self.connected()
        producer: Any = transport.producer
        producer.pauseProducing()
        self.assertTrue(producer.congested)
        producer.resumeProducing()
        self.assertFalse(producer.congested)
