"""Places: the user that runs the embedded PostgreSQL, and the directories that it can use.

PostgreSQL refuses to run as root, so a daemon started by root runs it as another user, who must be able to
reach the data. Where that is impossible, say below ``/root``, the data goes to ``/var/lib/platziverse``, and
the state directory keeps a symbolic link to it. The mode of a directory that was there before is never
changed. Decided in ADR 0030.
"""

import hashlib
import os
import pwd
import stat
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from platziverse.errors import Unusable

#: Where root's embedded database goes when its state directory is closed to others.
SYSTEM_HOME: Final = "/var/lib/platziverse"
#: sockaddr_un holds 108 bytes with the final NUL; PostgreSQL adds ``/.s.PGSQL.65535.lock``, its client less.
LONGEST_SOCKET_DIR: Final = 107 - len("/.s.PGSQL.65535")


class EmbeddedError(Unusable):
    """The embedded PostgreSQL cannot run; the text is one line that says what to do."""


@frozen
class Owner:
    """An Owner is the user that PostgreSQL runs as."""

    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()


def choose_owner(state_dir: str) -> Owner:
    """Return the user to run PostgreSQL as: our own.

    For root it is the owner of the data, else of the state directory, else an unprivileged account.
    """
    if os.geteuid():
        return Owner(os.geteuid(), os.getegid())
    for path in (os.path.join(state_dir, "postgres"), state_dir):
        if os.path.isdir(path) and (found := os.stat(path)).st_uid:
            return Owner(found.st_uid, found.st_gid)
    for name in ("platziverse", "postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(entry.pw_uid, entry.pw_gid)
    return Owner(65534, 65534)


def is_known(owner: Owner) -> bool:
    """Return whether ``owner`` has an entry in /etc/passwd, without which initdb does not run."""
    try:
        pwd.getpwuid(owner.uid)
    except KeyError:
        return False
    return True


def reachable(path: str, owner: Owner) -> bool:
    """Return whether ``owner`` may pass through ``path``, or execute it, and all directories above it.

    Only permission bits are asked, so with an access control list the answer may be no where yes were right.
    """
    path = os.path.realpath(path)
    return all(_may_pass(part, owner) for part in (path, *_parents(path)))


def _parents(path: str) -> Iterable[str]:
    while path != (path := os.path.dirname(path)):
        yield path


def _may_pass(path: str, owner: Owner) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    if found.st_uid == owner.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == owner.gid else stat.S_IXOTH))


def make_dir(path: str, mode: int, owner: Owner | None = None) -> None:
    """Create the directory ``path``, and those that are missing above it; others stay as they are.

    :param mode: of each new directory.
    :param owner: of ``path`` if that is new.
    :raises EmbeddedError: one cannot be created.
    """
    try:
        for missing in reversed([path, *_parents(path)]):
            if not os.path.isdir(missing):
                os.mkdir(missing)
                os.chmod(missing, mode)  # whatever the umask says
                if owner and missing == path and not owner.is_us:
                    os.chown(path, owner.uid, owner.gid)
    except OSError as error:
        raise EmbeddedError(f"cannot create the directory {path}: {error.strerror}") from error


def make_state_dir(state_dir: str) -> None:
    """Create the state directory: private, or for root such that others may pass through it, but not list it.

    :raises EmbeddedError: it cannot be created.
    """
    try:
        make_dir(state_dir, 0o711 if os.geteuid() == 0 else 0o700)
    except EmbeddedError as error:
        raise EmbeddedError(f"{error}; name another with --state-dir") from error


def write_private(path: str, text: str) -> None:
    """Write a small file that only we may read: in whole, or the old one stays, whatever happens.

    :raises OSError: it cannot be written.
    """
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.rename(f"{path}.new", path)


def find_home(state_dir: str, owner: Owner, system_home: str = SYSTEM_HOME) -> str:
    """Return the directory of the embedded PostgreSQL, private to ``owner``; it is created when missing.

    It is ``postgres`` in the state directory, or what the symbolic link of that name points to.

    :param system_home: where root's data goes when ``owner`` cannot reach the state directory.
    :raises EmbeddedError: it belongs to somebody else, or cannot be created or reached.
    """
    home = os.path.join(state_dir, "postgres")
    if not os.path.isdir(home):
        if reachable(state_dir, owner):
            make_dir(home, 0o700, owner)
        else:
            _make_home_elsewhere(home, owner, system_home)
    home = os.path.realpath(home)
    found = os.stat(home)
    if found.st_uid == 0 and not os.listdir(home):
        os.chown(home, owner.uid, owner.gid)
    elif found.st_uid == 0:
        raise EmbeddedError(f"{home} belongs to root, as whom PostgreSQL does not run; move it away")
    elif found.st_uid != owner.uid:
        raise EmbeddedError(f"{home} belongs to user {found.st_uid}; start as that user or as root")
    if not reachable(home, owner):
        raise EmbeddedError(f"user {owner.uid}, who runs PostgreSQL for root, cannot reach {home}; move it")
    return home


def _make_home_elsewhere(link: str, owner: Owner, system_home: str) -> None:
    make_dir(system_home, 0o711)
    name = f"postgres-{_digest(os.path.realpath(link))}"
    home = os.path.join(system_home, name)
    make_dir(home, 0o700, owner)
    if os.path.islink(link):
        os.unlink(link)  # it led nowhere
    os.symlink(home, link)


def find_socket_dir(data: str, owner: Owner) -> str:
    """Return the directory of the Unix socket: the data directory, or a short private one elsewhere.

    The path of the data will not do when it has a comma, which libpq takes for a separator in ``host``, or
    more bytes than the kernel takes for a socket, 107 with the name of the file.

    :raises EmbeddedError: every candidate is in somebody else's hands.
    """
    if len(os.fsencode(data)) <= LONGEST_SOCKET_DIR and "," not in data:
        return data
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 and reachable("/run", owner):
        base = "/run"
    if not (base and os.path.isdir(base) and reachable(base, owner)) or len(os.fsencode(base)) > 50:
        base = "/tmp"
    for attempt in range(10):
        path = os.path.join(base, f"platziverse-{_digest(data)}-{attempt}")
        make_dir(path, 0o700, owner)
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == owner.uid and not found.st_mode & 0o077:
            return path
    raise EmbeddedError(f"no private place for a socket in {base}; shorten the path of the state directory")


def _digest(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=6).hexdigest()
