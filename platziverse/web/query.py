"""Query: the parameters of a request, each of them checked; what makes no sense is told what would."""

import re
from collections.abc import Collection
from datetime import datetime, timezone
from typing import Final, cast
from urllib.parse import urlencode

from twisted.web.server import Request

from platziverse.times import read_time
from platziverse.web.answers import HTTPError, text_of

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1000
#: Values of a parameter that may be given several times.
MAX_VALUES: Final = 20
#: Milliseconds since the epoch; the document names it too.
LAST_MOMENT: Final = 253_370_764_800_000
#: Characters of the longest uuid or type there can be.
LONGEST: Final = 255
#: What ``connected=`` asks for; ``None``: all agents.
WHICH: Final = {"true": True, "false": False, "all": None}


class Query:
    """A Query has the parameters of one request.

    :raises HTTPError: one is no text.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        arguments = cast("dict[bytes, list[bytes]]", request.args or {})
        self._values = {
            text_of(name): list(map(text_of, values[: MAX_VALUES + 1])) for name, values in arguments.items()
        }

    def only(self, *names: str, several: Collection[str] = ()) -> None:
        """Check which parameters there are.

        :param names: of those that may be there, once.
        :param several: names of those that may be there up to ``MAX_VALUES`` times.
        :raises HTTPError: there is another one, or one too often.
        """
        for name, values in self._values.items():
            if name not in names and name not in several:
                raise HTTPError(400, f"unknown parameter {name}")
            if name in several and len(values) > MAX_VALUES:
                raise HTTPError(400, f"{name} may be given {MAX_VALUES} times at most")
            if name in names and len(values) > 1:
                raise HTTPError(400, f"{name} may be given once")

    def text(self, name: str) -> str | None:
        """Return a parameter; ``None``: it is not there."""
        values = self._values.get(name)
        return values[0] if values is not None else None

    def texts(self, name: str) -> list[str]:
        """Return all values of a parameter, each once, in their order."""
        return list(dict.fromkeys(self._values.get(name, ())))

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        """Return a parameter that is one of ``choices``. :raises HTTPError: it is none of them."""
        text = self.text(name)
        if text is None:
            return default
        if text not in choices:
            raise HTTPError(400, f"{name} must be {_listed(choices)}")
        return text

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """Return a parameter that is a number from ``least`` to ``most``. :raises HTTPError: it is none."""
        text = self.text(name)
        if text is None:
            return default
        if re.fullmatch(r"\d{1,15}", text, re.ASCII) and least <= int(text) <= most:
            return int(text)
        raise HTTPError(400, f"{name} must be a number from {least} to {most}")

    def is_own(self) -> bool:
        """Return whether this worker alone shall answer. :raises HTTPError: ``worker`` makes no sense."""
        return self.choice("worker", ("own",), "") == "own"

    def limit(self, default: int = MAX_LIMIT) -> int:
        """Return how many rows are wanted. :raises HTTPError: ``limit`` is no such number."""
        return self.number("limit", default, 1, MAX_LIMIT)

    def after(self) -> int:
        """Return behind which number a page begins. :raises HTTPError: ``after`` is none."""
        text = self.text("after")
        if text is None:
            return 0
        if re.fullmatch(r"\d{1,15}", text, re.ASCII):
            return int(text)
        raise HTTPError(400, "after must be a number, the last one of the page before")

    def connected(self, default: str) -> bool | None:
        """Return which agents are wanted; ``None``: all. :raises HTTPError: ``connected`` makes no sense."""
        return WHICH[self.choice("connected", tuple(WHICH), default)]

    def time(self, name: str) -> datetime | None:
        """Return a time, in RFC 3339 or milliseconds since the epoch; ``None``: it is not there.

        :raises HTTPError: it is no time.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            if re.fullmatch(r"\d{1,15}", text, re.ASCII) and int(text) <= LAST_MOMENT:
                return datetime.fromtimestamp(int(text) / 1000, timezone.utc)
            return read_time(text)
        except (ValueError, OverflowError, OSError):
            pass
        raise HTTPError(
            400, f"{name} must be a time like 2026-11-24T04:07:00Z or milliseconds since the epoch"
        )

    def milliseconds(self, name: str) -> int | None:
        """Return a time as milliseconds since the epoch; ``None``: it is not there.

        :raises HTTPError: it is no time, or none since 1970.
        """
        moment = self.time(name)
        if moment is None:
            return None
        number = int(moment.timestamp() * 1000)
        if 0 <= number <= LAST_MOMENT:
            return number
        raise HTTPError(400, f"{name} must be a time since 1970")

    def following(self, name: str, value: str) -> str:
        """Return the query, as a URL has it, of the page behind ``value``."""
        return urlencode(self._values | {name: [value]}, doseq=True)


def _listed(choices: Collection[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
