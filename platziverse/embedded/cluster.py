"""Cluster: a data directory of PostgreSQL: where it is, if a server runs on it, how it becomes usable."""

import glob
import os
import re
import secrets
import socket
from collections.abc import Generator
from typing import Any, Final

from attrs import field, frozen
from psycopg2.extensions import make_dsn
from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.embedded.places import (
    EmbeddedError,
    Owner,
    choose_owner,
    find_home,
    find_socket_dir,
    write_private,
)
from platziverse.postgres.connection import connect, force_close, timed

SUPERUSER: Final = "postgres"
#: Our role, and the name of our database.
ROLE: Final = "platzi"
DATABASE: Final = "platziverse"
#: Settings that depend on what the machine is like are in :func:`tuned`.
SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "50",
    "max_wal_size": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "cluster_name": "platziverse",
}
#: The socket is in a directory of the owner's alone; loopback asks for the password.
INITDB: Final = ("--auth-local=trust", "--auth-host=scram-sha-256", "--locale=C.UTF-8", "--encoding=UTF8")

MIB: Final = 1024 * 1024


def tuned(memory: int) -> dict[str, str]:
    """Return settings for a machine with ``memory`` bytes: an eighth, 128 MiB to 1 GiB, are buffers.

    Reads at random cost little more than others, since a page that is not in the buffers is mostly in the
    page cache, or on a disk without a head. Decided in ADR 0056.
    """
    buffers = min(max(memory // 8 // MIB, 128), 1024)
    return {"shared_buffers": f"{buffers}MB", "random_page_cost": "1.1"}


@frozen
class PidFile:
    """A PidFile is the content of ``postmaster.pid``; the server that wrote it may have ended long ago."""

    pid: int
    port: int
    socket_dir: str
    ready: bool


@frozen
class Cluster:
    """A Cluster is one data directory of PostgreSQL, and the server on it if one runs.

    :param home: directory that holds the data, private to ``owner``.
    :param socket_dir: directory of the Unix socket.
    :param memory: bytes that the machine has; 0: it is small.
    :ivar data: the data directory itself, in ``home``.
    """

    home: str
    owner: Owner
    socket_dir: str
    memory: int = 0
    data: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "data", os.path.join(self.home, "data"))

    def major(self) -> int | None:
        """Return the major version of the existing data; ``None`` when there is none.

        :raises EmbeddedError: something else is there, or the data cannot be read.
        """
        try:
            with open(os.path.join(self.data, "PG_VERSION"), encoding="ascii") as file:
                return int(file.read().split(".")[0])
        except FileNotFoundError:
            if not os.path.isdir(self.data):
                return None
            raise EmbeddedError(f"{self.data} is not a data directory of PostgreSQL; move it away") from None
        except (OSError, ValueError) as error:
            raise EmbeddedError(f"{self.data} cannot be read as data of PostgreSQL: {error}") from error

    def pid_file(self) -> PidFile | None:
        """Read ``postmaster.pid``; return ``None`` while it is missing or incomplete."""
        try:
            with open(os.path.join(self.data, "postmaster.pid"), "rb") as file:
                lines = [os.fsdecode(line).strip() for line in file.read().split(b"\n")]
            status = lines[7] if len(lines) > 7 else ""
            return PidFile(abs(int(lines[0])), int(lines[3]), lines[4], status == "ready")
        except (FileNotFoundError, ValueError, IndexError):
            return None

    def running(self) -> int | None:
        """Return the process id of the server that runs on this data, or ``None``.

        The pid file alone proves nothing: after a crash its number may be another program's. So the working
        directory of the process is compared, which is the data for a server, and for no other program.
        """
        found = self.pid_file()
        return found.pid if found and _works_in(found.pid, self.data) else None

    def forget_strangers(self) -> None:
        """Remove lock files whose process id is another program's now: PostgreSQL would refuse for ever."""
        sockets = os.path.join(glob.escape(self.socket_dir), ".s.PGSQL.*.lock")
        for path in (os.path.join(self.data, "postmaster.pid"), *glob.glob(sockets)):
            pid = _first_number(path)
            if pid and os.path.exists(f"/proc/{pid}") and not _works_in(pid, self.data):
                os.unlink(path)

    def options(self, port: int, listen_addresses: str) -> list[str]:
        """Return the arguments of ``postgres``."""
        settings = {
            **SETTINGS,
            **tuned(self.memory),
            "listen_addresses": listen_addresses,
            "port": str(port),
            "unix_socket_directories": '"' + self.socket_dir.replace('"', '""') + '"',
        }
        return ["-D", self.data, *(f"--{name}={value}" for name, value in settings.items())]

    @inlineCallbacks
    def make_database(
        self, reactor: Any, server: PidFile, password: str | None
    ) -> Generator["Deferred[Any]", Any, str]:
        """Create role and database unless they are there. Fires with the server's ``listen_addresses``.

        :param password: of our role over loopback; ``None``: it has none.
        :raises psycopg2.OperationalError: the server does not take connections, or not yet.
        """
        dsn = make_dsn(host=server.socket_dir, port=server.port, user=SUPERUSER, dbname="postgres")
        connection = yield connect(dsn, reactor)
        try:
            rows = yield timed(connection, connection.runQuery(_QUESTION, (ROLE, DATABASE)), 10)
            ((listening, has_role, has_database),) = rows
            statements = [] if has_role else [f"CREATE ROLE {ROLE} LOGIN"]
            statements += [] if has_database else [f"CREATE DATABASE {DATABASE} OWNER {ROLE}"]
            statements += [f"ALTER ROLE {ROLE} PASSWORD '{password}'"] if password else []
            for statement in statements:
                yield timed(connection, connection.runOperation(statement), 60)
        finally:
            force_close(connection)
        return str(listening)


_QUESTION: Final = (
    "SELECT current_setting('listen_addresses'), EXISTS (SELECT FROM pg_roles WHERE rolname = %s),"
    " EXISTS (SELECT FROM pg_database WHERE datname = %s)"
)


def locate(state_dir: str, system_home: str, memory: int = 0) -> Cluster:
    """Return the cluster of a state directory, whose home is created when missing.

    :raises EmbeddedError: the home belongs to somebody else, or cannot be created or reached.
    """
    owner = choose_owner(state_dir)
    home = find_home(state_dir, owner, system_home)
    return Cluster(home, owner, find_socket_dir(os.path.join(home, "data"), owner), memory)


def _first_number(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return abs(int(file.readline()))
    except (FileNotFoundError, ValueError):
        return 0


def _works_in(pid: int, directory: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(directory)
    except PermissionError:
        return _seems_to_work_in(pid, directory)
    except OSError:
        return False


def _seems_to_work_in(pid: int, directory: str) -> bool:
    """Return whether a process of PostgreSQL's name and of the directory's owner has this process id.

    More cannot be found out by root without CAP_SYS_PTRACE, as in most containers.
    """
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            is_postgres = file.read() == b"postgres\n"
        return is_postgres and os.stat(f"/proc/{pid}").st_uid == os.stat(directory).st_uid
    except OSError:
        return False


def local_dsn(socket_dir: str, port: int) -> str:
    """Return the connection string of our database, through the Unix socket."""
    return str(make_dsn(host=socket_dir, port=port, user=ROLE, dbname=DATABASE))


def free_port(first: int) -> int:
    """Return ``first``, or the next of ten ports that is free on loopback.

    :raises EmbeddedError: all ten are taken.
    """
    for port in range(first, first + 10):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return port
    raise EmbeddedError(f"the ports {first} to {first + 9} are taken; set embedded.port to another one")


def kept_password(path: str) -> str:
    """Return the password of our role for loopback, which is generated once.

    :param path: the file that keeps it, in the form that libpq reads (``PGPASSFILE``).
    """
    begins = f"localhost:*:{DATABASE}:{ROLE}:"
    try:
        with open(path, encoding="ascii") as file:
            kept = file.read()
    except (FileNotFoundError, UnicodeDecodeError):
        kept = ""
    if not (found := re.fullmatch(re.escape(begins) + r"([^\s:'\\]+)\n", kept)):
        password = secrets.token_urlsafe(18)  # it is missing, or cut short by a full disk
        write_private(path, f"{begins}{password}\n")
        return password
    return found[1]
