"""Supervisor: what systemd is told about the daemon, in datagrams to the socket that it named."""

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from twisted.internet.task import LoopingCall

#: Seconds between two looks at whether the status has changed.
LOOK: Final = 1.0


class Supervisor:
    """systemd, or whoever else speaks the protocol of ``sd_notify``; nobody, if no socket was named.

    The variables are taken out of the environment: they are for this process alone.

    :param reactor: also gives the sign of life: a reactor that is blocked gives none.
    :param status: the line that ``systemctl status`` shows.
    :ivar watchdog: seconds after which silence means that we hang; ``None``: nobody watches.
    """

    def __init__(
        self, reactor: Any, status: Callable[[], str], environ: MutableMapping[str, str] = os.environ
    ) -> None:
        self._status, self._said = status, ""
        path = environ.pop("NOTIFY_SOCKET", "")
        self.watchdog = _seconds(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""))
        # A name with @ in front is in Linux's abstract namespace.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        # Opened now: later there may be no descriptor left.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if path else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._calls = [LoopingCall(self._look)]
        if self.watchdog is not None:
            self._calls.append(LoopingCall(self._tell, "WATCHDOG=1"))
        for call in self._calls:
            call.clock = reactor

    def ready(self) -> None:
        """The ports are open, or a reload is over. From the first time on the status is kept up to date."""
        self._said = self._status()
        self._tell("READY=1", f"STATUS={self._said}")
        if self._socket is not None and not self._calls[0].running:
            for call, interval in zip(self._calls, (LOOK, (self.watchdog or 0.0) / 2), strict=False):
                call.start(interval)

    def reloading(self) -> None:
        """Settings are being read again; ``ready`` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The daemon is going to stop; it gives signs of life until it has."""
        self._tell("STOPPING=1", "STATUS=stopping: what is pending is being committed")
        if self._calls[0].running:
            self._calls[0].stop()

    def stop(self) -> None:
        """No more signs of life, and nothing else that systemd could be told."""
        for call in self._calls:
            if call.running:
                call.stop()
        if self._socket is not None:
            self._socket.close()

    def _look(self) -> None:
        status = self._status()
        if status != self._said:
            self._said = status
            self._tell(f"STATUS={status}")

    def _tell(self, *assignments: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # whoever was to listen does not; that is no reason to stop
                # A line break would begin another assignment.
                lines = [" ".join(text.split()) for text in assignments]
                self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _seconds(microseconds: str, pid: str) -> float | None:
    if not microseconds.isdecimal() or not int(microseconds) or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6
