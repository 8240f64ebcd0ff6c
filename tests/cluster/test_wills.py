"""What is stored of a Will goes with the rows of all daemons, also if the message waits. ADR 0231."""

from platziverse.broker.records import Queued, WillGone, WillLeft, link
from platziverse.mqtt.packets import Publish
from tests.cluster.test_links import Case


class Wills(Case):
    def lose(self, retain: bool) -> None:
        """Lose a client of daemon 1 with a Will for Sessions of both; nothing is committed there any more."""
        self.daemons.advance(1)
        self.one.listening("here", "a", 2, clean_session=False).lose()
        self.durable(self.two, 2).lose()
        dying = self.one.connect("dying", will=Publish("a", b"gone", 2, retain))
        self.shares[1].held = True
        dying.lose()
        self.settle()

    def wills(self) -> list[WillLeft]:
        return self.successResultOf(self.table.store.wills())

    def commit(self) -> None:
        """Commit what daemon 1 has saved so far: with its rows the Will is gone."""
        self.assertEqual((self.committed(), len(self.wills())), ([], 1))
        self.shares[1].commit()
        (found,) = self.committed()
        self.assertEqual((len(found.rows), link(1, 2) in found.rows), (2, True))
        self.assertEqual((self.wills(), self.gone()), ([], 0))
        self.shares[1].resume()
        self.assertEqual(self.gone(), 1)

    def gone(self) -> int:
        return len([record for record in self.table.store.records if isinstance(record, WillGone)])

    def committed(self) -> list[Queued]:
        return [record for record in super().committed() if not record.crossed]

    def test_rows_of_links_and_of_our_own_sessions_are_one_record(self) -> None:
        for retain in (False, True):
            self.setUp()
            self.lose(retain)
            self.commit()

    def test_one_that_waits_for_a_session_on_its_way(self) -> None:
        for retain in (False, True):
            self.setUp()
            delaying = self.one.cluster.routing.delaying
            delay = delaying.begin(["a"])
            self.lose(retain)
            self.shares[1].commit()
            delaying.end(delay)
            self.daemons.turn()
            self.commit()
