"""Servers of other versions of PostgreSQL, as npm brings them; ``make test-postgres`` runs tests on each.

``TEST_POSTGRES=13`` in the environment lets the servers of all tests be of that version.
"""

import os
import shutil
import tempfile
from atexit import register
from functools import cache
from pathlib import Path
from typing import Final

from platziverse.embedded.binaries import OLDEST
from platziverse.embedded.places import choose_owner, reachable

_MODULES: Final = Path(__file__).parent / "postgres" / "versions" / "node_modules"
#: Major versions, from the oldest that we know on; 15 is Debian's, so all other tests are run on it.
VERSIONS: Final = (OLDEST, 14, 16, 17, 18)
#: The variable that names the version of all servers.
VARIABLE: Final = "TEST_POSTGRES"


def version_dir(version: int) -> str | None:
    """Return the directory of the programs of one version; ``None`` where npm has not brought it.

    PostgreSQL does not run as root, and another user may not see our files: then it is a copy of them.
    """
    programs = _MODULES / f"postgres-{version}" / "native" / "bin"
    if not os.access(programs / "initdb", os.X_OK):
        return None
    if reachable(str(programs / "postgres"), choose_owner("/nonexistent")):
        return str(programs)
    return _copied(programs.parent)


@cache
def _copied(native: Path) -> str:
    home = tempfile.mkdtemp(prefix="platziverse-postgres-")
    register(shutil.rmtree, home, ignore_errors=True)
    os.chmod(home, 0o711)
    shutil.copytree(native, os.path.join(home, "native"), symlinks=True)
    return os.path.join(home, "native", "bin")


def asked_for() -> list[str] | None:
    """Return where programs of the version of ``TEST_POSTGRES`` are, if any; ``None``: none is asked for."""
    wanted = os.environ.get(VARIABLE)
    return [path for path in [version_dir(int(wanted))] if path] if wanted else None


if __name__ == "__main__":
    print(*[version for version in VERSIONS if version_dir(version)])
