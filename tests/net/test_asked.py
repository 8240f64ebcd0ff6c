"""Response Information and Server Reference, which a client of MQTT 5 is told of."""

from typing import Any

from twisted.internet.task import Clock

from platziverse.access.acl import AccessRules
from platziverse.access.authority import AccessAuthority, explain
from platziverse.broker.reasons import Reason
from platziverse.mqtt.packets import (
    Connack,
    Disconnect,
    Packet,
    Properties,
    Publish,
    PublishProperties,
    Suback,
)
from platziverse.mqtt.topics import response_prefix
from platziverse.testing import BrokerHarness, FakeClient
from tests.broker.test_mqtt5 import Case

ASKED = Properties(request_response_information=1)
RULES = ["topic readwrite requests/#", "topic write $response/#"]


def suback(packets: list[Packet]) -> int:
    [packet] = [packet for packet in packets if isinstance(packet, Suback)]
    return packet.return_codes[0]


class ResponseInformation(Case):
    def answers_of(self, client_id: str, properties: Properties | None = ASKED) -> str | None:
        return self.connack(self.connect(client_id, properties=properties))[1].response_information

    def with_rules(self, lines: list[str] | None) -> None:
        rules = AccessRules.parse("acl", lines) if lines is not None else None
        self.harness = BrokerHarness(authority=AccessAuthority(Clock(), rules=rules))

    def test_who_asks_for_it_is_told_its_prefix(self) -> None:
        """[MQTT5-3.1.2-28]"""
        self.assertEqual(self.answers_of("one"), "$response/one/")
        for properties in None, Properties(), Properties(request_response_information=0):
            self.assertIsNone(self.answers_of("one", properties))
        told = self.connack(self.connect("", properties=ASKED))[1]
        self.assertEqual(told.response_information, f"$response/{told.assigned_client_identifier}/")

    def test_an_identifier_that_would_stand_in_anothers_way_has_none(self) -> None:
        """Row 521."""
        for name in "a/b", "+", "#", "a+", "/":
            self.assertIsNone(self.answers_of(name))
        for name in "a/b", "+":
            self.assertEqual(suback(self.connect(name).subscribe(f"$response/{name}/x")), 0x87)
        self.assertIsNone(response_prefix(""))

    def test_nobody_else_may_subscribe_there(self) -> None:
        """Row 521: with wildcards neither, with rules or without."""
        own = ("$response/one/#", "$response/one/x", "$response/one/+/y", "$share/g/$response/one/#")
        others = (
            "$response/two/#",
            "$response/+/x",
            "$response/#",
            "$response/one",
            "$response/onetwo/x",
            "$response/",
            "$response/+/#",
            "$share/group/$response/two/#",
            "$share/group/$response/#",
        )
        for lines in (
            None,
            RULES,
            ["topic read #"],
            ["topic readwrite $response/#"],
            ["topic deny $response/#"],
        ):
            self.with_rules(lines)
            client = self.connect("one")
            self.assertEqual([suback(client.subscribe(name)) for name in own], [0] * len(own), lines)
            self.assertEqual([suback(client.subscribe(name)) for name in others], [0x87] * len(others), lines)

    def test_what_comes_there_is_for_its_client_alone(self) -> None:
        for lines in None, RULES:
            self.with_rules(lines)
            requester, responder = self.connect("one", properties=ASKED), self.connect("two")
            curious = self.connect("three")
            for topic_filter in "+/+/x", "#":
                curious.subscribe(topic_filter)
            requester.subscribe("$response/one/#", 1)
            responder.subscribe("requests/#", 1)
            asked = PublishProperties(response_topic="$response/one/x", correlation_data=b"7")
            requester.send(Publish("requests/time", b"", 1, packet_id=1, properties=asked))
            [request] = responder.received()
            assert isinstance(request, Publish)
            assert request.properties is not None
            answer = PublishProperties(correlation_data=request.properties.correlation_data)
            topic = request.properties.response_topic or ""
            responder.send(Publish(topic, b"noon", 1, packet_id=1, properties=answer))
            got = [packet for packet in requester.received() if isinstance(packet, Publish)]
            self.assertEqual(
                [(each.topic, each.payload, each.properties) for each in got], [(topic, b"noon", answer)]
            )
            seen = [packet.topic for packet in curious.received() if isinstance(packet, Publish)]
            self.assertEqual([topic for topic in seen if topic != "requests/time"], [])

    def test_who_may_answer_is_a_matter_of_rules(self) -> None:
        self.with_rules(["topic read requests/#"])
        self.connect("one").subscribe("$response/one/#")
        responder = self.connect("two")
        responder.send(Publish("$response/one/x", b"", 1, packet_id=1))
        self.assertEqual(self.told(responder.received()), [(0x87, "not allowed to publish there")])

    def test_nothing_else_below_the_dollar_sign_may_be_published_to(self) -> None:
        for topic in "$response", "$responses/one/x", "$SYS/x", "$x":
            self.with_rules(None)
            client = self.connect()
            client.send(Publish(topic, b"", 1, packet_id=1))
            self.assertEqual(self.told(client.received())[0][0], 0x87, topic)

    def test_the_explanation_says_so(self) -> None:
        def said(topic: str, lines: list[str] | None = None) -> list[tuple[str, bool]]:
            rules = AccessRules.parse("acl", lines) if lines is not None else None
            found = explain(rules, "one", None, topic)
            return [(each.action, each.decision.allowed) for each in found]

        self.assertEqual(said("$response/one/x"), [("publish", True), ("receive", True)])
        self.assertEqual(said("$response/two/x"), [("publish", True), ("receive", False)])
        self.assertEqual(said("$response/two/x", ["topic read a"]), [("publish", False), ("receive", False)])
        self.assertEqual(said("$response/one/#", ["topic read a"]), [("subscribe", True)])
        self.assertEqual(said("$response/+/x"), [("subscribe", False)])


