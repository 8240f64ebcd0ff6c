"""Entries for tests, with as few words as possible."""

import itertools
from typing import Any

from platziverse.agents.model import Agent, Metric, Rejection, Report
from platziverse.broker.records import Delivery

#: 2026-11-24 00:00 UTC.
NOW = 1_795_478_400.0
_numbers = itertools.count(1)


def agent(uuid: str = "a", **fields: Any) -> Agent:
    given: dict[str, Any] = {"username": "platzi", "name": "platzi", "hostname": "here", "pid": 10, **fields}
    return Agent(uuid=uuid, **given)


def key(number: int | None = None, at: float = NOW) -> bytes:
    """A message key: of ``number``, or one that never was before."""
    number = next(_numbers) + (1 << 40) if number is None else number
    return int(at * 1000).to_bytes(6, "big") + number.to_bytes(10, "big")


def rejection(reason: str = "why", payload: bytes = b"raw", **fields: Any) -> Rejection:
    given: dict[str, Any] = {"topic": "agent/message", "client_id": "client", "arrived": NOW, **fields}
    return Rejection(payload=payload, reason=reason, **given)


def report(*values: str, uuid: str = "a", payload: bytes = b"raw", **fields: Any) -> Report:
    """A report with one metric of type ``m`` for each value; by default the value 1."""
    return Report(
        fields.pop("agent", None) or agent(uuid),
        [Metric("m", value) for value in values or ("1",)],
        fields.pop("arrived", NOW),
        rejection("", payload),
        **fields,
    )


def delivery(
    packet_id: int = 1, dup: bool = False, digest: bytes = b"d" * 16, client_id: str = "client"
) -> Delivery:
    return Delivery(client_id, packet_id, dup, digest)
