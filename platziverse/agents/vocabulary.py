"""Vocabulary: which types of metric each agent has sent."""

from collections.abc import Iterable, Sequence
from sys import getsizeof
from typing import Final

from platziverse.agents.model import Metric
from platziverse.mqtt.memo import Recent

#: Bytes that the types take which are remembered in all, roughly: 200,000 usual ones.
MAX_REMEMBERED: Final = 32 * 1024 * 1024
#: Bytes of an agent, and of each of its types, beside the text.
_AGENT: Final = 512
_PLACE: Final = 96


class Vocabulary:
    """A Vocabulary keeps an agent from inventing types without end, which would burst indexes and dashboards.

    The memory is that of the process and has an end: above ``max_remembered`` bytes in all, the agent
    silent for longest is forgotten, and may then send ``max_types`` new ones. So the cap holds exactly
    while as many types as that are in use, and approximately beyond.

    :param max_types: different types of one agent.
    """

    def __init__(self, max_types: int, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_types = max_types
        self._types: Recent[str, frozenset[str]] = Recent(max_remembered, _size)

    @property
    def remembered(self) -> int:
        """How many bytes the types of all agents together take that are remembered now."""
        return self._types.weight

    def admit(
        self, uuid: str, metrics: list[Metric]
    ) -> "tuple[list[Metric], Sequence[Metric], Sequence[str]]":
        """Return the metrics whose types the agent may send, the others, and the types that are new.

        The first is the same list if all of them may be sent.
        """
        if not metrics:
            return metrics, (), ()
        known = self._types.touch(uuid) or frozenset()
        for metric in metrics:
            if metric.type not in known:
                return self._learn(uuid, set(known), metrics)
        return metrics, (), ()

    def _learn(
        self, uuid: str, known: set[str], metrics: list[Metric]
    ) -> "tuple[list[Metric], Sequence[Metric], Sequence[str]]":
        others, learnt = [], []
        for metric in metrics:
            if metric.type in known:
                continue
            if len(known) < self._max_types:
                known.add(metric.type)
                learnt.append(metric.type)
            else:
                others.append(metric)
        self._types.put(uuid, frozenset(known))
        if not others:
            return metrics, others, learnt
        return [metric for metric in metrics if metric.type in known], others, learnt


def _size(types: Iterable[str]) -> int:
    return _AGENT + sum(getsizeof(kind) + _PLACE for kind in types)
