"""A real Chromium, driven by ``browser_driver.js``: each method does one thing in its only page."""

import atexit
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tests.integration.daemon import clean_environment, find_program

HERE: Path = Path(__file__).parent
#: Modules of Node that the driver needs.
MODULES = ("playwright-core", "axe-core")


def missing() -> str:
    """What is not installed, of what is needed; empty: nothing."""
    programs = [name for name in ("chromium", "node") if find_program(name) is None]
    modules = [name for name in MODULES if not (HERE / "node_modules" / name).is_dir()]
    return ", ".join([*programs, *modules])


class Browser:
    """One process of Chromium; see :func:`browser`."""

    def __init__(self) -> None:
        chromium = find_program("chromium")
        assert chromium is not None
        command = ["node", str(HERE / "browser_driver.js"), chromium]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment()
        )
        first = self._line()
        if first != "ready\n":
            self.close()
            raise AssertionError(f"the browser did not start: {first}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def do(self, name: str, **arguments: Any) -> Any:
        """Do something that the driver knows; :raises AssertionError: it failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._line() or '{"error": "the browser has ended"}')
        if "error" in answer:
            raise AssertionError(f"{name} {arguments}: {answer}")
        return answer["value"]

    def open(self, url: str) -> None:
        """Go to an address."""
        self.do("open", url=url)

    def evaluate(self, script: str) -> Any:
        """Value of an expression of JavaScript."""
        return self.do("evaluate", script=script)

    def wait(self, script: str) -> Any:
        """Value of an expression, once it is true."""
        return self.do("wait", script=script)

    def sees(self, text: str, selector: str = "main") -> None:
        """Wait until a text is to be read somewhere."""
        self.wait(
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".some((one) => one.innerText.replaceAll('\\u00a0', ' ').includes({json.dumps(text)}))"
        )

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@cache
def _running() -> Browser:
    running = Browser()
    atexit.register(running.close)
    return running


def browser(login: str = "") -> Browser:
    """The browser of this process, with a profile that has never been anywhere.

    :param login: user name and password for HTTP Basic, ``"ana:secret"``.
    """
    running = _running()
    running.do("fresh", login=login.split(":"))
    return running
