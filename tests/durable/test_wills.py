"""A daemon that is killed just behind the commit of a Will. ADR 0231."""

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from platziverse.broker.records import Queued, SessionRecord, Subscribed, WillLeft
from platziverse.durable.store import PostgresSessionStore
from platziverse.testing import BrokerHarness
from tests.durable.test_store import SessionStoreCase, Steps


class Killed:
    """A store whose daemon is killed as soon as a message is committed, before anybody has heard of it."""

    def __init__(self, store: PostgresSessionStore) -> None:
        self._store, self.dead = store, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def save(self, record: SessionRecord) -> "Deferred[None]":
        saved: Deferred[None] = Deferred()
        if not self.dead:
            committed = self._store.save(record)
            if isinstance(record, Queued):
                committed.addCallback(self._die)
            else:
                committed.chainDeferred(saved)
        return saved

    def _die(self, _: None) -> None:
        self.dead = True


class Kills(SessionStoreCase):
    @inlineCallbacks
    def test_its_will_is_not_published_once_more(self) -> Steps:
        for qos in (1, 2):
            yield self.store.save(WillLeft("dying", None, qos, "w", b"gone", qos, True))
            yield self.store.save(Subscribed(self.session, (("w", qos),)))
            killed = Killed(self.store)
            BrokerHarness(sessions=killed)
            while not killed.dead:
                yield deferLater(reactor, 0.01)
            self.assertEqual((yield self.store.wills()), [])
            yield self.begin_again()
            self.assertEqual(self.positions(), list(range(1, qos + 1)))

    @inlineCallbacks
    def begin_again(self) -> Steps:
        harness = BrokerHarness(sessions=self.store)
        while not harness.loaded.called:
            yield deferLater(reactor, 0.01)
            harness.turn()
        yield self.store.save(Subscribed(self.session, (("w", 2),)))  # behind all that it has saved
