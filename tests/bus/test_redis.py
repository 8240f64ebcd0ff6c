"""RedisBus against real servers that die, hang and refuse, and against servers that are none."""

import os
import signal
from collections.abc import Callable, Generator
from functools import partial
from typing import Any
from uuid import uuid4

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from platziverse.bus.making import make_bus
from platziverse.bus.settings import BusSettings
from tests.doubles.membership import Members, MemoryMembership
from tests.doubles.receiver import Receiver
from tests.logs import observe_lines
from tests.redis import MISSING_REDIS, RedisServer, redis

reactor: Any = the_reactor
Steps = Generator["Deferred[Any]", Any, None]


class BusTestCase(TestCase):
    """A TestCase that makes buses of one set."""

    skip = MISSING_REDIS or None
    timeout = 120

    def setUp(self) -> None:
        self.members = Members()
        self.name = f"test-{uuid4().hex[:12]}"
        self.lines = observe_lines(self)

    def server(self, *options: str) -> RedisServer:
        server = RedisServer(*options)
        self.addCleanup(server.remove)
        return server

    def bus(self, url: str, member: MemoryMembership, name: str = "", **settings: Any) -> Any:
        bus = make_bus(BusSettings(url=url, name=name or self.name, **settings), reactor, member)
        self.addCleanup(bus.stop)  # type: ignore[union-attr]
        return bus

    @inlineCallbacks
    def two(self, url: str, **settings: Any) -> Generator["Deferred[Any]", Any, tuple[Any, Any, Receiver]]:
        """Start the buses of daemons 1 and 2; the Deferred fires with both, and the receiver of 2."""
        first, second = (self.bus(url, self.members.join(number), **settings) for number in (1, 2))
        receiver = Receiver()
        yield gatherResults([first.start(Receiver()), second.start(receiver)])
        return first, second, receiver

    @inlineCallbacks
    def until(self, condition: Callable[[], object]) -> Steps:
        while not condition():
            yield deferLater(reactor, 0.01)

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


