"""Who gets in, and what they may do there."""

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.access import authority as authority_module
from platziverse.access.acl import AccessRules
from platziverse.access.authority import AccessAuthority, Explanation, explain
from platziverse.access.delays import FORGIVEN, REMEMBERED, LoginDelays
from platziverse.access.passwords import LoginsUnavailable, PasswordFile
from platziverse.agents.recorder import ANNOUNCEMENTS
from platziverse.broker.interfaces import SERVER, Client
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connect, ConnectReturnCode
from tests.access.test_passwords import HASHED, SECRET, SlowTable, Threads, make_checker
from tests.memory import bytes_kept, objects_kept

LOCAL, REMOTE = "127.0.0.1:40000", "192.0.2.7:40000"
ANA = Client("c1", 1, username="ana")
RULES = AccessRules.parse(
    "acl", ["topic read public/#", "user ana", "topic mine/#", "topic $SYS/#", "topic agent/#"]
)


class AuthorityCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = Threads()

    def authority(self, users: bool = True, **options: Any) -> AccessAuthority:
        checker = make_checker(self.threads, PasswordFile({"ana": HASHED})) if users else None
        return AccessAuthority(self.clock, checker, **options)

    def login(self, authority: AccessAuthority, address: str, *credentials: Any, **more: Any) -> Any:
        """The user name, or the return code of the refusal."""
        connect = (
            Connect("c1", username=credentials[0], password=credentials[1]) if credentials else Connect("c1")
        )
        answer = authority.login(connect, address, near=address in (LOCAL, "unix"), **more)
        if answer is None:
            return connect.username
        self.threads.run()
        results: list[Any] = []
        answer.addBoth(results.append)
        [result] = results
        if result is None or isinstance(result, str):
            return result
        self.assertIsInstance(result.value, ConnectRefused)
        return result.value.return_code


class TestLogin(AuthorityCase):
    def test_the_right_password_gives_the_name(self) -> None:
        for address in (LOCAL, REMOTE, "unix"):
            self.assertEqual(self.login(self.authority(), address, "ana", SECRET), "ana")

    def test_wrong_ones_are_refused_with_0x04(self) -> None:
        for credentials in (("ana", b"wrong"), ("bob", SECRET), ("ANA", SECRET), ("ana ", SECRET)):
            code = self.login(self.authority(), LOCAL, *credentials)
            self.assertEqual(code, ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD)

    def test_no_password_and_an_empty_one_fail_both(self) -> None:
        """Row 22."""
        for credentials in (("ana", None), ("ana", b""), ("", SECRET), ("", None)):
            for address in (LOCAL, REMOTE):
                code = self.login(self.authority(), address, *credentials)
                self.assertEqual(code, ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD)

    def test_anonymous_clients_only_from_this_machine(self) -> None:
        for users in (True, False):
            authority = self.authority(users)
            self.assertIsNone(self.login(authority, LOCAL))
            self.assertIsNone(self.login(authority, "unix"))
            self.assertEqual(self.login(authority, REMOTE), ConnectReturnCode.NOT_AUTHORIZED)

    def test_anonymous_always_and_never(self) -> None:
        self.assertIsNone(self.login(self.authority(anonymous="always"), REMOTE))
        self.assertEqual(
            self.login(self.authority(anonymous="never"), LOCAL), ConnectReturnCode.NOT_AUTHORIZED
        )

    def test_a_name_that_nobody_checks_counts_for_nothing_where_it_matters(self) -> None:
        self.assertEqual(self.login(self.authority(users=False), LOCAL, "ana", SECRET), "ana")
        self.assertIsNone(self.login(self.authority(users=False, rules=RULES), LOCAL, "ana", SECRET))
        self.assertIsNone(self.login(self.authority(users=False, binding="username"), LOCAL, "ana", SECRET))
        self.assertEqual(
            self.login(self.authority(users=False), REMOTE, "ana", SECRET), ConnectReturnCode.NOT_AUTHORIZED
        )

    def test_a_verified_certificate_is_proof_enough(self) -> None:
        self.assertEqual(self.login(self.authority(), REMOTE, certificate_user="agent-7"), "agent-7")
        self.assertEqual(self.login(self.authority(), REMOTE, "ana", b"wrong", certificate_user="x"), "x")

    def test_without_users_and_rules_nothing_waits(self) -> None:
        self.assertIsNone(self.authority(users=False).login(Connect("c1"), LOCAL, near=True))

    def test_a_table_that_fails_refuses_with_0x03(self) -> None:
        """Row 82."""
        table = SlowTable()
        authority = AccessAuthority(self.clock, make_checker(self.threads, table))
        answer = cast("Deferred[Any]", authority.login(Connect("c1", username="ana", password=SECRET), LOCAL))
        table.asked[0][1].errback(RuntimeError("the database is away"))
        code = self.failureResultOf(answer, ConnectRefused).value.return_code
        self.assertEqual(code, ConnectReturnCode.SERVER_UNAVAILABLE)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(authority.failures, 0)

    def test_logins_that_cannot_be_checked_are_one_line_in_the_log_however_many_they_are(self) -> None:
        """Row 82: 0x03, and neither a wrong password nor an open door."""
        lines: list[str] = []
        self.patch(authority_module.log, "observer", lambda event: lines.append(formatEvent(event)))
        checked = AccessAuthority(self.clock, make_checker(self.threads, table := SlowTable()))
        for number in range(50):
            connect = Connect("c1", username="ana", password=SECRET)
            answer = cast("Deferred[Any]", checked.login(connect, REMOTE))
            table.asked[number][1].errback(LoginsUnavailable("the database is away"))
            code = self.failureResultOf(answer, ConnectRefused).value.return_code
            self.assertEqual(code, ConnectReturnCode.SERVER_UNAVAILABLE)
            self.clock.advance(0.3)
        self.assertEqual(lines, ["Logins cannot be checked: the database is away"] * 2)
        self.assertEqual(checked.failures, 0)


