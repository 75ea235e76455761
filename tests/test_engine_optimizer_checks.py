"""What the engine and the providers refuse beyond single values out of range."""

from __future__ import annotations

import pytest
from torch import nn

import optbench_llm as ob


@pytest.mark.parametrize("name", ["sgd", "sgdp"])
def test_a_nesterov_flag_without_momentum_is_refused(name: str) -> None:
    """It would have no effect, and nothing is silently dropped."""
    with pytest.raises(ValueError, match=rf"{name}.*nesterov=True has no effect without momentum"):
        ob.create_optimizer(nn.Linear(2, 2), name, nesterov=True)


def test_a_group_is_checked_together_with_the_constructors_settings() -> None:
    """The momentum of the constructor counts for a group that only sets the flag."""
    optimizer = ob.create_optimizer(nn.Linear(2, 2), "sgd", momentum=0.9)
    extra = nn.Parameter(nn.Linear(2, 2).weight.detach())
    optimizer.add_param_group({"params": [extra], "nesterov": True})
    assert optimizer.param_groups[-1]["nesterov"] is True
    with pytest.raises(ValueError, match="no effect without momentum"):
        optimizer.add_param_group({"params": [], "nesterov": True, "momentum": 0.0})


@pytest.mark.parametrize("spec", ["lion-8bit", "torch:AdamW"])
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_foreign_optimizers_are_refused_a_negative_setting_by_name(spec: str, name: str) -> None:
    """The message names optimizer, hyperparameter and range, which the libraries' own do not."""
    with pytest.raises(ValueError, match=rf"{spec}.*{name}=-1.*expected a number in \[0, inf\)"):
        ob.create_optimizer(nn.Linear(2, 2), spec, **{name: -1})
