"""Messages that come again over a new connection, which speaks for their agents from then on."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.interfaces import Client
from platziverse.agents.model import Agent, Metric, Report
from platziverse.agents.presence import Spoken
from platziverse.ingest.memory import MemoryStore
from platziverse.mqtt.packets import Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.agents.doubles import COURSE, NOW, of_agent
from tests.agents.doubles import FakeClient as Sender

#: That of ``COURSE``.
AGENT = "yyy"


class RepeatedCase(SynchronousTestCase):
    """An agent with a Session, a watcher of what is announced, and a handler of ``devices/+`` that records.

    :ivar handled: the messages that the handler was called with.
    :ivar finished: when it is set, the handler finishes when this fires.
    """

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.handled: list[Publish] = []
        self.finished: Deferred[Any] | None = None
        self.start()

    def start(self, sessions: MemorySessionStore | None = None) -> None:
        """Begin, or begin again after a ``kill -9``."""
        self.harness = BrokerHarness(
            handlers=[self.devices], reports=self.store, wall_clock=NOW, sessions=sessions
        )
        self.harness.turn()
        self.watcher = self.harness.connect("watcher")
        self.watcher.subscribe("agent/+")

    def devices(self, publish: object) -> dict[str, Any]:
        return {"devices/+": self.device}

    def device(self, message: Publish, client: Client) -> Any:
        self.handled.append(message)
        reports = [Report(Agent(name, "", name, "", 0), [Metric("m", "1")]) for name in ("a", "b")]
        if self.finished is not None:
            return self.finished.addCallback(lambda _: reports)
        return reports

    def connect(self) -> FakeClient:
        return self.harness.connect("c", clean_session=False)

    def received(self, client: FakeClient) -> list[Packet]:
        self.harness.advance(1)
        return client.received()

    def announced(self) -> list[str]:
        return [packet.topic for packet in self.received(self.watcher) if isinstance(packet, Publish)]


class ExactlyOnce(RepeatedCase):
    def lose(self, topic: str = "agent/message", payload: bytes = COURSE) -> FakeClient:
        """Publish a message whose PUBREC is lost with its connection; return the next connection."""
        client = self.connect()
        client.publish(topic, payload, 2, 7)
        client.lose()
        self.assertEqual(self.store.connected, set())
        self.announced()
        return self.connect()

    def test_an_agent_that_only_repeats_a_message_is_connected(self) -> None:
        """Row 351."""
        client = self.lose()
        self.store.hold()
        client.publish("agent/message", COURSE, 2, 7, dup=True)
        self.assertEqual(self.received(client), [])
        self.store.resume()
        self.assertEqual(self.received(client), [Pubrec(7)])
        self.assertEqual((self.store.connected, self.announced()), ({AGENT}, ["agent/connected"]))
        self.assertEqual((self.store.received, self.store.stored), (1, 1))
        client.lose()
        self.assertEqual((self.store.connected, self.announced()), (set(), ["agent/disconnected"]))

    def test_to_repeat_it_over_one_connection_is_no_news(self) -> None:
        client = self.lose()
        for _ in range(3):
            client.publish("agent/message", COURSE, 2, 7, dup=True)
        self.assertEqual(self.received(client), [Pubrec(7)] * 3)
        self.assertEqual(self.announced(), ["agent/connected"])

    def test_a_release_waits_for_the_pubrec_that_waits(self) -> None:
        client = self.lose()
        self.store.hold()
        client.send(Publish("agent/message", COURSE, 2, packet_id=7, dup=True), Pubrel(7))
        self.assertEqual(self.received(client), [])
        self.store.resume()
        self.assertEqual(self.received(client), [Pubrec(7), Pubcomp(7)])

    def test_a_connection_that_ends_meanwhile_leaves_nobody_connected(self) -> None:
        client = self.lose()
        self.store.hold()
        client.publish("agent/message", COURSE, 2, 7, dup=True)
        client.lose()
        self.store.resume()
        self.assertEqual((self.store.connected, self.harness.shared.flow.unfinished), (set(), 0))

    def test_a_connection_that_ends_before_the_message_is_stored_speaks_for_nobody(self) -> None:
        first = self.connect()
        self.store.hold()
        first.publish("agent/message", COURSE, 2, 7)
        second = self.connect()
        second.publish("agent/message", COURSE, 2, 7, dup=True)
        second.lose()
        self.store.resume()
        self.assertEqual((self.store.connected, self.harness.shared.flow.unfinished), (set(), 0))

    def test_a_store_that_stops_closes_the_connection(self) -> None:
        client = self.lose()
        self.store.hold()
        client.publish("agent/message", COURSE, 2, 7, dup=True)
        self.store.stop()
        self.assertEqual((self.received(client), client.closed), ([], True))
        self.assertEqual(self.harness.shared.flow.unfinished, 0)

    def test_a_rejected_message_speaks_for_nobody_when_it_comes_again(self) -> None:
        self.lose(payload=b"Hello").publish("agent/message", b"Hello", 2, 7, dup=True)
        self.assertEqual((self.store.connected, self.store.rejected), (set(), 1))

    def test_the_agents_of_a_handler_are_connected_and_it_is_called_once(self) -> None:
        """Row 351."""
        client = self.lose("devices/1", b"x")
        client.publish("devices/1", b"x", 2, 7, dup=True)
        self.assertEqual(self.received(client), [Pubrec(7)])
        self.assertEqual((self.store.connected, len(self.handled)), ({"a", "b"}, 1))
        self.assertEqual(self.announced(), ["agent/connected"] * 2)
        client.send(Pubrel(7))
        client.lose()
        client = self.connect()
        client.publish("devices/1", b"y", 2, 7)
        self.assertEqual((self.store.connected, len(self.handled)), ({"a", "b"}, 2))

    def test_another_message_under_its_packet_identifier_speaks_for_nobody(self) -> None:
        client = self.lose("devices/1", b"x")
        client.publish("devices/1", b"y", 2, 7, dup=True)
        self.assertEqual(self.received(client), [Pubrec(7)])
        self.assertEqual((self.store.connected, len(self.handled)), (set(), 1))

    def test_messages_of_other_topics_are_only_acknowledged(self) -> None:
        client = self.lose("t", b"x")
        self.store.hold()
        client.publish("t", b"x", 2, 7, dup=True)
        self.assertEqual(self.received(client), [Pubrec(7)])

    def test_so_it_is_after_a_kill(self) -> None:
        """Row 353."""
        sessions = MemorySessionStore()
        self.start(sessions)
        self.harness.connect("receiver", clean_session=False).subscribe("agent/message", 2)
        first = self.connect()
        first.publish("agent/message", COURSE, 2, 7)
        self.assertEqual(self.received(first), [Pubrec(7)])
        self.start(sessions)
        self.store.connected.clear()  # as the lease of the dead daemon has ended
        for _ in range(2):
            client = self.connect()
            client.publish("agent/message", COURSE, 2, 7, dup=True)
            self.assertEqual(self.received(client), [Pubrec(7)])
            self.assertEqual((self.store.connected, self.store.stored), ({AGENT}, 1))
            client.lose()
            self.assertEqual(self.store.connected, set())


class AtLeastOnce(RepeatedCase):
    def again(self, topic: str, payload: bytes) -> FakeClient:
        """Publish a message, and again over the next connection, while nothing is committed."""
        self.store.hold()
        self.connect().publish(topic, payload, 1, 7)
        self.connect().lose()
        client = self.connect()
        client.publish(topic, payload, 1, 7, dup=True)
        self.assertEqual(self.received(client), [])
        return client

    def test_an_agent_whose_first_copy_is_still_being_stored_is_connected(self) -> None:
        """Row 352."""
        client = self.again("agent/message", COURSE)
        self.store.commit(2)
        self.assertEqual(self.store.connected, set())
        self.assertEqual(self.received(client), [])
        self.store.resume()
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual((self.store.connected, self.store.received), ({AGENT}, 1))
        self.assertEqual(self.harness.recorder.redelivered, 1)

    def test_so_are_the_agents_of_a_handler_which_is_called_once(self) -> None:
        """Row 352."""
        finished: Deferred[Any] = Deferred()
        self.finished = finished
        client = self.again("devices/1", b"x")
        finished.callback(None)
        self.store.resume()
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual((self.store.connected, len(self.handled)), ({"a", "b"}, 1))


class Remembered(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = Sender("c", persistent=True)

    def message(self, qos: int = 2, packet_id: int = 1) -> Publish:
        return Publish("t", b"x", qos, packet_id=packet_id)

    def agents(self, *uuids: str) -> list[Agent]:
        return [Agent(uuid, "", "", "", 0) for uuid in uuids]

    def test_the_agents_of_several_handlers_are_those_of_one_message(self) -> None:
        spoken = Spoken()
        for uuid in ("a", "b"):
            spoken.note(self.message(), self.client, self.agents(uuid))
        self.assertEqual(list(spoken.find(self.message(), self.client)), self.agents("a", "b"))
        self.assertEqual(list(spoken.find(self.message(qos=1), self.client)), [])
        spoken.forget("c", 1)
        self.assertEqual(list(spoken.find(self.message(), self.client)), [])

    def test_what_cannot_come_again_is_not_remembered(self) -> None:
        spoken = Spoken()
        spoken.note(self.message(), Sender("c", persistent=False), self.agents("a"))
        spoken.note(Publish("t", b"x", 0), self.client, self.agents("a"))
        self.assertEqual(list(spoken.find(self.message(), self.client)), [])

    def test_it_takes_no_more_room_than_it_may(self) -> None:
        spoken = Spoken(4096)
        for packet_id in range(1, 100):
            spoken.note(self.message(1, packet_id), self.client, self.agents(f"{packet_id}"))
        found = [len(spoken.find(self.message(1, packet_id), self.client)) for packet_id in range(1, 100)]
        self.assertEqual((sum(found), found[0], found[-1]), (4, 0, 1))


class Refused(RepeatedCase):
    def test_a_connection_that_speaks_for_too_many_agents_does_not_speak_for_another(self) -> None:
        client = self.connect()
        client.publish("agent/message", COURSE, 2, 7)
        client.publish("devices/1", b"x", 2, 8)
        client.lose()
        client = self.connect()
        most = self.harness.recorder.limits.max_agents
        for number in range(most):
            client.publish("agent/message", of_agent(str(number)))
        client.publish("agent/message", COURSE, 2, 7, dup=True)
        client.publish("devices/1", b"x", 2, 8, dup=True)
        self.assertEqual(self.received(client), [Pubrec(7), Pubrec(8)])
        self.assertEqual(self.store.connected, {str(number) for number in range(most)})
        self.assertEqual(self.store.rejected, 0)
