"""The log: one line per event, for people, for a terminal, for the journal, or for machines.

What came from a client is in the fields of an event, and whatever is in them, it cannot begin a line,
move a cursor or turn the direction of writing. A log that cannot be written never harms a connection.
"""

import getopt
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
)
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from zope.interface import implementer

from platziverse.config import CLIENT, Config, log_levels
from platziverse.words import escaped

#: Syslog's priorities, which the journal takes from the beginning of a line.
PRIORITIES: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}
_LEVEL_COLOURS: Final = {"debug": "2", "warn": "33", "error": "31", "critical": "1;31"}
_ROOM_COLOURS: Final = ("36", "32", "34", "35", "96", "92", "94", "95")

#: Takes away what stands in the last line of a terminal.
CLEAR: Final = b"\r\x1b[K"
#: A file that twistd was told to log to is rotated at this size, and so many old ones are kept.
ROTATE: Final = 10_000_000
KEPT: Final = 10


class Sink(Protocol):
    """A Sink is where lines go."""

    def write(self, data: bytes, /) -> object: ...


def _room(namespace: str) -> str:
    """``"net"`` for ``"platziverse.net.protocol"``; what is not ours keeps its name."""
    return namespace.split(".")[1] if namespace.startswith("platziverse.") else namespace or "log"


def _simple(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value) if isinstance(value, BaseException) else None


