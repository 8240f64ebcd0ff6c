"""Logins: the users, the access rules and their files, and who may connect in words."""

from typing import Final

from platziverse.access.acl import AccessRules
from platziverse.access.files import mode_problem, writable_by_everyone
from platziverse.access.passwords import PasswordFile, UserTable
from platziverse.config import Access, Config, holds_secret
from platziverse.errors import Unusable

#: Who may connect, where there are logins and where there are none.
WHO: Final = {
    ("local", True): "without a login only clients on this machine may connect",
    ("local", False): "only clients on this machine may connect: there are no logins",
    ("always", True): "everyone may connect, with or without a login",
    ("always", False): "everyone may connect: there are no logins",
    ("never", True): "nobody may connect without a login",
}


def has_logins(config: Config) -> bool:
    """Return whether a client can prove who it is, by a password or by a certificate."""
    access = config.access
    return bool(access.password_file or access.database_users or config.tls.client_ca)


def who_may_connect(config: Config) -> str:
    """Return for people who may connect.

    :raises Unusable: nobody may, or nobody could log in who has to for reading.
    """
    if config.web.readers == "users" and not has_logins(config):
        raise Unusable(
            'web: readers = "users" needs logins; set [access] password_file, database_users or'
            " [tls] client_ca"
        )
    try:
        return WHO[config.access.anonymous, has_logins(config)]
    except KeyError:
        raise Unusable(
            'access: with anonymous = "never" and no logins nobody could connect; set password_file,'
            " database_users or [tls] client_ca"
        ) from None


def user_tables(access: Access, database: UserTable) -> tuple[UserTable, ...]:
    """Return the tables of users in the order in which they are asked.

    :raises AccessError: the password file cannot be used.
    """
    tables: list[UserTable] = [PasswordFile.load(access.password_file)] if access.password_file else []
    return tuple([*tables, database] if access.database_users else tables)


def access_rules(access: Access) -> AccessRules | None:
    """Return the access rules; ``None`` when there is no file of them.

    :raises AccessError: the file has no rules, or cannot be read, which must never mean "open".
    """
    return AccessRules.load(access.acl_file) if access.acl_file else None


def files(config: Config, path: str | None) -> dict[str, tuple[str, bool]]:
    """Name of each file that decides who may what → its path, and whether others may not read it either.

    :param path: the configuration file.
    """
    found = {
        "configuration file": (path or "", holds_secret(config)),
        "password file": (config.access.password_file, True),
        "ACL file": (config.access.acl_file, False),
        "certificate": (config.tls.certificate, False),
        "key": (config.tls.key, True),
        "client CA": (config.tls.client_ca, False),
        "password file of the bus": (config.bus.password_file, True),
        "CA of the bus": (config.bus.ca_file, False),
        "certificate for the bus": (config.bus.certificate, False),
        "key for the bus": (config.bus.key, True),
    }
    return {name: entry for name, entry in found.items() if entry[0]}


def mode_warnings(config: Config, path: str | None) -> list[str]:
    """Return what is wrong with the modes of files, for the log.

    :raises Unusable: everyone may change one of them.
    """
    entries = files(config, path).values()
    for file, _ in entries:
        if writable_by_everyone(file):
            raise Unusable(f"{file}: everyone may write to it; chmod o-w")
    problems = (mode_problem(file, secret) for file, secret in entries)
    return [problem for problem in problems if problem]
