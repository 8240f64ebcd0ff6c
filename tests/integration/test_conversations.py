"""Long mixed conversations of third-party clients with the real daemon."""

import queue
import socket
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.integration.daemon import PATIENCE, ROOT, DaemonTestCase

TOPICS = 1000


class PahoClient:
    """A paho-mqtt client whose messages can be waited for."""

    def __init__(self, port: int, client_id: str, clean: bool = True, **options: Any) -> None:
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        protocol = options.pop("protocol", MQTTProtocolVersion.MQTTv311)
        session = None if protocol == MQTTProtocolVersion.MQTTv5 else clean  # paho wants it so
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, session, protocol=protocol, **options
        )
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_connect = lambda c, d, flags, code, p: self.events.put(("connect", (flags, code)))
        self.client.on_subscribe = lambda c, d, mid, codes, p: self.events.put(("subscribe", codes))
        self.client.on_disconnect = lambda c, d, flags, code, p: self.events.put(("disconnect", code))
        self.client.max_inflight_messages_set(100)
        self.port = port

    def start(self) -> Any:
        """Connect; the CONNACK's flags."""
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        return self.event("connect")[0]

    def event(self, kind: str) -> Any:
        while True:
            name, value = self.events.get(timeout=PATIENCE)
            if name == kind:
                return value

    def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        self.client.subscribe(list(filters))
        return [code.value for code in self.event("subscribe")]

    def take(self, count: int) -> list[paho.MQTTMessage]:
        return [self.messages.get(timeout=PATIENCE) for _ in range(count)]

    def stop(self) -> None:
        self.client.disconnect()
        self.event("disconnect")
        self.client.loop_stop()

    def cut(self) -> None:
        """Lose the connection without DISCONNECT."""
        sock: Any = self.client.socket()
        self.client.loop_stop()
        sock.close()