@implementer(ILogObserver)
class LineLog:
    """A LineLog writes events to a file. It never raises, whatever the event and the file are like.

    :param sink: takes bytes, and does not keep them back.
    :param form: ``"text"``; or ``"json"``, one object in a line: ``time``, ``level``, ``room``, ``message``,
        ``traceback`` where there is one, and the simple fields of the event.
    :param levels: see ``use``.
    :param journal: systemd's journal reads it: a priority in front of every line, and no time in texts.
    :param worker: number of this daemon among those of the machine, which every line tells; 0: it is alone.
    :param colours: it is a terminal that has them.
    :ivar lost: events that could not be written since the last that could.
    """

    def __init__(
        self,
        sink: Sink,
        form: str,
        levels: Mapping[str, LogLevel],
        journal: bool = False,
        colours: bool = False,
        worker: int = 0,
    ) -> None:
        self.sink, self._worker = sink, worker
        self.lost = 0
        self._json = form == "json"
        self._journal = journal
        self._colours = colours and not journal
        self._shown = False
        self.use(levels)

    def use(self, levels: Mapping[str, LogLevel]) -> None:
        """Room → least level, from now on; ``""`` for all that is not named.

        ``"client:"`` and a Client Identifier → least level of what is about that client, whatever the room.
        """
        base = levels.get("", LogLevel.info)
        wanted = LogLevelFilterPredicate(defaultLogLevel=base)
        if base is not LogLevel.debug:
            for others in ("twisted", "log_legacy"):  # ports that start and stop, and the version of twistd
                wanted.setLogLevelForNamespace(others, LogLevel.warn)
        self._clients = {
            name.removeprefix(CLIENT): level for name, level in levels.items() if name.startswith(CLIENT)
        }
        for room, level in levels.items():
            if room and not room.startswith(CLIENT):
                wanted.setLogLevelForNamespace(f"platziverse.{room}", level)
                wanted.setLogLevelForNamespace(room, level)
        self._wanted = wanted

    def reopen(self) -> None:
        """Open the file anew, as it may have been moved away; keep the old one if that fails."""
        old = self.sink
        if isinstance(old, LogFile):
            with suppress(OSError):
                self.sink = LogFile(old.name, old.directory, ROTATE, maxRotatedFiles=KEPT)
                old.close()

    def __call__(self, event: LogEvent) -> None:
        """Write one event, if its room and level are wanted."""
        try:
            if self._wanted(event) is PredicateResult.no and not self._is_of_a_client(event):
                return
            lines = self._lines(event)
        except Exception as error:  # of a field, in its own __str__ for one
            lines = self._lines(_of_ours(f"an event cannot be shown: {type(error).__name__}"))
        self.write_lines("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))

    def write_lines(self, lines: bytes) -> None:
        """Write whole lines as they are, behind one that says how many are lost, if any."""
        if self.lost:
            told = self._lines(_of_ours(f"{self.lost} events before this could not be written"))
            lines = f"{told[0]}\n".encode() + lines
        if self._shown or (self._worker and self._colours):  # below is the line of who looks after workers
            lines, self._shown = CLEAR + lines, False
        try:
            self.sink.write(lines)
        except (OSError, ValueError):  # the disk is full, the terminal has gone, the file is closed
            self.lost += 1
        else:
            self.lost = 0

    def show(self, text: str) -> None:
        """Show a line below the log until the next one, in a terminal alone; an empty one takes it away."""
        if self._colours and not self._json and (text or self._shown):
            self._shown = bool(text)
            with suppress(OSError, ValueError):
                self.sink.write(CLEAR + escaped(text).encode("utf-8", "backslashreplace"))

    def _is_of_a_client(self, event: LogEvent) -> bool:
        """Return whether the event is about a client that has a level, and reaches it."""
        level = self._clients.get(event.get("client_id", "")) if self._clients else None
        return level is not None and event["log_level"] >= level

    def _lines(self, event: LogEvent) -> list[str]:
        level = event["log_level"].name
        lines = [self._object(event, level)] if self._json else self._text(event, level)
        return [f"<{PRIORITIES[level]}>{line}" for line in lines] if self._journal else lines

    def _text(self, event: LogEvent, level: str) -> list[str]:
        message, traceback = _said(event)
        head, room = "", escaped(_room(event.get("log_namespace", "")))
        shown = f"{level:<5} "
        if self._colours:
            shown = _painted(shown, _LEVEL_COLOURS.get(level, "0"))
            room = _painted(room, _ROOM_COLOURS[sum(room.encode()) % len(_ROOM_COLOURS)])
        if not self._journal:
            head = f"{_time(event)} {shown}"
        if self._worker:
            room = f"worker {self._worker} {room}"
        return [f"{head}{room}: {escaped(message)}", *(f"    {escaped(line)}" for line in traceback)]

    def _object(self, event: LogEvent, level: str) -> str:
        message, traceback = _said(event)
        room = _room(event.get("log_namespace", ""))
        found: dict[str, object] = {"time": _time(event), "level": level, "room": room, "message": message}
        if self._worker:
            found["worker"] = self._worker
        if traceback:
            found["traceback"] = "\n".join(traceback)
        if event.get("log_namespace") != "log_legacy":
            for key, value in event.items():
                if not key.startswith("log_"):
                    found[f"{key}_" if key in found else key] = _simple(value)
        return json.dumps(found)


def _of_ours(text: str) -> LogEvent:
    return {"log_level": LogLevel.warn, "log_namespace": "log", "log_time": time.time(), "log_format": text}


def _time(event: LogEvent) -> str:
    return datetime.fromtimestamp(event["log_time"]).astimezone().isoformat(timespec="milliseconds")


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def _said(event: LogEvent) -> tuple[str, list[str]]:
    """The message, and the lines of the traceback, neither of them safe for a terminal."""
    failure = event.get("log_failure")
    message = formatEvent(event)
    if failure is None:
        return message, []
    return message or failure.getErrorMessage(), failure.getTraceback().splitlines()


def log_target(arguments: Sequence[str]) -> str | None:
    """Find out where twistd logs when it is called with these arguments.

    :return: the path of a file, ``"-"`` for the standard output; ``None``: only twistd knows.
    """
    known = ServerOptions()
    try:
        found, _ = getopt.getopt(list(arguments), known.shortOpt, known.longOpt)
    except getopt.GetoptError:
        return None  # this is not twistd
    given = dict(found)
    if "--syslog" in given or "--logger" in given:
        return None
    foreground = "-n" in given or "--nodaemon" in given
    path = given.get("--logfile") or given.get("-l") or ("-" if foreground else "twistd.log")
    if path != "-":
        return os.path.abspath(path)
    return "-" if foreground else None  # twistd ends with a line that says so


def open_log(
    target: str,
    form: str,
    levels: Mapping[str, LogLevel],
    environ: Mapping[str, str] = os.environ,
    worker: int = 0,
) -> LineLog:
    """Return the log for a target that ``log_target`` has named.

    :param worker: as of :class:`LineLog`.
    :raises OSError: a file cannot be opened.
    """
    if target != "-":
        path, name = os.path.split(target)
        return LineLog(LogFile(name, path, ROTATE, maxRotatedFiles=KEPT), form, levels, worker=worker)
    # Without a buffer: a line that cannot be written is not in the way of the next.
    output = open(os.dup(sys.stdout.fileno()), "wb", buffering=0)  # noqa: SIM115
    colours = output.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return LineLog(output, form, levels, is_journal(output.fileno(), environ), colours, worker)


def give_log(application: object, config: Config) -> LineLog | None:
    """Make twistd's application log with our log, and return that.

    :return: ``None``: it is no application of twistd, or twistd was told to log elsewhere.
    :raises SystemExit: the file cannot be opened; with one line that says why.
    """
    target = log_target(sys.argv[1:])
    if target is None or not isinstance(application, Componentized):
        return None
    levels = log_levels(config.log_level)
    try:
        opened = open_log(target, config.log_format, levels, worker=config.workers.number)
    except OSError as error:
        raise SystemExit(f"platziverse: {target}: {error.strerror}") from None
    application.setComponent(ILogObserver, opened)
    return opened


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Return whether ``descriptor`` leads to systemd's journal; see ``$JOURNAL_STREAM``."""
    found = os.fstat(descriptor)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
