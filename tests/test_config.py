"""The configuration: precedence, complaints, secrets, and the example that documents it."""

import os
import pwd
import re
import tempfile
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, strategies
from psycopg2.extensions import parse_dsn
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from platziverse.config import Config, flat, holds_secret, load, log_levels, shown, without_secrets
from platziverse.settings import ConfigError

EXAMPLE = Path(__file__).parent.parent / "examples" / "platziverse.toml"
KEYS = [line.split(" = ")[0] for line in shown(Config()).splitlines()]


class ConfigTests(SynchronousTestCase):
    def file(self, text: str) -> str:
        handle, path = tempfile.mkstemp(suffix=".toml")
        self.addCleanup(os.unlink, path)
        with open(handle, "w") as file:
            file.write(text)
        return path

    def complaint(self, text: str | None = None, **environ: str) -> str:
        path = None if text is None else self.file(text)
        message = str(self.assertRaises(ConfigError, load, path, environ=environ))
        self.assertNotIn("\n", message)
        return message.replace(str(path), "FILE")


class PrecedenceTests(ConfigTests):
    def test_everything_has_a_default(self) -> None:
        self.assertEqual(load(environ={}), Config())

    def test_the_file_wins_over_the_defaults(self) -> None:
        config = load(self.file("[limits]\nmax_inflight = 7\n"), environ={})
        self.assertEqual(config.limits.max_inflight, 7)
        self.assertEqual(config.ingest, Config().ingest)

    def test_the_environment_wins_over_the_file(self) -> None:
        path = self.file("log_level = 'warn'\n[ingest]\nslots = 3\nbatch = 9\n")
        config = load(path, environ={"PLATZIVERSE_INGEST_SLOTS": "4", "PLATZIVERSE_LOG_LEVEL": "error"})
        self.assertEqual((config.ingest.slots, config.ingest.batch, config.log_level), (4, 9, "error"))

    def test_the_command_line_wins_over_the_environment(self) -> None:
        config = load(given={"listen": ["unix:/a"]}, environ={"PLATZIVERSE_LISTEN": "tcp:1 tcp:2"})
        self.assertEqual(config.listen, ("unix:/a",))

    def test_the_environment_may_name_the_file(self) -> None:
        config = load(environ={"PLATZIVERSE_CONFIG": self.file("[sys]\ninterval = 0\n")})
        self.assertEqual(config.sys.interval, 0)

    def test_lists_in_the_environment_are_split_at_blanks(self) -> None:
        self.assertEqual(load(environ={"PLATZIVERSE_LISTEN": "tcp:1 tcp:2"}).listen, ("tcp:1", "tcp:2"))

    def test_the_originals_variables_make_a_connection_string(self) -> None:
        config = load(self.file("database = 'host=elsewhere'"), environ={"DB_PASS": "it's"})
        expected = {"host": "localhost", "dbname": "platziverse", "user": "platzi", "password": "it's"}
        self.assertEqual(parse_dsn(config.database), expected)

    def test_our_own_variable_wins_over_the_originals(self) -> None:
        config = load(environ={"DB_HOST": "theirs", "PLATZIVERSE_DATABASE": "host=ours"})
        self.assertEqual(config.database, "host=ours")

    def test_service_links_of_kubernetes_are_not_ours(self) -> None:
        links = {"PORT": "tcp://10.0.0.1:1883", "PORT_1883_TCP_ADDR": "10.0.0.1", "SERVICE_HOST": "10.0.0.1"}
        load(environ={f"PLATZIVERSE_{name}": value for name, value in links.items()})

    def test_every_setting_has_a_variable_also_one_that_looks_like_a_service_link(self) -> None:
        self.assertEqual(load(environ={"PLATZIVERSE_EMBEDDED_PORT": "45432"}).embedded.port, 45432)

    def test_the_state_directory_is_systemds_if_there_is_one(self) -> None:
        self.patch_environ(STATE_DIRECTORY="/var/lib/platziverse:/other", XDG_STATE_HOME="/xdg")
        self.assertEqual(Config().state_dir, "/var/lib/platziverse")
        self.patch_environ(STATE_DIRECTORY="", XDG_STATE_HOME="/xdg")
        self.assertEqual(Config().state_dir, "/xdg/platziverse")
        self.patch_environ(STATE_DIRECTORY="", XDG_STATE_HOME="", HOME="/home/me")
        self.assertEqual(Config().state_dir, "/home/me/.local/state/platziverse")

    def test_row_241_a_user_without_a_home_has_the_state_directory_of_services(self) -> None:
        self.patch_environ()
        self.patch(pwd, "getpwuid", {}.__getitem__)  # no entry: KeyError
        self.assertEqual(Config().state_dir, "/var/lib/platziverse")

    def patch_environ(self, **variables: str) -> None:
        self.patch(os, "environ", variables)

    def test_the_state_directory_is_absolute(self) -> None:
        self.assertEqual(Config(state_dir="here").state_dir, str(Path.cwd() / "here"))


