"""``platziverse check``: files, certificates, limits and clocks; the database has tests of its own."""

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from platziverse.access.passwords import set_password
from platziverse.broker.limits import Limits
from platziverse.command.check import (
    check_certificates,
    check_clock,
    check_configuration,
    check_files,
    check_open_files,
)
from platziverse.command.findings import ERROR, OK, WARNING, Finding
from platziverse.config import Access, Config, Tls
from tests.commandline import run
from tests.door.test_tls import write_certificate
from tests.servers import MISSING, cluster

NOW = datetime.now(timezone.utc)


def levels(found: "list[Finding]") -> "dict[str, str]":
    return {finding.name: finding.level for finding in found}


class FileTests(SynchronousTestCase):
    """Row 84."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        set_password(str(self.folder / "passwords"), "ana", b"one")
        (self.folder / "acl").write_text("topic a\n")
        write_certificate(self.folder)
        for name in ("server.key",):
            (self.folder / name).chmod(0o600)
        self.config = Config(
            state_dir=str(self.folder / "state"),
            access=Access(password_file=self.path("passwords"), acl_file=self.path("acl")),
            tls=Tls(self.path("server.pem"), self.path("server.key")),
        )

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def found(self) -> "dict[str, Finding]":
        return {finding.name: finding for finding in check_files(self.config, None)}

    def test_all_is_well(self) -> None:
        found = self.found()
        self.assertEqual({finding.level for finding in found.values()}, {OK})
        self.assertTrue(found["password file"].text.endswith("1 users"))
        self.assertIn("will be created", found["state directory"].text)

    def test_modes_are_judged(self) -> None:
        """Row 84."""
        for name, file, mode, level in (
            ("password file", "passwords", 0o644, WARNING),
            ("password file", "passwords", 0o602, ERROR),
            ("key", "server.key", 0o640, OK),
            ("key", "server.key", 0o644, WARNING),
            ("key", "server.key", 0o606, ERROR),
            ("certificate", "server.pem", 0o666, ERROR),
            ("ACL file", "acl", 0o664, WARNING),
            ("ACL file", "acl", 0o666, ERROR),
        ):
            before = os.stat(self.path(file)).st_mode
            os.chmod(self.path(file), mode)
            finding = self.found()[name]
            self.assertEqual(finding.level, level, finding)
            self.assertTrue(level == OK or "chmod" in finding.text, finding)
            os.chmod(self.path(file), before)

    def test_files_that_would_stop_the_start_are_errors(self) -> None:
        """Rows 79, 80, 82."""
        for name, file, content in (
            ("ACL file", "acl", ""),
            ("ACL file", "acl", "topic a\ntopik b\n"),
            ("password file", "passwords", ""),
            ("password file", "passwords", "\n"),
        ):
            before = Path(self.path(file)).read_text()
            Path(self.path(file)).write_text(content)
            finding = self.found()[name]
            self.assertEqual(finding.level, ERROR, finding)
            self.assertNotIn("\n", finding.text)
            Path(self.path(file)).write_text(before)
        os.unlink(self.path("acl"))
        self.assertEqual(self.found()["ACL file"].level, ERROR)

    def test_the_state_directory(self) -> None:
        """Row 84."""
        state = self.folder / "state"
        state.mkdir(mode=0o711)
        self.assertEqual(self.found()["state directory"].level, OK)
        state.chmod(0o777)
        self.assertEqual(self.found()["state directory"].level, WARNING)
        self.config = evolve(self.config, state_dir="/proc/nonsense/state")
        if os.geteuid():
            self.assertEqual(self.found()["state directory"].level, ERROR)


class CertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        write_certificate(folder)
        write_certificate(folder, "ca")
        server = (str(folder / "server.pem"), str(folder / "server.key"))
        self.config = Config(tls=Tls(*server, str(folder / "ca.pem")))

    def found(self, **later: float) -> "list[tuple[str, str]]":
        now = NOW + timedelta(**later)
        return [(finding.name, finding.level) for finding in check_certificates(self.config, now)]

    def test_the_end_of_a_certificate_is_seen_before_it_comes(self) -> None:
        """They live for 30 days from now."""
        both = ("certificate", "client CA")
        self.assertEqual(self.found(hours=-1), [(name, OK) for name in both])
        self.assertEqual(self.found(days=1), [(name, WARNING) for name in both])
        self.assertEqual(self.found(days=31), [(name, ERROR) for name in both])
        self.assertEqual(self.found(days=-2), [(name, ERROR) for name in both])

    def test_what_cannot_be_used_is_one_error(self) -> None:
        """Row 82."""
        self.config = Config(tls=evolve(self.config.tls, key=self.config.tls.certificate))
        self.assertEqual(self.found(), [("certificate", ERROR)])
        self.config = Config(tls=Tls(client_ca="/ca"))
        self.assertEqual(self.found(), [("certificate", ERROR)])
        self.config = Config()
        self.assertEqual(self.found(), [])


class ProcessTests(SynchronousTestCase):
    def test_the_limit_of_open_files_is_compared_with_the_connections(self) -> None:
        """Row 118."""
        limits = Limits(max_connections=5000, reserved_descriptors=64)
        for allowed, level in ((5064, OK), (5063, WARNING), (64, WARNING), (32, WARNING)):
            [finding] = check_open_files(limits, allowed)
            self.assertEqual(finding.level, level, finding)

    def test_without_a_number_there_is_room_for_what_may_be_opened(self) -> None:
        """Row 118."""
        [fine] = check_open_files(Limits(), 1024)
        self.assertEqual((fine.level, fine.text), (OK, "1024 here: room for 960 connections"))
        [few] = check_open_files(Limits(), 128)
        self.assertEqual(few.level, WARNING)

    def test_a_clock_from_before_our_time_is_wrong(self) -> None:
        """Row 120."""
        self.assertEqual(levels(list(check_clock(NOW))), {"clock": OK})
        self.assertEqual(
            levels(list(check_clock(datetime(1970, 1, 1, tzinfo=timezone.utc)))), {"clock": ERROR}
        )

    def test_settings_that_do_not_go_together_are_errors(self) -> None:
        """Row 81."""
        given = Config(access=Access(anonymous="never"), handlers=("os.path:join", "nonsense:table"))
        found = levels(list(check_configuration(given, "/etc/platziverse.toml")))
        self.assertEqual(found, {"configuration": OK, "logins": ERROR, "handlers": ERROR})
        [*_, finding] = check_configuration(given, None)
        self.assertEqual(str(finding), "error    handlers: nonsense:table: No module named 'nonsense'")


class CommandTests(SynchronousTestCase):
    skip = MISSING or None

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.environ = {"PLATZIVERSE_STATE_DIR": str(self.folder / "state")}

    def test_lines_for_people_and_an_exit_code_for_scripts(self) -> None:
        done = run(self, "check", environ=self.environ)
        self.assertEqual((done.code, done.err), (0, ""))
        for line in done.out.splitlines():
            self.assertRegex(line, r"^(ok|warning|error) +[a-zA-Z ']+: \S")

    def test_the_bus_of_workers_is_looked_at_when_their_database_runs(self) -> None:
        self.environ["PLATZIVERSE_WORKERS_COUNT"] = "2"
        done = run(self, "check", environ=self.environ)
        self.assertEqual((done.code, "bus:" in done.out), (0, False))
        out = run(self, "--database", cluster().dsn(), "check", environ=self.environ).out
        self.assertIn("ok       bus: postgresql:: set 'platziverse' may publish and subscribe", out)

    def test_json_for_programs(self) -> None:
        done = run(self, "check", "--json", environ=self.environ)
        answer = json.loads(done.out)
        self.assertEqual((done.code, answer["ok"]), (0, True))
        self.assertEqual({tuple(entry) for entry in answer["findings"]}, {("name", "level", "text")})

    def test_an_error_is_exit_code_1(self) -> None:
        """Row 79."""
        acl = self.folder / "acl"
        acl.touch()
        self.environ["PLATZIVERSE_ACCESS_ACL_FILE"] = str(acl)
        done = run(self, "check", "--json", environ=self.environ)
        answer = json.loads(done.out)
        self.assertEqual((done.code, answer["ok"]), (1, False))
        [error] = [entry for entry in answer["findings"] if entry["level"] == "error"]
        self.assertEqual(error["name"], "ACL file")

    def test_a_configuration_that_cannot_be_read_is_an_answer_too(self) -> None:
        """Row 81."""
        unknown = {"PLATZIVERSE_NONSENSE": "1"}
        done = run(self, "check", "--json", environ=unknown)
        [error] = json.loads(done.out)["findings"]
        self.assertEqual((done.code, error["name"], error["level"]), (1, "configuration", "error"))
        out = run(self, "check", environ=unknown).out
        self.assertIn("PLATZIVERSE_NONSENSE: unknown variable", out)
