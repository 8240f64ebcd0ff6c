"""``/api/events`` and ``/api/export``, to clients that take what is written and clients that do not."""

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from platziverse.web.events import ALIVE, INTERVAL, MAX_PRESENCE, OFTEN, SLOWLY
from platziverse.web.interfaces import Export, Row, Unavailable
from platziverse.web.newest import MAX_SIZE, MAX_VALUES, Newest
from platziverse.web.settings import WebSettings
from tests.web.apicase import NOW, ApiCase
from tests.web.browser import Connection
from tests.web.tables import REJECTED


def dechunked(data: bytes) -> tuple[bytes, bool]:
    """The body of chunks, and whether it has an end."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, True
        body, data = body + data[:length], data[length + 2 :]
    return body, False


def later(asked: "list[Deferred[Row | None]]") -> Callable[..., "Deferred[Row | None]"]:
    """Answer later: what is returned is in ``asked``."""

    def answer(*given: object) -> "Deferred[Row | None]":
        asked.append(Deferred())
        return asked[-1]

    return answer


class Client(Connection):
    """A client that has asked for a stream.

    :ivar head: the lines of its answer before the body.
    """

    head = ""
    _rest = b""

    def ask(self, path: str, method: str = "GET", **headers: str) -> "Client":
        given = {"Host": "localhost:8083", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        head, _, self._rest = self.transport.value().partition(b"\r\n\r\n")
        self.head = head.decode()
        self.transport.clear()
        return self

    def body(self) -> tuple[bytes, bool]:
        """What came since the last look, and whether that was the end."""
        data = self._rest + self.transport.value()
        self._rest = b""
        self.transport.clear()
        return dechunked(data)

    def events(self) -> list[tuple[str, Any]]:
        """The events since the last look."""
        found = []
        for part in self.body()[0].decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in part.splitlines() if ": " in line)
            if "event" in lines:
                found.append((lines["event"], json.loads(lines["data"])))
        return found


class StreamCase(ApiCase):
    def client(self, path: str, **headers: str) -> Client:
        return Client(self.site).ask(path, **headers)

    def report(self, uuid: str = "yyy", client: Any = None, **values: object) -> Any:
        """A message of an agent, over a connection of its own."""
        agent = {"uuid": uuid, "name": "n", "username": "u", "pid": 1, "hostname": "h"}
        metrics = [{"type": type, "value": value} for type, value in values.items()]
        client = client or self.harness.connect(f"client of {uuid}")
        client.publish("agent/message", json.dumps({"agent": agent, "metrics": metrics}).encode())
        return client

    def lines(self, setting: str) -> list[str]:
        return [line for line in self.said if setting in line]


class EventTests(StreamCase):
    def told(self, client: Client, *names: str) -> list[tuple[str, Any]]:
        return [(name, data) for name, data in client.events() if name in (names or ("metric",))]

    def test_a_stream_begins_at_once_and_nothing_keeps_it(self) -> None:
        client = self.client("/api/events")
        self.assertIn("HTTP/1.1 200 OK", client.head)
        for header in (
            "Content-Type: text/event-stream; charset=utf-8",
            "Cache-Control: no-store",
            "X-Accel-Buffering: no",
            "Transfer-Encoding: chunked",
        ):
            self.assertIn(header.lower(), client.head.lower())
        self.assertEqual(client.body(), (b"retry: 2000\n\n", False))

    def test_values_come_within_a_quarter_of_a_second_numbers_as_numbers(self) -> None:
        client = self.client("/api/events")
        self.report(temp=21.5, count="33", word="on", huge="1e999", plus="+5", zeros="007", empty="")
        self.clock.advance(INTERVAL)
        [(_, data)] = self.told(client)
        self.assertEqual(
            data,
            {
                "agent": "yyy",
                "time": int(NOW * 1000),
                "values": {
                    "temp": 21.5,
                    "count": 33,
                    "word": "on",
                    "huge": "1e999",
                    "plus": 5,
                    "zeros": 7,
                    "empty": "",
                },
            },
        )

    def test_of_each_type_the_newest_value_is_written(self) -> None:
        client = self.client("/api/events")
        sender = self.report(temp=1, memory=5)
        self.clock.advance(0.1)
        self.report(client=sender, temp=2)
        self.clock.advance(INTERVAL)
        [(_, data)] = self.told(client)
        self.assertEqual(data["values"], {"temp": 2, "memory": 5})
        self.assertEqual(data["time"], int((NOW + 0.1) * 1000))
        self.clock.advance(INTERVAL)
        self.assertEqual(self.told(client), [])

    def test_streams_get_the_agents_and_types_that_they_want(self) -> None:
        all_of_it, one, type_, both, none = (
            self.client(f"/api/events{query}")
            for query in ("", "?agent=a", "?type=temp", "?agent=a&agent=b&type=temp", "?agent=x&type=y")
        )
        self.report("a", temp=1, memory=2)
        self.report("b", memory=3)
        self.clock.advance(INTERVAL)
        found = [
            {data["agent"]: data["values"] for _, data in self.told(client)}
            for client in (all_of_it, one, type_, both, none)
        ]
        whole, temp = {"temp": 1, "memory": 2}, {"temp": 1}
        self.assertEqual(
            found, [{"a": whole, "b": {"memory": 3}}, {"a": whole}, {"a": temp}, {"a": temp}, {}]
        )

    def test_agents_come_and_go_before_their_values(self) -> None:
        client, other = self.client("/api/events"), self.client("/api/events?agent=z")
        sender = self.report(temp=1)
        self.clock.advance(INTERVAL)
        names = ("connected", "metric", "disconnected")
        (first, data), (second, _) = self.told(client, *names)
        self.assertEqual((first, second, data["agent"]["uuid"]), ("connected", "metric", "yyy"))
        sender.lose()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.told(client, *names), [("disconnected", {"agent": {"uuid": "yyy"}})])
        self.assertEqual(self.told(other, *names), [])

    def test_what_is_rejected_is_no_value_and_is_told_once_it_is_kept(self) -> None:
        client = self.client("/api/events")
        self.clock.advance(SLOWLY)  # the newest one is where it begins
        REJECTED.insert(0, {**REJECTED[0], "id": 10})
        self.addCleanup(REJECTED.pop, 0)
        self.harness.connect("one").publish("agent/message", b"{}")
        self.clock.pump([SLOWLY, INTERVAL])
        self.assertEqual(self.told(client, "metric", "rejected"), [("rejected", REJECTED[0])])
        self.clock.pump([SLOWLY, INTERVAL])
        self.assertEqual(self.told(client, "rejected"), [])

    def test_what_was_rejected_before_the_first_stream_is_not_told(self) -> None:
        """An answer for streams that have ended says nothing of where the next one begins."""
        client = self.client("/api/events")
        self.clock.advance(SLOWLY)
        asked: Deferred[list[Row]] = Deferred()
        with mock.patch.object(self.store, "rejected_since", return_value=asked):
            self.clock.advance(SLOWLY)
        client.transport.loseConnection()
        client = self.client("/api/events")
        asked.callback([])
        self.clock.pump([SLOWLY, SLOWLY, INTERVAL])
        self.assertEqual(self.told(client, "rejected"), [])

    def test_the_broker_is_told_once_a_second(self) -> None:
        client = self.client("/api/events?agent=x")
        for _ in range(8):
            self.clock.advance(0.5)
        found = self.told(client, "broker")
        self.assertIn(len(found), (4, 5))
        self.assertEqual(found[0][1]["version"], "1.2")

    def test_without_the_database_the_others_come(self) -> None:
        client = self.client("/api/events")
        self.store.away = True
        self.clock.advance(SLOWLY)
        self.report(temp=1)
        self.clock.advance(SLOWLY)
        self.assertEqual([name for name, _ in self.told(client, "metric", "rejected")], ["metric"])
        asked: Deferred[list[Row]] = Deferred()
        self.store.away = False
        self.patch(self.store, "rejected_since", lambda after, limit: asked)
        for _ in range(3):
            self.clock.advance(SLOWLY)  # nobody asks while an answer is awaited
        asked.callback([])

    def test_a_bug_in_the_question_for_rejected_messages_is_in_the_log(self) -> None:
        self.client("/api/events")
        self.patch(self.store, "rejected_since", lambda after, limit: fail(KeyError("id")))
        self.clock.advance(SLOWLY)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(len(self.lines("Bug: event streams could not be told of rejected messages")), 1)

    def test_proxies_see_a_sign_of_life(self) -> None:
        client = self.client("/api/events")
        client.body()
        self.clock.pump([SLOWLY] * int(ALIVE))
        self.assertIn(b":\n\n", client.body()[0])

    def test_without_a_stream_nothing_is_gathered_and_nothing_runs(self) -> None:
        client = self.client("/api/events")
        self.assertEqual(len(self.harness.broker.subscriptions), 2)
        self.report(temp=1)
        client.transport.loseConnection()
        self.assertEqual(len(self.harness.broker.subscriptions), 0)
        self.assertEqual(self.events_of_clock(), [])
        self.report("z", temp=1)
        again = self.client("/api/events")
        self.clock.advance(INTERVAL)
        self.assertEqual(self.told(again), [])

    def events_of_clock(self) -> list[str]:
        return [str(call) for call in self.clock.getDelayedCalls() if "web.events" in str(call)]

    def test_a_slow_client_misses_events_and_is_told_how_many(self) -> None:
        """row 470"""
        slow, quick = self.client("/api/events"), self.client("/api/events")
        slow.channel.pauseProducing()
        sender = self.report("a", temp=1)
        for value in range(3):
            self.report("a", sender, temp=value)
            self.clock.advance(INTERVAL)
        self.assertEqual(self.told(slow, "metric", "dropped"), [])
        self.assertEqual(len(self.told(quick)), 3)
        missed = self.traffic.events_dropped
        slow.channel.resumeProducing()
        self.assertEqual(self.told(slow, "dropped"), [("dropped", {"events": missed})])
        self.assertGreaterEqual(missed, 4)  # the agent has come, too
        self.assertIn("127.0.0.1:50000 takes them more slowly", self.lines("events were not written")[0])
        self.report("a", sender, temp=9)
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.told(slow)), 1)

    def test_a_client_that_takes_nothing_is_cut(self) -> None:
        """row 471"""
        client = self.client("/api/events")
        client.channel.pauseProducing()
        client.channel.pauseProducing()
        self.clock.pump([1.0] * 29)
        self.assertFalse(client.closed)
        self.clock.advance(1.0)
        self.assertTrue(client.closed)
        self.assertEqual((self.traffic.answers_cut, self.events.streams), (1, 0))
        self.assertEqual(len(self.lines("web.timeout")), 1)

    def test_the_values_of_one_write_have_an_end(self) -> None:
        """row 472"""
        client = self.client("/api/events")
        sender = self.harness.connect("gateway")
        types = {f"t{number}": number for number in range(1000)}
        for number in range(MAX_VALUES // 1000 + 2):
            self.report(f"a{number}", sender, **types)
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.told(client)), MAX_VALUES // 1000)
        self.assertEqual(self.traffic.events_dropped, 2000)
        self.assertTrue(self.lines("there are too many at a time"))

    def test_the_bytes_of_one_write_have_an_end(self) -> None:
        """Row 443: 5,000 values of 4 KiB are 20 MB of each stream, four times a second."""
        client = self.client("/api/events")
        sender = self.harness.connect("gateway")
        most = MAX_SIZE // 4096 // 10
        for number in range(most + 12):
            self.report(f"a{number}", sender, **{f"t{n}": "x" * 4096 for n in range(10)})
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.told(client)), most + 1)
        self.assertEqual(self.traffic.events_dropped, 10 * (most + 12) - MAX_SIZE // 4096)
        self.assertTrue(self.lines("there are too many at a time"))
        self.report("a", sender, t="more")  # the next write has room again
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.told(client)), 1)

    def test_a_value_that_another_takes_the_place_of_takes_no_room(self) -> None:
        client = self.client("/api/events")
        sender = self.harness.connect("gateway")
        for number in range(MAX_SIZE // 4096 + 10):
            self.report("a", sender, t="x" * 4000 + str(number))
        self.clock.advance(INTERVAL)
        self.assertEqual((len(self.told(client)), self.traffic.events_dropped), (1, 0))

    def test_long_names_of_agents_that_come_and_of_what_was_rejected_have_an_end(self) -> None:
        """Row 443."""
        client = self.client("/api/events")
        for number in range(20):
            name = str(number) + "x" * (MAX_SIZE // 10)
            self.events.announced("connected", b'{"agent": {"uuid": "%s"}}' % name.encode())
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.told(client, "connected")), 10)
        self.assertEqual(self.traffic.events_dropped, 10)
        long = [{**REJECTED[1], "id": number, "topic": "x" * (MAX_SIZE // 10)} for number in range(20)]
        self.patch(self.store, "rejected_since", lambda after, limit: succeed(long))
        self.clock.pump([SLOWLY, INTERVAL])
        rejected = [data["id"] for _, data in self.told(client, "rejected")]
        self.assertTrue(rejected)
        self.assertLess(len(rejected), 11)

    def test_of_an_agent_whose_types_do_not_all_fit_there_are_some(self) -> None:
        client = self.client("/api/events")
        sender = self.harness.connect("gateway")
        for agent in range(6):
            self.report(f"a{agent}", sender, **{f"t{number}": 1 for number in range(900)})
        self.clock.advance(INTERVAL)
        told = [list(data["values"]) for _, data in self.told(client)]
        self.assertEqual([len(types) for types in told], [900] * 5 + [MAX_VALUES - 5 * 900])
        self.assertEqual(told[5], [f"t{number}" for number in range(500)])
        self.assertEqual(self.traffic.events_dropped, 400)

    def test_reports_are_not_kept_until_they_are_written(self) -> None:
        """See docs/adr/0215."""
        client = self.client("/api/events")
        sender = self.harness.connect("gateway")
        gathered = []
        self.patch(Newest, "add", lambda newest, reports: gathered.extend(reports))
        self.report("a", sender, temp=1)
        self.clock.advance(OFTEN)
        self.assertEqual([report.agent.uuid for report in gathered], ["a"])
        client.transport.loseConnection()
        calls = len(self.clock.getDelayedCalls())
        self.clock.advance(OFTEN)
        self.assertEqual(len(self.clock.getDelayedCalls()), calls)

    def test_many_messages_are_sorted_as_they_come(self) -> None:
        client = self.client("/api/events")
        sender = self.harness.connect("gateway")
        for number in range(2500):
            self.report("a", sender, temp=number)
        self.clock.advance(INTERVAL)
        [(_, data)] = self.told(client)
        self.assertEqual(data["values"], {"temp": 2499})

    def test_agents_that_come_at_once_have_an_end(self) -> None:
        client = self.client("/api/events")
        for number in range(MAX_PRESENCE + 3):
            self.events.announced("connected", b'{"agent": {"uuid": "%d"}}' % number)
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.told(client, "connected")), MAX_PRESENCE)
        self.assertEqual(self.traffic.events_dropped, 3)

    def test_an_announcement_stays_on_one_line(self) -> None:
        """row 473"""
        client = self.client("/api/events")
        hostile = "a\n\nevent: metric\ndata: {}\r"
        self.report(hostile, temp=1)
        self.events.announced("connected", b'{"agent":\n\n{"uuid": "b"}}\r\n')
        for none in (b"no JSON", b'{"agent": {"uuid": "\xff"}}', b'{"agent": ' + b"[" * 5000):
            self.events.announced("connected", none)
        self.clock.advance(INTERVAL)
        found = self.told(client, "connected", "metric")
        self.assertEqual([name for name, _ in found], ["connected", "connected", "metric"])
        self.assertEqual(found[2][1]["agent"], hostile)

    def test_many_streams_that_want_different_things_share_turns(self) -> None:
        clients = [self.client(f"/api/events?type=temp&type={number}") for number in range(30)]
        self.report(temp=1)
        self.clock.advance(0)
        steady, passed = self.clock.seconds, [0.0]

        def seconds() -> float:
            """Let each look at the clock take half a millisecond."""
            passed[0] += 0.0005
            return steady() + passed[0]

        later, delays = self.clock.callLater, list[float]()

        def call_later(delay: float, *more: Any) -> Any:
            delays.append(delay)
            return later(delay, *more)

        self.patch(self.clock, "seconds", seconds)
        self.patch(self.clock, "callLater", call_later)
        self.clock.advance(INTERVAL)
        self.assertEqual([bool(self.told(client)) for client in clients], [True] * 30)
        self.assertIn(delays.count(0), range(2, 8))  # ends of turns, and what goes on in the next one

    def test_queries_that_make_no_sense_are_errors(self) -> None:
        for query in ("x=1", "limit=1", "agent=%00", "type=%ff"):
            self.assertEqual(self.error(f"/api/events?{query}")[0], 400, query)
        many = "&".join(f"type=t{number}" for number in range(1000))
        self.assertEqual(self.error(f"/api/events?{many}"), (400, "type may be given 20 times at most"))

    def test_head_is_answered_and_ends(self) -> None:
        client = Client(self.site).ask("/api/events", "HEAD")
        self.assertIn("text/event-stream", client.head)
        self.assertEqual((client.body()[0], self.events.streams), (b"", 0))

    def test_streams_end_with_the_daemon(self) -> None:
        clients = [self.client("/api/events") for _ in range(3)]
        self.events.stop()
        self.assertEqual([client.body()[1] for client in clients], [True] * 3)
        self.assertEqual(self.events_of_clock(), [])


class RoomTests(StreamCase):
    settings = WebSettings(max_streams=3, max_exports=2)

    def test_a_thousand_streams_are_too_many(self) -> None:
        """row 474"""
        clients = [self.client("/api/events") for _ in range(200)]
        refused = [client for client in clients if "503" in client.head]
        self.assertEqual(len(refused), 197)
        self.assertIn("retry-after: 5", refused[0].head.lower())
        self.assertEqual(self.traffic.connections_refused["streams"], 197)
        self.assertEqual(len(self.lines("web.max_streams")), 5)
        clients[0].transport.loseConnection()
        self.assertIn("200 OK", self.client("/api/events").head)

    def test_exports_have_their_places(self) -> None:
        self.patch(self.store, "export", lambda *given: Deferred())
        clients = [self.client("/api/export") for _ in range(3)]
        self.assertEqual(["503" in client.head for client in clients], [False, False, True])
        self.assertEqual(len(self.lines("web.max_exports")), 1)
        clients[0].transport.loseConnection()
        self.assertIn("200 OK", self.client("/api/export").head)


class SharedTests(StreamCase):
    """A daemon that shares its clients with others."""

    shared = True

    def test_messages_of_any_daemon_are_heard_by_a_subscription(self) -> None:
        client = self.client("/api/events?agent=yyy")
        self.assertEqual(len(self.harness.broker.subscriptions), 3)
        self.report(temp=1)
        self.clock.advance(INTERVAL)
        [found] = [data for name, data in client.events() if name == "metric"]
        self.assertEqual(found, {"agent": "yyy", "time": int(NOW * 1000), "values": {"temp": 1}})

    def test_a_message_that_is_none_is_no_event(self) -> None:
        client = self.client("/api/events")
        sender = self.harness.connect("one")
        agent = '{"agent": {"uuid": "a"}, '
        nested = f'{agent} "x": {"[" * 5000}{"]" * 5000}}}'
        large = f'{agent} "x": "{"x" * 70_000}", "metrics": [{{"type": "t", "value": 5}}]}}'
        for payload in (
            "Hello",
            "{}",
            "[]",
            large,
            '{"agent": 5}',
            nested,
            agent + '"metrics": [{"type": 1}]}',
        ):
            sender.publish("agent/message", payload.encode())
        sender.publish("agent/message", b'{"agent": {"uuid": "\xff"}, "metrics": []}')
        sender.publish("agent/message", f'{agent} "timestamp": "2026-11-24T04:07:00Z"}}'.encode())
        metrics = '"metrics": [{"type": "t", "value": 5}, {"type": "u", "value": "x"}]'
        sender.publish("agent/message", f'{agent} "timestamp": 1795493285, {metrics}}}'.encode())
        self.clock.advance(INTERVAL)
        [found] = [data for name, data in client.events() if name == "metric"]
        self.assertEqual(found, {"agent": "a", "time": 1795493285000, "values": {"t": 5, "u": "x"}})


class ExportTests(StreamCase):
    def test_an_export_is_a_file_of_all_pages(self) -> None:
        self.store.lines = 2500
        client = self.client("/api/export?agent=yyy&type=temp&from=1&to=9")
        for header in (
            "Content-Type: text/csv; charset=utf-8; header=present",
            'Content-Disposition: attachment; filename="metrics.csv"',
        ):
            self.assertIn(header.lower(), client.head.lower())
        body, ended = client.body()
        head, *lines = body.decode().splitlines()
        self.assertEqual(head, "agent,type,unit,time,value")
        self.assertEqual(lines, [f"line {number}" for number in range(2500)])
        self.assertTrue(ended)
        export = Export(("yyy",), ("temp",), 1, 9, "csv", "raw")
        self.assertEqual(self.store.asked[:2], [(["yyy"],), (export, None, 200)])
        self.assertEqual(
            self.store.asked[2:], [(export, [1, "t", "m", 199], 1600), (export, [1, "t", "m", 1799], 5000)]
        )
        self.assertEqual(self.exports.places.taken, 0)

    def test_lines_of_json_have_no_head(self) -> None:
        client = self.client("/api/export?format=ndjson&source=raw")
        self.assertIn("application/x-ndjson", client.head)
        self.assertIn("metrics.ndjson", client.head)
        self.assertEqual(client.body(), (b"line 0\nline 1\nline 2\n", True))

    def test_nothing_is_a_head_alone(self) -> None:
        self.store.lines = 0
        self.assertEqual(self.client("/api/export").body(), (b"agent,type,unit,time,value\n", True))

    def test_no_page_is_asked_for_before_the_client_has_taken_the_last(self) -> None:
        """row 475"""
        self.store.lines = 10_000
        asked: list[Deferred[Row | None]] = []
        export = self.store.export
        self.patch(self.store, "export", later(asked))
        client = self.client("/api/export")
        client.channel.pauseProducing()
        [page] = asked
        page.callback(self.successResultOf(export(Export((), (), 0, 1, "csv", "raw"), None, 200)))
        self.assertEqual(len(asked), 1)
        client.channel.resumeProducing()
        client.channel.pauseProducing()
        client.channel.resumeProducing()
        self.assertEqual(len(asked), 2)

    def test_a_slow_client_gets_small_pages(self) -> None:
        """Row 475: one that takes longer than web.timeout for a page would be cut, although it reads."""
        self.store.lines = 10_000
        asked: list[Deferred[Row | None]] = []
        export = self.store.export
        self.patch(self.store, "export", later(asked))
        client = self.client("/api/export")
        asked[0].callback(self.successResultOf(export(Export((), (), 0, 1, "csv", "raw"), None, 200)))
        client.channel.pauseProducing()
        rows: list[int] = []

        def count(given: Export, place: Any, most: int) -> "Deferred[Row | None]":
            rows.append(most)
            return Deferred()

        self.patch(self.store, "export", count)
        asked[1].callback(self.successResultOf(export(Export((), (), 0, 1, "csv", "raw"), None, 1600)))
        self.clock.advance(20)
        client.channel.resumeProducing()
        self.assertEqual(rows, [1600 * 5 // 20])

    def test_while_messages_wait_an_export_rests_as_long_as_it_works(self) -> None:
        self.store.lines, self.busy = 10_000, True
        asked: list[Deferred[Row | None]] = []
        export = self.store.export
        self.patch(self.store, "export", later(asked))
        client = self.client("/api/export")
        pages = [
            self.successResultOf(export(Export((), (), 0, 1, "csv", "raw"), None, rows))
            for rows in (200, 1600, 5000)
        ]
        self.clock.advance(0.3)
        asked[0].callback(pages[0])
        client.channel.pauseProducing()
        client.channel.resumeProducing()
        self.clock.advance(0.29)
        self.assertEqual(len(asked), 1)
        self.clock.advance(0.02)
        self.assertEqual(len(asked), 2)
        self.busy = False
        asked[1].callback(pages[1])
        self.assertEqual(len(asked), 3)
        self.busy = True
        asked[2].callback(pages[2])
        client.transport.loseConnection()  # while it rests
        self.clock.advance(1)
        self.assertEqual((len(asked), self.said), (3, []))

    def test_a_client_that_goes_is_read_for_no_longer(self) -> None:
        self.store.lines = 10_000
        asked: list[Deferred[Row | None]] = []
        export = self.store.export
        self.patch(self.store, "export", later(asked))
        client = self.client("/api/export")
        client.transport.loseConnection()
        self.assertEqual(self.exports.places.taken, 0)
        asked[0].callback(self.successResultOf(export(Export((), (), 0, 1, "csv", "raw"), None, 200)))
        self.assertEqual(len(asked), 1)
        self.assertEqual(self.said, [])

    def test_large_rows_come_in_small_pages(self) -> None:
        big = {"text": "x" * 800_000, "rows": 200, "agent": 1, "type": "t", "moment": "m", "id": 1}
        asked: list[int] = []

        def export(export: Export, place: Any, rows: int) -> "Deferred[Row | None]":
            asked.append(rows)
            found: Deferred[Row | None] = Deferred()
            found.callback(big if len(asked) == 1 else None)
            return found

        self.patch(self.store, "export", export)
        self.client("/api/export")
        self.assertEqual(asked, [200, 131])

    def test_an_export_that_cannot_go_on_has_no_end(self) -> None:
        """row 476"""
        self.patch(self.store, "export", lambda *given: fail(Unavailable("refused")))
        client = self.client("/api/export")
        self.assertEqual(client.body(), (b"agent,type,unit,time,value\n", False))
        self.assertTrue(client.closed)
        self.assertEqual(len(self.lines("its export ends early, as the database is away: refused")), 1)
        self.patch(self.store, "export", lambda *given: fail(Failure(ValueError("a bug"))))
        self.assertTrue(self.client("/api/export").closed)
        self.assertEqual(self.traffic.internal_errors, 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_database_that_is_away_is_told_before_anything_is_written(self) -> None:
        self.store.away = True
        self.assertEqual(self.error("/api/export"), (503, "the database is away: refused"))

    def test_queries_that_make_no_sense_are_errors(self) -> None:
        for query, status, error in (
            ("agent=nobody", 404, "Agent not found with uuid nobody"),
            ("type=", 404, "no agent and no type has the name ''"),
            ("format=xml", 400, "format must be csv or ndjson"),
            ("source=1d", 400, "source must be raw, 5m or 1h"),
            ("from=9&to=9", 400, "from must be before to"),
            ("limit=5", 400, "unknown parameter limit"),
        ):
            self.assertEqual(self.error(f"/api/export?{query}"), (status, error), query)

    def test_head_reads_nothing(self) -> None:
        client = Client(self.site).ask("/api/export", "HEAD")
        self.assertIn("text/csv", client.head)
        self.assertEqual(self.store.asked, [([],)])
