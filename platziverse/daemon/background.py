"""Starting in the background: the ``twistd`` that was called waits for what becomes of its daemon."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from twisted.logger import Logger

from platziverse.daemon.listening import CannotListen

log = Logger("platziverse.service")

#: Seconds that it waits for the database; a daemon whose database is away has started.
PATIENCE: Final = 5.0
#: Bytes of an answer that twistd reads; the terminal gets the whole line from us.
ANSWER: Final = 100


class Background:
    """A Background tells the waiting twistd how the start has ended, and once.

    Twisted says that all is well as soon as the services are started, and leaves its parent waiting for ever
    when SystemExit ends the child: the parent holds the writing end of the pipe itself. So we take the pipe
    from twistd's options before Twisted answers, and answer when the database has. Decided in ADR 0098.

    :param twistd: the options of ``twistd``; ``None``: something else has made the service.
    """

    def __init__(self, twistd: Any) -> None:
        self._twistd = twistd
        self._pid = os.getpid()
        self._pipe = self._terminal = -1
        if twistd is not None and not (twistd.get("nodaemon") or twistd.get("debug")):
            with suppress(OSError):  # closed, so nobody reads it
                self._terminal = os.dup(2)

    def take(self) -> bool:
        """Take the pipe, if there is one; return whether this is the background: the child of a fork."""
        if self._twistd is not None and self._twistd.get("statusPipe") is not None:
            self._pipe, self._twistd["statusPipe"] = self._twistd["statusPipe"], None
        return os.getpid() != self._pid

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Take the pipe; a port that cannot be opened in the body ends the start with one line.

        :raises CannotListen: this is the background, where Twisted removes the pid file on an error.
        :raises SystemExit: it is not.
        """
        in_background = self.take()
        try:
            yield
        except CannotListen as error:
            log.critical("platziverse: {error}", error=error)
            self.failed(f"platziverse: {error}")
            if in_background:
                raise  # nobody sees its traceback
            raise SystemExit(1) from None

    def started(self) -> None:
        """Let the waiting process end with 0."""
        self._answer(b"0")

    def failed(self, reason: str) -> None:
        """Let it end with 1, and its terminal show one line, ``reason``."""
        if self._pipe >= 0 and self._terminal >= 0:
            with suppress(OSError):
                os.write(self._terminal, f"{reason}\n".encode(errors="backslashreplace"))
        self._answer(f"1 {reason}".encode("ascii", "backslashreplace")[:ANSWER])

    def _answer(self, answer: bytes) -> None:
        pipe, terminal = self._pipe, self._terminal
        self._pipe = self._terminal = -1
        if pipe >= 0:
            with suppress(OSError):  # it waits no longer: somebody has ended it
                os.write(pipe, answer)
            os.close(pipe)
        if terminal >= 0:
            os.close(terminal)
