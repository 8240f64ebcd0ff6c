"""The bus when Sentinels choose another master, and when the slots of a cluster move."""

import itertools
from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.bus.test_redis import BusTestCase, Steps, reactor
from tests.doubles.receiver import Receiver
from tests.redis import MISSING_REDIS, RedisCluster, RedisServer, SentinelGroup, cluster, sentinels


class SentinelTests(BusTestCase):
    @inlineCallbacks
    def test_row_384_a_master_that_dies_is_replaced(self) -> Steps:
        """The bus follows to the other one within seconds, and receivers are told of the gap."""
        group = SentinelGroup()
        self.addCleanup(group.remove)
        first, second, receiver = yield self.two(group.url)
        first.send(4, b"before")
        yield self.until(lambda: receiver.frames)
        group.master.stop()
        yield self.until(lambda: first.state.startswith("away") and second.state.startswith("away"))
        yield self.until(lambda: (first.state, second.state) == ("ready", "ready"))
        self.assertEqual(receiver.gaps, [1])
        first.send(4, b"after")
        yield self.until(lambda: receiver.frames[-1] == (1, b"after"))
        self.assertIn("role:master", group.replica.command("INFO", "replication"))

    @inlineCallbacks
    def test_sentinels_that_are_away_are_passed_over(self) -> Steps:
        gone = RedisServer()
        gone.remove()
        url = sentinels().url.replace("//", f"//127.0.0.1:{gone.port},")
        first, _, receiver = yield self.two(url)
        first.send(4, b"arrives")
        yield self.until(lambda: receiver.frames)

    @inlineCallbacks
    def test_a_master_that_no_sentinel_knows_is_said(self) -> Steps:
        bus = self.bus(sentinels().url.replace("/main", "/other"), self.members.join(1))
        bus.start(Receiver())
        yield self.until(lambda: bus.state.startswith("away"))
        self.assertIn("knows no master 'other'; check the end of bus.url", bus.state)

    @inlineCallbacks
    def test_the_password_is_the_masters_though_sentinels_want_none(self) -> Steps:
        master = self.server("--requirepass", "secret")
        lines = f"sentinel monitor main 127.0.0.1 {master.port} 1\nsentinel auth-pass main secret\n"
        sentinel = RedisServer(sentinel=lines)
        self.addCleanup(sentinel.remove)
        url = f"redis+sentinel://:secret@127.0.0.1:{sentinel.port}/main?db=1"
        first, _, receiver = yield self.two(url)
        first.send(4, b"arrives")
        yield self.until(lambda: receiver.frames)


class ClusterTests(BusTestCase):
    @inlineCallbacks
    def three(self, url: str) -> Any:
        """Start buses of three daemons whose channels are on three nodes; returns them and the receivers."""
        from platziverse.bus.pubsub import channel
        from platziverse.bus.rediscluster import slot

        self.numbers = [
            next(n for n in itertools.count(1) if slot(channel("any", n)) * 3 // 16_384 == third)
            for third in range(3)
        ]
        buses = [self.bus(url, self.members.join(number)) for number in self.numbers]
        receivers = [Receiver() for _ in buses]
        yield gatherResults([bus.start(one) for bus, one in zip(buses, receivers, strict=True)])
        return buses, receivers

    def bit(self, third: int) -> int:
        return 1 << self.numbers[third]

    @inlineCallbacks
    def test_row_384_a_node_that_dies_is_replaced_by_its_replica(self) -> Steps:
        """Daemons on other nodes notice nothing."""
        servers = RedisCluster()
        self.addCleanup(servers.remove)
        buses, receivers = yield self.three(servers.url)
        servers.nodes[0].stop()
        yield self.until(lambda: buses[0].state.startswith("away"))
        buses[0].send(self.bit(1), b"between others")
        yield self.until(lambda: receivers[1].frames)
        self.assertEqual((receivers[1].gaps, buses[0].lost), ([], 0))
        yield self.until(lambda: [bus.state for bus in buses] == ["ready"] * 3)
        self.assertEqual(receivers[0].gaps, sorted(self.numbers[1:]))
        buses[1].send(self.bit(0), b"after")
        yield self.until(lambda: receivers[0].frames == [(self.numbers[1], b"after")])

    @inlineCallbacks
    def test_row_385_a_slot_that_moves_to_another_node(self) -> Steps:
        """Whoever sends is told MOVED, whoever has subscribed is put out; both ask who has the slot now."""
        from platziverse.bus.pubsub import channel
        from platziverse.bus.rediscluster import slot

        servers = RedisCluster()
        self.addCleanup(servers.remove)
        buses, receivers = yield self.three(servers.url)
        identity = servers.nodes[2].command("CLUSTER", "MYID").split()[1]
        moving = str(slot(channel(self.name, self.numbers[0])))
        for node in reversed(servers.nodes[:3]):
            node.command("CLUSTER", "SETSLOT", moving, "NODE", identity)
        yield self.until(lambda: receivers[0].gaps)
        while (self.numbers[1], b"after") not in receivers[0].frames:
            buses[1].send(self.bit(0), b"after")
            yield deferLater(reactor, 0.05)
        self.assertEqual([bus.state for bus in buses], ["ready"] * 3)

    @inlineCallbacks
    def test_the_rights_that_the_advice_names_are_enough(self) -> Steps:
        rights = ["resetchannels", "&pv:*", "+cluster|slots", "+spublish", "+ssubscribe", "+ping"]
        for node in cluster().nodes:
            node.command("ACL", "SETUSER", "pv", "on", ">pv", *rights)
        buses, receivers = yield self.three(cluster().url.replace("//", "//pv:pv@"))
        buses[0].send(-1, b"may")
        yield self.until(lambda: receivers[1].frames and receivers[2].frames)

    @inlineCallbacks
    def test_a_server_that_is_no_cluster_is_said(self) -> Steps:
        bus = self.bus(f"redis+cluster://127.0.0.1:{self.server().port}", self.members.join(1))
        bus.start(Receiver())
        yield self.until(lambda: bus.state.startswith("away"))
        self.assertIn("ERR This instance has cluster support disabled; write redis:// in bus.url", bus.state)


class SlotTests(SynchronousTestCase):
    skip = MISSING_REDIS or None

    def test_slots_are_those_of_redis(self) -> None:
        from platziverse.bus.rediscluster import slot

        for name in ("foo", "pv:set:{17}", "{}a", "a{b", "a{b}{c}"):
            said = cluster().nodes[0].command("CLUSTER", "KEYSLOT", name)
            self.assertEqual(f":{slot(name.encode())}\r\n", said)
