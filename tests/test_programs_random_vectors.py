"""The vectors of Hutchinson's estimate: what they are distributed as, and the same everywhere."""

from __future__ import annotations

import contextlib
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optbench_llm.engine.noise import Noise
from optbench_llm.engine.sharding import Sharding
from optbench_llm.programs import random_vectors
from optbench_llm.programs.hutchinson import Hutchinson, NormalHutchinson
from optbench_llm.programs.random_vectors import drawn, normal, signs
from optbench_llm.programs.replay import Replay

ELEMENTS = 1 << 16
KINDS = [signs, normal]
#: The fourth moment of each.
FOURTH = {signs: 1.0, normal: 3.0}


def noise(step: int = 1, seed: int = 0, name: str = "hutchinson/0") -> Noise:
    """The random bits of a step of a run."""
    args = SimpleNamespace(seed=seed)
    trainer = SimpleNamespace(args=args, state=SimpleNamespace(global_step=step - 1))
    replay = object.__new__(Replay)
    replay.trainer = trainer  # pyright: ignore
    return replay.shared_noise(name)


def vector(kind: Any, *key: Any, **named: Any) -> Tensor:
    return drawn(torch.empty(ELEMENTS), noise(*key, **named), kind)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_mean_variance_and_fourth_moment_are_those_of_the_distribution(kind):
    """Of 20 steps, within five standard errors."""
    found = torch.cat([vector(kind, step) for step in range(1, 21)]).double()
    count, fourth = len(found), FOURTH[kind]
    assert abs(float(found.mean())) < 5 / count**0.5
    assert abs(float(found.square().mean()) - 1) <= 5 * ((fourth - 1) / count) ** 0.5
    # The eighth moment of a normal number is 105.
    assert abs(float(found.pow(4).mean()) - fourth) <= 5 * ((105 - 9) / count) ** 0.5


def test_signs_are_signs():
    """Half of them, give or take what chance does."""
    assert vector(signs).unique().tolist() == [-1.0, 1.0]


def test_normal_numbers_are_normal():
    """Chi-squared over 256 equally likely ranges: within 5 standard deviations of its mean."""
    found = torch.cat([vector(normal, step) for step in range(1, 21)])
    counts = torch.histc(torch.special.ndtr(found.double()), 256, 0, 1)
    expected = len(found) / 256
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - 255) < 5 * (2 * 255) ** 0.5


def test_the_normal_numbers_to_choose_from_have_mean_0_and_variance_1():
    """Exactly, as fp32 goes: the estimate's mean is the Hessian's diagonal times the variance."""
    table = random_vectors._quantiles(torch.device("cpu")).double()
    assert torch.equal(table, -table.flip(0))
    assert abs(float(table.square().mean()) - 1) < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_steps_seeds_and_parameters_are_independent(kind):
    """No two of them correlate by more than 5 standard errors, nor do their squares."""
    keys = [(step, seed, f"hutchinson/{p}") for step in (1, 2) for seed in (0, 1) for p in range(3)]
    found = [vector(kind, *key) for key in keys]
    assert max(abs(correlation(a, b)) for a, b in combinations(found, 2)) < 5 / ELEMENTS**0.5
    squares = [v.square() for v in found] if kind is normal else []
    for a, b in combinations(squares, 2):
        assert abs(correlation(a, b)) < 5 / ELEMENTS**0.5