class TestDelays(AuthorityCase):
    def test_many_wrong_passwords_are_looked_at_more_and_more_slowly(self) -> None:
        """Row 23."""
        authority = self.authority()
        for _ in range(3):
            self.login(authority, REMOTE, "ana", b"wrong")
        answer = cast(
            "Deferred[Any]", authority.login(Connect("c1", username="ana", password=SECRET), REMOTE)
        )
        self.assertEqual(self.threads.run(), 0)
        self.clock.advance(0.5)
        self.assertEqual(self.threads.run(), 1)
        self.assertEqual(self.successResultOf(answer), "ana")  # slowed down, not shut out

    def test_other_addresses_are_not_slowed(self) -> None:
        """Row 23."""
        authority = self.authority()
        for _ in range(10):
            self.login(authority, REMOTE, "ana", b"")
        self.assertEqual(self.login(authority, "192.0.2.8:1", "ana", SECRET), "ana")

    def test_attempts_that_would_wait_too_long_are_refused_without_hashing(self) -> None:
        """Row 23."""
        delays = LoginDelays(self.clock)
        for _ in range(8):
            delays.failed("192.0.2.7")
        waits = [delays.wait("192.0.2.7") for _ in range(100)]
        self.assertLessEqual(sum(wait is not None for wait in waits), 3)
        self.assertTrue(all(wait <= 5 for wait in waits if wait is not None))

    def test_the_rate_of_guesses_is_bounded(self) -> None:
        """Row 23."""
        delays = LoginDelays(self.clock)
        guesses = 0
        for _ in range(3600):
            if delays.wait("192.0.2.7") is not None:
                delays.failed("192.0.2.7")
                guesses += 1
            self.clock.advance(1)
        self.assertLess(guesses, 800)

    def test_quiet_addresses_are_forgiven(self) -> None:
        delays = LoginDelays(self.clock)
        for _ in range(10):
            delays.failed("192.0.2.7")
        self.clock.advance(FORGIVEN)
        self.assertEqual(delays.wait("192.0.2.7"), 0)
        for _ in range(2):
            delays.failed("192.0.2.7")
            self.assertEqual(delays.wait("192.0.2.7"), 0)

    def test_memory_is_bounded(self) -> None:
        """The address whose failure is longest ago is forgotten."""
        delays = LoginDelays(self.clock)
        for host in ("192.0.2.7", "192.0.2.8"):
            for _ in range(10):
                delays.failed(host)
        for number in range(REMEMBERED - 1):
            delays.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        self.assertEqual(delays.wait("192.0.2.7"), 0)
        self.assertGreater(delays.wait("192.0.2.8") or 0, 0)

    def test_an_ipv6_site_is_one_address(self) -> None:
        delays = LoginDelays(self.clock)
        for host in ("2001:db8::1", "2001:db8::2", "2001:db8::ffff:2"):
            self.assertEqual(delays.wait("2001:db8::3"), 0)
            delays.failed(host)
        self.assertEqual(delays.wait("2001:db8::3"), 0.5)


