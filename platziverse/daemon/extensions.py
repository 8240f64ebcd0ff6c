"""Further rows of the handler table, made by the functions that the setting ``handlers`` names."""

import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final, TypeAlias

from platziverse.broker.interfaces import Handler
from platziverse.daemon.database import Unusable
from platziverse.mqtt.topics import check_topic_filter

Publish: TypeAlias = Callable[[str, bytes], None]
MakeRows: TypeAlias = Callable[[Publish], Mapping[str, Handler]]

_OURS: Final = str(Path(__file__).parent)


def load_handler(name: str) -> MakeRows:
    """What ``package.module:name`` names. :raises Unusable: it cannot be imported, or is no function."""
    module, _, function = name.partition(":")
    try:
        found: MakeRows | None = getattr(import_module(module), function, None)
    except Exception as error:
        raise Unusable(f"handlers: {name}: {_reason(error)}") from error
    if not callable(found):
        raise Unusable(f"handlers: {name}: {module} has no function {function!r}")
    return found


def handler_rows(name: str, publish: Publish) -> dict[str, Handler]:
    """The rows that ``package.module:name`` makes: Topic Filter → handler. :raises Unusable:"""
    make = load_handler(name)
    try:
        rows = dict(make(publish))
        for topic_filter, handler in rows.items():
            check_topic_filter(topic_filter)
            if not callable(handler):
                raise TypeError(f"the handler of {topic_filter!r} is no function")
    except Exception as error:
        raise Unusable(f"handlers: {name}: {_reason(error)}") from error
    return rows


def _reason(error: Exception) -> str:
    """In one line, with the place where it happened unless the error says so itself."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError | SyntaxError):
        return text
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if where.filename.startswith(_OURS) else f" ({where.filename}, line {where.lineno})"
    return f"{type(error).__name__}: {text}{place}"
