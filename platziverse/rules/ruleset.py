"""RuleSet: finds the rule of a topic."""

from collections.abc import Sequence
from typing import Final

from platziverse.agents.limits import AgentLimits
from platziverse.agents.payload import UseTime, use_time
from platziverse.mqtt.memo import Memo
from platziverse.rules.patterns import OWN
from platziverse.rules.rule import Rule, TopicRule

#: Rules of one daemon.
MAX_RULES: Final = 1000


class RuleSet:
    """A RuleSet has all rules; the first whose pattern matches is the one of a topic.

    :param use_time: sets the time of a reading.
    :ivar topic_filters: together they match at least every topic that has a rule.
    """

    def __init__(self, rules: Sequence[Rule], limits: AgentLimits, use_time: UseTime = use_time) -> None:
        self.rules = tuple(rules)
        self.topic_filters = frozenset(rule.pattern.topic_filter for rule in rules)
        self._limits, self._use_time = limits, use_time
        # By the first level where only one can match, so that a new topic asks few of a thousand rules.
        self._others = tuple(rule for rule in rules if rule.pattern.first is None)
        firsts = {rule.pattern.first for rule in rules if rule.pattern.first is not None}
        self._by_first = {
            first: tuple(rule for rule in rules if rule.pattern.first in (first, None)) for first in firsts
        }
        self._known: Memo[str, TopicRule | None] = Memo(self._find)

    def find(self, topic: str) -> TopicRule | None:
        """Return the rule of a topic; the same one each time, as long as it is remembered."""
        return self._known[topic]

    def _find(self, topic: str) -> TopicRule | None:
        if topic.startswith(("$", OWN)):
            return None
        for rule in self._by_first.get(topic.partition("/")[0], self._others):
            levels = rule.pattern.match(topic)
            if levels is not None:
                return TopicRule(rule, levels, self._limits, self._use_time)
        return None
