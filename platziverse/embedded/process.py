"""Process: those of PostgreSQL, started in a session of their own, or found running and adopted."""

import os
import signal
import sys
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from platziverse.embedded.cluster import Cluster
from platziverse.embedded.places import Owner

#: Own session: Ctrl-C in our terminal must not reach it. Then the privileges, and only then the program.
_LAUNCH: Final = """
import os, sys
os.setsid()
uid, gid = int(sys.argv[1]), int(sys.argv[2])
if uid != os.geteuid():
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
os.umask(0o077)
os.chdir("/")
os.execv(sys.argv[3], sys.argv[3:])
"""


class ServerProcess:
    """A ServerProcess is a process that we look after, whether we have started it or not.

    :ivar running: whether it has not ended.
    :ivar ending: how it ended, in words; empty while it runs.
    """

    pid: int

    def __init__(self) -> None:
        self.running = True
        self.ending = ""
        self._waiting: list[Deferred[str]] = []

    def ended(self) -> "Deferred[str]":
        """Return a Deferred that fires with ``ending`` when it has ended."""
        if not self.running:
            return succeed(self.ending)
        waiting: Deferred[str] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def signal(self, number: int) -> None:
        """Send it a signal; without effect when it has ended."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_all(self) -> None:
        """End it and its children at once, when nothing that it leaves behind is needed."""
        self.signal(signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _has_ended(self, ending: str) -> None:
        self.running, self.ending = False, ending
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(ending)


class Child(ServerProcess, ProcessProtocol):
    """A Child is a program that we start as ``owner``; its output is appended to the file ``log``."""

    def __init__(self, reactor: Any, owner: Owner, command: list[str], log: str) -> None:
        super().__init__()
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(owner.uid), str(owner.gid), *command]
        kept = ("TZ", "LD_LIBRARY_PATH", "LD_PRELOAD")
        env = {"LC_ALL": "C", "PATH": os.defpath}
        env.update((key, os.environ[key]) for key in kept if key in os.environ)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fds = {0: nothing, 1: output, 2: output}
            transport = reactor.spawnProcess(self, launcher[0], launcher, env=env, childFDs=fds)
            self.pid = transport.pid
        finally:
            os.close(nothing)
            os.close(output)

    def processExited(self, reason: Failure) -> None:
        status: Any = reason.value  # ProcessDone or ProcessTerminated
        killer = status.signal
        ending = f"killed by {signal.Signals(killer).name}" if killer else f"exit code {status.exitCode}"
        self._has_ended(ending)


class Adopted(ServerProcess):
    """An Adopted is a server that has outlived the daemon that started it. It is looked at every 0.1 s."""

    def __init__(self, reactor: Any, pid: int, cluster: Cluster) -> None:
        super().__init__()
        self.pid = pid
        self._cluster = cluster
        self._watch = LoopingCall(self._look)
        self._watch.clock = reactor
        self._watch.start(0.1, now=False)

    def _look(self) -> None:
        if self._cluster.running() != self.pid:
            self._watch.stop()
            self._has_ended("it is gone")