def no_delay(client: object, data: object, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Paho(DaemonTestCase):
    def setUp(self) -> None:
        self.port = self.daemon(*self.shared_database()).port()

    def start_client(self, client_id: str, clean: bool = True, **options: Any) -> PahoClient:
        client = PahoClient(self.port, client_id, clean, **options)
        client.start()
        self.addCleanup(client.stop)
        return client

    def test_a_thousand_topics_at_every_qos(self) -> None:
        """[MQTT-7.0.0-2] [MQTT-7.1.1-1]"""
        receiver, sender = self.start_client("receiver"), self.start_client("sender")
        self.assertEqual(receiver.subscribe(("many/#", 2), ("many/+/1", 1)), [2, 1])
        for number in range(TOPICS):
            sender.client.publish(f"many/{number}/{number % 3}", b"%d" % number, qos=number % 3)
        messages = receiver.take(TOPICS)
        for number in range(TOPICS):
            found = [message for message in messages if message.payload == b"%d" % number]
            self.assertEqual([(m.topic, m.qos) for m in found], [(f"many/{number}/{number % 3}", number % 3)])
        for qos in (0, 1, 2):
            order = [int(message.payload) for message in messages if message.qos == qos]
            self.assertEqual(order, sorted(order))

    def test_retained_messages_and_a_will(self) -> None:
        sender = self.start_client("sender")
        for number in range(100):
            sender.client.publish(f"kept/{number}", b"%d" % number, qos=number % 3, retain=True)
        sender.client.publish("kept/7", b"", qos=1, retain=True).wait_for_publish(PATIENCE)
        dying = PahoClient(self.port, "dying")
        dying.client.will_set("kept/will", b"gone", 2, True)
        dying.start()
        dying.cut()
        receiver = self.start_client("receiver")
        receiver.subscribe(("kept/#", 2))
        found = {message.topic: message for message in receiver.take(100)}
        self.assertNotIn("kept/7", found)
        self.assertEqual(found["kept/will"].payload, b"gone")

    def test_a_persistent_session_gets_what_it_missed(self) -> None:
        absent = PahoClient(self.port, "absent", clean=False)
        self.assertFalse(absent.start().session_present)
        absent.subscribe(("news/#", 2))
        absent.stop()
        sender = self.start_client("sender")
        for number in range(300):
            sent = sender.client.publish("news/all", b"%d" % number, qos=1 + number % 2)
        sent.wait_for_publish(PATIENCE)
        back = PahoClient(self.port, "absent", clean=False)
        self.assertTrue(back.start().session_present)
        self.addCleanup(back.stop)
        messages = back.take(300)  # paho hands a QoS 2 message over when its PUBREL has come
        for qos in (1, 2):
            numbers = [int(message.payload) for message in messages if message.qos == qos]
            self.assertEqual(numbers, list(range(qos - 1, 300, 2)))

    def test_a_client_gets_its_own_messages_without_standing_still(self) -> None:
        """Row 273: paho has Nagle's algorithm on. Windows that wait for 40 ms each take 4 s longer.

        A busy machine may make a difference too, but not each time.
        """
        self.assertTrue(
            any(self.seconds_to_itself(False) - self.seconds_to_itself(True) < 2.0 for _ in range(8))
        )

    def seconds_to_itself(self, at_once: bool) -> float:
        """How long 2,000 messages take in windows of 20.

        :param at_once: without Nagle's algorithm.
        """
        client = PahoClient(self.port, "itself")
        if at_once:
            client.client.on_socket_open = no_delay
        client.client.max_inflight_messages_set(20)
        client.start()
        try:
            client.subscribe(("itself", 1))
            began = time.monotonic()
            for _ in range(2000):
                client.client.publish("itself", b"x" * 64, qos=1)
            client.take(2000)
            return time.monotonic() - began
        finally:
            client.stop()

    def test_mqtt_3_1_and_mqtt_5_are_spoken_side_by_side(self) -> None:
        old = self.start_client("old", protocol=MQTTProtocolVersion.MQTTv31)
        old.subscribe(("old", 1))
        old.client.publish("old", b"x", 1)
        self.assertEqual(old.take(1)[0].payload, b"x")
        new = self.start_client("new", protocol=MQTTProtocolVersion.MQTTv5)
        new.client.publish("old", b"y", 1)
        self.assertEqual(old.take(1)[0].payload, b"y")

    def test_the_broker_tells_about_itself(self) -> None:
        client = self.start_client("curious")
        client.subscribe(("$SYS/broker/version", 0), ("$SYS/broker/clients/connected", 0))
        topics = {message.topic: message.payload for message in client.take(2)}
        self.assertTrue(topics["$SYS/broker/version"].startswith(b"platziverse version "))


class OtherClients(DaemonTestCase):
    def test_mosquitto_clients_at_every_qos(self) -> None:
        port = str(self.daemon(*self.shared_database()).port())
        for qos in ("0", "1", "2"):
            name = f"sub{qos}"
            common = ("-p", port, "-i", name, "-q", qos, "-t", "m/+")
            receiver = self.start_program("mosquitto_sub", *common, "-C", "20", "-W", "300", "-d")
            receiver.wait_for("SUBACK")
            for number in range(20):
                self.run_program(
                    "mosquitto_pub", "-p", port, "-q", qos, "-t", f"m/{number}", "-m", f"text {number}"
                )
            self.assertEqual(receiver.ended(), 0)
            for number in range(20):
                self.assertIn(f"text {number}", receiver.lines)

    def test_mosquitto_takes_a_thousand_topics_live_and_retained(self) -> None:
        port = self.daemon(*self.shared_database()).port()
        filters = [argument for number in range(TOPICS) for argument in ("-t", f"many/{number}")]
        common = ("-p", str(port), "-q", "2", "-C", str(TOPICS), "-W", "300", "-F", "%t %p %q %r")
        live = self.start_program("mosquitto_sub", *common, "-d", *filters)
        live.wait_for("SUBACK")
        sender = PahoClient(port, "sender")
        sender.start()
        self.addCleanup(sender.stop)
        for number in range(TOPICS):
            sent = sender.client.publish(f"many/{number}", b"%d" % number, number % 3, retain=True)
        sent.wait_for_publish(PATIENCE)
        self.assertEqual(live.ended(), 0)
        wanted = {f"many/{number} {number} {number % 3}" for number in range(TOPICS)}
        self.assertEqual(wanted - {line.removesuffix(" 0") for line in live.lines}, set())
        kept = self.run_program("mosquitto_sub", *common, "-t", "many/+").splitlines()
        self.assertEqual({line.removesuffix(" 1") for line in kept}, wanted)

    def test_mosquitto_keeps_a_session_and_a_will(self) -> None:
        port = str(self.daemon(*self.shared_database()).port())
        self.run_program("mosquitto_sub", "-p", port, "-i", "kept", "-c", "-q", "1", "-t", "k", "-E")
        self.run_program("mosquitto_pub", "-p", port, "-q", "1", "-t", "k", "-m", "waited")
        got = self.run_program(
            "mosquitto_sub", "-p", port, "-i", "kept", "-c", "-q", "1", "-t", "k", "-C", "1"
        )
        self.assertEqual(got.strip(), "waited")
        watcher = self.start_program("mosquitto_sub", "-p", port, "-t", "will", "-d")
        watcher.wait_for("SUBACK")
        dying = self.start_program(
            "mosquitto_sub", "-p", port, "-t", "x", "--will-topic", "will", "--will-payload", "bye", "-d"
        )
        dying.wait_for("SUBACK")
        dying.kill()
        watcher.wait_for("^bye$")

    def test_mqtt_js_speaks_every_qos_and_survives_a_restart_of_its_connection(self) -> None:
        port = str(self.daemon(*self.shared_database()).port())
        output = self.run_program("node", str(ROOT / "tests/integration/conversation.js"), port)
        lines = ["all 3000 messages came, after 2 connects", "all retained messages came", "its Will: gone"]
        self.assertEqual(output.splitlines(), lines)