class ComplaintTests(ConfigTests):
    """row 81: an unknown or unused option is an error."""

    def test_an_unknown_key_names_file_key_and_nearest(self) -> None:
        self.assertEqual(
            self.complaint("[limits]\nmax_inflght = 3\n"),
            "FILE: limits.max_inflght: unknown key; did you mean limits.max_inflight?",
        )

    def test_an_unknown_section_is_named(self) -> None:
        self.assertEqual(
            self.complaint("[ingst]\nslots = 3\n"), "FILE: ingst: unknown key; did you mean ingest.slots?"
        )

    def test_a_key_like_nothing_known_has_no_suggestion(self) -> None:
        self.assertEqual(self.complaint("zzz = 1"), "FILE: zzz: unknown key")

    def test_an_ill_typed_key_is_named(self) -> None:
        self.assertEqual(
            self.complaint("[ingest]\nslots = '2'\n"), "FILE: ingest.slots: expected `int`, got `str`"
        )
        self.assertEqual(self.complaint("listen = 'tcp:1'"), "FILE: listen: expected `array`, got `str`")
        self.assertEqual(
            self.complaint("ingest = 3"), "FILE: ingest: unknown key; did you mean ingest.slots?"
        )

    def test_a_value_out_of_range_is_named(self) -> None:
        self.assertEqual(self.complaint("[ingest]\nslots = 0\n"), "FILE: ingest.slots: must be >= 1: 0")
        self.assertIn("log_format: must be in ('text', 'json')", self.complaint("log_format = 'xml'"))
        self.assertIn("access.anonymous: must be", self.complaint("[access]\nanonymous = 'sometimes'"))
        self.assertIn("access.binding: must be", self.complaint("[access]\nbinding = 'password'"))
        self.assertIn("is no Twisted endpoint", self.complaint("listen = ['1883']"))
        self.assertIn("'loud' is none of debug, info", self.complaint("log_level = 'info,mqtt=loud'"))

    def test_a_file_that_is_not_toml_is_named_with_the_line(self) -> None:
        self.assertRegex(self.complaint("listen = [\n]]"), r"^FILE: is not TOML: .*\(at line 2, column 2\)$")

    def test_bytes_that_are_no_text_are_no_toml(self) -> None:
        path = self.file("")
        Path(path).write_bytes(b"listen = '\xff'")
        self.assertIn("is not TOML", str(self.assertRaises(ConfigError, load, path, environ={})))

    def test_a_missing_file_is_named(self) -> None:
        message = str(self.assertRaises(ConfigError, load, "/no/such.toml", environ={}))
        self.assertEqual(message, "/no/such.toml: cannot be read: No such file or directory")

    def test_a_directory_is_no_file(self) -> None:
        message = str(self.assertRaises(ConfigError, load, "/", environ={}))
        self.assertEqual(message, "/: cannot be read: Is a directory")

    def test_an_unknown_variable_is_an_error(self) -> None:
        self.assertEqual(
            self.complaint(PLATZIVERSE_LIMITS_MAX_INFLIGH="3"),
            "environment: PLATZIVERSE_LIMITS_MAX_INFLIGH: unknown variable;"
            " did you mean PLATZIVERSE_LIMITS_MAX_INFLIGHT?",
        )

    def test_an_ill_typed_variable_is_named(self) -> None:
        self.assertEqual(
            self.complaint(PLATZIVERSE_INGEST_SLOTS="two"),
            "environment: PLATZIVERSE_INGEST_SLOTS: expected `int`, got `str`",
        )

    @given(strategies.dictionaries(strategies.text(), strategies.integers() | strategies.text()))
    def test_no_table_escapes_as_another_error(self, table: dict[str, Any]) -> None:
        lines = [
            f'"{key.encode().hex()}" = {value!r}' for key, value in table.items() if isinstance(value, int)
        ]
        try:
            load(self.file("\n".join(lines)), environ={})
        except ConfigError as error:
            self.assertIn("unknown key", str(error))


