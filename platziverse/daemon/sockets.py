"""Sockets: the ports of several workers, opened once, by the process that looks after them."""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory
from zope.interface import implementer

from platziverse.daemon.listening import PROXIED, CannotListen, divided, is_proxied, open_ports
from platziverse.daemon.statedir import HTTP

#: What is behind the protocol of a description; see ``PROTOCOLS``.
OPERATOR: Final = ":protocol=operator"
#: Operators that may wait to be answered.
BACKLOG: Final = 16

#: What the descriptor of the first socket is in a worker, as in a unit of systemd.
FIRST: Final = 3
#: Bits of the mode of a directory that a group needs to be let in.
GROUP: Final = 0o070

_DOMAINS: Final = {socket.AF_INET: "INET", socket.AF_INET6: "INET6", socket.AF_UNIX: "UNIX"}


def worker_dir(state_dir: str, number: int) -> str:
    """Return the state directory of a worker, below that of all."""
    return os.path.join(state_dir, "workers", str(number))


def sibling_socket(own_dir: str, number: int) -> str:
    """Return the path of the socket on which worker ``number`` answers the others, as one of them sees it."""
    return os.path.join(os.path.dirname(own_dir), str(number), HTTP)


def operator_socket(state_dir: str) -> socket.socket:
    """Open the socket of operators in a state directory; one that was left behind is replaced.

    Whoever may do everything in the directory may connect: its owner, and its group if that may.

    :raises CannotListen: it cannot be opened.
    """
    path = os.path.join(state_dir, HTTP)
    try:
        found = os.stat(state_dir)
        opened = _unix_socket(path, 0o600, BACKLOG)
        with suppress(PermissionError):  # not root, and the group is another's
            os.chown(path, found.st_uid if os.geteuid() == 0 else -1, found.st_gid)
            if found.st_mode & GROUP == GROUP:
                os.chmod(path, 0o660)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(f"cannot listen on {path}: {reason}; give a shorter --state-dir") from None
    return opened


class Sockets:
    """Sockets are those of the workers: of each TCP port one for each worker, others are shared by all.

    The kernel divides the connections to a TCP port among the sockets that are bound to it with
    SO_REUSEPORT. They stay open here as well, so a worker that is started again finds what has connected
    meanwhile. See ADR 0146.

    :ivar listen: what a worker listens on, in the place of ``listen``.
    """

    def __init__(self, workers: int) -> None:
        self.listen: list[str] = []
        self._of_workers: list[list[socket.socket]] = [[] for _ in range(workers)]
        # Those whose files we have made.
        self._ours: set[socket.socket] = set()

    def open(self, description: str) -> None:
        """Open what one description of ``listen`` asks for.

        :raises CannotListen: it is no endpoint, or cannot be opened.
        """
        endpoint, protocol = divided(description)
        (opened,) = open_ports(_Opener(len(self._of_workers)), endpoint, Factory())
        self._add(opened, "" if protocol == "any" else f":protocol={protocol}", is_proxied(endpoint))
        if endpoint.removeprefix(PROXIED).startswith("unix:"):
            self._ours.update(opened)

    def open_for_operators(self, state_dir: str) -> None:
        """Open the socket of each worker in its state directory, and one for all in that of all of them.

        :raises CannotListen: one cannot be opened.
        """
        numbers = range(1, len(self._of_workers) + 1)
        opened = [operator_socket(worker_dir(state_dir, number)) for number in numbers]
        self._add(opened, OPERATOR, proxied=False)
        shared = operator_socket(state_dir)
        self._add([shared] * len(numbers), OPERATOR, proxied=False)
        self._ours.update(opened, [shared])

    def of(self, worker: int) -> list[int]:
        """Return the descriptors of the worker with index ``worker``, in the order of ``listen``."""
        return [opened.fileno() for opened in self._of_workers[worker]]

    def own(self, worker: int) -> list[socket.socket]:
        """Return the sockets that this worker alone listens on."""
        others = {one for index, all_ in enumerate(self._of_workers) if index != worker for one in all_}
        return [one for one in self._of_workers[worker] if one not in others]

    @property
    def readable(self) -> str:
        """The addresses of the sockets of the first worker, for the log."""
        names = [opened.getsockname() for opened in self._of_workers[0]]
        return ", ".join(_readable(name) for name in names)

    def close(self) -> None:
        """Close all sockets here; those of a worker stay open as long as it lives."""
        for opened in {descriptor for sockets in self._of_workers for descriptor in sockets}:
            if opened in self._ours:
                with suppress(OSError):
                    os.unlink(opened.getsockname())
            opened.close()
        self._ours.clear()
        self._of_workers = [[] for _ in self._of_workers]

    def _add(self, opened: list[socket.socket], protocol: str, proxied: bool) -> None:
        domain, index = _DOMAINS[opened[0].family], len(self.listen)
        self.listen.append(f"{PROXIED if proxied else ''}systemd:domain={domain}:index={index}{protocol}")
        for sockets, one in zip(self._of_workers, opened, strict=True):
            sockets.append(one)


