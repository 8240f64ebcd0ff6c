"""Sentinel: the Redis server that a group of Sentinels calls the master."""

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import inlineCallbacks

from platziverse.bus.kept import Gone, Steps, using
from platziverse.bus.resp import Refused, RespConnection
from platziverse.bus.server import Server

#: Error replies of a Sentinel to whom we need not log in, or must.
_NO_LOGIN: Final = ("WRONGPASS", "ERR AUTH", "ERR invalid password", "ERR Client sent AUTH")


class Sentinels:
    """Sentinels are asked for their master, one after the other, before each connection.

    They close the connections to a server that is the master no longer, so a fail-over is noticed by that.

    :param hosts: pairs of host and port; the first that has answered is asked first the next time.
    :param service: the name of the master.
    """

    def __init__(self, server: Server, hosts: tuple[tuple[str, int], ...], service: str) -> None:
        self._server, self._service = server, service
        self._hosts = list(hosts)

    @inlineCallbacks
    def open(self, message: Callable[[bytes, bytes], None] | None) -> Steps:
        """Connect to the master; the Deferred fires with the :class:`RespConnection`.

        :raises Gone: no Sentinel knows it, or it is none any more.
        """
        place = yield self._master()
        connection: RespConnection = yield self._server.open(place, message)
        yield using(connection, self._check(connection), keep=True)
        return connection

    @inlineCallbacks
    def _master(self) -> Steps:
        reasons = []
        for place in tuple(self._hosts):
            try:
                found = yield self._ask(place)
            except Gone as error:
                reasons.append(str(error))
                continue
            self._hosts.remove(place)
            self._hosts.insert(0, place)
            return found
        raise Gone("no Sentinel helps: " + "; ".join(reasons))

    @inlineCallbacks
    def _ask(self, place: tuple[str, int]) -> Steps:
        try:
            connection = yield self._server.open(place, sentinel=True)
        except Refused as error:
            # A Sentinel has a password of its own, most have none, and it is not that of the master.
            if not error.said.startswith(_NO_LOGIN):
                raise
            connection = yield self._server.open(place, sentinel=True, login=False)
        question = b"SENTINEL", b"get-master-addr-by-name", self._service.encode()
        answer = yield using(connection, connection.command(*question))
        if not answer:
            raise Gone(f"{connection.name} knows no master {self._service!r}; check the end of bus.url")
        try:
            host, port = answer
            return host.decode(), int(port)
        except (AttributeError, TypeError, ValueError):
            raise Gone(f"{connection.name} is no Sentinel") from None

    @inlineCallbacks
    def _check(self, connection: RespConnection) -> Steps:
        try:
            role: Any = yield connection.command(b"ROLE")
        except Refused as error:
            if not error.said.startswith("NOPERM"):
                raise
            return  # it is the master as far as we may know
        if role[0] != b"master":
            raise Gone(f"{connection.name} is no master yet, or no longer")
