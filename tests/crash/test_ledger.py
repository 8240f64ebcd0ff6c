"""The ledger notices what it is there to notice: each violation, made on purpose."""

import random
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.deliveries import Deliveries
from tests.crash.invariants import check_books, check_log, check_presence, check_roll_ups, check_stored_soon
from tests.crash.ledger import BAD, GOOD, MIXED, Ledger
from tests.crash.promises import check_nothing_dropped
from tests.crash.publisher import Profile
from tests.crash.reports import Reports
from tests.postgres.rolled import Rolled
from tests.servers import MISSING, cluster

UUID = "agent-1-0"


class TheLedger(SynchronousTestCase):
    def setUp(self) -> None:
        self.ledger = Ledger()
        self.ledger.opened(UUID)

    def sent(self, once: bool = True, kind: int = GOOD, qos: int = 1, acked: bool = True) -> int:
        n = self.ledger.sending(UUID, once, kind, qos)
        if acked:
            self.ledger.acknowledged(UUID, n)
        return n

    def stored(self, n: int, *kinds: str) -> None:
        for kind in kinds or ("n", "again"):
            self.ledger.row(UUID, kind, f"{UUID}:{n}")

    def settled(self) -> list[str]:
        self.ledger.settle(self.ledger.open_messages(acknowledged=False))
        return list(self.ledger.violated)

    def test_everything_in_its_place_is_no_violation(self) -> None:
        self.stored(self.sent())
        self.stored(self.sent(kind=MIXED), "n")
        self.ledger.rejection(b"... agent-1-0:1 ...")
        self.sent(kind=BAD)
        self.ledger.rejection(b"... agent-1-0:2 ...")
        self.assertEqual(self.settled(), [])
        self.ledger.raise_violations()

    def test_an_acknowledged_message_without_rows_is_lost(self) -> None:
        self.sent()
        self.assertEqual(self.settled(), ["acknowledged but lost"])
        self.assertRaises(AssertionError, self.ledger.raise_violations)

    def test_a_bad_message_without_a_rejection_is_lost(self) -> None:
        self.sent(kind=BAD)
        self.assertEqual(self.settled(), ["acknowledged but lost"])

    def test_half_a_message_is_noticed(self) -> None:
        self.stored(self.sent(acked=False, qos=0), "n")
        self.ledger.daemon_killed()
        self.assertEqual(self.settled(), ["stored in part"])

    def test_a_second_copy_is_noticed_where_once_is_promised(self) -> None:
        n = self.sent()
        self.stored(n, "n", "again", "again", "n")
        self.assertEqual(self.settled(), ["stored twice"])

    def test_a_second_copy_is_counted_where_it_is_not(self) -> None:
        self.stored(self.sent(once=False), "n", "again", "again", "n")
        self.assertEqual((self.settled(), self.ledger.repeated), ([], 2))

    def test_qos_0_may_be_lost_with_the_daemon_only(self) -> None:
        self.sent(qos=0, acked=False)
        self.ledger.daemon_killed()
        self.assertEqual(self.settled(), [])
        self.sent(qos=0, acked=False)
        self.assertEqual(self.settled(), ["not stored"])

    def test_the_order_of_one_agent_is_watched(self) -> None:
        first, second = self.sent(), self.sent()
        self.stored(second)
        self.stored(first)
        self.assertEqual(self.settled(), ["stored out of order"])

    def test_rows_of_nobody_are_noticed(self) -> None:
        self.ledger.row(UUID, "n", "something else")
        self.ledger.row("agent-1-9", "n", f"{UUID}:{self.sent(acked=False, qos=0)}")
        self.ledger.rejection(b"who was that?")
        self.assertEqual(
            list(self.ledger.violated),
            ["stored but never sent", "stored for another agent", "rejected but never sent"],
        )

    def test_a_valid_message_among_the_rejected_is_noticed(self) -> None:
        n = self.sent()
        self.stored(n)
        self.ledger.rejection(f"{UUID}:{n}".encode())
        self.assertEqual(self.settled(), ["rejected though it is valid"])


class TheOthers(SynchronousTestCase):
    def setUp(self) -> None:
        self.ledger = Ledger()

    def test_presence_has_to_be_exact(self) -> None:
        def rows(_: str) -> list[tuple[str]]:
            return [("a",), ("b",)]

        check_presence(self.ledger, rows, lambda: ({"a"}, {"a", "b"}))
        self.assertEqual(self.ledger.violations, [])
        check_presence(self.ledger, rows, lambda: ({"b", "c"}, {"b", "c"}), patience=0.0)
        self.assertEqual(self.ledger.violations, ["presence: missing ['c'], too many ['a']"])

    def test_a_traceback_is_an_internal_error(self) -> None:
        check_log(self.ledger, ["warn  store: the database is away", "warn  net: Closing 1.2.3.4:5 'a'"])
        self.assertEqual(self.ledger.violations, [])
        check_log(self.ledger, ["critical service: oh", "    Traceback (most recent call last):"])
        self.assertEqual(self.ledger.violated["internal error"], 2)
        check_log(
            self.ledger, ["warn  broker: The queue of 'a', who is absent, is full (max_queued_messages)"]
        )
        self.assertEqual(self.ledger.violated["dropped"], 1)

    def test_a_counter_that_says_dropped_is_noticed(self) -> None:
        check_nothing_dropped(self.ledger, {"platziverse_receivers_dropped_total": 0.0})
        self.assertEqual(self.ledger.violations, [])
        check_nothing_dropped(self.ledger, {"platziverse_receivers_dropped_total": 2.0})
        self.assertEqual(self.ledger.violations, ["dropped: platziverse_receivers_dropped_total is 2"])

    def test_the_books_have_to_balance(self) -> None:
        names = (
            "received_total",
            "stored_total",
            "duplicates_total",
            "rejected_total",
            "given_up_total",
            "pending",
        )
        for values in ((8, 4, 2, 1, 1, 0), (7, 4, 1, 1, 0, 0), (7, 4, 1, 1, 0, 1)):
            pairs = zip(names, values, strict=True)
            check_books(self.ledger, {f"platziverse_ingest_{name}": float(value) for name, value in pairs})
        self.assertEqual(len(self.ledger.violations), 2)

    def test_what_is_never_acknowledged_is_late(self) -> None:
        profile = Profile("qos1", (1,), persistent=True, timestamped=True)
        work = Reports(UUID, profile, self.ledger, Deliveries(self.ledger), random.Random(1))
        since = time.monotonic()
        self.assertIsNone(check_stored_soon(self.ledger, [(work, work.next().n)], 0.05))
        self.assertLess(time.monotonic() - since, 30)
        self.assertEqual(list(self.ledger.violated), ["stored late"])


class TheRollUps(SynchronousTestCase):
    skip = MISSING or None

    def test_a_bucket_that_says_something_else_is_noticed(self) -> None:
        ledger, rolled = Ledger(), Rolled(cluster().database())
        check_roll_ups(ledger, rolled.sql)
        self.assertEqual(dict(ledger.violated), {"roll-up": 1})  # there is none
        rolled.measure("1")
        check_roll_ups(ledger, rolled.sql)
        self.assertEqual(dict(ledger.violated), {"roll-up": 1})
        rolled.sql("UPDATE metrics SET number = 2")
        check_roll_ups(ledger, rolled.sql)
        self.assertEqual(ledger.violated["roll-up"], 4)
