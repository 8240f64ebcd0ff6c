"""Recording: the rules of a configuration; for commands as well, which need nothing else of a daemon."""

from platziverse.config import Config
from platziverse.rules.loading import load
from platziverse.rules.ruleset import RuleSet


def load_rules(config: Config) -> RuleSet:
    """Return the rules of ``[record]``. :raises RuleError: one cannot be used."""
    return load(config.record, config.agents, config.access.binding != "none")
