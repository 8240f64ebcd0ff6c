"""``platziverse check``: whether the daemon can do its work here, before it tries to."""

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import msgspec
from attrs import asdict
from cryptography import x509

from platziverse.access.files import mode_problem, writable_by_everyone
from platziverse.access.passwords import PasswordFile
from platziverse.broker.limits import Limits
from platziverse.command.checkbus import check_bus
from platziverse.command.checkdatabase import check_database
from platziverse.command.findings import ERROR, OK, WARNING, Finding
from platziverse.config import Config, config_file, with_bus
from platziverse.daemon.extensions import load_handler
from platziverse.daemon.front import server_certificate
from platziverse.daemon.listening import CannotListen, try_to_listen
from platziverse.daemon.logins import access_rules, files, who_may_connect
from platziverse.daemon.machine import open_files, raise_open_files
from platziverse.daemon.recording import load_rules
from platziverse.errors import Unusable

#: A certificate that ends sooner is a warning.
SOON: Final = timedelta(days=30)
#: With room for fewer connections than this something is wrong, whatever is asked for.
FEW: Final = 100
#: The daemon did not exist before; a clock that says so has lost its battery.
OLDEST: Final = datetime(2024, 1, 1, tzinfo=timezone.utc)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.description = "Exit code: 0, no error was found (there may be warnings); 1, there is one."
    parser.set_defaults(run=run, refused=refused)


def run(config: Config, options: argparse.Namespace) -> int:
    """Print all findings; return the exit code."""
    path, config = config_file(options.config), with_bus(config)
    raise_open_files()  # as the daemon does
    found = [
        *check_configuration(config, path),
        *check_listeners(config.listen),
        *check_files(config, path),
        *check_certificates(config, datetime.now(timezone.utc)),
        *check_database(config, time.time),
        *check_bus(config),
        *check_open_files(config.limits, open_files()),
        *check_clock(datetime.now(timezone.utc)),
    ]
    return _shown(found, options.json)


def refused(error: Unusable, options: argparse.Namespace) -> int:
    """Print that the configuration itself cannot be read; return the exit code."""
    return _shown([Finding("configuration", ERROR, str(error))], options.json)


def _shown(found: list[Finding], as_json: bool) -> int:
    fine = all(finding.level != ERROR for finding in found)
    if as_json:
        print(msgspec.json.encode({"ok": fine, "findings": [asdict(entry) for entry in found]}).decode())
    else:
        print("\n".join(map(str, found)))
    return 0 if fine else 1


def check_configuration(config: Config, path: str | None) -> Iterator[Finding]:
    """Find settings that are valid each, and do not work together."""
    name = "configuration"
    yield Finding(name, OK, path or "no file; defaults and environment")
    try:
        yield Finding("logins", OK, who_may_connect(config))
    except Unusable as error:
        yield Finding("logins", ERROR, str(error))
    for handler in config.handlers:
        try:
            load_handler(handler)
        except Unusable as error:
            yield Finding("handlers", ERROR, str(error).removeprefix("handlers: "))
    try:
        if count := len(load_rules(config).rules):
            yield Finding("record", OK, f"{count} rules")
    except Unusable as error:
        yield Finding("record", ERROR, str(error))


def check_listeners(descriptions: Iterable[str]) -> Iterator[Finding]:
    """Say what a start would of ``listen``; a taken port is a warning, as the daemon itself may hold it."""
    for description in descriptions:
        try:
            try_to_listen(description)
        except CannotListen as error:
            yield Finding("listen", WARNING if error.taken else ERROR, str(error))
        else:
            yield Finding("listen", OK, description)


def check_files(config: Config, path: str | None) -> Iterator[Finding]:
    """Check the modes and the content of the files that decide who may do what."""
    owner = _owner(config.state_dir)
    for name, (file, secret) in files(config, path).items():
        problem = mode_problem(file, secret, owner)
        if writable_by_everyone(file) or not os.access(file, os.R_OK):
            yield Finding(name, ERROR, problem or f"{file}: cannot be read by this user")
        elif problem:
            yield Finding(name, WARNING, problem)
        else:
            yield from _content(config, name, file)
    yield _state_directory(config.state_dir, owner)


def _content(config: Config, name: str, file: str) -> Iterator[Finding]:
    try:
        if name == "password file":
            yield Finding(name, OK, f"{file}: {len(PasswordFile.load(file))} users")
        elif name == "ACL file":
            access_rules(config.access)
            yield Finding(name, OK, file)
        else:
            yield Finding(name, OK, file)
    except Unusable as error:
        yield Finding(name, ERROR, str(error))


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _state_directory(path: str, owner: int | None) -> Finding:
    name = "state directory"
    if owner is None:
        above = next(parent for parent in Path(path).parents if parent.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            return Finding(name, ERROR, f"{path} is not there, and this user may not create it in {above}")
        return Finding(name, OK, f"{path} will be created")
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(name, ERROR, f"{path} cannot be written by this user")
    problem = mode_problem(path, secret=False, owner=owner)
    return Finding(name, WARNING if problem else OK, problem or path)


def check_certificates(config: Config, now: datetime) -> Iterator[Finding]:
    """Check that the certificates can be used, and until when.

    :param now: the time, with a time zone.
    """
    try:
        if server_certificate(config.tls) is None:
            return
    except Unusable as error:
        yield Finding("certificate", ERROR, str(error))
        return
    for name, file in (("certificate", config.tls.certificate), ("client CA", config.tls.client_ca)):
        for certificate in x509.load_pem_x509_certificates(Path(file).read_bytes()) if file else ():
            yield _validity(name, file, certificate, now)


def _validity(name: str, file: str, certificate: x509.Certificate, now: datetime) -> Finding:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject = f"{file}: {certificate.subject.rfc4514_string()!r}"
    if now >= ends:
        return Finding(name, ERROR, f"{subject} has expired on {ends:%Y-%m-%d}; renew it")
    if now < begins:
        return Finding(name, ERROR, f"{subject} is not valid before {begins:%Y-%m-%d}; is the clock right?")
    if ends - now < SOON:
        return Finding(name, WARNING, f"{subject} expires on {ends:%Y-%m-%d}; renew it")
    return Finding(name, OK, f"{subject} is valid until {ends:%Y-%m-%d}")


def check_open_files(limits: Limits, allowed: int) -> Iterator[Finding]:
    """Check that there are descriptors for all connections.

    :param allowed: descriptors that the daemon may have, for a service by ``LimitNOFILE=`` of its unit.
    """
    room, asked = allowed - limits.reserved_descriptors, limits.max_connections
    if room < max(asked, FEW):
        what = f"{allowed} leave room for {max(0, room)} connections, limits.max_connections is {asked}"
        yield Finding("open files", WARNING, f"{what}; raise `ulimit -Hn`, or LimitNOFILE= of the service")
    else:
        yield Finding("open files", OK, f"{allowed} here: room for {asked or room} connections")


def check_clock(now: datetime) -> Iterator[Finding]:
    """Find a clock that is wrong by years; the database knows about the seconds."""
    says = f"it says {now:%Y-%m-%d %H:%M} UTC"
    if now < OLDEST:
        yield Finding("clock", ERROR, f"{says}; set it, and let NTP keep it")
    else:
        yield Finding("clock", OK, says)
