"""Strict loaders for typed-settings: an unknown or ill-typed key is an error that says where it stands.

Nothing in here knows what is configured; any program with an attrs class of settings may use it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_origin

import msgspec
from attrs import fields_dict, frozen
from typed_settings.dict_utils import set_path
from typed_settings.exceptions import ConfigFileLoadError, ConfigFileNotFoundError
from typed_settings.loaders import TomlFormat
from typed_settings.types import LoadedSettings, LoaderMeta, OptionInfo, OptionList, SettingsDict

from platziverse.errors import Unusable
from platziverse.words import nearest

#: What Kubernetes puts into every container for each service, also for one called like the prefix.
_SERVICE_LINKS: Final = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_.*)?)")


class ConfigError(Unusable):
    """One line that names the source, the key, and what to do about it."""


def check(option: OptionInfo, value: Any, source: str, key: str, strict: bool) -> Any:
    """Return ``value`` in the type of ``option``; texts are parsed unless ``strict``.

    :param source: and ``key`` name the place in messages.
    :raises ConfigError: it has another type, or the option forbids it.
    """
    validator = fields_dict(option.parent_cls)[option.name].validator
    try:
        converted: Any = msgspec.convert(value, option.cls, strict=strict)
        if validator is not None:
            validator(None, fields_dict(option.parent_cls)[option.name], converted)
    except (msgspec.ValidationError, ValueError) as error:
        reason = str(error.args[0]).removeprefix(f"{option.name!r} ")
        raise ConfigError(f"{source}: {key}: {reason[:1].lower()}{reason[1:]}") from None
    return converted


@frozen
class TomlLoader:
    """The keys of one TOML file that has to exist."""

    path: Path

    def __call__(self, settings_cls: type, options: OptionList) -> LoadedSettings:
        source, known = str(self.path), {option.path: option for option in options}
        values: SettingsDict = {}
        for key, value in _flat(self._read(settings_cls, options), known):
            if key not in known:
                raise ConfigError(f"{source}: {key}: unknown key{nearest(key, known)}")
            set_path(values, key, check(known[key], value, source, key, strict=True))
        return LoadedSettings(values, LoaderMeta(source))

    def _read(self, settings_cls: type, options: OptionList) -> SettingsDict:
        try:
            return TomlFormat(None)(self.path, settings_cls, options)
        except (ConfigFileNotFoundError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = getattr(cause, "strerror", None) or str(cause)
            raise ConfigError(f"{self.path}: cannot be read: {reason}") from None
        except (ConfigFileLoadError, UnicodeDecodeError) as error:
            if isinstance(error.__cause__, OSError):
                raise ConfigError(f"{self.path}: cannot be read: {error.__cause__.strerror}") from None
            raise ConfigError(f"{self.path}: is not TOML: {error}") from None


def _flat(table: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all leaves; a table that holds no known key is a leaf itself."""
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and any(path.startswith(f"{key}.") for path in known):
            yield from _flat(value, known, f"{key}.")
        else:
            yield key, value


@frozen
class EnvironmentLoader:
    """Variables ``prefix`` + dotted name in capitals, with ``_`` for the dot; lists are split at blanks.

    :param reserved: endings of further variables that are read elsewhere.
    """

    prefix: str
    environ: Mapping[str, str]
    reserved: tuple[str, ...] = ()

    def __call__(self, settings_cls: type, options: OptionList) -> LoadedSettings:
        known = {self.prefix + option.path.upper().replace(".", "_"): option for option in options}
        values: SettingsDict = {}
        for name, text in self.environ.items():
            if not name.startswith(self.prefix):
                continue
            if name not in known:
                if self._is_foreign(name.removeprefix(self.prefix)):
                    continue
                raise ConfigError(f"environment: {name}: unknown variable{nearest(name, known)}")
            value = text.split() if get_origin(known[name].cls) is tuple else text
            set_path(values, known[name].path, check(known[name], value, "environment", name, strict=False))
        return LoadedSettings(values, LoaderMeta("environment"))

    def _is_foreign(self, ending: str) -> bool:
        return ending in self.reserved or _SERVICE_LINKS.fullmatch(ending) is not None


@frozen
class GivenLoader:
    """Values by dotted name that somebody gave directly, for instance on the command line."""

    source: str
    values: Mapping[str, Any]

    def __call__(self, settings_cls: type, options: OptionList) -> LoadedSettings:
        known = {option.path: option for option in options}
        values: SettingsDict = {}
        for key, value in self.values.items():
            set_path(values, key, check(known[key], value, self.source, key, strict=False))
        return LoadedSettings(values, LoaderMeta(self.source))
