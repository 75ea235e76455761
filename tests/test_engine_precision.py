"""Autocast and TF32, which a training allows its model, reach into no step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from oracles import CASES
from oracles.comparison import make_optimizer, make_parameter, shapes_of, take_step

import optbench_llm as ob
from optbench_llm.engine import precision
from optbench_llm.engine.precision import full_precision
from optbench_llm.rules import matrix_roots, newton_schulz, products

MATRIX = ob.list_optimizers(scope="matrix")
CUBLAS: Any = torch.backends.cuda.matmul
ONEDNN: Any = torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def _settings_as_before() -> Iterator[None]:
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    CUBLAS.fp32_precision = ONEDNN.fp32_precision = "none"


def stepped(name: str, *, autocast: bool) -> list[torch.Tensor]:
    """Parameters after 3 steps of an optimizer."""
    shapes = shapes_of(name)
    params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]
    optimizer = make_optimizer(params, name, engine="eager", **CASES[name][0])
    for t in range(1, 4):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            take_step(optimizer, params, shapes, t)
    return params


@pytest.mark.parametrize("name", [*MATRIX, "adamp", "lamb", "sophia"])
def test_autocast_around_a_step_changes_no_bit(name, monkeypatch):
    """Products of matrices would be bf16's, on a machine where they are torch's own fp32 ones."""
    monkeypatch.setattr(products, "is_amd", lambda: False)
    monkeypatch.setattr(newton_schulz, "cpu_has_bfloat16", lambda: False)
    pairs = zip(stepped(name, autocast=False), stepped(name, autocast=True), strict=True)
    assert all(torch.equal(plain, cast) for plain, cast in pairs)


def test_a_closure_runs_under_the_autocast_around_it():
    """It is the model's, not the step's."""
    p = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = ob.create_optimizer([{"params": [p], "role": "matrix"}], "muon", engine="eager")
    seen = []

    def closure() -> torch.Tensor:
        seen.append((p @ p).dtype)
        p.grad = torch.ones_like(p)
        return p.sum()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        optimizer.step(closure)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [torch.bfloat16]


#: How TF32 is allowed: transformers takes the last one.
ALLOWED = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "cublas, as before torch 2.9": lambda: setattr(CUBLAS, "allow_tf32", True),
    "cublas": lambda: setattr(CUBLAS, "fp32_precision", "tf32"),
    "all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("how", ALLOWED)
def test_products_of_a_step_are_in_full_precision(how, monkeypatch):
    """However TF32 was allowed, and it is allowed again afterwards."""
    seen = set()

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.add((CUBLAS.fp32_precision, ONEDNN.fp32_precision))
        return a @ b

    monkeypatch.setattr(matrix_roots, "product", product)
    ALLOWED[how]()
    before = CUBLAS.fp32_precision, ONEDNN.fp32_precision
    assert "tf32" in before
    stepped("soap", autocast=False)
    assert seen
    assert {precision for pair in seen for precision in pair} <= {"ieee", "none"}
    assert (CUBLAS.fp32_precision, ONEDNN.fp32_precision) == before


def test_what_the_setting_of_all_allowed_it_can_forbid_after_a_step():
    """A library that follows it does so still."""
    ALLOWED["all"]()
    with full_precision():
        pass
    assert CUBLAS.fp32_precision == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert CUBLAS.fp32_precision == "ieee"


def test_settings_are_those_of_before_after_a_step_that_raises():
    torch.set_float32_matmul_precision("high")

    def fail() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16), full_precision():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_float32_matmul_precision() == "high"
    assert not torch.is_autocast_enabled("cpu")


def test_before_torch_2_9_the_older_setting_is_the_one(monkeypatch):
    class Older:
        """A module without the newer setting."""

    monkeypatch.setattr(torch.backends.cuda, "matmul", Older())
    monkeypatch.setattr(precision, "ONE_SETTING", True)
    torch.set_float32_matmul_precision("high")
    with full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "high"
