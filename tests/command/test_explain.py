"""``platziverse acl explain``."""

from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.commandline import NOTHING, Ran, run

ACL = """\
topic read public/#

user ana
topic mine/#
topic deny mine/secret
topic $SYS/#
pattern write from/%c/%u
"""


class ExplainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.write_text(ACL)

    def explain(self, *arguments: str, environ: Mapping[str, str] = NOTHING) -> Ran:
        return run(self, "acl", "explain", *arguments, environ=environ)

    def said(self, *arguments: str) -> "tuple[int, list[str]]":
        done = self.explain("--file", str(self.path), *arguments)
        return done.code, done.out.replace(str(self.path), "ACL").splitlines()

    def test_the_deciding_line_is_named(self) -> None:
        line = "allowed by ACL:4: topic mine/#"
        self.assertEqual(self.said("c1", "ana", "mine/x"), (0, [f"publish: {line}", f"receive: {line}"]))
        line = "denied by ACL:5: topic deny mine/secret"
        self.assertEqual(self.said("c1", "ana", "mine/secret"), (1, [f"publish: {line}", f"receive: {line}"]))

    def test_the_exit_code_says_whether_all_that_was_asked_is_allowed(self) -> None:
        lines = ["publish: denied, no rule allows it", "receive: allowed by ACL:1: topic read public/#"]
        self.assertEqual(self.said("c1", "-", "public/x"), (1, lines))
        self.assertEqual(self.said("c1", "", "public/x", "--only", "receive"), (0, lines[1:]))
        self.assertEqual(self.said("c1", "-", "public/x", "--only", "publish"), (1, lines[:1]))

    def test_patterns_are_for_everyone_with_a_name(self) -> None:
        """Row 83."""
        self.assertEqual(
            self.said("c1", "bob", "from/c1/bob", "--only", "publish"),
            (0, ["publish: allowed by ACL:7: pattern write from/%c/%u"]),
        )
        self.assertEqual(self.said("c1", "-", "from/c1/", "--only", "publish")[0], 1)

    def test_a_filter_is_explained_as_a_subscription(self) -> None:
        self.assertEqual(self.said("c1", "ana", "mine/+"), (0, ["subscribe: allowed by ACL:4: topic mine/#"]))
        self.assertEqual(self.said("c1", "bob", "mine/#"), (1, ["subscribe: denied, no rule allows it"]))

    def test_the_servers_own_topics_are_nobody_elses(self) -> None:
        code, (publish, receive) = self.said("c1", "ana", "$SYS/broker/uptime")
        self.assertEqual((code, publish), (1, "publish: denied, the topic is the server's own"))
        self.assertIn("receive: allowed", receive)

    def test_without_a_file_everything_is_allowed(self) -> None:
        done = self.explain("c1", "-", "any/thing")
        self.assertEqual(
            (done.code, done.out),
            (0, "publish: allowed, there is no ACL file\nreceive: allowed, there is no ACL file\n"),
        )

    def test_a_name_that_nobody_checks_is_no_name_to_the_rules(self) -> None:
        """Row 82: the answer is the daemon's, not what somebody hoped for."""
        configured = {"PLATZIVERSE_ACCESS_ACL_FILE": str(self.path)}
        done = self.explain("c1", "ana", "mine/x", environ=configured)
        self.assertEqual(done.code, 1)
        self.assertIn("no logins are configured", done.err)
        configured["PLATZIVERSE_ACCESS_DATABASE_USERS"] = "true"
        done = self.explain("c1", "ana", "mine/x", environ=configured)
        self.assertEqual((done.code, done.err), (0, ""))

    def test_what_has_no_answer_is_another_exit_code(self) -> None:
        for arguments in (
            ("c1", "ana", "mine/+x"),
            ("c1", "ana", ""),
            ("c1", "ana", "mine/#", "--only", "publish"),
            ("c1", "ana", "mine/x", "--only", "subscribe"),
        ):
            done = self.explain("--file", str(self.path), *arguments)
            self.assertEqual((done.code, done.out, done.err.count("\n")), (2, "", 1), arguments)
        self.path.write_text("")
        self.assertEqual(self.explain("--file", str(self.path), "c1", "ana", "mine/x").code, 2)
