"""What the engine and the providers refuse beyond single values out of range."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from marks import slow
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import optbench_llm as ob
from optbench_llm.engine import RuleOptimizer
from optbench_llm.rules import Rule, Scope


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


def test_numpys_numbers_are_numbers() -> None:
    """A grid made by numpy is what people sweep over; state holds Python's numbers all the same."""
    optimizer = ob.create_optimizer(nn.Linear(2, 2), "adan", lr=np.float32(0.5))
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_a_channelwise_rule_over_bare_parameters_warns() -> None:
    """It cannot see whether a matrix is a Conv1D's."""
    with pytest.warns(UserWarning, match="rows of each matrix for channels.*pass the model"):
        ob.create_optimizer(nn.Linear(2, 2).parameters(), "adamp")


def test_evaluation_mode_does_not_count_as_state() -> None:
    """What is put aside while a schedule-free model is evaluated goes back to the parameter."""
    layer = nn.Linear(8, 8)
    optimizer = ob.create_optimizer(layer, "sgd-schedulefree")
    layer(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    before = optimizer.state_bytes()
    optimizer.eval()
    assert optimizer.state_bytes() == before > 0


def test_a_refused_gradient_moves_nothing() -> None:
    """Neither parameters nor counts of the parameters before it."""
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = ob.create_optimizer([first, second], "adamw")
    first.grad = torch.ones(3)
    second.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="dense real gradients"):
        optimizer.step()
    assert torch.equal(first, torch.ones(3))
    assert not optimizer.state


@pytest.mark.parametrize("engine", ["auto", *slow("compiled")])
def test_a_broken_compiler_means_eager_with_one_warning(engine: str) -> None:
    """Asked for explicitly it is an error; either way the reason is named."""
    script = (
        "import warnings, torch, optbench_llm.engine.compiler as c, optbench_llm as ob\n"
        "c.COMPILE_FROM_UPDATES = 0\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "layer(torch.ones(1, 2)).sum().backward()\n"
        f"optimizer = ob.create_optimizer(layer, 'lion', engine={engine!r})\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    try:\n"
        "        optimizer.step(); optimizer.step()\n"
        "        print(optimizer.engine, [str(w.message) for w in seen if 'compile' in str(w)])\n"
        "    except RuntimeError as error:\n"
        "        print('RuntimeError', error)\n"
    )
    environment = {**os.environ, "CXX": "false"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    said = run.stdout.strip().splitlines()[-1]
    assert "InvalidCxxCompiler" in said
    if engine == "auto":
        assert said.startswith("eager")
        assert said.count("cannot compile") == 1
    else:
        assert said.startswith("RuntimeError engine 'compiled' does not work here")


def test_a_mesh_of_one_process_has_whole_parameters() -> None:
    """FSDP2 on one process: it steps and saves as if nothing were sharded."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        sharded = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
        plain = nn.Parameter(torch.ones(4, 4))
        optimizers = []
        for p in (sharded, plain):
            p.grad = torch.ones_like(p)
            optimizers.append(ob.create_optimizer([p], "lamb"))
            optimizers[-1].step()
        assert torch.equal(sharded.full_tensor(), plain)
        first, second = (optimizer.state_dict()["state"][0] for optimizer in optimizers)
        assert first.keys() == second.keys()
        assert torch.equal(first["exp_avg"], second["exp_avg"])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(4, 5)], "slot 'exp_avg' of parameter 0 has"),
        ([(4, 4), (4,)], "state of 1 parameters, optimizer 'lion' has 2"),
    ],
)
def test_the_state_of_another_model_is_refused(shapes, words) -> None:
    """And leaves the optimizer as it was."""
    p = nn.Parameter(torch.ones(4, 4))
    p.grad = torch.ones_like(p)
    optimizer = ob.create_optimizer([p], "lion")
    optimizer.step()
    other = ob.create_optimizer(
        [nn.Parameter(torch.ones(shape)) for shape in shapes], "lion", lr=1.0
    )
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state
    assert other.param_groups[0]["lr"] == 1.0


class UnitStep(Rule):
    """A step of one length for the whole model: the least that needs ``Scope.MODEL``."""

    scope = Scope.MODEL
    defaults = {"lr": 1.0}
    measures = ("gradient_sq",)

    @staticmethod
    def scalars(h, t, carry):
        return {"lr": h.lr}

    @staticmethod
    def measure(p, g, s, c):
        return ((g * g).sum(),)

    @staticmethod
    def update(p, g, s, c, sums):
        return p - g / sums.gradient_sq.sqrt() * c.lr, {}


def test_model_scope_sums_over_all_parameters() -> None:
    """The norm under the step is that of all gradients together."""
    params = [nn.Parameter(torch.zeros(n)) for n in (3, 1)]
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    RuleOptimizer(params, UnitStep).step()
    assert torch.allclose(torch.cat([p.detach() for p in params]), torch.full((4,), -0.5))


@pytest.mark.parametrize("name", ["muon", "scion"])
def test_an_unknown_role_is_refused(name: str) -> None:
    """A misspelt one would hand the group to the companion, or to none of the rule's cases."""
    groups = [{"params": [nn.Parameter(torch.ones(2, 2))], "role": "hidden"}]
    with pytest.raises(ValueError, match=rf"{name}.*role 'hidden'.*expected one of.*matrix"):
        ob.create_optimizer(groups, name)


def test_kernels_that_are_no_matrix_in_memory_are_refused() -> None:
    """Muon steps (out, rest) in place; the gradient alone may lie in any order."""
    layer = nn.Conv2d(3, 4, 2)
    optimizer = ob.create_optimizer(layer, "muon")
    layer.weight.grad = torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)
    optimizer.step()
    assert optimizer.state[layer.weight]["step"] == 1
    other = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"muon.*\(4, 3, 2, 2\).*contiguous_format"):
        ob.create_optimizer(other, "muon")
