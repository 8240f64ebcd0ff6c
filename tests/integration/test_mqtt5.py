"""Clients of MQTT 5 that others have written, with the real daemon and its database."""

import signal
import subprocess
from typing import Any

from paho.mqtt.packettypes import PacketTypes

from tests.agents.doubles import of_agent
from tests.crash.postgres import private_postgres
from tests.integration.clients5 import has_gone
from tests.integration.clients5_python import Paho5, properties
from tests.integration.daemon import PATIENCE, DaemonTestCase

REJECTED = "JSON is malformed: invalid character (byte 0)"


class Clients(DaemonTestCase):
    def setUp(self) -> None:
        self.port = self.daemon(*self.shared_database()).ready()

    def connect(self, client_id: str, clean: bool = True, **values: Any) -> tuple[Paho5, Any]:
        client = Paho5(self.port, client_id)
        connack = client.start(clean, **values)
        self.addCleanup(client.stop)
        return client, connack

    def test_mosquitto_pub_shows_that_a_payload_is_refused(self) -> None:
        arguments = ["-V", "5", "-q", "1", "-t", "agent/message", "-m", "Hello", "-d"]
        command = [self.program("mosquitto_pub"), "-p", str(self.port), *arguments]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertIn("Payload format invalid", done.stdout)

    def test_a_refusal_has_its_reason(self) -> None:
        client, (_, _, told) = self.connect("five")
        self.assertEqual((told.TopicAliasMaximum, told.ReceiveMaximum), (16, 256))
        # Of PUBREC it looks at nothing but the Packet Identifier.
        code, why = client.publish("agent/message", b"Hello", 1)
        self.assertEqual((code.value, why.ReasonString), (0x99, REJECTED))
        code, _ = client.publish("$SYS/x", b"", 1)
        self.assertEqual(code.value, 0x87)
        for qos, told in (1, 0x10), (2, 0):
            code, _ = client.publish("other", b"", qos)
            self.assertEqual(code.value, told)

    def test_what_waits_keeps_its_properties_and_its_time(self) -> None:
        """Row 512: through the database."""
        absent, _ = self.connect("absent", SessionExpiryInterval=1000)
        self.assertEqual(absent.subscribe("t/#", 2, retainAsPublished=True), 2)
        absent.stop()
        has_gone(self.port, "absent")
        sender, _ = self.connect("sender")
        given: dict[str, Any] = {
            "ContentType": "text/plain",
            "ResponseTopic": "back",
            "CorrelationData": b"\x00\xff",
            "MessageExpiryInterval": 600,
            "PayloadFormatIndicator": 1,
            "UserProperty": [("b", "1"), ("a", "2")],
        }
        for qos in (1, 2):
            sent = properties(PacketTypes.PUBLISH, **given)
            sender.publish(f"t/{qos}", b"x", qos, retain=True, properties=sent)
        back, (flags, _, _) = self.connect("absent", clean=False, SessionExpiryInterval=1000)
        self.assertTrue(flags.session_present)
        late, _ = self.connect("late")
        late.subscribe("t/#", 2)
        for client in (back, late):
            for _ in range(2):
                message = client.event("message")
                found = message.properties
                self.assertTrue(message.retain)
                self.assertTrue(0 < found.MessageExpiryInterval <= 600)
                for name in given.keys() - {"MessageExpiryInterval"}:
                    self.assertEqual(getattr(found, name), given[name])

    def test_no_local_and_the_end_by_another_connection(self) -> None:
        client, _ = self.connect("twin")
        client.subscribe("#", 1, noLocal=True)
        other, _ = self.connect("other")
        client.publish("own", b"1", 1)
        other.publish("own", b"2", 1)
        self.assertEqual(client.event("message").payload, b"2")
        self.connect("twin")
        code, _ = client.event("disconnect")
        self.assertEqual(code.value, 0x8E)

    def test_mosquitto_rr_gets_an_answer_where_it_alone_may_listen(self) -> None:
        """What it asks with is a client of another kind, with what the broker has told that client."""
        responder, _ = self.connect("responder")
        responder.subscribe("request", 1)
        _, (_, _, told) = self.connect("asker", RequestResponseInformation=1)
        self.assertEqual(told.ResponseInformation, "$response/asker/")
        self.assertEqual(responder.subscribe("$response/rr/#", 1), 0x87)
        port = str(self.port)
        asking = ("-V", "5", "-p", port, "-i", "rr", "-q", "1", "-t", "request", "-m", "time?")
        rr = self.start_program("mosquitto_rr", *asking, "-e", "$response/rr/time", "-F", "%p")
        request = responder.event("message")
        self.assertEqual(request.properties.ResponseTopic, "$response/rr/time")
        responder.publish(request.properties.ResponseTopic, b"noon", 1)
        rr.wait_for("noon")


class Away(DaemonTestCase):
    def test_what_there_is_no_room_for_is_refused_and_the_rest_is_committed(self) -> None:
        """Nothing that is refused is in the tables, and everything else is."""
        postgres = private_postgres(self)
        postgres.start()
        settings = {"PLATZIVERSE_LIMITS_MAX_UNFINISHED_TOTAL": "4"}
        daemon = self.daemon("--database", postgres.dsn, environ=settings)
        client = Paho5(daemon.port(), "five")
        client.start()
        self.addCleanup(client.stop)
        code, _ = client.publish("agent/message", of_agent("before"), 1)
        self.assertEqual(code.value, 0)
        postgres.end(signal.SIGKILL)
        for number in range(6):
            client.client.publish("agent/message", of_agent(f"a{number}"), 1)
        for _ in range(2):
            code, why = client.event("publish")
            self.assertEqual(code.value, 0x97)
            self.assertIn("(max_unfinished_total)", why.ReasonString)
        postgres.start()
        for _ in range(4):
            code, _ = client.event("publish")
            self.assertEqual(code.value, 0)
        found = postgres.execute("SELECT uuid FROM agents ORDER BY uuid")
        self.assertEqual([uuid for (uuid,) in found], ["a0", "a1", "a2", "a3", "before"])
