"""Reload: on SIGHUP, what can change while clients are connected is read again; all of it, or nothing."""

from collections.abc import Callable
from typing import Any, Final

from attrs import define, frozen
from twisted.logger import Logger

from platziverse.access.acl import AccessRules
from platziverse.access.authority import AccessAuthority
from platziverse.access.passwords import PasswordFile
from platziverse.config import Config, flat, log_levels
from platziverse.daemon.front import Front, server_certificate
from platziverse.daemon.recording import load_rules
from platziverse.door.tls import ServerCertificate
from platziverse.errors import Unusable
from platziverse.rules.ruleset import RuleSet

log = Logger("platziverse.reload")

#: Settings that take effect at once, in the notation of the configuration.
IMMEDIATE: Final = (
    "log_level",
    "record.presets",
    "record.files",
    "record.republish",
    "access.password_file",
    "access.acl_file",
    "access.disconnect_removed",
    "tls.certificate",
    "tls.key",
    "tls.client_ca",
    "tls.require_client",
)
#: Among them those that say whether there is such a thing at all: on or off takes a restart.
SWITCHES: Final = ("access.password_file", "access.acl_file", "tls.certificate")


@frozen
class Fresh:
    """A Fresh has all that was read, and is not in use yet."""

    config: Config
    users: PasswordFile | None
    rules: AccessRules | None
    certificate: ServerCertificate | None
    records: RuleSet


@define
class Reload:
    """A Reload reads all again, and swaps when everything is good.

    :param config: in force since the start.
    :param reread: reads the configuration from where it came from.
    :param use_levels: called with room → least level.
    :param use_records: called with the configuration and the rules of ``[record]``.
    :param look_for_gone: ends the connections of users that are gone.
    """

    config: Config
    _reread: Callable[[], Config]
    _authority: AccessAuthority
    _front: Front
    _use_levels: Callable[[dict[str, Any]], None]
    _use_records: Callable[[Config, RuleSet], None]
    _look_for_gone: Callable[[], object]

    def __call__(self) -> bool:
        """Reload; return whether the new settings are in force. The log has one line about it."""
        try:
            fresh = self._read()
        except (Unusable, OSError) as error:
            log.error("Not reloaded, everything stays as it was: {reason}", reason=str(error))
            return False
        except Exception:
            log.failure("Bug: not reloaded, everything stays as it was")
            return False
        later = changes(self.config, fresh.config)
        self._use(fresh)
        log.info("Reloaded: {what}", what=", ".join(self._names(fresh)))
        if later:
            log.warn("Changed, but needs a restart: {settings}", settings=", ".join(later))
        if fresh.config.access.disconnect_removed:
            self._look_for_gone()
        return True

    def _read(self) -> Fresh:
        """Read all again.

        :raises ConfigError, Unusable, AccessError, OSError: something cannot be used; one line that says why.
        """
        config, authority, front = self._reread(), self._authority, self._front
        access = config.access
        users = rules = certificate = None
        if self.config.access.password_file and access.password_file:
            users = PasswordFile.load(access.password_file)
        if authority.rules is not None and access.acl_file:
            rules = AccessRules.load(access.acl_file)
        if front.certificate is not None and config.tls.certificate:
            certificate = server_certificate(config.tls)
        return Fresh(config, users, rules, certificate, load_rules(config))

    def _use(self, fresh: Fresh) -> None:
        self._use_levels(log_levels(fresh.config.log_level))
        self._use_records(fresh.config, fresh.records)
        if fresh.users is not None:
            self._authority.use_password_file(fresh.users)
        if fresh.rules is not None:
            self._authority.use(fresh.rules)
        if fresh.certificate is not None and self._front.certificate is not None:
            self._front.certificate.become(fresh.certificate)

    def _names(self, fresh: Fresh) -> list[str]:
        found: dict[str, object] = {
            "passwords": fresh.users,
            "access rules": fresh.rules,
            "certificate": fresh.certificate,
        }
        if fresh.records.rules:
            found[f"{len(fresh.records.rules)} rules"] = fresh.records
        return ["log levels", *(name for name, value in found.items() if value is not None)]


def changes(old: Config, new: Config) -> list[str]:
    """Return the settings, by dotted name, whose new value needs a restart."""
    before, after = flat(old), flat(new)
    return [
        name
        for name, value in after.items()
        if value != before[name]
        and (name not in IMMEDIATE or (name in SWITCHES and bool(value) != bool(before[name])))
    ]
