"""Settings: where daemons that share their clients meet, with defaults."""

import os
import re
from typing import Any, Final

from attrs import Attribute, field, frozen
from attrs.validators import ge

from platziverse.bus.url import parse_url, without_password

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def _is_url(_: Any, __: "Attribute[str]", value: str) -> None:
    if value:
        parse_url(value)


def _is_name(_: Any, __: "Attribute[str]", value: str) -> None:
    if not _NAME.fullmatch(value):
        raise ValueError("is not 1 to 32 letters, digits, _, . and -")


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path else ""


@frozen
class BusSettings:
    """The bus between the daemons of one set, which behave like one broker."""

    #: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``, ``redis+cluster://``, or
    #: ``postgresql:`` for the database itself; empty: one daemon, alone.
    url: str = field(default="", validator=_is_url, repr=lambda url: repr(without_password(url)))
    #: Of the set; other sets may use the same server under other names.
    name: str = field(default="platziverse", validator=_is_name)
    #: Of the server, unless it stands in ``url``; meant for the environment.
    password: str = field(default="", repr=False)
    #: File whose first line is the password.
    password_file: str = field(default="", converter=_absolute)
    #: PEM file: the authorities that may have signed the server's certificate; empty: those of the system.
    ca_file: str = field(default="", converter=_absolute)
    #: PEM files: our certificate with its key, for a server that demands one.
    certificate: str = field(default="", converter=_absolute)
    key: str = field(default="", converter=_absolute)
    #: Bytes that the server has not taken yet; what is sent beyond is dropped.
    max_pending: int = field(default=16 * 1024 * 1024, validator=ge(1024))