@pytest.mark.parametrize("lag", [1, 2, 16, 256, 768, 4096, 32768])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_independent(kind, lag):
    """Along a row, a block or a column, and from piece to piece."""
    found = vector(kind)
    assert abs(correlation(found[lag:], found[:-lag])) < 5 / (ELEMENTS - lag) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_does_not_depend_on_how_it_is_made(kind, monkeypatch):
    """In pieces or whole, in any shape, in whatever order; another one for another key."""
    shape = (5, 3 * 2**13 + 17)
    found = drawn(torch.empty(shape), noise(), kind)
    monkeypatch.setattr(random_vectors, "piece_elements", lambda device: 2**25)
    assert torch.equal(drawn(torch.empty(shape).view(-1), noise(), kind).view(shape), found)
    turned = drawn(torch.empty(shape[::-1]).t(), noise(), kind)
    assert torch.equal(turned, found)
    assert not torch.equal(drawn(torch.empty(shape), noise(step=2), kind), found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_has_the_dtype_of_its_parameter(kind, dtype):
    """And the numbers that fp32 has, rounded."""
    exact = drawn(torch.empty(99), noise(), kind)
    assert torch.equal(drawn(torch.empty(99, dtype=dtype), noise(), kind), exact.to(dtype))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_sharded_parameter_are_those_of_the_whole(kind, dim, monkeypatch):
    """Whichever dimension is cut, and also where the last process has less."""
    shape = torch.Size((7, 10))
    whole, parts = drawn(torch.empty(shape), noise(), kind), []
    mesh: Any = SimpleNamespace(get_group=lambda dim: None)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group: 3)
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda group, rank=rank: rank)
        cut = Sharding(mesh, 0, shape, dim)
        monkeypatch.setattr(random_vectors, "sharding_of", lambda name, p, cut=cut: cut)
        parts.append(drawn(torch.empty(cut.shape_of(rank)), noise(), kind))
    assert torch.equal(torch.cat(parts, dim), whole)


class OnOneDevice(TorchDispatchMode):
    """Counts operations on the meta device, which has no numbers that the host could wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given = [a for a in tree_leaves((args, kwargs, found)) if isinstance(a, Tensor)]
        assert all(a.is_meta and a.dtype != torch.float64 for a in given), func
        self.count += not func.is_view
        return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("elements", "pieces"), [(100, 1), (2**25, 1), (2**25 + 1, 2)])
def test_few_launches_make_a_vector(kind, elements, pieces):
    """However large, up to 2**25 elements; nothing is sent to the device."""
    p = torch.empty(elements, device="meta")
    drawn(p, noise(), kind)  # the table of normal numbers, once
    with OnOneDevice() as seen:
        drawn(p, noise(), kind)
    assert seen.count <= 16 * pieces + 1


@pytest.mark.parametrize("hvp", ["forward-difference", "finite-difference"])
@pytest.mark.parametrize("program", [Hutchinson, NormalHutchinson])
def test_an_estimate_waits_for_no_device(program, hvp):
    """From the vector to what the optimizer is fed: no number is read, none is sent."""
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in ((8, 4), (8,), ())]

    def repeat() -> None:
        for p in params:
            p.grad = torch.empty_like(p)

    fed: list[Any] = []
    replay: Any = SimpleNamespace(
        gradients_put_aside=contextlib.nullcontext, without_autocast=contextlib.nullcontext,
        clear_gradients=lambda: None, repeat=repeat, under_autocast=False,
        gradients_of_step=lambda own: [torch.empty_like(p) for p in own],
        shared_noise=lambda name: noise(name=name),
    )  # fmt: skip
    optimizer: Any = SimpleNamespace(
        param_groups=[{"params": params, "hvp": hvp, "k": 1}],
        defaults={"hvp": hvp, "k": 1},
        observe=lambda: fed.extend(p.grad for p in params),
    )
    repeat()
    program().before_step(replay, optimizer)
    with OnOneDevice():
        program().before_step(replay, optimizer)
    assert len(fed) == 6


def test_a_parameter_keeps_its_vector_when_another_has_no_gradient():
    """It is numbered among all."""
    drawings: dict[int, str] = {}

    class Recording(Hutchinson):
        @staticmethod
        def draw(p: Tensor, noise: Noise) -> Tensor:
            drawings[id(p)] = noise.stream
            raise StopIteration

    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer: Any = SimpleNamespace(param_groups=[{"params": [first, second]}])
    second.grad = torch.ones(3)
    with pytest.raises(StopIteration):
        Recording().before_step(SimpleNamespace(shared_noise=lambda n: noise(name=n)), optimizer)
    assert drawings[id(second)].startswith("hutchinson/1,")