class ServerReference(Case):
    def setUp(self) -> None:
        super().setUp()
        self.harness.shared.server_reference = "other.example:1883"

    def stopped(self, client: FakeClient) -> Any:
        self.harness.shared.close_all(Reason.SHUTTING_DOWN, "the daemon is stopping")
        [packet] = client.received()
        assert isinstance(packet, Disconnect)
        told = packet.properties or Properties()
        return packet.reason_code, told.server_reference, told.reason_string

    def test_a_stop_names_the_other_server(self) -> None:
        self.assertEqual(self.stopped(self.connect()), (0x8B, "other.example:1883", "the daemon is stopping"))

    def test_it_is_worth_more_than_the_reason_string(self) -> None:
        for asked, told in (
            (Properties(request_problem_information=0), (0x8B, "other.example:1883", None)),
            (Properties(maximum_packet_size=30), (0x8B, "other.example:1883", None)),
            (Properties(maximum_packet_size=20), (0x8B, None, None)),
        ):
            self.assertEqual(self.stopped(self.connect(properties=asked)), told)

    def test_without_one_nothing_is_named(self) -> None:
        self.harness.shared.server_reference = ""
        self.assertEqual(self.stopped(self.connect()), (0x8B, None, "the daemon is stopping"))

    def test_other_ends_do_not_name_it(self) -> None:
        client = self.connect()
        self.connect()
        [packet] = client.received()
        assert isinstance(packet, Disconnect)
        self.assertEqual(packet.properties, Properties(reason_string=client_taken_over(packet)))

    def test_who_cannot_be_taken_is_told_too(self) -> None:
        sessions = self.harness.broker.sessions
        self.patch(self.harness.shared.pressure, "refusal", lambda client_id: "too much waits")
        client = self.connect("new")
        [connack] = client.connack
        assert isinstance(connack, Connack)
        told = connack.properties or Properties()
        self.assertEqual((connack.return_code, told.server_reference), (0x88, "other.example:1883"))
        self.assertIsNone(sessions.get("new"))

    def test_whoever_an_operator_ends_hears_it(self) -> None:
        client = self.connect()
        session = self.harness.broker.sessions.get("five")
        assert session is not None
        self.harness.broker.clients.part(
            session, Reason.ADMINISTRATIVE, "an operator has ended its connection"
        )
        self.assertEqual(self.goodbye(client), (0x98, "an operator has ended its connection"))


def client_taken_over(packet: Disconnect) -> str | None:
    return packet.properties.reason_string if packet.properties is not None else None