class FaultTests(BusTestCase):
    @inlineCallbacks
    def test_row_375_a_redis_that_was_killed_and_is_back(self) -> Steps:
        """Frames sent meanwhile are counted, receivers are told, one line says so at either end."""
        server = self.server()
        first, second, receiver = yield self.two(server.url)
        first.send(4, b"before")
        yield self.until(lambda: receiver.frames)
        server.stop()
        yield self.until(lambda: first.state.startswith("away") and second.state.startswith("away"))
        first.send(4, b"meanwhile")
        yield self.until(lambda: first.lost)
        self.assertEqual((first.lost, receiver.gaps), (1, []))
        server.start()
        yield self.until(lambda: (first.state, second.state) == ("ready", "ready"))
        self.assertEqual(receiver.gaps, [1])
        first.send(4, b"after")
        yield self.until(lambda: len(receiver.frames) == 2)
        self.assertEqual(receiver.frames, [(1, b"before"), (1, b"after")])
        self.assertEqual(self.count("is there again, after"), 2)
        self.assertEqual(self.count(f"the bus {server.url} is away"), 2)
        self.assertIn(f"the bus {server.url} is away: 127.0.0.1:{server.port} ", "\n".join(self.lines))

    @inlineCallbacks
    def test_a_start_waits_for_a_redis_that_is_not_there_yet(self) -> Steps:
        server = self.server()
        server.stop()
        bus = self.bus(server.url, self.members.join(1))
        started = bus.start(Receiver())
        yield self.until(lambda: bus.state.startswith("away"))
        self.assertRegex(bus.state, r"^away: 127.0.0.1:\d+ cannot be reached: Connection was refused")
        self.assertNoResult(started)
        server.start()
        yield started
        self.assertEqual(bus.state, "ready")

    @inlineCallbacks
    def test_a_stop_is_possible_at_any_moment(self) -> Steps:
        """While it connects, logs in, subscribes, waits for the next try, and from within a callback."""
        server = self.server()
        member = self.members.join(1)
        for turns in range(12):
            bus = self.bus(server.url, member)
            bus.start(Receiver())
            for _ in range(turns):
                yield deferLater(reactor, 0)
            yield bus.stop()
        bus = self.bus(server.url, member)
        yield bus.start(Receiver()).addCallback(lambda _: bus.stop())
        server.stop()
        bus = self.bus(server.url, member)
        bus.start(Receiver())
        yield self.until(partial(self.is_away, bus))
        yield bus.stop()

    @inlineCallbacks
    def test_row_376_a_reader_that_redis_cuts_off(self) -> Steps:
        """Its receiver is told of every daemon that may have sent something."""
        server = self.server()
        first, second, receiver = yield self.two(server.url)
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        first.send(4, b"into the gap")
        yield self.until(lambda: receiver.gaps)
        self.assertEqual((receiver.gaps, second.state), ([1], "ready"))
        first.send(4, b"after")
        yield self.until(lambda: receiver.frames[-1:] == [(1, b"after")])

    @inlineCallbacks
    def test_a_sender_that_redis_cuts_off(self) -> Steps:
        """Receivers are told of the gap though nothing follows, and their own connection was never cut."""
        server = self.server()
        first, _, receiver = yield self.two(server.url)
        first.send(4, b"before")
        yield self.until(lambda: receiver.frames)
        server.command("CLIENT", "KILL", "TYPE", "normal")
        first.send(4, b"into the void")
        yield self.until(lambda: receiver.gaps)
        self.assertEqual((receiver.gaps, receiver.frames, first.lost), ([1], [(1, b"before")], 1))

    @inlineCallbacks
    def test_row_377_a_redis_that_hangs(self) -> Steps:
        """What is sent beyond ``bus.max_pending`` is dropped, counted and said; the rest arrives."""
        server = self.server()
        first, _, receiver = yield self.two(server.url, max_pending=20_000)
        server.send_signal(signal.SIGSTOP)
        for _ in range(5):
            first.send(4, bytes(8000))
            yield deferLater(reactor, 0)
        yield self.until(lambda: first.lost == 3)
        server.send_signal(signal.SIGCONT)
        yield self.until(lambda: len(receiver.frames) == 2)
        first.send(4, b"after")
        yield self.until(lambda: len(receiver.frames) == 3)
        self.assertEqual(receiver.gaps, [1])
        self.assertEqual(self.count("frames are dropped beyond 20000 bytes (bus.max_pending)"), 3)

    @inlineCallbacks
    def test_a_frame_larger_than_what_may_be_pending_goes_alone(self) -> Steps:
        first, _, receiver = yield self.two(redis().url, max_pending=1024)
        first.send(4, bytes(10_000))
        yield self.until(lambda: receiver.frames)
        self.assertEqual((first.lost, first.pending), (0, 0))

    @inlineCallbacks
    def test_row_378_a_half_open_connection(self) -> Steps:
        """A proxy that swallows everything is noticed within some seconds, on both connections."""
        proxy = BlackHole(redis().port)
        self.addCleanup(proxy.stop)
        first, second, receiver = yield self.two(f"redis://127.0.0.1:{proxy.port}")
        proxy.swallow(True)
        yield self.until(lambda: first.state.startswith("away") and second.state.startswith("away"))
        self.assertIn("has not answered for 5 s", first.state)
        proxy.swallow(False)
        yield self.until(lambda: (first.state, second.state) == ("ready", "ready"))
        self.assertEqual(receiver.gaps, [1])

    @inlineCallbacks
    def test_row_379_a_server_that_is_no_redis(self) -> Steps:
        for answer in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x20\x02\x00\x00",
            b"*4294967295\r\n",
            b"$-7\r\n",
        ):
            port = yield self.listen(answer)
            bus = self.bus(f"redis://127.0.0.1:{port}", self.members.join(1))
            bus.start(Receiver())
            yield self.until(partial(self.is_away, bus))
            self.assertEqual(bus.state, f"away: 127.0.0.1:{port} does not speak the Redis protocol")
            yield bus.stop()

    def is_away(self, bus: Any) -> bool:
        return str(bus.state).startswith("away")

    def listen(self, answer: bytes) -> "Deferred[int]":
        class Liar(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(answer)  # type: ignore[union-attr]

        port = reactor.listenTCP(0, Factory.forProtocol(Liar), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return deferLater(reactor, 0, lambda: int(port.getHost().port))


class RightsTests(BusTestCase):
    """One line each, that says what to set."""

    @inlineCallbacks
    def refused(self, url: str, **settings: Any) -> Generator["Deferred[Any]", Any, str]:
        bus = self.bus(url, self.members.join(1), **settings)
        bus.start(Receiver())
        yield self.until(lambda: bus.state.startswith("away"))
        state = str(bus.state)
        yield bus.stop()
        return state

    @inlineCallbacks
    def test_row_380_a_wrong_password(self) -> Steps:
        server = self.server("--requirepass", "right")
        state = yield self.refused(server.url, password="wrong-secret")
        self.assertIn("answers: WRONGPASS", state)
        self.assertIn("check bus.password, bus.password_file or the user and password in bus.url", state)
        state = yield self.refused(server.url)
        self.assertIn("set bus.password_file, or PLATZIVERSE_BUS_PASSWORD in the environment", state)
        state = yield self.refused(self.server().url, password="wrong-secret")
        self.assertIn("it has no password; take ours out of the configuration", state)
        self.assertEqual(self.count("wrong-secret"), 0)

    @inlineCallbacks
    def test_a_password_comes_from_the_url_the_setting_or_a_file(self) -> Steps:
        server = self.server("--requirepass", "ri ght", "--user", "pv", "on", ">pv", "&pv:*", "+@all")
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("ri ght\nanother line\n")
        host = f"127.0.0.1:{server.port}"
        ways: list[tuple[str, dict[str, str]]] = [
            (f"redis://:ri%20ght@{host}/3", {}),
            (f"redis://{host}", {"password": "ri ght"}),
            (f"redis://{host}", {"password_file": path}),
            (f"redis://pv:pv@{host}", {}),
            (f"redis://pv@{host}", {"password": "pv"}),
        ]
        for url, settings in ways:
            bus = self.bus(url, self.members.join(1), **settings)
            yield bus.start(Receiver())
            yield bus.stop()
        self.assertEqual(self.count("ght@") + self.count("pv:pv"), 0)

    @inlineCallbacks
    def test_a_password_that_is_replaced_in_its_file_is_used_for_the_next_connection(self) -> Steps:
        """Row 551."""
        server, path = self.server("--requirepass", "first"), self.mktemp()
        with open(path, "w") as file:
            file.write("first\n")
        bus = self.bus(server.url, self.members.join(1), password_file=path)
        yield bus.start(Receiver())
        server.stop()
        server.start("--requirepass", "second")
        yield self.until(lambda: "WRONGPASS" in bus.state)
        os.rename(path, f"{path}~")
        yield self.until(lambda: f"{path}: cannot be read: No such file" in bus.state)
        with open(path, "w") as file:
            file.write("second\n")
        yield self.until(lambda: bus.state == "ready")

    @inlineCallbacks
    def test_row_381_a_user_without_permission(self) -> Steps:
        for rights in (
            ["+@all", "-publish", "&pv:*"],
            ["+@all", "-subscribe", "&pv:*"],
            ["+@all", "&other:*"],
        ):
            server = self.server("--user", "pv", "on", "nopass", "resetchannels", *rights)
            state = yield self.refused(f"redis://pv:any@127.0.0.1:{server.port}")
            self.assertIn("answers: NOPERM", state)
            self.assertIn("give the user &pv:* +publish +subscribe", state)

    @inlineCallbacks
    def test_the_rights_that_the_advice_names_are_enough(self) -> Steps:
        rights = ["resetchannels", "&pv:*", "+publish", "+subscribe", "+ping", "+select"]
        server = self.server("--user", "pv", "on", ">pv", *rights)
        first, _, receiver = yield self.two(f"redis://pv:pv@127.0.0.1:{server.port}/1")
        first.send(4, b"may")
        yield self.until(lambda: receiver.frames)


class StrangerTests(BusTestCase):
    @inlineCallbacks
    def test_row_382_messages_that_are_none_of_this_set(self) -> Steps:
        """They are refused, counted, and said; what comes behind them is taken."""
        first, second, receiver = yield self.two(redis().url)
        for message in ("", "hello", "PV\x02\x04abcd", "PV\x01\x05other"):
            for _ in range(20):
                redis().command("PUBLISH", f"pv:{self.name}:{{2}}", message)
        first.send(4, b"ours")
        yield self.until(lambda: receiver.frames)
        self.assertEqual(receiver.frames, [(1, b"ours")])
        self.assertEqual(receiver.gaps, [])
        self.assertEqual(sorted(second.inbox.refused.values()), [20, 20, 40])
        self.assertTrue(self.count("messages of version 2, this platziverse knows 1; update the older one"))
        self.assertTrue(0 < self.count("ignored on the bus") <= 15)

    @inlineCallbacks
    def test_row_383_two_installations_with_one_name_on_one_redis(self) -> Steps:
        """Both have a daemon 1; neither takes the frames of the other, and each says what to do."""
        others = Members()
        ours, theirs = (self.bus(redis().url, members.join(1)) for members in (self.members, others))
        receivers = Receiver(), Receiver()
        yield gatherResults([ours.start(receivers[0]), theirs.start(receivers[1])])
        ours.send(-1, b"ours")
        theirs.send(-1, b"theirs")
        yield self.until(lambda: ours.inbox.refused and theirs.inbox.refused)
        self.assertEqual([receiver.frames for receiver in receivers], [[], []])
        self.assertEqual(
            self.count("another daemon is number 1 as we are; if two installations use one server"), 2
        )

    @inlineCallbacks
    def test_sets_with_other_names_do_not_hear_each_other(self) -> Steps:
        ours = self.bus(redis().url, self.members.join(1))
        theirs = self.bus(redis().url, Members().join(1), name=f"{self.name}-2")
        receivers = Receiver(), Receiver()
        yield gatherResults([ours.start(receivers[0]), theirs.start(receivers[1])])
        for bus in (ours, theirs):
            bus.send(-1, b"any")
            bus.send(-1, b"more")
        yield deferLater(reactor, 0.1)
        self.assertEqual([receiver.frames for receiver in receivers], [[], []])
        self.assertEqual((ours.inbox.refused, theirs.inbox.refused), ({}, {}))


class NumberTests(BusTestCase):
    @inlineCallbacks
    def test_a_daemon_that_registers_again_is_taken_for_a_new_one(self) -> Steps:
        first, _, receiver = yield self.two(redis().url)
        first.send(4, b"one")
        yield self.until(lambda: receiver.frames)
        self.members.fence(1)
        first.send(4, b"two")
        yield self.until(lambda: len(receiver.frames) == 2)
        self.assertEqual(receiver.gaps, [])

    @inlineCallbacks
    def test_a_daemon_without_a_number_waits_for_one(self) -> Steps:
        member = self.members.join(2)
        number, member.ours = member.ours, None  # type: ignore[assignment]
        bus = self.bus(redis().url, member)
        receiver = Receiver()
        started = bus.start(receiver)
        bus.send(2, b"from nobody")
        yield deferLater(reactor, 0.3)
        self.assertNoResult(started)
        self.assertEqual(bus.lost, 1)
        member.ours = number
        yield started
        other = self.bus(redis().url, self.members.join(1))
        yield other.start(Receiver())
        other.send(4, b"hello")
        yield self.until(lambda: receiver.frames)

    @inlineCallbacks
    def test_a_daemon_with_another_number_receives_under_that_one(self) -> Steps:
        first, _, receiver = yield self.two(redis().url)
        member = self.members.join(3)
        self.members.leave(2)
        moved = self.bus(redis().url, member)
        yield moved.start(receiver)
        member.ours = 7, 1
        yield self.until(lambda: receiver.gaps)
        first.send(1 << 7, b"seven")
        yield self.until(lambda: receiver.frames)


class BlackHole:
    """A BlackHole passes everything on to a port of this machine, until it swallows all of it."""

    def __init__(self, port: int) -> None:
        self.swallowing = False
        self._ends: list[Protocol] = []
        self._target = port
        self._listening = reactor.listenTCP(0, Factory.forProtocol(self._incoming), interface="127.0.0.1")
        self.port = int(self._listening.getHost().port)

    def swallow(self, swallowing: bool) -> None:
        """Begin, or cease, to swallow what the connections send; those made meanwhile stay as they are."""
        self.swallowing = swallowing

    @inlineCallbacks
    def stop(self) -> Steps:
        yield self._listening.stopListening()
        for end in self._ends:
            end.transport.abortConnection()  # type: ignore[union-attr]
        yield deferLater(reactor, 0.02)

    def _incoming(self) -> "End":
        return End(self)

    def connect(self, end: "End") -> None:
        self._ends.append(end)
        if not self.swallowing:
            far = End(self, end)
            self._ends.append(far)
            connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self._target), far)


class End(Protocol):
    """An End is one end of a connection through the BlackHole."""

    def __init__(self, hole: BlackHole, other: "End | None" = None) -> None:
        self.hole, self.other = hole, other
        self.waiting = b""

    def connectionMade(self) -> None:
        if self.other is None:
            self.hole.connect(self)
        else:
            self.other.other = self
            self.pass_on(self.other.waiting)

    def dataReceived(self, data: bytes) -> None:
        if self.hole.swallowing:
            return
        if self.other is None:
            self.waiting += data
        else:
            self.other.pass_on(data)

    def pass_on(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: object = None) -> None:
        if self.other is not None and self.other.transport is not None and not self.hole.swallowing:
            self.other.transport.loseConnection()
