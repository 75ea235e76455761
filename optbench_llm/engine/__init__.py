"""The engine: one ``torch.optim.Optimizer`` that runs any rule."""

from optbench_llm.engine.optimizer import RuleOptimizer

__all__ = ["RuleOptimizer"]
