"""RespConnection over a transport in memory."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.redis import MISSING_REDIS

if "hiredis" not in MISSING_REDIS:
    from platziverse.bus.kept import Gone
    from platziverse.bus.resp import LARGEST, LOOK, LOOKS, Refused, RespConnection


#: Replies of all kinds, some of which look like messages of a channel.
REPLIES = st.sampled_from(
    [
        b"+OK\r\n",
        b"-ERR\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*1\r\n$7\r\nmessage\r\n",
        b"*3\r\n$7\r\nmessage\r\n:1\r\n*0\r\n",
        b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n",
        b"%1\r\n+a\r\n:1\r\n",
        b"~1\r\n*1\r\n:1\r\n",
        b">2\r\n+a\r\n+b\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
    ]
)


class RespTests(SynchronousTestCase):
    def setUp(self) -> None:
        if "hiredis" in MISSING_REDIS:
            raise SkipTest(MISSING_REDIS)
        self.clock = Clock()
        self.messages: list[tuple[bytes, bytes]] = []
        self.reasons: list[str] = []
        self.connection = RespConnection(self.clock, "host:1", lambda *message: self.messages.append(message))
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)
        self.connection.when_finished().addCallback(self.reasons.append)

    def end(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))

    def test_commands_are_sent_at_once_and_answered_in_order(self) -> None:
        answers: list[Any] = []
        for word in (b"GET", b"P\r\nNG"):
            self.connection.command(word).addBoth(answers.append)
        self.assertEqual(self.transport.value(), b"*1\r\n$3\r\nGET\r\n*1\r\n$5\r\nP\r\nNG\r\n")
        self.connection.dataReceived(b"$2\r\nab")
        self.assertEqual(answers, [])
        self.connection.dataReceived(b"\r\n:7\r\n")
        self.assertEqual(answers, [b"ab", 7])

    def test_an_error_is_the_reply_of_one_command(self) -> None:
        refused = self.connection.command(b"A")
        answered = self.connection.command(b"B")
        self.connection.dataReceived(b"-ERR no such thing\r\n+OK\r\n")
        error = self.failureResultOf(refused, Refused).value
        self.assertEqual(str(error), "host:1 answers: ERR no such thing")
        self.assertEqual(self.successResultOf(answered), b"OK")

    def test_an_error_is_quoted_without_what_was_sent_and_without_control_characters(self) -> None:
        refused = self.connection.command(b"AUTH", b"hunter2")
        self.connection.dataReceived(
            b"-ERR unknown\x1b[2J command `AUTH`, with args beginning with: `hunter2`\r\n"
        )
        error = self.failureResultOf(refused, Refused).value
        self.assertEqual(str(error), "host:1 answers: ERR unknown?[2J command `AUTH`")

    @given(st.lists(REPLIES | st.binary(max_size=40), max_size=10).map(b"".join))
    def test_no_bytes_do_more_than_end_the_connection(self, data: bytes) -> None:
        self.setUp()
        for _ in range(3):
            self.connection.command(b"ANY").addErrback(lambda failure: failure.trap(Gone) and None)
        self.connection.dataReceived(data)
        self.connection.dataReceived(b"\r\n")
        self.end()
        self.assertEqual(len(self.reasons), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_messages_come_between_replies(self) -> None:
        answer = self.connection.command(b"PING")
        self.connection.dataReceived(
            b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n"
        )
        self.assertEqual(self.messages, [(b"c", b"\r\n")])
        self.assertEqual(self.successResultOf(answer), [b"pong", b""])

    def test_the_end_fails_every_command_that_waits_with_the_reason(self) -> None:
        answers = [self.connection.command(b"A") for _ in range(3)]
        self.end()
        for answer in answers:
            self.assertEqual(
                str(self.failureResultOf(answer, Gone).value), "host:1 has closed the connection"
            )
        self.assertEqual(self.reasons, ["host:1 has closed the connection"])
        self.assertEqual(self.successResultOf(self.connection.when_finished()), self.reasons[0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_idle_connection_is_pinged_and_given_up_when_nothing_comes_back(self) -> None:
        self.clock.pump([LOOK] * 3)
        self.assertEqual(self.transport.value(), b"*1\r\n$4\r\nPING\r\n")
        self.connection.dataReceived(b"+PONG\r\n")
        self.clock.pump([LOOK] * LOOKS)
        self.assertFalse(self.transport.disconnecting)
        self.clock.pump([LOOK])
        self.assertTrue(self.transport.disconnecting)
        self.end()
        self.assertEqual(self.reasons, ["host:1 has not answered for 5 s"])

    def test_a_process_that_was_stopped_itself_gives_the_server_another_chance(self) -> None:
        self.clock.advance(3600)
        self.assertFalse(self.transport.disconnecting)

    def test_a_server_that_says_farewell_is_quoted(self) -> None:
        self.connection.command(b"AUTH").addErrback(lambda _: None)
        self.connection.dataReceived(b"-DENIED Redis is running in protected mode\r\n")
        self.end()
        self.assertEqual(self.reasons, ["host:1 says: DENIED Redis is running in protected mode"])

    def test_a_reply_nobody_waits_for_ends_the_connection(self) -> None:
        self.connection.dataReceived(b"+OK\r\n")
        self.assertTrue(self.transport.disconnecting)

    def test_a_reply_that_does_not_end_takes_no_more_memory_than_allowed(self) -> None:
        self.connection.command(b"GET").addErrback(lambda _: None)
        self.connection.dataReceived(b"$999999999999\r\n")
        chunk = bytes(1 << 20)
        for _ in range(LARGEST // len(chunk) + 1):
            self.connection.dataReceived(chunk)
        self.assertTrue(self.transport.disconnecting)
        self.end()
        self.assertEqual(self.reasons, ["host:1 sends a reply that does not end"])
