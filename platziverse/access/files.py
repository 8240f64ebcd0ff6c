"""Files that decide who may what: read strictly, written atomically, and not open to everyone."""

import os
import stat
import tempfile
from contextlib import suppress
from typing import Final

from platziverse.errors import Unusable

#: Mode of the files written here; the second if it was so: root's file that the daemon's group reads.
PRIVATE: Final = 0o600
FOR_GROUP: Final = 0o640


class AccessError(Unusable):
    """A file about access cannot be used; the text names the file, and the line where there is one."""

    def __init__(self, path: str, reason: str, line: int | None = None) -> None:
        super().__init__(f"{path}:{line}: {reason}" if line is not None else f"{path}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


def read_lines(path: str) -> list[str]:
    """Return the lines of a UTF-8 file.

    :raises AccessError: it cannot be read, or everyone may write to it.
    """
    try:
        with open(path, encoding="utf-8", newline=None) as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise AccessError(path, "everyone may write to it; chmod o-w")
            text = file.read()
    except OSError as error:
        raise AccessError(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise AccessError(path, f"it is not UTF-8 (byte {error.start})") from error
    if "\0" in text:
        raise AccessError(path, "it holds a NUL", text.count("\n", 0, text.index("\0")) + 1)
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def replace_file(path: str, text: str) -> None:
    """Put ``text`` in the place of the file at once; who owned it owns it again, and others cannot read it.

    A new file of root's belongs to the group of its directory, which may read it: the daemon's, where the
    directory is the service's.

    :raises AccessError: nothing was changed.
    """
    folder = os.path.dirname(os.path.abspath(path))
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
        with open(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), PRIVATE)
            with suppress(FileNotFoundError, PermissionError):
                user, group, shared = _owners(path, folder)
                os.fchown(file.fileno(), user, group)
                if shared:
                    os.fchmod(file.fileno(), FOR_GROUP)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        raise AccessError(path, error.strerror or str(error)) from error


def _owners(path: str, folder: str) -> tuple[int, int, bool]:
    """User, group, and whether the group may read the file; -1: whoever writes it."""
    with suppress(FileNotFoundError):
        found = os.stat(path)
        only_group = found.st_mode & (stat.S_IRGRP | stat.S_IROTH) == stat.S_IRGRP
        return found.st_uid, found.st_gid, only_group
    group = os.stat(folder).st_gid
    return (-1, group, True) if group and not os.geteuid() else (-1, -1, False)


def writable_by_everyone(path: str) -> bool:
    """Return whether all users of this machine may change the file; ``False`` if it is not there."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IWOTH)
    except OSError:
        return False


def mode_problem(path: str, secret: bool = True, owner: int | None = None) -> str | None:
    """Return what is wrong with the owner and mode of a file or directory; ``None`` when nothing is.

    :param secret: others may not read it either: passwords, private keys.
    :param owner: user id whose it may be beside root's and our own: that of the daemon.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid(), owner):
        return f"{path}: belongs to user {found.st_uid}, neither root nor the daemon's own"
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        return f"{path}: others may write to it (mode {mode:04o}); chmod go-w"
    if secret and mode & stat.S_IRWXO:
        return f"{path}: everyone may read it (mode {mode:04o}); chmod o-rwx"
    return None
