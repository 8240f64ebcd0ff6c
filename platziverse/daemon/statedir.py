"""Statedir: the identity of a daemon, which survives restarts and is held by one daemon at a time."""

import fcntl
import os
import uuid
from typing import Final

from platziverse.embedded.places import make_state_dir, write_private
from platziverse.errors import Unusable

#: Name of the socket on which a daemon answers operators, and a worker the others.
HTTP: Final = "http"


class InstanceError(Unusable):
    """The state directory cannot be used; the text says why in one line."""


class Instance:
    """An Instance is the identity kept in a state directory, which one daemon at a time may hold.

    :raises InstanceError: another daemon holds it, or it cannot be written.
    """

    def __init__(self, state_dir: str) -> None:
        self._lock = -1
        try:
            make_state_dir(state_dir)
            self._lock = _locked(os.path.join(state_dir, "lock"))
            self.id = _kept_id(os.path.join(state_dir, "instance"))
        except OSError as error:
            self.release()
            if isinstance(error, BlockingIOError):
                message = f"another daemon is using the state directory {state_dir}; give one of them another"
            else:
                message = f"cannot use the state directory {state_dir}: {error.strerror}"
            raise InstanceError(message) from error

    def release(self) -> None:
        """Let another daemon have the state directory; the end of the process does so too."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _locked(path: str) -> int:
    """Return an open descriptor that holds the lock; processes started by us do not inherit it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _kept_id(path: str) -> uuid.UUID:
    try:
        with open(path, encoding="ascii") as file:
            return uuid.UUID(file.read().strip())
    except (FileNotFoundError, ValueError):
        return _new_id(path)  # missing, or cut short by a full disk


def _new_id(path: str) -> uuid.UUID:
    made = uuid.uuid4()
    write_private(path, f"{made}\n")
    return made
