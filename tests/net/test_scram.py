"""SCRAM-SHA-256: a login in steps, and its renewal, with a client side that others have written."""

from typing import Any

from scramp import ScramClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.access.authority import AccessAuthority
from platziverse.access.passwords import PasswordFile, UserTable, hash_password
from platziverse.access.scram import METHOD, make_keys, parse_keys
from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
)
from platziverse.testing import BrokerHarness, FakeClient
from tests.access.test_passwords import Threads, make_checker

#: With keys, without, and with other keys.
HASHES = {
    "ana": hash_password("test", "ana", b"sp\xc3\xa4t", scram=True),
    "bob": hash_password("test", "bob", b"secret"),
    "eva": hash_password("test", "eva", b"third", scram=True),
}


def properties(data: bytes | None, method: str | None = METHOD, **more: Any) -> Properties:
    return Properties(authentication_method=method, authentication_data=data, **more)


class SlowTable:
    """A table of users whose answer comes when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Deferred[str | None]] = []

    def password_hash(self, username: str) -> "Deferred[str | None]":
        self.asked.append(Deferred())
        return self.asked[-1]


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin(PasswordFile(HASHES))

    def begin(self, table: UserTable) -> None:
        self.clock = Clock()
        self.authority = AccessAuthority(self.clock, make_checker(Threads(), table), anonymous="never")
        limits = Limits(connect_deadline=10)
        self.harness = BrokerHarness(authority=self.authority, clock=self.clock, limits=limits)

    def open(self, data: bytes | None, client_id: str = "c", **more: Any) -> FakeClient:
        client = self.harness.open(5)
        method = more.pop("method", METHOD)
        asked = properties(data, method, **more)
        client.send(Connect(client_id, protocol_level=5, properties=asked))
        return client

    def answer(self, client: FakeClient, kind: type[Packet], code: int) -> str:
        """The Authentication Data of the one packet that has come."""
        [packet] = client.received()
        assert isinstance(packet, (Auth, Connack))
        self.assertIs(type(packet), kind)
        self.assertEqual(packet.return_code if isinstance(packet, Connack) else packet.reason_code, code)
        told = packet.properties or Properties()
        self.assertEqual(told.authentication_method, METHOD)
        return (told.authentication_data or b"").decode()

    def log_in(self, name: str = "ana", password: str = "spät", client_id: str = "c") -> FakeClient:
        scram = ScramClient([METHOD], name, password)
        client = self.open(scram.get_client_first().encode(), client_id)
        scram.set_server_first(self.answer(client, Auth, 0x18))
        client.send(Auth(0x18, properties(scram.get_client_final().encode())))
        scram.set_server_final(self.answer(client, Connack, 0))
        return client

    def refused(self, client: FakeClient) -> int:
        """The code of the CONNACK that is all that comes."""
        [packet] = client.received()
        assert isinstance(packet, Connack), packet
        self.assertTrue(client.closed)
        return packet.return_code


class LoggingIn(Case):
    def test_the_right_password_is_let_in_and_the_server_proves_itself_too(self) -> None:
        """[MQTT5-4.12.0-2] [MQTT5-4.12.0-5]"""
        client = self.log_in()
        client.send(Pingreq())
        self.assertEqual(client.received(), [Pingresp()])
        session = self.harness.broker.sessions.get("c")
        assert session is not None
        assert session.client is not None
        self.assertEqual(session.client.username, "ana")

    def test_who_is_not_there_is_answered_like_who_has_another_password(self) -> None:
        """Row 522: the salt is the same each time, and of one length. [MQTT5-4.12.0-4]"""
        shapes = []
        for name, password in (("ana", "wrong"), ("nobody", "spät"), ("bob", "secret"), ("nobody", "x")):
            scram = ScramClient([METHOD], name, password)
            client = self.open(scram.get_client_first().encode())
            first = self.answer(client, Auth, 0x18)
            fields = dict(part.split("=", 1) for part in first.split(","))
            shapes.append((name, fields["s"], fields["i"], len(fields["r"])))
            scram.set_server_first(first)
            client.send(Auth(0x18, properties(scram.get_client_final().encode())))
            self.assertEqual(self.refused(client), 0x86)
            self.clock.advance(400)
        self.assertEqual(len({shape[2:] for shape in shapes}), 1)
        self.assertEqual(shapes[1], shapes[3])
        self.assertEqual({len(salt) for _, salt, _, _ in shapes}, {24})
        self.assertEqual(self.authority.failures, 4)

    def test_an_argon2_password_still_counts(self) -> None:
        threads = Threads()
        checker = make_checker(threads, PasswordFile(HASHES))
        authority = AccessAuthority(self.clock, checker)
        answer = authority.login(Connect("c", username="ana", password=b"sp\xc3\xa4t"), "192.0.2.1:1")
        threads.run()
        assert answer is not None
        self.assertEqual(self.successResultOf(answer), "ana")

    def test_a_message_that_is_none_is_refused(self) -> None:
        """Row 522."""
        for data in (
            None,
            b"",
            b"x",
            b"\xff",
            b"n,,n=ana",
            b"p=tls-unique,,n=ana,r=abc",
            b"n,,n=,r=a",
            bytes(80_000),
        ):
            self.assertEqual(self.refused(self.open(data[:60_000] if data else data)), 0x86, data)
            self.clock.advance(100)

    def test_other_methods_and_a_server_without_users_have_their_code(self) -> None:
        """Row 507. [MQTT5-4.12.0-1]"""
        self.assertEqual(self.refused(self.open(b"x", method="SCRAM-SHA-1")), 0x8C)
        self.harness = BrokerHarness(authority=AccessAuthority(self.clock))
        self.assertEqual(self.refused(self.open(b"x")), 0x8C)

    def test_an_exchange_has_its_time(self) -> None:
        """Row 522."""
        client = self.open(ScramClient([METHOD], "ana", "x").get_client_first().encode())
        client.received()
        self.harness.advance(9)
        self.assertFalse(client.closed)
        self.harness.advance(2)
        self.assertEqual((client.closed, client.received()), (True, []))
        self.assertEqual(self.harness.broker.traffic.protocol_errors, {"no login in time": 1})

    def test_what_is_out_of_place_meanwhile_ends_it_with_a_connack(self) -> None:
        """Row 507. [MQTT5-3.1.4-6]"""
        first = ScramClient([METHOD], "ana", "x").get_client_first().encode()
        for packet in (
            Publish("t", b""),
            Pingreq(),
            Auth(0x19, properties(b"x")),
            Auth(0x00, properties(b"x")),
            Auth(0x18, properties(b"x", "PLAIN")),
            Auth(0x18),
        ):
            client = self.open(first)
            client.received()
            client.send(packet)
            self.assertEqual(self.refused(client), 0x82, packet)

    def test_a_client_may_give_up(self) -> None:
        client = self.open(ScramClient([METHOD], "ana", "x").get_client_first().encode())
        client.received()
        client.send(Disconnect())
        self.assertEqual((client.closed, client.received()), (True, []))

    def test_a_client_that_takes_too_little_is_refused(self) -> None:
        """[MQTT5-3.1.2-24] [MQTT5-3.15.2-1] [MQTT5-3.15.2-2] [MQTT5-3.15.2-3]"""
        first = ScramClient([METHOD], "ana", "x").get_client_first().encode()
        client = self.open(first, maximum_packet_size=60)
        self.assertEqual(self.refused(client), 0x95)

    def test_nothing_is_read_while_a_table_is_asked(self) -> None:
        table = SlowTable()
        self.begin(table)
        scram = ScramClient([METHOD], "ana", "spät")
        client = self.open(scram.get_client_first().encode())
        self.assertEqual((client.held, client.received()), (True, []))
        table.asked[0].callback(HASHES["ana"])
        scram.set_server_first(self.answer(client, Auth, 0x18))
        self.assertFalse(client.held)
        client.send(Auth(0x18, properties(scram.get_client_final().encode())))
        self.answer(client, Connack, 0)
        gone = self.open(scram_first("ana"))
        gone.lose()
        table.asked[1].callback(None)
        away = self.open(scram_first("ana"))
        table.asked[2].errback(RuntimeError("away"))
        self.assertEqual(self.refused(away), 0x88)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_many_failures_are_taken_slowly(self) -> None:
        """Row 23."""
        for _ in range(3):
            self.assertEqual(self.refused(self.open(b"x")), 0x86)
        client = self.open(scram_first("ana"))
        self.assertEqual(client.received(), [])
        self.harness.advance(1)
        self.answer(client, Auth, 0x18)
        clients = [self.open(scram_first("ana")) for _ in range(20)]
        self.assertEqual(self.refused(clients[-1]), 0x88)


def scram_first(name: str, password: str = "x") -> bytes:
    first: str = ScramClient([METHOD], name, password).get_client_first()
    return first.encode()


class Renewing(Case):
    def setUp(self) -> None:
        super().setUp()
        self.client = self.log_in()

    def begin_anew(self, name: str = "ana", password: str = "spät") -> Any:
        scram = ScramClient([METHOD], name, password)
        self.client.send(Auth(0x19, properties(scram.get_client_first().encode())))
        scram.set_server_first(self.answer(self.client, Auth, 0x18))
        return scram

    def assert_ended(self, code: int) -> None:
        [packet] = self.client.received()
        assert isinstance(packet, Disconnect), packet
        self.assertEqual((packet.reason_code, self.client.closed), (code, True))

    def test_a_client_proves_again_who_it_is_and_goes_on_meanwhile(self) -> None:
        for _ in range(2):
            scram = self.begin_anew()
            self.client.send(Pingreq(), Auth(0x18, properties(scram.get_client_final().encode())))
            [pingresp, auth] = self.client.received()
            self.assertEqual(pingresp, Pingresp())
            assert isinstance(auth, Auth)
            assert auth.properties is not None
            scram.set_server_final((auth.properties.authentication_data or b"").decode())
            self.assertEqual((auth.reason_code, auth.properties.authentication_method), (0, METHOD))
        self.harness.advance(60)
        self.assertFalse(self.client.closed)

    def test_one_that_fails_is_closed_without_a_second_connack(self) -> None:
        """Row 523. [MQTT5-4.12.1-2]"""
        scram = self.begin_anew(password="wrong")
        self.client.send(Auth(0x18, properties(scram.get_client_final().encode())))
        self.assert_ended(0x87)

    def test_another_user_is_not_let_in_over_the_same_connection(self) -> None:
        """Row 523."""
        scram = self.begin_anew("eva", "third")
        self.client.send(Auth(0x18, properties(scram.get_client_final().encode())))
        self.assert_ended(0x87)

    def test_a_message_that_is_none_ends_it(self) -> None:
        """Row 523."""
        self.client.send(Auth(0x19, properties(b"x")))
        self.assert_ended(0x87)

    def test_another_method_or_a_step_out_of_turn_is_a_protocol_error(self) -> None:
        """Row 523."""
        for begins, packet in (
            (False, Auth(0x19, properties(b"x", "PLAIN"))),
            (False, Auth(0x18, properties(b"x"))),
            (False, Auth(0x00, properties(b"x"))),
            (False, Auth()),
            (True, Auth(0x19, properties(scram_first("ana")))),
            (True, Auth(0x00, properties(b"x"))),
        ):
            if begins:
                self.begin_anew()
            self.client.send(packet)
            self.assert_ended(0x82)
            self.client = self.log_in()

    def test_one_that_is_not_finished_has_its_time(self) -> None:
        """Row 523."""
        self.begin_anew()
        self.harness.advance(11)
        self.assert_ended(0x87)

    def test_one_that_is_under_way_ends_with_its_connection(self) -> None:
        self.begin_anew()
        before = len(self.clock.getDelayedCalls())
        self.client.lose()
        self.assertLess(len(self.clock.getDelayedCalls()), before)

    def test_without_users_any_more_there_is_no_method(self) -> None:
        self.patch(self.authority, "exchange", lambda *arguments: None)
        self.client.send(Auth(0x19, properties(b"x")))
        self.assert_ended(0x82)

    def test_a_user_that_is_gone_meanwhile_is_closed(self) -> None:
        self.authority.use_password_file(PasswordFile({"bob": HASHES["bob"]}))
        scram = self.begin_anew()
        self.client.send(Auth(0x18, properties(scram.get_client_final().encode())))
        self.assert_ended(0x87)


class Keys(SynchronousTestCase):
    def test_what_is_made_can_be_read(self) -> None:
        salt, stored, server, count = parse_keys(make_keys(b"secret"))
        self.assertEqual((len(stored), len(server), count), (32, 32, 10_000))
        self.assertGreaterEqual(len(salt), 16)
        self.assertNotEqual(make_keys(b"secret"), make_keys(b"secret"))

    def test_anything_else_cannot(self) -> None:
        good = make_keys(b"secret")
        method, count, salt, stored, server = good.split("$")
        for bad in (
            "",
            "x",
            good + "$",
            good.replace(METHOD, "SCRAM-SHA-1"),
            "$".join([method, "4095", salt, stored, server]),
            "$".join([method, "x", salt, stored, server]),
            "$".join([method, count, "YWJj", stored, server]),
            "$".join([method, count, salt, "YWJj", server]),
            "$".join([method, count, salt, stored, "*"]),
        ):
            self.assertRaises(ValueError, parse_keys, bad)

    def test_a_password_that_is_no_text_has_none(self) -> None:
        for bad in b"\xff", b"\x00":
            self.assertRaises(ValueError, make_keys, bad)

    def test_a_table_gives_them_out(self) -> None:
        for table in (PasswordFile(HASHES), *[_Table()]):
            checker = make_checker(Threads(), table)
            self.assertEqual(self.successResultOf(checker.scram_keys("ana")), HASHES["ana"].split(" ")[1])
            for name in "bob", "nobody":
                self.assertIsNone(self.successResultOf(checker.scram_keys(name)))


class _Table:
    def password_hash(self, username: str) -> "Deferred[str | None]":
        return succeed(HASHES.get(username))
