"""Trial: before a record is blamed, the tables have to take some that are certainly good. See ADR 0085."""

import os
import time
from collections.abc import Sequence
from typing import Final

from platziverse.broker.records import (
    Absent,
    Begun,
    Cleared,
    Delivery,
    Kept,
    Queued,
    Subscribed,
    WillLeft,
)

#: Numbers that no Session has, and one that no message has.
_ONE, _ANOTHER, _NUMBER = 0, -(2**31), 2**62
_PAYLOAD: Final = bytes(range(256)) * 16


def certainly_good() -> Sequence[object]:
    """Return records that write into every table, in ASCII, which never fails."""
    name = os.urandom(16).hex()
    first = int.from_bytes(os.urandom(7), "big")
    return (
        Begun(name, name, 2**32 - 1),
        Absent(_ONE, first),
        Subscribed(_ONE, ((name, 2),)),
        Queued(
            name, _PAYLOAD, time.time(), {_ONE: (first, 2)}, Delivery(name, 65_535, False, os.urandom(16))
        ),
        Queued(
            name, b"", 0.0, {_ONE: (first + 1, 1), _ANOTHER: (first, 1)}, retain=True, number=_NUMBER + first
        ),
        Kept(name, _PAYLOAD, 2, name, None),
        Cleared(name + name, over=b"\0"),
        WillLeft(name, None, first, name, _PAYLOAD, 2, True, due=time.time()),
    )
