"""Moments: the time of a reading, as devices write it, with their time zone where they write none."""

import re
from collections.abc import Callable
from datetime import datetime, timezone, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from platziverse.times import milliseconds, read_local_time
from platziverse.words import nearest

#: Milliseconds of each unit of ``time_format``.
UNITS: Final = {"unix": 1000.0, "unix_ms": 1.0, "unix_us": 0.001, "unix_ns": 0.000_001}
_NUMBER: Final = re.compile(r"-?\d{1,25}(\.\d{1,12})?", re.ASCII)
_NO_TIME: Final = float("nan")


def find_zone(name: str) -> tzinfo:
    """Return a time zone of the IANA database. :raises ValueError: there is none of this name."""
    if name == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a KeyError if it is missing, else a folder or an odd name
        known = nearest(name, available_timezones()) or ", e.g. Europe/Madrid (of the package tzdata)"
        raise ValueError(f"there is no time zone {name!r}{known}") from None


class Moments:
    """A Moments reads the times of one rule.

    :param form: ``"auto"``, ``"unix"`` and its kin, or a format of strptime.
    :param zone: of times that name none.
    :raises ValueError: the format is unknown.
    """

    def __init__(self, form: str = "auto", zone: tzinfo = timezone.utc) -> None:
        self._form, self._zone = form, zone
        # The last text and its milliseconds, if no arrival can change them: devices of a second share it.
        self._last = "", 0.0
        self._read: Callable[[Any, float], float] = self._formatted
        if form == "auto":
            self._read = self._auto
        elif form in UNITS:
            self._read = self._unix
        elif "%" not in form:
            known = ", ".join(("auto", *UNITS))
            raise ValueError(f"{form!r} is none of {known}, and no format of strptime like %d.%m.%Y %H:%M")

    def milliseconds(self, written: object, arrived: float) -> float:
        """Return the milliseconds since the epoch of a time; NaN: it is none.

        :param arrived: seconds since the epoch. When clocks are put back a local time comes twice, and that
            nearer to the arrival is meant.
        """
        try:
            return self._read(written, arrived)
        except (ValueError, OverflowError, TypeError):
            return _NO_TIME

    def _auto(self, written: Any, arrived: float) -> float:
        kind = written.__class__
        if kind is str:
            # The usual one, without a zone; the other way takes four times as long. Newer versions of Python
            # read weeks and the like too, so two of its signs are looked at.
            if len(written) == 19 and written[7] == "-" and written[16] == ":":
                text, known = self._last
                if text == written:
                    return known
                try:
                    return self._remembered(written, datetime.fromisoformat(written), arrived)
                except ValueError:
                    pass
            text = written.strip()
            if _NUMBER.fullmatch(text) is None:
                return self._of(read_local_time(text), arrived)
            written = float(text) if "." in text else int(text)
        elif kind is datetime:
            return self._of(written, arrived)
        elif kind is not int and kind is not float:
            return _NO_TIME
        return milliseconds(written)[0]

    def _remembered(self, text: str, moment: datetime, arrived: float) -> float:
        found = self._of(moment, arrived)
        if self._zone is timezone.utc or moment.tzinfo is not None:
            self._last = text, found
        return found

    def _unix(self, written: Any, arrived: float) -> float:
        if written.__class__ is str and _NUMBER.fullmatch(written) is None:
            return _NO_TIME
        return float(written) * UNITS[self._form] if written.__class__ is not bool else _NO_TIME

    def _formatted(self, written: Any, arrived: float) -> float:
        return self._of(datetime.strptime(written, self._form), arrived)

    def _of(self, moment: datetime, arrived: float) -> float:
        """Return the milliseconds since the epoch of a time; one without a zone has that of the rule."""
        if moment.tzinfo is not None:
            return moment.timestamp() * 1000
        moment = moment.replace(tzinfo=self._zone)
        first = moment.timestamp()
        if self._zone is timezone.utc:
            return first * 1000
        second = moment.replace(fold=1).timestamp()
        return (first if abs(first - arrived) <= abs(second - arrived) else second) * 1000
