"""Trial: before an entry is blamed, the tables have to take entries that are certainly good. See ADR 0085."""

import os
import time
from collections.abc import Sequence
from typing import Final

from platziverse.agents.model import Agent, Metric, Rejection, Report
from platziverse.broker.records import Delivery

#: Characters of the columns of names, all of which a message may use; and of a value.
_NAME, _VALUE = 255, 4096
_VALUES: Final = ("x" * _VALUE, "", "-1.7976931348623157e308", "5e-324", "0", "NaN")


def largest() -> Sequence[object]:
    """Return a Report and a Rejection, as large as a message can bring them, in ASCII, which never fails."""
    now, name = time.time(), "x" * _NAME
    source = Rejection("x" * _NAME, "x" * _NAME, bytes(range(256)), "a trial", now)
    agent = Agent(os.urandom(_NAME // 2).hex(), name, name, name, 2**31 - 1)
    report = Report(
        agent,
        [Metric(name, value) for value in _VALUES],
        now,
        source,
        now,
        key=os.urandom(16),
        delivery=Delivery(os.urandom(16).hex(), 65535, False, os.urandom(16)),
        rejections=[source],
    )
    return report, source
