"""A reload: all of it, or nothing."""

import os
import resource
from pathlib import Path
from typing import Any

from attrs import evolve, fields_dict
from twisted.logger import LogLevel, formatEvent
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from platziverse.access.acl import AccessRules
from platziverse.access.authority import AccessAuthority
from platziverse.access.passwords import PasswordChecker, PasswordFile, set_password
from platziverse.broker.interfaces import Client
from platziverse.config import Access, Config, Tls, load
from platziverse.daemon.front import Front
from platziverse.daemon.reload import IMMEDIATE, SWITCHES, Reload, changes
from platziverse.door.arrivals import Arrivals
from platziverse.rules.ruleset import RuleSet
from platziverse.rules.settings import RecordSettings
from platziverse.testing import BrokerHarness
from platziverse.web.settings import WebSettings
from platziverse.web.site import GuardedSite
from tests.door.test_tls import write_certificate
from tests.logs import observe_log

ANA = Client("a", 1, "192.0.2.1:5", "ana")
OPEN = Client("a", 1, "192.0.2.1:5", None)


def toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


class ReloadTests(SynchronousTestCase):
    """With everything that can be reloaded, from a configuration file."""

    bug = False

    def setUp(self) -> None:
        self.lines: list[str] = []
        observe_log(self, self.observe)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        write_certificate(self.folder)
        self.path("acl").write_text("user ana\ntopic old\n")
        set_password(str(self.path("passwords")), "ana", b"old")
        self.settings = {
            "log_level": "info",
            "access": {"acl_file": str(self.path("acl")), "password_file": str(self.path("passwords"))},
            "tls": {"certificate": str(self.path("server.pem")), "key": str(self.path("server.key"))},
        }
        self.write()
        config = self.reread()
        pool = ThreadPool(0, 1)
        self.harness = BrokerHarness()
        users = PasswordFile.load(config.access.password_file)
        self.checker = PasswordChecker((users,), self.harness.clock, pool)
        rules = AccessRules.load(config.access.acl_file)
        self.authority = AccessAuthority(self.harness.clock, self.checker, rules)
        site = GuardedSite(Resource(), None, WebSettings(), self.harness.clock)
        self.front = Front(self.harness.factory, site, config.tls, Arrivals(0, self.harness.clock))
        self.levels: list[dict[str, LogLevel]] = []
        self.records: list[RuleSet] = []
        self.looked = 0
        use = self.levels.append, self.use_records, self.look
        self.reload = Reload(config, self.reread, self.authority, self.front, *use)

    def look(self) -> None:
        self.looked += 1

    def use_records(self, config: Config, rules: RuleSet) -> None:
        self.records.append(rules)

    def observe(self, event: dict[str, Any]) -> None:
        self.lines.append(formatEvent(event))

    def path(self, name: str) -> Path:
        return self.folder / name

    def write(self, **more: Any) -> None:
        tables, text = [], ""
        for key, value in (self.settings | more).items():
            if isinstance(value, dict):
                lines = (f"{name} = {toml(item)}\n" for name, item in value.items())
                tables.append(f"[{key}]\n" + "".join(lines))
            else:
                text += f"{key} = {value!r}\n"
        self.path("platziverse.toml").write_text(text + "".join(tables))

    def reread(self) -> Config:
        if self.bug:
            raise ZeroDivisionError
        return load(str(self.path("platziverse.toml")), {}, {})

    def may_publish(self, topic: str) -> bool:
        return self.authority.may_publish(ANA, topic)

    def password(self) -> str | None:
        """The hash that ana's password is compared with."""
        [table] = self.checker.tables
        return self.successResultOf(table.password_hash("ana"))

    def in_force(self) -> tuple[object, ...]:
        certificate = self.front.certificate
        assert certificate is not None
        files = certificate.serverConnectionForTLS(None).get_context(), certificate.key
        return self.authority.rules, self.checker.tables, *files, len(self.levels), len(self.records)

    def change_all(self) -> None:
        self.path("acl").write_text("user ana\ntopic new\n")
        set_password(str(self.path("passwords")), "ana", b"new")
        write_certificate(self.folder, common_names=["renewed"])
        self.write(log_level="warn,mqtt=debug")

    def assert_refused(self, pattern: str) -> None:
        before = self.in_force()
        self.lines.clear()
        self.assertFalse(self.reload())
        self.assertEqual(self.in_force(), before)
        self.assertEqual(len(self.lines), 1, self.lines)
        self.assertRegex(self.lines[0], f"^Not reloaded, everything stays as it was: .*{pattern}")

    def test_everything_new_is_in_force_at_once(self) -> None:
        old, before = self.password(), self.in_force()
        self.change_all()
        self.assertTrue(self.reload())
        self.assertEqual((self.may_publish("old"), self.may_publish("new")), (False, True))
        self.assertNotEqual(self.password(), old)
        self.assertIsNot(self.in_force()[2], before[2])
        self.assertEqual(self.levels, [{"": LogLevel.warn, "mqtt": LogLevel.debug}])
        self.assertEqual(self.lines, ["Reloaded: log levels, passwords, access rules, certificate"])
        self.assertEqual(self.looked, 1)
        access: Any = self.settings["access"]
        self.write(access=access | {"disconnect_removed": False})
        self.assertTrue(self.reload())
        self.assertEqual((self.looked, len(self.lines)), (1, 2))

    def test_one_broken_file_keeps_everything_as_it_was(self) -> None:
        """Rows 76, 79, 80, 82: garbage, nothing, a line that is none, a file that is not there."""
        breaks: dict[str, tuple[str | None, str]] = {
            "acl": ("# nothing\n", "acl: "),
            "passwords": ("ana\n", "passwords:1: a line must be user:hash"),
            "server.pem": ("garbage", "server.pem: "),
            "server.key": (None, "server.key: No such file"),
            "platziverse.toml": ("log_level = 'loud'\n", "platziverse.toml: log_level: 'loud' is none of"),
        }
        for name, (text, pattern) in breaks.items():
            self.change_all()
            kept = self.path(name).read_bytes()
            self.path(name).unlink()
            if text is not None:
                self.path(name).write_text(text)
            self.assert_refused(pattern)
            self.path(name).write_bytes(kept)
        self.assertTrue(self.may_publish("old"))
        self.assertTrue(self.reload())
        self.assertTrue(self.may_publish("new"))

    def test_an_empty_file_keeps_everything_as_it_was(self) -> None:
        """Row 79."""
        for name in ("acl", "passwords", "server.pem", "server.key"):
            kept = self.path(name).read_bytes()
            self.path(name).write_bytes(b"")
            self.assert_refused(f"{name}: ")
            self.path(name).write_bytes(kept)

    def test_without_a_descriptor_everything_stays_as_it_was(self) -> None:
        """Row 78: and nothing is open that was closed."""
        self.change_all()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 256), limits[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        taken: list[int] = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            self.assert_refused("Too many open files")
            # And with each number of descriptors that are left, as far as it comes.
            for _ in range(3):
                os.close(taken.pop())
                before = self.in_force()
                if self.reload():
                    break
                self.assertEqual(self.in_force(), before)
        finally:
            for descriptor in taken:
                os.close(descriptor)
        self.assertFalse(self.authority.may_publish(OPEN, "new"))
        self.assertTrue(self.reload())
        self.assertTrue(self.may_publish("new"))

    def test_a_bug_keeps_everything_as_it_was(self) -> None:
        before = self.in_force()
        self.bug = True
        self.assertFalse(self.reload())
        self.assertEqual(self.in_force(), before)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_what_needs_a_restart_is_named_in_one_line_and_nothing_secret_is_shown(self) -> None:
        self.write(listen=["tcp:1"], database="postgresql://u:hunter2@h/n", limits={"max_inflight": 3})
        self.assertTrue(self.reload())
        self.assertEqual(
            self.lines[1:], ["Changed, but needs a restart: listen, database, limits.max_inflight"]
        )

    def test_access_rules_are_not_switched_off_by_a_reload(self) -> None:
        """Row 78: never an open door; nor are passwords, or TLS."""
        for name in SWITCHES:
            section, _, key = name.partition(".")
            without = {k: v for k, v in self.settings[section].items() if k != key}  # type: ignore[attr-defined]
            if section == "tls":
                without = {}
            before = self.in_force()[:4]
            self.write(**{section: without})
            self.assertTrue(self.reload())
            self.assertIn(name, self.lines[-1])
            self.assertFalse(self.authority.may_publish(OPEN, "new"))
            after = self.in_force()[:4]
            self.assertEqual([type(item) for item in after], [type(item) for item in before])

    def test_rules_are_read_again_all_or_none(self) -> None:
        """Row 411: a rule that cannot be used leaves everything as it is."""
        self.path("rules.toml").write_text('[[rule]]\ntopic = "a/{x}"\nagent = "a:{x}"\n')
        self.settings["record"] = {"files": [str(self.path("rules.toml"))]}
        self.write()
        self.assertTrue(self.reload())
        self.assertEqual([rule.name for rule in self.records[-1].rules], ["rules.toml#1"])
        self.assertTrue(self.lines[-1].endswith(", 1 rules"), self.lines)
        self.path("rules.toml").write_text('[[rule]]\ntopic = "a/{x}"\nagent = "a:{y}"\n')
        self.assert_refused(r"rules.toml:3: rule 1: agent: unknown hole \{y\}")

    def test_files_may_move(self) -> None:
        self.path("rules").write_text("user ana\ntopic moved\n")
        self.write(access={"acl_file": str(self.path("rules")), "password_file": str(self.path("passwords"))})
        self.assertTrue(self.reload())
        self.assertTrue(self.may_publish("moved"))
        self.assertEqual(len(self.lines), 1)


class ChangesTests(SynchronousTestCase):
    def test_only_what_has_changed_is_named(self) -> None:
        self.assertEqual(changes(Config(), Config()), [])
        self.assertEqual(changes(Config(), Config(log_format="json")), ["log_format"])

    def test_what_takes_effect_at_once_is_not(self) -> None:
        old = Config(access=Access(acl_file="a"), tls=Tls("a", "b"))
        new = evolve(old, log_level="debug", access=Access(acl_file="c"), tls=Tls("d", "e", "f", True))
        self.assertEqual(changes(old, new), [])

    def test_on_and_off_take_a_restart(self) -> None:
        off, on = Config(), Config(access=Access(acl_file="a", password_file="b"), tls=Tls("c", "d"))
        for old, new in ((off, on), (on, off)):
            self.assertEqual(changes(old, new), list(SWITCHES))

    def test_the_names_are_those_of_settings(self) -> None:
        rooms = {"access": Access, "tls": Tls, "record": RecordSettings}
        known = {f"{room}.{name}" for room, settings in rooms.items() for name in fields_dict(settings)}
        self.assertEqual(set(IMMEDIATE) - known, {"log_level"})
