"""Vocabulary: which types of metric each agent has sent."""

from typing import Final

from platziverse.agents.model import Metric
from platziverse.mqtt.memo import Recent

#: Types remembered in all, some 20 MiB at most.
MAX_REMEMBERED: Final = 200_000


class Vocabulary:
    """A Vocabulary keeps an agent from inventing types without end, which would burst indexes and dashboards.

    The memory is that of the process and has an end: above ``max_remembered`` types in all, the agent
    silent for longest is forgotten, and may then send ``max_types`` new ones. So the cap holds exactly
    while as many types as that are in use, and approximately beyond.

    :param max_types: different types of one agent.
    """

    def __init__(self, max_types: int, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_types = max_types
        self._types: Recent[str, frozenset[str]] = Recent(max_remembered, len)

    @property
    def remembered(self) -> int:
        """How many types of all agents together are remembered now."""
        return self._types.weight

    def admit(self, uuid: str, metrics: list[Metric]) -> "tuple[list[Metric], list[Metric]]":
        """Return the metrics whose types the agent may send, and the others.

        The first is the same list if all of them may be sent.
        """
        if not metrics:
            return metrics, []
        known = self._types.touch(uuid) or frozenset()
        for metric in metrics:
            if metric.type not in known:
                return self._learn(uuid, set(known), metrics)
        return metrics, []

    def _learn(
        self, uuid: str, known: set[str], metrics: list[Metric]
    ) -> "tuple[list[Metric], list[Metric]]":
        others = []
        for metric in metrics:
            if metric.type in known:
                continue
            if len(known) < self._max_types:
                known.add(metric.type)
            else:
                others.append(metric)
        self._types.put(uuid, frozenset(known))
        if not others:
            return metrics, others
        return [metric for metric in metrics if metric.type in known], others
