"""``platziverse passwd``: users of the password file, or of the table in the database."""

import argparse
import getpass
import os
import stat
import sys
from typing import Final

from psycopg2.errors import UndefinedTable

from platziverse.access.files import AccessError
from platziverse.access.passwords import hash_password, remove_user, set_password, users
from platziverse.command.database import connected, find_dsn
from platziverse.config import Config
from platziverse.postgres import users as table
from platziverse.settings import ConfigError

EPILOG: Final = """\
The password is asked for twice on a terminal; otherwise it is the first line of the standard input. It is not
taken from the command line, where every user of the machine could read it.

A daemon knows a change in the table at once, and one in the file after a reload (SIGHUP)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--file", metavar="FILE", help="this password file, not the configured one")
    where.add_argument("--database-users", action="store_true", help="the table in the database")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-D", "--delete", action="store_true", help="take USER out")
    what.add_argument("-l", "--list", action="store_true", help="print all user names")
    parser.add_argument(
        "--scram", action="store_true", help="let the user log in by SCRAM-SHA-256 of MQTT 5 as well"
    )
    parser.add_argument("user", nargs="?", metavar="USER", help="add this user, or change the password")
    parser.set_defaults(run=run, parser=parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG


def run(config: Config, options: argparse.Namespace) -> int:
    """Add, change or remove a user; return the exit code.

    :raises ConfigError: nothing was changed; one line that says why.
    """
    if options.list == (options.user is not None):
        options.parser.error("name one USER, or say --list")
    if options.scram and (options.list or options.delete):
        options.parser.error("--scram is for a new password")
    path = _path(config, options)
    if path:
        _in_file(path, options)
    else:
        _in_table(find_dsn(config), options)
    return 0


def _path(config: Config, options: argparse.Namespace) -> str:
    """The password file, or empty: the table."""
    if options.file or options.database_users:
        return options.file or ""
    access = config.access
    if access.password_file and access.database_users:
        raise ConfigError(
            "there are a password file and a table of users; say --file FILE or --database-users"
        )
    if not access.password_file and not access.database_users:
        raise ConfigError(
            "no password_file and no database_users in the configuration;"
            " name it with --config, or say --file FILE or --database-users"
        )
    return str(access.password_file)


def _in_file(path: str, options: argparse.Namespace) -> None:
    if options.list:
        _print_names(users(path))
    elif options.delete:
        remove_user(path, options.user)
        last = "" if users(path) else "; it was the last, and with an empty file no daemon starts"
        print(f"{options.user} is no longer in {path}{last}")
    else:
        new = not os.path.exists(path)
        set_password(path, options.user, read_password(options.user), options.scram)
        print(f"{options.user} has a new password in {path}")
        if new and not os.geteuid() and not os.stat(path).st_mode & stat.S_IRGRP:
            print(f"only root may read it; for the service: chgrp platziverse {path} && chmod 640 {path}")


def _in_table(dsn: str, options: argparse.Namespace) -> None:
    place = "the database"
    hashed = ""
    if not options.list and not options.delete:
        hashed = hash_password(place, options.user, read_password(options.user), options.scram)
    with connected(dsn) as connection:
        try:
            if options.list:
                _print_names(table.list_users(connection))
            elif hashed:
                table.set_user(connection, options.user, hashed)
                print(f"{options.user} has a new password in {place}")
            elif table.remove_user(connection, options.user):
                print(f"{options.user} is no longer in {place}")
            else:
                raise AccessError(place, f"there is no user {options.user!r}")
        except UndefinedTable:
            raise ConfigError("the database has no table of users yet; start the daemon once") from None


def _print_names(names: list[str]) -> None:
    for name in names:
        print(name)


def read_password(username: str) -> bytes:
    """Asked for twice on a terminal, else the first line of the standard input.

    :raises ConfigError: two different ones, or the end of the input.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        if not line:
            raise ConfigError("there is no password on the standard input")
        return line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        first = getpass.getpass(f"Password of {username}: ")
        second = getpass.getpass("Again: ")
    except (EOFError, KeyboardInterrupt):
        raise ConfigError("no password; nothing was changed") from None
    if first != second:
        raise ConfigError("the passwords are different; nothing was changed")
    return first.encode(errors="surrogateescape")
