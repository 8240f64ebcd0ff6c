"""Times as devices and people write them: RFC 3339, or a number since the epoch whose size tells its unit."""

import re
from datetime import datetime, timezone
from typing import Final

_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d+))?(?:([Zz])|([+ -])(\d\d):?(\d\d))?", re.ASCII
)
#: From these on a number is in milliseconds, microseconds and nanoseconds. Below the first it is in seconds:
#: as milliseconds it would be before 1973.
MILLISECONDS: Final = 1e11
MICROSECONDS: Final = 1e14
NANOSECONDS: Final = 1e17


def read_time(text: str) -> datetime:
    """Return the moment that ``text`` names, with a time zone; without one in the text it is UTC.

    :raises ValueError: it is no time.
    """
    moment = read_local_time(text)
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment


def read_local_time(text: str) -> datetime:
    """Return the time that ``text`` writes, with a time zone if it names one.

    Python 3.10 reads neither ``Z`` nor nanoseconds; seconds may be leap seconds here.

    :raises ValueError: it is no time.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"no time: {text!r:.80}")
    day, time, fraction, utc, sign, hours, minutes = match.groups()
    # A plus that was not quoted in a URL has become a blank.
    zone = f"{sign.replace(' ', '+')}{hours}:{minutes}" if sign else "+00:00" if utc else ""
    time = f"{time[:-2]}59" if time.endswith(":60") else time
    return datetime.fromisoformat(f"{day}T{time}.{(fraction or '').ljust(6, '0')[:6]}{zone}")


def milliseconds(time: int | float | str) -> tuple[int | float, str]:
    """Return the milliseconds since the epoch that ``time`` means, and what it was written in.

    :return: NaN for what is no time; then ``"s"``, ``"us"``, ``"ns"``, ``"text"``, or nothing for ms.
    """
    if isinstance(time, str):
        try:
            return _milliseconds_of(time.strip()), "text"
        except (ValueError, OverflowError):
            return float("nan"), ""
    size = abs(time)
    if MILLISECONDS <= size < MICROSECONDS:
        return time, ""
    if size < MILLISECONDS:
        return time * 1000, "s"
    if size < NANOSECONDS:
        return time / 1000, "us"
    return (time / 1_000_000, "ns") if size < NANOSECONDS * 1000 else (float("nan"), "")


def _milliseconds_of(text: str) -> int | float:
    """Return the milliseconds since the epoch that ``text`` means: digits, or RFC 3339.

    :raises ValueError: it is no time.
    :raises OverflowError: it is none that there can be.
    """
    if re.fullmatch(r"-?\d{1,25}(\.\d{1,12})?", text, re.ASCII):
        return milliseconds(float(text) if "." in text else int(text))[0]
    return read_time(text).astimezone(timezone.utc).timestamp() * 1000
