"""Columns as PostgreSQL array literals, passed as text parameters: three times faster than lists."""

import math
import re
from collections.abc import Sequence
from typing import Final

_PLAIN: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?", re.ASCII).fullmatch
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII).fullmatch


def array(values: Sequence[object]) -> str:
    """Of what needs no quotes: numbers, ``NULL``, ``t`` and ``f``, hexadecimal digits."""
    return "{" + ",".join(map(str, values)) + "}"


def text_array(values: Sequence[str]) -> str:
    """Of any texts."""
    if not values:
        return "{}"
    body = '","'.join(values)
    if "\\" in body or body.count('"') != 2 * len(values) - 2:
        body = '","'.join([value.replace("\\", "\\\\").replace('"', '\\"') for value in values])
    return f'{{"{body}"}}'


def number(value: str) -> str:
    """``value`` as a double precision literal if it is a finite number, else ``NULL``."""
    if len(value) <= 30 and _PLAIN(value):
        return value
    if _NUMBER(value) and math.isfinite(parsed := float(value)):
        return repr(parsed)
    return "NULL"
