"""Extensions: further rows of the handler table, made by the functions that the setting ``handlers`` names.

Such a function is called once, with ``publish(topic, payload, retain=False)``; one that has parameters
``record``, ``clock`` or ``on_stop`` gets these as well, see docs/handlers.rst. It returns a mapping, Topic
Filter → handler.
"""

import traceback
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from platziverse.agents.tables import MakeRows, Tables
from platziverse.broker.interfaces import Handler
from platziverse.errors import Unusable
from platziverse.mqtt.topics import check_topic_filter

_OURS: Final = str(Path(__file__).parent.parent)


def load_handler(name: str) -> MakeRows:
    """Return the function that ``package.module:name`` names.

    :raises Unusable: it cannot be imported, or is no function.
    """
    module, _, function = name.partition(":")
    try:
        found: MakeRows | None = getattr(import_module(module), function, None)
    except Exception as error:
        raise Unusable(f"handlers: {name}: {_reason(error)}") from error
    if not callable(found):
        raise Unusable(f"handlers: {name}: {module} has no function {function!r}")
    return found


def handler_rows(name: str, tables: Tables) -> dict[str, Handler]:
    """Return the rows that ``package.module:name`` makes: Topic Filter → handler.

    :raises Unusable: it cannot be imported, raises, or makes no such rows.
    """
    make = load_handler(name)
    try:
        rows = tables.make(name, make)
        for topic_filter in rows:
            check_topic_filter(topic_filter)
    except Exception as error:
        raise Unusable(f"handlers: {name}: {_reason(error)}") from error
    return cast(dict[str, Handler], rows)


def _reason(error: Exception) -> str:
    """Return an error in one line, with the place where it happened unless it says so itself."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError | SyntaxError):
        return text
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if where.filename.startswith(_OURS) else f" ({where.filename}, line {where.lineno})"
    return f"{type(error).__name__}: {text}{place}"
