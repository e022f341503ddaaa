"""Numbers from texts: rules, rubrics and thresholds as pure functions, without a model, a network or a file."""

from inoc_ray.config.identity import identity
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rule_base import Rule, rule

__all__ = ["Item", "Rule", "identity", "rule"]
