"""Limits: each limit of an ``agent/message`` is a setting, with its default."""

from attrs import field, frozen
from attrs.validators import ge


@frozen
class AgentLimits:
    """AgentLimits are limits of a message; one that is beyond them is kept as rejected, and acknowledged."""

    #: Bytes of one ``agent/message``.
    max_payload: int = field(default=64 * 1024, validator=ge(128))
    #: Metrics of one message.
    max_metrics: int = field(default=1000, validator=ge(1))
    #: Agents that one connection may speak for.
    max_agents: int = field(default=10_000, validator=ge(1))
    #: Different types of metric of one agent. Types are remembered in memory, those of the agent
    #: silent for longest are forgotten first: see :class:`~platziverse.agents.vocabulary.Vocabulary`.
    max_types: int = field(default=1000, validator=ge(1))
