"""Reactor: Twisted's own for epoll, with a shorter way to the reads of our connections.

Twisted gives every event a log context, for ``log.msg`` of old; nothing of ours reads it. See docs/adr/0064.
"""

import sys
from select import EPOLLIN
from typing import Final

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import log

from platziverse.door.port import ImmediateServer

#: Events taken from the kernel at once. Python allots room for all of them anew in every turn, so Twisted's
#: bound, the number of descriptors, would cost 120 KB a turn with 10,000 connections.
MAX_EVENTS: Final = 256


class ServingReactor(EPollReactor):
    """A ServingReactor is an ``EPollReactor`` that calls ``doRead`` of an :class:`ImmediateServer` itself.

    Every other event, and every other descriptor, goes Twisted's way.
    """

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, at most ``timeout`` seconds, and handle them."""
        selectables = self._selectables
        for fd, event in self._poller.poll(-1 if timeout is None else timeout, MAX_EVENTS):
            selectable = selectables.get(fd)
            if event == EPOLLIN and type(selectable) is ImmediateServer:
                try:
                    why: BaseException | None = selectable.doRead()
                except BaseException:  # as Twisted: it is logged, and ends this connection
                    why = sys.exc_info()[1]
                    log.err()
                if why is not None:
                    self._disconnectSelectable(selectable, why, True)  # type: ignore[no-untyped-call]
            elif selectable is not None:
                log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)

    doIteration = doPoll


def install() -> None:
    """Make a ServingReactor the reactor of this process.

    :raises ReactorAlreadyInstalledError: the process has a reactor already.
    """
    installReactor(ServingReactor())  # type: ignore[no-untyped-call]
