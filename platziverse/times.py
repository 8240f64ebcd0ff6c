"""Times as devices and people write them: RFC 3339, or a number since the epoch whose size tells its unit."""

import re
from datetime import datetime, timezone
from typing import Final

_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d+))?(?:([Zz])|([+ -])(\d\d):?(\d\d))?", re.ASCII
)
#: Below it a number is in seconds: as milliseconds it would be before 1973. Then come milliseconds,
#: microseconds and nanoseconds, a thousand times as many each.
_SECONDS: Final = 1e11


def read_time(text: str) -> datetime:
    """Return the moment that ``text`` names, with a time zone; without one in the text it is UTC.

    Python 3.10 reads neither ``Z`` nor nanoseconds; seconds may be leap seconds here.

    :raises ValueError: it is no time.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"no time: {text!r:.80}")
    day, time, fraction, _, sign, hours, minutes = match.groups()
    # A plus that was not quoted in a URL has become a blank.
    zone = "+00:00" if sign is None else f"{sign.replace(' ', '+')}{hours}:{minutes}"
    time = f"{time[:-2]}59" if time.endswith(":60") else time
    return datetime.fromisoformat(f"{day}T{time}.{(fraction or '').ljust(6, '0')[:6]}{zone}")


def milliseconds(number: int | float) -> int | float:
    """Return the milliseconds since the epoch that ``number`` means in seconds, ms, µs or ns.

    NaN stands for what is no time in any of them.
    """
    size = abs(number)
    if size >= _SECONDS * 1_000_000_000:
        return float("nan")
    if size < _SECONDS:
        return number * 1000
    if size < _SECONDS * 1000:
        return number
    return number / 1000 if size < _SECONDS * 1_000_000 else number / 1_000_000


def milliseconds_of(text: str) -> int | float:
    """Return the milliseconds since the epoch that ``text`` means: digits, or RFC 3339.

    :raises ValueError: it is no time.
    :raises OverflowError: it is none that there can be.
    """
    stripped = text.strip()
    if re.fullmatch(r"-?\d{1,25}(\.\d{1,12})?", stripped, re.ASCII):
        return milliseconds(float(stripped) if "." in stripped else int(stripped))
    return read_time(stripped).astimezone(timezone.utc).timestamp() * 1000
