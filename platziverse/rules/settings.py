"""Settings: which rules there are, and what subscribers hear of what they record."""

from os.path import abspath, expanduser

from attrs import field, frozen
from attrs.validators import in_


def _absolute(paths: "tuple[str, ...]") -> "tuple[str, ...]":
    return tuple(abspath(expanduser(path)) for path in paths)


@frozen
class RecordSettings:
    """RecordSettings say which messages of devices are recorded that do not speak ``agent/message``."""

    #: Rules that come with platziverse, e.g. ``["tasmota", "zigbee2mqtt"]``; asked after the files.
    presets: tuple[str, ...] = ()
    #: TOML files with ``[[rule]]``; the first rule whose topic matches is the one of a message.
    files: tuple[str, ...] = field(default=(), converter=_absolute)
    #: Send what rules record to subscribers of ``agent/message`` in that form: ``subscribed`` or ``never``.
    republish: str = field(default="subscribed", validator=in_(("subscribed", "never")))
