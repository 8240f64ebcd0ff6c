"""Mosquitto, which keeps Sessions but writes them every half an hour: what the ledger has to notice."""

import os
import signal
import socket
import subprocess
from typing import Final

from tests.crash.waiting import poll
from tests.ports import free_port

_CONFIGURATION: Final = """listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {home}/
max_queued_messages 0
user root
log_dest none
"""


class Mosquitto:
    """The broker on one port of 127.0.0.1, again and again with the same Sessions.

    :param binary: path of the program.
    :param home: existing directory for its state.
    """

    def __init__(self, binary: str, home: str) -> None:
        self.port = free_port()
        self._path = os.path.join(home, "mosquitto.conf")
        with open(self._path, "w", encoding="utf-8") as file:
            file.write(_CONFIGURATION.format(port=self.port, home=home))
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen([self._binary, "-c", self._path])
        poll(self._listening, 30, "mosquitto listens")

    def _listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it with this signal; with SIGTERM it writes everything."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