class Closing:
    """A Closing ends each connection to some sockets at once, as long as nobody is there to serve it.

    The kernel goes on giving a worker its share of the connections when it does not run; whoever is closed
    comes again, and reaches another one. ADR 0224.
    """

    def __init__(self, reactor: Any, sockets: Sequence[socket.socket]) -> None:
        self._reactor, self._ears = reactor, [_Ear(one) for one in sockets]

    def begin(self) -> None:
        """Close whatever comes from now on, and what waits already."""
        for ear in self._ears:
            self._reactor.addReader(ear)

    def end(self) -> int:
        """Let connections wait again; return how many were closed."""
        for ear in self._ears:
            self._reactor.removeReader(ear)
        closed = sum(ear.closed for ear in self._ears)
        for ear in self._ears:
            ear.closed = 0
        return closed


@implementer(IReadDescriptor)
class _Ear:
    """An _Ear is a listening socket, and counts those that it has closed."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening, self.closed = listening, 0

    def fileno(self) -> int:
        return self._listening.fileno()

    def logPrefix(self) -> str:
        return "closing"

    def doRead(self) -> None:
        """Accept one, and let it go."""
        with suppress(OSError):  # it has gone by itself, or there is no descriptor left
            self._listening.accept()[0].close()
            self.closed += 1

    def connectionLost(self, reason: object) -> None:
        """Do nothing: the socket is not ours to close."""


class _Opener:
    """An _Opener is the part of a reactor that an endpoint asks for a port; it answers with sockets."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def listenTCP(
        self, port: int, factory: object, backlog: int = 50, interface: str = ""
    ) -> list[socket.socket]:
        """Open a socket for each worker.

        :raises CannotListenError: one cannot be opened.
        """
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        opened: list[socket.socket] = []
        try:
            # Alone first: another daemon's sockets may be bound with SO_REUSEPORT as well.
            with _bound(family, (interface, port), alone=True) as trial:
                port = trial.getsockname()[1]
            for _ in range(self._workers):
                opened.append(_bound(family, (interface, port)))
                opened[-1].listen(backlog)
        except OSError as error:
            for one in opened:
                one.close()
            raise CannotListenError(interface, port, error) from None
        return opened

    def listenUNIX(
        self, address: str, factory: object, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> list[socket.socket]:
        """Open a socket for all workers.

        :raises CannotListenError: it cannot be opened.
        """
        try:
            return [_unix_socket(address, mode, backlog)] * self._workers
        except OSError as error:
            raise CannotListenError(None, address, error) from None

    def adoptStreamPort(self, descriptor: int, family: int, factory: object) -> list[socket.socket]:
        """Take a socket that systemd has opened, for all workers."""
        return [socket.socket(fileno=os.dup(descriptor))] * self._workers


def _bound(family: int, address: tuple[str, int], alone: bool = False) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not alone:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


def _unix_socket(path: str, mode: int, backlog: int) -> socket.socket:
    """Return a listening socket; one that was left behind is replaced, one that answers is not."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and one.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)
        one.close()
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.setblocking(False)
        before = os.umask(0o777 & ~mode)  # nobody else comes in before the next line
        try:
            one.bind(path)
        finally:
            os.umask(before)
        os.chmod(path, mode)
        one.listen(backlog)
    except OSError:
        one.close()
        raise
    return one


def _readable(name: Any) -> str:
    if not isinstance(name, tuple):
        return name if isinstance(name, str) else name.decode(errors="replace")
    host, port, *_ = name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
