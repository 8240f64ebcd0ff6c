"""Every daemon keeps the same Retained Message of a topic in the end, and so does the store."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import SERVER, Client
from platziverse.broker.limits import Limits
from platziverse.broker.records import Kept
from platziverse.broker.retained import RetainedMessages
from platziverse.broker.retaining import DurableRetained
from platziverse.cluster.codec import encode
from platziverse.cluster.frames import Kept as KeptFrame
from platziverse.cluster.frames import Message
from platziverse.cluster.retaining import LOGGED, Retaining
from platziverse.cluster.routing import MOST_WAITING
from platziverse.mqtt.packets import Publish, Subscribe, Subscription
from platziverse.testing import MemorySessionStore
from tests.cluster.daemons import Daemon, Daemons
from tests.cluster.test_cluster import Case, published
from tests.logs import observe_lines


def kept(daemon: Daemon) -> dict[str, bytes]:
    return {message.topic: message.payload for message in daemon.broker.retained.match("#")}


def publish(messages: RetainedMessages, retaining: Retaining, topic: str = "a") -> int:
    """Keep a message that is published here; return its version."""
    messages.set(Publish(topic, b"x", 0, True), SERVER)
    return retaining.version_of(topic)


def stored(store: MemorySessionStore) -> dict[str, bytes]:
    found = SynchronousTestCase().successResultOf(store.retained("", 100))
    return {one.topic: one.payload for one in found}


class RetainedTests(Case):
    def test_a_retained_message_is_kept_by_all(self) -> None:
        self.one.connect("publisher", username="ana").publish("a", b"x", 1, 1, retain=True)
        self.turn()
        for daemon in (self.one, self.two, self.three):
            self.assertEqual(kept(daemon), {"a": b"x"})
            publisher = daemon.broker.retained.publisher("a")
            self.assertEqual((publisher.client_id, publisher.username), ("publisher", "ana"))
        far = self.two.connect("far")
        far.send(Subscribe(1, [Subscription("a", 1)]))
        self.turn()
        self.assertEqual(published(far), [("a", b"x", 1, True)])

    def test_one_that_is_cleared_is_gone_everywhere(self) -> None:
        publisher = self.one.connect("publisher")
        publisher.publish("a", b"x", retain=True)
        self.turn()
        self.two.connect("other").publish("a", b"", retain=True)
        self.turn()
        self.assertEqual([kept(daemon) for daemon in (self.one, self.two, self.three)], [{}, {}, {}])

    def test_of_two_that_are_published_at_once_all_keep_the_same(self) -> None:
        one, two = self.one.connect("one"), self.two.connect("two")
        one.publish("a", b"1", retain=True)
        two.publish("a", b"2", retain=True)
        self.turn()
        self.assertEqual([kept(daemon) for daemon in (self.one, self.two, self.three)], [{"a": b"2"}] * 3)

    def test_a_clock_that_is_behind_changes_nothing(self) -> None:
        """Row 392: daemons whose clocks differ by an hour."""
        messages = RetainedMessages(10, 1000)
        behind = Retaining(messages, lambda: 5, lambda: 0.0)
        self.one.connect("publisher").publish("a", b"1", retain=True)
        version = self.one.cluster.retaining.since(0)[0][1]
        behind.came(Publish("a", b"1", 0, True), SERVER, version, live=True)
        self.assertGreater(publish(messages, behind), version)

    def test_a_daemon_that_comes_without_a_store_gets_all(self) -> None:
        self.one.connect("publisher").publish("a", b"x", retain=True)
        self.turn()
        self.assertEqual(kept(self.daemons.begin(4)), {"a": b"x"})

    def test_figures_of_a_daemon_are_kept_there(self) -> None:
        self.one.broker.announce("$SYS/broker/uptime", b"1", retain=True)
        self.turn()
        self.assertEqual(len(self.two.broker.retained), 0)


class StoredTests(SynchronousTestCase):
    """Two daemons, of which each writes into the one store, as it has the time."""

    def setUp(self) -> None:
        self.daemons = Daemons()
        self.stores = [MemorySessionStore(), MemorySessionStore()]
        self.both = [
            self.daemons.begin(number, sessions=store) for number, store in enumerate(self.stores, 1)
        ]
        self.clients = [daemon.connect(f"client{daemon.number}") for daemon in self.both]

    def test_what_a_daemon_keeps_for_another_it_does_not_write(self) -> None:
        self.clients[0].publish("a", b"x", retain=True)
        self.daemons.turn()
        self.assertEqual(stored(self.stores[0]), {"a": b"x"})
        self.assertEqual(stored(self.stores[1]), {})

    def test_a_daemon_that_begins_asks_for_what_may_not_be_stored_yet(self) -> None:
        self.stores[0].hold()
        self.clients[0].publish("a", b"x", retain=True)
        three = self.daemons.begin(3, sessions=MemorySessionStore())
        self.assertEqual(kept(three), {"a": b"x"})

    def test_of_two_at_once_the_later_one_is_written_last_by_both(self) -> None:
        """Row 395: two daemons write the Retained Message of one topic, in any order."""
        for store in self.stores:
            store.hold()
        for number, client in enumerate(self.clients):
            client.publish("a", b"%d" % number, retain=True)
        self.daemons.turn()
        for store in self.stores:
            store.resume()
        self.assertEqual([stored(store) for store in self.stores], [{"a": b"1"}, {"a": b"1"}])
        self.assertEqual([kept(daemon) for daemon in self.both], [{"a": b"1"}, {"a": b"1"}])

    def test_of_two_at_once_one_that_clears_is_written_last_by_both(self) -> None:
        for number, client in enumerate(self.clients):
            client.publish("a", b"0" if not number else b"", retain=True)
        self.daemons.turn()
        self.assertEqual([stored(store) for store in self.stores], [{"a": b"0"}, {}])
        self.assertEqual(self.stores[1].records[-1], self.stores[1].records[-2])
        self.assertEqual([kept(daemon) for daemon in self.both], [{}, {}])

    def test_a_message_that_comes_while_another_is_saved_is_saved_behind_it(self) -> None:
        self.stores[1].hold()
        for payload in (b"1", b"2"):
            self.clients[1].publish("a", payload, retain=True)
        self.daemons.clock.advance(1)
        self.clients[0].publish("a", b"0", retain=True)
        self.daemons.turn()
        self.stores[1].resume()
        self.assertEqual(stored(self.stores[1]), {"a": b"0"})
        self.clients[0].publish("a", b"3", retain=True)
        self.daemons.turn()
        self.assertEqual(stored(self.stores[1]), {"a": b"0"})  # saved by the other alone

    def test_what_is_not_written_again_harms_nobody(self) -> None:
        self.stores[1].hold()
        self.clients[1].publish("a", b"1", retain=True)
        self.daemons.clock.advance(1)
        self.clients[0].publish("a", b"0", retain=True)
        self.daemons.turn()
        self.stores[1].stop()
        self.assertEqual(kept(self.both[1]), {"a": b"0"})

    def test_a_message_that_comes_while_sessions_are_loaded_waits(self) -> None:
        store = MemorySessionStore()
        store.hold(reads=True)
        three = self.daemons.begin(3, sessions=store)
        self.clients[0].publish("a", b"x", retain=True)
        self.clients[0].publish("b", b"x", retain=True)
        self.daemons.turn()
        self.assertEqual(kept(three), {})
        store.resume()
        self.daemons.turn()
        self.assertEqual(kept(three), {"a": b"x", "b": b"x"})

    def test_what_is_read_is_no_newer_than_what_was_heard_meanwhile(self) -> None:
        """The database is read while a daemon begins, and others say what is not committed yet."""
        store = MemorySessionStore()
        store.save(Kept("a", b"old", 1, "c", None, 7))
        store.save(Kept("b", b"old", 1, "c", None))
        store.hold(reads=True)
        three = self.daemons.begin(3, sessions=store)
        for topic in ("a", "b"):
            three.cluster.frame(1, encode(KeptFrame(Message(topic, b"new", 1, 8)), 1))
        store.resume()
        self.daemons.turn()
        self.assertEqual(kept(three), {"a": b"new", "b": b"new"})

    def test_what_nobody_has_heard_of_before_its_daemon_died_is_said_when_it_is_back(self) -> None:
        self.clients[1].publish("a", b"old", 1, 1, retain=True)
        self.daemons.turn()
        self.both[1].bus.ear.deaf = True
        self.clients[0].publish("a", b"new", 1, 1, retain=True)
        self.daemons.turn()
        self.assertEqual([kept(daemon) for daemon in self.both], [{"a": b"new"}, {"a": b"old"}])
        self.both[0].die()
        self.both[1].bus.ear.deaf = False
        self.stores[0].hold(reads=True)
        one = self.daemons.begin(1, sessions=self.stores[0])
        self.stores[0].resume()
        self.daemons.advance(3)
        self.assertEqual([kept(one), kept(self.both[1])], [{"a": b"new"}] * 2)

    def test_who_begins_anew_reads_what_it_has_forgotten(self) -> None:
        self.clients[0].publish("a", b"x", 1, 1, retain=True)
        self.daemons.turn()
        anew = self.both[0].broker.begin_anew()
        self.daemons.turn()
        self.successResultOf(anew)
        self.assertEqual(kept(self.both[0]), {"a": b"x"})

    def test_only_so_many_wait(self) -> None:
        """While the database is away and Sessions are not loaded."""
        store = MemorySessionStore()
        store.hold(reads=True)
        three = self.daemons.begin(3, sessions=store)
        for _ in range(MOST_WAITING + 10):
            three.cluster.frame(1, encode(Message("a", b"x", 1), 1))
        self.assertEqual(three.cluster.routing.dropped, 10)

    def test_a_message_that_cannot_be_saved_for_a_session_here_is_said(self) -> None:
        far = self.both[1].listening("far", "a", 1, clean_session=False)
        far.lose()
        lines = observe_lines(self)
        self.stores[1].hold()
        self.clients[0].publish("a", b"x", 1, 1)
        self.daemons.turn()
        self.stores[1].refuse()
        self.assertIn("What other daemons owe to our Sessions is late: refused by the test", lines)


class VersionTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1e9), st.booleans()), max_size=12))
    def test_what_is_published_after_something_was_seen_is_above_it(
        self, steps: list[tuple[int, float, bool]]
    ) -> None:
        """Two clocks, which jump, and messages that arrive or are lost."""
        times = [0.0, 0.0]
        messages = [RetainedMessages(10, 1000) for _ in times]
        both = [
            Retaining(messages[number], partial(int, number + 1), partial(times.__getitem__, number))
            for number in (0, 1)
        ]
        highest = [0, 0]
        versions: set[int] = set()
        for which, time, arrives in steps:
            times[which] = time
            version = publish(messages[which], both[which])
            self.assertGreater(version, highest[which])
            self.assertNotIn(version, versions)
            versions.add(version)
            highest[which] = version
            if arrives:
                both[1 - which].came(Publish("a", b"x", 0, True), SERVER, version, live=False)
                highest[1 - which] = max(highest)

    def test_only_so_many_topics_are_remembered(self) -> None:
        messages = RetainedMessages(10, 1000)
        retaining = Retaining(messages, lambda: 1, lambda: 1.0)
        for number in range(LOGGED + 5):
            publish(messages, retaining, str(number))
        self.assertEqual(len(retaining.since(0)), LOGGED)
        self.assertEqual(retaining.since(retaining.since(0)[-1][1]), [])

    def test_the_store_is_asked_for_each_message_of_ours_once(self) -> None:
        store = MemorySessionStore(Clock().seconds)
        limits = Limits()
        memory = RetainedMessages(limits.max_retained_messages, limits.max_retained_bytes)
        retained = DurableRetained(memory, store)
        Retaining(retained, lambda: 1, lambda: 1.0)
        answer = retained.set(Publish("a", b"x", 0, True), Client("one", 1))
        assert answer is not None
        self.successResultOf(answer)
        self.assertEqual(len(store.records), 1)
