"""Rounds: what goes together, when it is sent, who is told, and that the books balance."""

from collections.abc import Sequence

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Departure, Entry, Rejection, Report
from platziverse.broker.records import Forget, Release
from platziverse.ingest.batch import Batch, Outcome
from platziverse.ingest.errors import Fenced, StoreStopped
from platziverse.ingest.reports import KINDS
from platziverse.ingest.writer import PATIENCE, BatchWriter
from tests.ingest.entries import delivery, rejection, report
from tests.logs import observe_lines


@define
class Written:
    """A batch that a slot is committing."""

    shard: int
    batch: Batch
    answer: "Deferred[None]"

    @property
    def entries(self) -> Sequence[object]:
        return self.batch.entries

    def commit(self, duplicates: int = 0) -> None:
        reports = sum(isinstance(entry, Report) for entry in self.entries)
        rejections = sum(isinstance(entry, Rejection) for entry in self.entries)
        self.batch.committed(Outcome(reports - duplicates, duplicates, rejections))
        self.answer.callback(None)


class FakeStore:
    """Slots that commit when they are told."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.writing: list[Written] = []

    def write(self, shard: int, batch: Batch) -> "Deferred[None]":
        self.writing.append(Written(shard, batch, Deferred()))
        return self.writing[-1].answer

    def commit_all(self) -> None:
        writing, self.writing = self.writing, []
        for written in writing:
            written.commit()


class WriterCase(SynchronousTestCase):
    slots = 1
    max_entries = 500
    max_rows = 4000

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(self.slots)
        self.observed: list[tuple[int, float]] = []
        self.writer = BatchWriter(
            self.store,
            self.clock,
            KINDS,
            max_entries=self.max_entries,
            max_rows=self.max_rows,
            observe=lambda entries, seconds: self.observed.append((entries, seconds)),
        )

    def save(self, *entries: Entry) -> "Sequence[Deferred[None]]":
        return [self.writer.save(entry) for entry in entries]

    def turn(self) -> None:
        self.clock.advance(0)

    def assert_balanced(self) -> None:
        writer = self.writer
        self.assertEqual(
            writer.received,
            writer.stored + writer.duplicates + writer.rejected + writer.given_up + writer.pending,
        )


class Trouble(WriterCase):
    """A shard in trouble of its own keeps the others waiting a moment, not for ever."""

    slots = 2

    def setUp(self) -> None:
        super().setUp()
        uuids = [str(number) for number in range(100)]
        self.stuck = next(uuid for uuid in uuids if hash(uuid) % 2 == 0)
        self.free = next(uuid for uuid in uuids if hash(uuid) % 2 == 1)

    def test_the_others_go_on_after_a_second(self) -> None:
        self.save(report(uuid=self.stuck), report(uuid=self.free))
        self.turn()
        stuck, free = sorted(self.store.writing, key=lambda written: written.shard)
        free.commit()
        (late,) = self.save(report(uuid=self.free))
        self.clock.advance(PATIENCE - 0.01)
        self.assertEqual(len(self.store.writing), 2)
        self.clock.advance(0.01)
        self.store.writing[-1].commit()
        self.successResultOf(late)
        (behind,) = self.save(report(uuid=self.stuck))
        for _ in range(3):
            self.save(report(uuid=self.free))
            self.turn()
            self.store.writing[-1].commit()
        self.assertNoResult(behind)
        stuck.commit()
        self.turn()
        self.assertEqual(len(self.store.writing), 7)
        self.store.writing[-1].commit()
        self.successResultOf(behind)
        self.assertEqual((self.clock.getDelayedCalls(), self.writer.waiting), ([], 0))
        self.assert_balanced()

    def test_a_shard_has_one_batch_under_way_at_most(self) -> None:
        self.save(report(uuid=self.stuck))
        self.turn()
        self.save(report(uuid=self.stuck))
        self.clock.advance(PATIENCE * 10)
        self.assertEqual(len(self.store.writing), 1)


class Rounds(WriterCase):
    def test_everything_of_one_turn_goes_in_one_batch(self) -> None:
        entries: list[Entry] = [report("1"), rejection(), Departure("a")]
        self.save(*entries)
        self.assertEqual(self.store.writing, [])
        self.turn()
        self.assertEqual([written.entries for written in self.store.writing], [entries])

    def test_what_arrives_during_a_round_forms_the_next(self) -> None:
        self.save(report("1"))
        self.turn()
        self.save(report("2"))
        self.save(report("3"))
        self.turn()
        self.assertEqual(len(self.store.writing), 1)
        self.store.commit_all()
        self.assertEqual([len(written.entries) for written in self.store.writing], [2])

    def test_what_is_not_committed_can_be_looked_at(self) -> None:
        entries: list[Entry] = [report("1"), report("2"), rejection()]
        self.save(entries[0])
        self.turn()
        self.save(*entries[1:])
        self.assertEqual(list(self.writer.unfinished()), entries)
        self.store.commit_all()
        self.assertEqual(list(self.writer.unfinished()), entries[1:])
        self.store.commit_all()
        self.assertEqual(list(self.writer.unfinished()), [])

    def test_a_deferred_fires_with_its_commit_and_not_before(self) -> None:
        (saved,) = self.save(report())
        self.turn()
        self.assertNoResult(saved)
        self.store.commit_all()
        self.assertIsNone(self.successResultOf(saved))

    def test_an_idle_writer_has_no_timer(self) -> None:
        self.save(report())
        self.turn()
        self.store.commit_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_time_of_each_commit_is_observed(self) -> None:
        self.save(report(), report())
        self.turn()
        self.clock.advance(0.25)
        self.store.commit_all()
        self.assertEqual(self.observed, [(2, 0.25)])


class Caps(WriterCase):
    max_entries = 10
    max_rows = 100

    def batches(self) -> list[int]:
        """Sizes of the batches until nothing is left."""
        self.turn()
        sizes = []
        while self.store.writing:
            sizes.append(len(self.store.writing[0].entries))
            self.store.commit_all()
        return sizes

    def test_a_batch_has_no_more_entries_than_allowed(self) -> None:
        self.save(*(report() for _ in range(25)))
        self.assertEqual(self.batches(), [10, 10, 5])

    def test_a_batch_has_no_more_rows_than_allowed(self) -> None:
        self.save(*(report(*["1"] * 40) for _ in range(5)))
        self.assertEqual(self.batches(), [2, 2, 1])

    def test_one_entry_may_be_larger_than_a_batch(self) -> None:
        self.save(report(*["1"] * 500), report())
        self.assertEqual(self.batches(), [1, 1])

    def test_a_large_payload_counts(self) -> None:
        self.save(*(rejection(payload=b"x" * 65_536) for _ in range(3)))
        self.assertEqual(self.batches(), [1, 1, 1])

    def test_a_release_comes_after_its_message(self) -> None:
        entries: list[Entry] = [report(delivery=delivery(1)), Release("client", 1), Forget("client")]
        self.save(*entries)
        self.turn()
        seen: list[object] = []
        while self.store.writing:
            seen += [entry for written in self.store.writing for entry in written.entries]
            self.store.commit_all()
            self.turn()
        self.assertEqual(seen, [entries[0], entries[1], entries[2]])


class Shards(WriterCase):
    slots = 4

    def test_an_agent_always_has_the_same_shard(self) -> None:
        for _ in range(3):
            self.save(*(report(uuid=str(number)) for number in range(50)))
            self.save(*(Departure(str(number)) for number in range(50)))
            self.turn()
            shards: dict[str, set[int]] = {}
            for written in self.store.writing:
                for entry in written.entries:
                    uuid = entry.agent.uuid if isinstance(entry, Report) else getattr(entry, "uuid", "")
                    shards.setdefault(uuid, set()).add(written.shard)
            self.assertEqual({len(found) for found in shards.values()}, {1})
            self.store.commit_all()

    def test_each_batch_is_acknowledged_on_its_own_commit(self) -> None:
        saved = {number: self.writer.save(report(uuid=str(number))) for number in range(50)}
        self.turn()
        first, *others = self.store.writing
        self.store.writing = []
        first.commit()
        self.assertEqual(sum(deferred.called for deferred in saved.values()), len(first.entries))
        self.save(report())
        self.turn()
        self.assertEqual(self.store.writing, [], "the round has not ended yet")
        for written in others:
            written.commit()
        self.assertEqual(len(self.store.writing), 1)
        self.assertTrue(all(deferred.called for deferred in saved.values()))

    def test_a_release_waits_for_its_message_in_another_shard(self) -> None:
        messages = [report(uuid=str(number), delivery=delivery(number)) for number in range(1, 20)]
        self.save(*messages, *(Release("client", number) for number in range(1, 20)), Forget("client"))
        self.turn()
        first = [entry for written in self.store.writing for entry in written.entries]
        self.assertEqual({type(entry) for entry in first}, {Report})
        self.store.commit_all()
        kinds = []
        while self.store.writing:
            kinds.append({type(entry) for written in self.store.writing for entry in written.entries})
            self.store.commit_all()
        self.assertEqual(kinds, [{Release}, {Forget}])


class Books(WriterCase):
    def test_messages_are_counted_and_other_entries_are_not(self) -> None:
        self.save(report(), report(), rejection(), Departure("a"), Release("c", 1), Forget("c"))
        self.assert_balanced()
        self.assertEqual((self.writer.received, self.writer.pending, self.writer.waiting), (3, 3, 6))
        self.turn()
        for written in self.store.writing[:]:
            written.commit(duplicates=1)
        self.assert_balanced()
        self.assertEqual((self.writer.stored, self.writer.duplicates, self.writer.rejected), (1, 1, 1))

    def test_a_batch_that_is_committed_in_parts_balances_after_each(self) -> None:
        saved = self.save(report(), report(), rejection())
        self.turn()
        (written,) = self.store.writing
        first, second = written.batch.halves()
        first.committed(Outcome(stored=1))
        self.assert_balanced()
        self.assertEqual([deferred.called for deferred in saved], [True, False, False])
        second.committed(Outcome(stored=1, rejected=1))
        self.assert_balanced()
        self.assertEqual(self.writer.pending, 0)


class TakenForDead(WriterCase):
    """Row 566: another daemon has fenced this one, and has its Sessions."""

    def fence(self) -> None:
        self.said = observe_lines(self)
        self.writer.fenced()
        self.turn()

    def test_what_waits_and_touches_a_packet_identifier_is_given_up_in_its_turn(self) -> None:
        (under_way,) = self.save(report(delivery=delivery(1)))
        self.turn()
        kept = self.save(report("1"), rejection(), Departure("a"))
        left = self.save(report("2", delivery=delivery(2)), report("3", delivery=delivery(1, dup=True)))
        self.fence()
        for each in left:
            self.failureResultOf(each, Fenced)
        self.assert_balanced()
        self.assertEqual((self.writer.given_up, self.writer.waiting), (2, 4))
        (written,) = self.store.writing
        self.assertTrue(written.batch.incarnation.over)
        written.commit()
        self.successResultOf(under_way)
        self.turn()
        written = self.store.writing[-1]
        self.assertEqual((len(written.entries), written.batch.incarnation.over), (3, False))
        written.commit()
        for each in kept:
            self.successResultOf(each)
        text = "other daemons have taken over from this one: 2 messages at QoS 2 are left to them"
        self.assertEqual(self.said[:1], [text])

    def test_a_release_and_a_forget_that_wait_for_what_is_under_way_are_given_up_after_it(self) -> None:
        self.save(report(delivery=delivery(1)))
        self.turn()
        last = self.save(Release("client", 1), Forget("client"))
        drained = self.writer.drain()
        self.fence()
        for each in last:
            self.assertNoResult(each)
        self.store.writing.pop().commit()
        for each in last:
            self.failureResultOf(each, Fenced)
        self.turn()
        self.successResultOf(drained)
        self.assertEqual((self.writer.given_up, self.writer.waiting, self.said), (0, 0, []))

    def test_drain_fires_when_all_that_waited_is_given_up(self) -> None:
        message, release = self.save(report(delivery=delivery(1)), Release("client", 1))
        drained = self.writer.drain()
        self.fence()
        for each in message, release:
            self.failureResultOf(each, Fenced)
        self.successResultOf(drained)
        self.assertEqual(self.store.writing, [])
        self.assert_balanced()

    def test_what_comes_afterwards_is_of_the_next_incarnation(self) -> None:
        self.fence()
        (saved,) = self.save(report(delivery=delivery(1)))
        self.turn()
        self.assertFalse(self.store.writing[-1].batch.incarnation.over)
        self.store.commit_all()
        self.successResultOf(saved)


class TheEnd(WriterCase):
    def test_drain_waits_for_everything_also_what_comes_later(self) -> None:
        self.save(report())
        drained = self.writer.drain()
        self.turn()
        (late,) = self.save(report())
        self.store.commit_all()
        self.turn()
        self.assertNoResult(drained)
        self.store.commit_all()
        self.turn()
        self.successResultOf(drained)
        self.successResultOf(late)

    def test_those_who_wait_hear_of_a_commit_before_drain_fires(self) -> None:
        order: list[str] = []
        (saved,) = self.save(report())
        self.writer.drain().addCallback(lambda _: order.append("drained"))
        saved.addCallback(lambda _: order.append("saved"))
        self.turn()
        self.store.commit_all()
        self.turn()
        self.assertEqual(order, ["saved", "drained"])

    def test_drain_fires_at_once_when_nothing_waits(self) -> None:
        self.successResultOf(self.writer.drain())

    def test_after_stop_nothing_is_accepted_and_nothing_acknowledged(self) -> None:
        (committing,) = self.save(report())
        self.turn()
        (queued,) = self.save(report())
        self.writer.stop()
        self.failureResultOf(queued, StoreStopped)
        self.failureResultOf(self.writer.save(report()), StoreStopped)
        self.assertNoResult(committing)
        self.assert_balanced()

    def test_a_failure_of_the_store_ends_the_round_and_is_logged(self) -> None:
        self.save(report())
        self.turn()
        self.store.writing.pop().answer.errback(KeyError("a bug"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.save(report())
        self.turn()
        self.assertEqual(len(self.store.writing), 1)

    def test_a_release_that_waited_is_refused_after_stop(self) -> None:
        message, release = self.save(report(delivery=delivery(1)), Release("client", 1))
        self.writer.stop()
        self.failureResultOf(message, StoreStopped)
        self.failureResultOf(release, StoreStopped)
