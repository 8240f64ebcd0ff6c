"""What is stored of a Will goes in the record of its message, so no kill publishes it twice. ADR 0231."""

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred, succeed

from platziverse.broker.records import Kept, Queued, WillGone, WillLeft
from platziverse.mqtt.packets import Properties, Publish, Subscribe, Subscription
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.broker.durability import SavingCase, payloads

GROUP = "$share/g/w"


class StoredWills(SavingCase):
    """A process that is killed is a broker that nobody uses any more; the next one has the same store."""

    def setUp(self) -> None:
        self.store = MemorySessionStore()
        self.now = 1_000.0
        self.start()

    def start(self, hold: bool = False, **more: Any) -> None:
        """Begin, or begin again after a ``kill -9``, with what is committed.

        :param hold: nothing more is committed.
        """
        self.store.waiting.clear()
        self.store.resume()
        if hold:
            self.hold()
        self.now += 10
        self.harness = BrokerHarness(sessions=self.store, wall_clock=self.now, **more)
        self.harness.turn()

    def hold(self) -> None:
        self.store.hold()
        self.store.available = True

    def away(self, qos: int = 2, name: str = "away", topic: str = "w") -> None:
        """Leave a durable Session whose client is absent."""
        client = self.harness.connect(name, clean_session=False)
        client.subscribe(topic, qos)
        client.lose()

    def dying(self, qos: int = 2, **more: Any) -> FakeClient:
        fields: dict[str, Any] = {"will": Publish("w", b"gone", qos), **more}
        return self.harness.connect("dying", **fields)

    def commit_row(self) -> Queued:
        """Commit what waits, up to the row of the Will, and nothing more."""
        while True:
            record = self.store.waiting[0][0]
            self.store.commit(1)
            if isinstance(record, Queued):
                return record

    def wills(self) -> list[WillLeft]:
        return self.successResultOf(self.store.wills())

    def came(self, name: str = "away") -> list[bytes]:
        """What the absent client gets when it is back."""
        client = self.harness.connect(name, clean_session=False)
        return payloads([*client.connack[1:], *client.received()])


class Kills(StoredWills):
    def ways(self, qos: int) -> Iterator[str]:
        """Yield when the Will is published, and its row waits to be committed."""
        for way in ("its client has gone", "at the start", "by the heir"):
            self.setUp()
            self.away(qos)
            if way == "by the heir":
                self.store.leave(WillLeft("dying", None, 5, "w", b"gone", qos, False))
                self.hold()
                self.successResultOf(self.harness.broker.inherit(succeed([])))
            else:
                client = self.dying(qos)
                self.hold()
                if way == "at the start":
                    self.start(hold=True)
                else:
                    client.lose()
            self.harness.advance(0.1)
            yield way

    def test_after_the_commit_of_its_row_it_is_not_published_again(self) -> None:
        for qos in (1, 2):
            for way in self.ways(qos):
                self.commit_row()
                self.assertEqual((self.wills(), self.saved(WillGone)), ([], []), way)
                self.start()
                self.assertEqual((len(self.saved(Queued)), self.came()), (1, [b"gone"]), way)

    def test_before_it_is(self) -> None:
        for way in self.ways(2):
            self.start()
            self.assertEqual((self.came(), self.wills()), ([b"gone"], []), way)

    def test_it_is_deleted_once_more_when_that_is_committed(self) -> None:
        for way in self.ways(2):
            gone = self.commit_row().delivery
            self.store.resume()
            self.assertEqual(self.saved(WillGone), [gone], way)

    def test_one_that_has_waited(self) -> None:
        self.away()
        kept = Properties(session_expiry_interval=100)
        self.dying(protocol_level=5, clean_session=False, properties=kept, will_delay=10).lose()
        self.harness.advance(9)
        self.hold()
        self.harness.advance(2)
        self.commit_row()
        self.start()
        self.assertEqual((self.wills(), self.came()), ([], [b"gone"]))

    def test_one_that_is_put_off_while_sessions_are_loaded(self) -> None:
        self.away()
        self.store.hold(reads=True)
        self.store.available = True
        self.now += 10
        self.harness = BrokerHarness(sessions=self.store, wall_clock=self.now)
        self.dying().lose()
        self.store.resume()
        self.harness.turn()
        (queued,) = self.saved(Queued)
        self.assertIsInstance(queued.delivery, WillGone)

    def test_one_at_qos_2_of_a_client_whose_session_is_kept(self) -> None:
        """It has no Packet Identifier that could be committed with it."""
        self.away()
        self.dying(clean_session=False).lose()
        self.assertEqual((self.harness.broker.traffic.internal_errors, self.wills()), (0, []))
        self.assertEqual(self.came(), [b"gone"])

    def test_what_is_retained_is_saved_before(self) -> None:
        self.away()
        client = self.dying(will=Publish("w", b"gone", 2, True))
        self.hold()
        client.lose()
        self.assertIsInstance(self.commit_row().delivery, WillGone)
        self.assertEqual([one.payload for one in self.saved(Kept)], [b"gone"])


class Several(StoredWills):
    """A Will that is more than one record is deleted when all of them are committed."""

    def lose(self, **more: Any) -> None:
        client = self.dying(**more)
        self.hold()
        client.lose()

    def commit_rows(self, count: int) -> None:
        """Commit so many rows one by one, of which none deletes the Will, and then the Will goes."""
        for _ in range(count):
            self.assertIsNone(self.commit_row().delivery)
            self.assertEqual((len(self.wills()), self.saved(WillGone)), (1, []))
        self.store.resume()
        self.assertEqual((self.wills(), len(self.saved(WillGone))), ([], 1))

    def test_copies_of_groups(self) -> None:
        self.away()
        self.away(name="member", topic=GROUP)
        for retain in (False, True):
            self.lose(will=Publish("w", b"gone", 2, retain))
            self.commit_rows(2)
            self.store.records.clear()

    def test_retain_as_published(self) -> None:
        self.away()
        kept = Properties(session_expiry_interval=100)
        published = self.harness.connect("published", clean_session=False, protocol_level=5, properties=kept)
        published.send(Subscribe(1, [Subscription("w", 2, retain_as_published=True)]))
        published.lose()
        self.lose(will=Publish("w", b"gone", 2, True))
        self.commit_rows(2)

    def test_handlers(self) -> None:
        answer: Deferred[None] = Deferred()
        self.start(table={"w": lambda message, client: answer})
        self.away()
        self.lose()
        self.assertIsNone(self.commit_row().delivery)
        self.store.resume()
        self.assertEqual((len(self.wills()), self.saved(WillGone)), (1, []))
        answer.callback(None)
        self.assertEqual((self.wills(), len(self.saved(WillGone))), ([], 1))

    def test_nobody_is_owed_it(self) -> None:
        self.lose()
        self.store.resume()
        self.assertEqual((self.wills(), self.saved(Queued), len(self.saved(WillGone))), ([], [], 1))
