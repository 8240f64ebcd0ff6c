"""The command ``platziverse`` in this process, as a user would call it."""

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from platziverse.command.cli import main

#: No variables of the environment.
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@frozen
class Ran:
    """:param code: exit code."""

    code: int
    out: str
    err: str


def run(
    case: SynchronousTestCase, *arguments: str, stdin: bytes = b"", environ: Mapping[str, str] = NOTHING
) -> Ran:
    """Run it with ``environ`` as its whole environment, beside ``PATH``."""
    case.patch(os, "environ", {"PATH": os.environ.get("PATH", ""), **environ})
    case.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())
