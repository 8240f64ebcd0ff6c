"""The commands of setuptools, which fetch the chart library of the page first. ADR 0169."""

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

PAGE = Path(__file__).parent / "platziverse" / "web" / "page"


def fetch() -> None:
    """Fetch it, if it is not there yet; without npm, or a network, the page draws smaller charts itself."""
    if (PAGE / "node_modules" / "uplot" / "package.json").exists():
        return
    npm = shutil.which("npm")
    command = [npm, "ci", "--ignore-scripts", "--fetch-retries=0", "--no-audit", "--no-fund", "--silent"]
    if npm is None or subprocess.run(command, cwd=PAGE, check=False).returncode:
        print("without npm or its registry: the page at / has small charts only", file=sys.stderr)


class BuildPy(build_py):
    def run(self) -> None:
        fetch()
        super().run()


class Sdist(sdist):
    def run(self) -> None:
        fetch()
        super().run()


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
