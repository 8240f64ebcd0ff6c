"""Asking: a running daemon answers commands over the socket in its state directory."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Final

from platziverse.config import Config
from platziverse.daemon.statedir import HTTP
from platziverse.embedded.places import SYSTEM_HOME
from platziverse.settings import ConfigError

#: Seconds that an answer may take; streams may be silent for half a minute.
PATIENCE: Final = 40.0
_NEXT: Final = re.compile(r'<(.*)>; rel="next"')


class _UnixConnection(HTTPConnection):
    """A _UnixConnection is HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect. :raises OSError: nobody listens there, or we may not."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Asked:
    """An Asked is the running daemon of a configuration, or the first of its workers that has the time.

    :raises ConfigError: there is none.
    :ivar path: of its socket.
    """

    def __init__(self, config: Config) -> None:
        self.path = _socket(config.state_dir)

    def get(self, path: str, method: str = "GET") -> Any:
        """Return an answer in JSON.

        :raises ConfigError: the daemon refuses, has no such thing, or does not answer.
        """
        with closing(_UnixConnection(self.path)) as connection:
            return json.loads(_response(connection, method, path).read())

    def pages(self, path: str) -> Iterator[Any]:
        """Return the rows of all pages of a list. :raises ConfigError: likewise."""
        following: str | None = path
        while following:
            with closing(_UnixConnection(self.path)) as connection:
                response = _response(connection, "GET", following)
                yield from json.loads(response.read())
                link = _NEXT.fullmatch(response.getheader("Link") or "")
                following = link[1] if link is not None else None


def events(socket_path: str, path: str) -> Iterator[tuple[str, Any]]:
    """Return what comes in an event stream: names and data; ``""`` for a sign of life.

    :raises ConfigError: the daemon refuses, or does not answer any more.
    """
    with closing(_UnixConnection(socket_path)) as connection:
        response = _response(connection, "GET", path)
        event = ""
        try:
            for line in response:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)
                elif name == ":":
                    yield "", None
        except (OSError, HTTPException) as error:
            raise ConfigError(f"the daemon does not answer any more: {error}") from None


def _response(connection: HTTPConnection, method: str, path: str) -> HTTPResponse:
    try:
        connection.request(method, path)
        response = connection.getresponse()
    except (OSError, HTTPException) as error:
        raise ConfigError(f"the daemon does not answer: {error}") from None
    if response.status >= 400:
        reason = json.loads(response.read())["error"]
        raise ConfigError(reason)
    return response


def _socket(state_dir: str) -> str:
    """Return the socket of the daemon that runs there, or of the system's.

    :raises ConfigError: none does, or we may not speak to it.
    """
    for path in (os.path.join(directory, HTTP) for directory in (state_dir, SYSTEM_HOME)):
        if _listens(path):
            return path
    raise ConfigError(f"no daemon runs in {state_dir}; start it, or name its state directory: --config")


def _listens(path: str) -> bool:
    """Return whether somebody answers there. :raises ConfigError: we may not ask."""
    try:
        with closing(_UnixConnection(path)) as connection:
            connection.connect()
    except PermissionError:
        raise ConfigError(f"{path}: you may not speak to the daemon; be its user, or root") from None
    except OSError:
        return False
    return True
