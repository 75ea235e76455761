"""One file an optimizer: paper, update equations, code."""

from optbench_llm.rules.rule import Rule, Scope, Slot

__all__ = ["Rule", "Scope", "Slot"]