class SecretTests(ConfigTests):
    SECRET = "hunter2"

    def test_a_password_is_never_shown(self) -> None:
        for dsn in (f"postgresql://me:{self.SECRET}@host/db", f"host=a password={self.SECRET}"):
            config = load(environ={"PLATZIVERSE_DATABASE": dsn})
            self.assertIn(self.SECRET, config.database)
            self.assertNotIn(self.SECRET, repr(config))
            self.assertNotIn(self.SECRET, shown(config))

    def test_a_password_of_the_bus_is_never_shown(self) -> None:
        for environ in (
            {"PLATZIVERSE_BUS_URL": f"redis://me:{self.SECRET}@host"},
            {"PLATZIVERSE_BUS_URL": "redis://host", "PLATZIVERSE_BUS_PASSWORD": self.SECRET},
        ):
            config = load(environ=environ)
            self.assertTrue(holds_secret(config))
            self.assertIn(self.SECRET, str(flat(config)))
            self.assertNotIn(self.SECRET, repr(config))
            self.assertNotIn(self.SECRET, shown(config))
        self.assertFalse(holds_secret(load(environ={"PLATZIVERSE_BUS_URL": "redis://host"})))

    def test_a_broken_url_of_the_bus_is_not_repeated(self) -> None:
        for url in (self.SECRET, f"redis://:{self.SECRET}@host:x", f"redis://:{self.SECRET}@host?nonsense=1"):
            said = self.complaint(PLATZIVERSE_BUS_URL=url)
            self.assertIn("PLATZIVERSE_BUS_URL", said)
            self.assertNotIn(self.SECRET, said)

    def test_a_broken_connection_string_is_not_repeated(self) -> None:
        broken = self.SECRET, f"postgresql://me:{self.SECRET}@host/db?nonsense=1", f"{self.SECRET}=1"
        for dsn in (*broken, f"postgresql://me:a@{self.SECRET}@host/db"):
            self.assertNotIn(self.SECRET, self.complaint(PLATZIVERSE_DATABASE=dsn))

    def test_what_is_not_secret_stays(self) -> None:
        self.assertEqual(without_secrets("postgresql://me:x@h:1/db"), "user=me dbname=db host=h port=1")
        self.assertEqual(without_secrets(""), "")


class LogLevelTests(SynchronousTestCase):
    def test_rooms_have_levels_of_their_own(self) -> None:
        self.assertEqual(log_levels("warn, mqtt=debug"), {"": LogLevel.warn, "mqtt": LogLevel.debug})


class ExampleTests(ConfigTests):
    def test_the_example_says_nothing_that_is_not_the_default(self) -> None:
        self.assertEqual(load(str(EXAMPLE), environ={}), Config())

    def test_the_example_holds_every_setting_with_its_default(self) -> None:
        text = re.sub(r"(?m)^#(?=\w+ = )", "", EXAMPLE.read_text())
        config = load(self.file(text), environ={})
        self.assertEqual(evolve(config, state_dir=Config().state_dir), Config())
        section, documented = "", set()
        for line in text.splitlines():
            if found := re.match(r"\[(\w+)\]$", line):
                section = f"{found[1]}."
            elif found := re.match(r"(\w+) = ", line):
                documented.add(section + found[1])
        self.assertEqual(documented, set(KEYS))