class TestRules(AuthorityCase):
    def test_long_questions_are_not_remembered(self) -> None:
        """As many as are remembered would take gigabytes."""
        authority = self.authority(users=False, rules=RULES)
        empty = bytes_kept(authority)
        for number in range(50):
            self.assertTrue(authority.may_receive(ANA, f"mine/{number}" + "x" * 10_000))
            self.assertFalse(authority.may_publish(Client("c", 1, username="x" * 10_000 + str(number)), "a"))
        self.assertLess(bytes_kept(authority), empty + 50_000)

    def test_without_rules_everything_but_the_servers_own(self) -> None:
        authority = self.authority()
        self.assertFalse(authority.restricts)
        self.assertTrue(authority.may_publish(ANA, "any/thing"))
        self.assertTrue(authority.may_subscribe(ANA, "#"))
        self.assertTrue(authority.may_receive(ANA, "$SYS/uptime"))

    def test_the_servers_own_topics_with_and_without_rules(self) -> None:
        """Rows 36, 37."""
        for rules in (None, RULES):
            authority = self.authority(rules=rules, announcements=ANNOUNCEMENTS)
            for topic in ("agent/connected", "agent/disconnected", "$SYS/x", "$foo", "$", "$CONTROL/acl"):
                self.assertFalse(authority.may_publish(ANA, topic), topic)
        self.assertTrue(self.authority(rules=RULES).may_publish(ANA, "agent/message"))

    def test_rules_decide_by_the_name_of_the_login(self) -> None:
        authority = self.authority(rules=RULES)
        nobody = Client("c1", 2)
        self.assertTrue(authority.restricts)
        self.assertTrue(authority.may_publish(ANA, "mine/1"))
        self.assertFalse(authority.may_publish(nobody, "mine/1"))
        self.assertTrue(authority.may_receive(nobody, "public/1"))
        self.assertFalse(authority.may_publish(nobody, "public/1"))
        self.assertTrue(authority.may_subscribe(ANA, "mine/+"))
        self.assertFalse(authority.may_subscribe(nobody, "mine/+"))

    def test_a_reload_ends_old_rights_at_once(self) -> None:
        """Row 52."""
        authority = self.authority(rules=RULES)
        self.assertTrue(authority.may_receive(ANA, "mine/1"))
        authority.use(AccessRules.parse("acl", ["user ana", "topic other"]))
        self.assertFalse(authority.may_receive(ANA, "mine/1"))
        self.assertFalse(authority.may_publish(ANA, "mine/1"))
        authority.use(None)
        self.assertFalse(authority.restricts)

    def test_the_server_itself_hears_everything_and_nobody_else_is_it(self) -> None:
        authority = self.authority(rules=RULES)
        self.assertTrue(authority.may_receive(SERVER, "theirs"))
        self.assertTrue(authority.may_subscribe(SERVER, "theirs"))
        pretender = Client("", 0, "server")
        self.assertFalse(authority.may_receive(pretender, "theirs"))
        self.assertFalse(authority.may_subscribe(pretender, "theirs"))

    def test_an_anonymous_client_under_rules_with_user_patterns_is_only_denied(self) -> None:
        """Row 83."""
        rules = AccessRules.parse("acl", ["pattern readwrite homes/%u/#", "pattern deny no/%u/%c"])
        asked = self.authority(rules=rules)
        nobody = Client("c1", 2)
        for topic in ("homes//x", "homes/None/x", "homes/%u/x", "no//c1", "homes"):
            self.assertFalse(asked.may_publish(nobody, topic))
            self.assertFalse(asked.may_receive(nobody, topic))
            self.assertFalse(asked.may_subscribe(nobody, topic))
        self.assertFalse(asked.may_subscribe(nobody, "#"))
        self.assertTrue(asked.may_publish(ANA, "homes/ana/x"))

    def test_a_flood_of_topics_does_not_fill_memory(self) -> None:
        authority = self.authority(rules=RULES)
        before = objects_kept(authority)
        for number in range(70_000):
            authority.may_publish(ANA, f"mine/{number}")
        self.assertLess(objects_kept(authority), before + 2 * 65_536)

    def test_binding_to_the_own_agent(self) -> None:
        nobody = Client("c1", 2)
        for binding, verdicts in (("none", (1, 1, 1, 1)), ("username", (1, 0, 0, 0)), ("uuid", (0, 1, 0, 0))):
            authority = self.authority(binding=binding)
            asked = (
                authority.may_speak_for(ANA, "u-1", "ana"),
                authority.may_speak_for(ANA, "ana", "someone"),
                authority.may_speak_for(ANA, "u-1", "someone"),
                authority.may_speak_for(nobody, "u-1", "ana"),
            )
            self.assertEqual(asked, tuple(map(bool, verdicts)), binding)

    def test_a_subscription_is_explained_by_the_rule_that_lets_something_through(self) -> None:
        def said(username: "str | None", topic_filter: str) -> "tuple[str, bool, str]":
            [found] = explain(RULES, "c1", username, topic_filter)
            return found.action, found.decision.allowed, found.decision.reason

        self.assertEqual(said("ana", "mine/+/x"), ("subscribe", True, "line 3: topic mine/#"))
        self.assertEqual(said(None, "mine/#"), ("subscribe", False, "no rule allows it"))
        self.assertEqual(said(None, "#"), ("subscribe", True, "line 1: topic read public/#"))

    def test_the_deciding_rule_is_explained(self) -> None:
        def said(explanations: "list[Explanation]") -> "list[tuple[str, bool, str]]":
            return [(found.action, found.decision.allowed, found.decision.reason) for found in explanations]

        self.assertEqual(
            said(explain(RULES, "c1", "ana", "mine/1")),
            [("publish", True, "line 3: topic mine/#"), ("receive", True, "line 3: topic mine/#")],
        )
        self.assertEqual(
            said(explain(RULES, "c1", None, "mine/1")),
            [("publish", False, "no rule allows it"), ("receive", False, "no rule allows it")],
        )
        self.assertEqual(
            said(explain(None, "c1", None, "$SYS/x")),
            [("publish", False, "the topic is the server's own"), ("receive", True, "there is no ACL file")],
        )
