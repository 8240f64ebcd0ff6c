"""Tables: the keys of a rule as they stand in TOML, with their types and defaults."""

from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct

#: A word → number table.
States: TypeAlias = dict[str, int | float]
Unit: TypeAlias = Annotated[str, Meta(max_length=32)]
Decimals: TypeAlias = Annotated[int, Meta(ge=-15, le=15)]


class MetricTable(Struct):
    """A MetricTable is one metric that a rule names."""

    path: str
    states: States | None = None
    scale: int | float | None = None
    offset: int | float | None = None
    round: Decimals | None = None
    unit: Unit | None = None
    text: bool = False
    required: bool = False


class PresenceTable(Struct):
    """A PresenceTable has the words that say whether an agent is there."""

    online: list[str]
    offline: list[str]
    path: str | None = None


class RuleTable(Struct):
    """A RuleTable is one ``[[rule]]``; docs/recording.rst has a line about each key."""

    topic: str
    agent: str | None = None
    name: str | None = None
    username: str = "{user}"
    hostname: str = ""
    format: str = "json"
    values: str | None = None
    type: str = "{key}"
    include: list[str] | None = None
    exclude: list[str] = []
    rename: dict[str, str] = {}
    #: Type → path or the table of a MetricTable, which is read on its own: so its errors name the type.
    metrics: dict[str, Any] | None = None
    states: States | None = None
    strings: bool = False
    each: str | None = None
    time: str | None = None
    time_format: str = "auto"
    time_zone: str = "UTC"
    presence: PresenceTable | None = None
    ignore: bool = False
    unmatched: str = "reject"
    units: dict[str, Unit] = {}


#: Keys that say nothing in a rule that has one of these.
MEANINGLESS = {
    "metrics": ("values", "type", "include", "exclude", "rename", "strings"),
    "presence": (
        "values",
        "type",
        "include",
        "exclude",
        "rename",
        "metrics",
        "states",
        "strings",
        "each",
        "time",
        "time_format",
        "time_zone",
        "units",
    ),
}
