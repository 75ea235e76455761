"""Memory without a model in memory: the bytes are those that a real step leaves behind."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import run_here
from marks import slow

import optbench_llm as ob
from optbench_llm.catalog.info import LARGE_MATRIX
from optbench_llm.memory import (
    gradients_bytes,
    meta_model,
    states,
    weights_bytes,
)
from optbench_llm.memory_page import memory_json
from optbench_llm.models import load_model
from optbench_llm.state_bytes import state_bytes

TINY = "optbench:tiny-gpt2"
ROWS = ob.list_optimizers()
#: Of elements, rows, matrices, tensors and the model, with a companion, with numbers, of others.
QUICK = ("adamw", "adafactor", "soap", "novograd", "prodigy", "muon", "swats", "lion-8bit")
PROVIDERS = [
    "torch:AdamW",
    "torch:Adafactor",
    "torch:SGD",
    "bnb:AdamW8bit",
    "bnb:Lion",
    "schedulefree:AdamWScheduleFree",
    "pytorch_optimizer:AdaBelief",
    "pytorch_optimizer:SOAP",
    "prodigyopt:Prodigy",
]
GPT2 = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


@pytest.fixture(scope="module")
def tiny():
    """The embedded model, with a gradient for every parameter."""
    model = load_model(TINY).model
    for index, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, 0.01 * (index + 1)) + p.detach() / 10
    return model


@pytest.fixture(scope="module")
def shapes():
    """The same model on the meta device."""
    return meta_model(TINY)


def stepped(model, spec, engine="eager"):
    """Bytes of an optimizer's state after one step."""
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer = ob.create_optimizer(model, spec, engine=engine)
    if hasattr(optimizer, "train"):
        optimizer.train()
    rule = getattr(optimizer, "rule", None)
    if rule is not None:
        if rule.observe:
            optimizer.observe()
        optimizer.gradients_made()
        for p in model.parameters() if rule.kept_by_program else ():
            optimizer.state[p].update({name: torch.zeros_like(p) for name in rule.kept_by_program})
    optimizer.step()
    with torch.no_grad():
        for p, weight in zip(model.parameters(), weights, strict=True):
            p.copy_(weight)
    return state_bytes(optimizer)


@pytest.mark.parametrize("name", [*QUICK, *slow(*(n for n in ROWS if n not in QUICK))])
def test_planned_bytes_are_those_after_a_real_step_in_every_storage(name, tiny, shapes):
    """Every row of the catalog, to the byte."""
    planned = states(shapes, name)
    assert planned
    for state in planned:
        suffix = f"@{state.storage}" if state.storage else ""
        assert state.state_bytes == stepped(tiny, name + suffix), state


@pytest.mark.parametrize("spec", PROVIDERS)
def test_a_providers_bytes_are_those_after_a_real_step(spec, tiny, shapes):
    """A step without values makes the same state as one with them."""
    module = spec.partition(":")[0]
    pytest.importorskip({"bnb": "bitsandbytes"}.get(module, module))
    (state,) = states(shapes, spec)
    assert state.state_bytes == stepped(tiny, spec)


class Stubborn(torch.optim.SGD):
    """Cannot step what has no values."""

    def step(self, closure=None):
        raise RuntimeError("no data pointer")


def test_an_optimizer_that_needs_values_is_not_guessed_at(shapes):
    """Where a step without values fails, the bytes are unknown and the reason is told."""
    (state,) = states(shapes, f"{__name__}:Stubborn")
    assert state.state_bytes is None
    assert "not known without a step" in state.reason
    assert "no data pointer" in state.reason


def test_a_model_gets_its_own_parameters_back(shapes):
    """A provider's step leaves the meta model as it was, tied weights included."""
    before = [(name, id(p)) for name, p in shapes.named_parameters(remove_duplicate=False)]
    states(shapes, "torch:AdamW")
    after = [(name, id(p)) for name, p in shapes.named_parameters(remove_duplicate=False)]
    assert after == before
    assert len({key for _, key in after}) == len(after) - 1
    assert all(p.is_meta and p.grad is None for p in shapes.parameters())


def test_the_catalog_states_what_a_providers_row_keeps():
    """The figure of the list is that of a real step on a large matrix."""
    rows = [ob.optimizer_info(name) for name in ob.list_optimizers()]
    provided = [row for row in rows if row.provider]
    assert provided
    for row in provided:
        model = torch.nn.Linear(*LARGE_MATRIX, bias=False)
        model.weight.grad = torch.ones(LARGE_MATRIX)
        optimizer = ob.create_optimizer(model, row.name)
        optimizer.step()
        kept = sum(t.numel() * t.element_size() for t in tensors_without_tables(optimizer))
        assert row.state_bytes_per_param == kept / model.weight.numel()


def tensors_without_tables(optimizer):
    """State that grows with the parameter: bitsandbytes' code table of 1 KB does not."""
    return [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not name.startswith("qmap")
    ]


def test_lists_of_tensors_count_and_shared_tensors_count_once():
    """As in SOAP's preconditioners and in bitsandbytes' code tables."""
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([a, b], lr=0.1)
    table = torch.zeros(256)
    optimizer.state[a].update(table=table, parts=[torch.zeros(5), {"deep": torch.zeros(7)}])
    optimizer.state[b].update(table=table, step=3)
    assert state_bytes(optimizer) == 4 * (256 + 5 + 7)


@pytest.mark.parametrize("name", GPT2)
def test_gpt2s_sizes_are_known_offline(name, monkeypatch):
    """Parameters as published, weights in fp32, tied ones once."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = meta_model(name)
    assert sum(p.numel() for p in model.parameters()) == GPT2[name]
    assert weights_bytes(model) == gradients_bytes(model) == 4 * GPT2[name]
    assert all(p.is_meta for p in model.parameters())


def test_frozen_parameters_have_neither_gradient_nor_state(shapes):
    """What is not trained costs its weights alone."""
    model = meta_model(TINY)
    embedding = model.get_input_embeddings().weight
    embedding.requires_grad_(False)
    assert weights_bytes(model) == weights_bytes(shapes)
    assert gradients_bytes(model) == gradients_bytes(shapes) - 4 * embedding.numel()
    for spec in ("adamw", "torch:Adagrad"):
        less = states(shapes, spec)[0].state_bytes - states(model, spec)[0].state_bytes
        assert less >= 4 * embedding.numel()


@pytest.mark.parametrize("name", ["optbench:tiny-gpt2", "random:optbench:tiny-gpt2", "folder"])
def test_a_folder_needs_a_config_alone(name, tmp_path, shapes):
    """No weights, no tokenizer: the architecture is enough."""
    if name == "folder":
        meta_model(TINY).config.save_pretrained(tmp_path)
        name = str(tmp_path)
    assert weights_bytes(meta_model(name)) == weights_bytes(shapes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", ["nowhere", "gpt2-xl", "hub id"]),
        ("gpt2-huge", ["gpt2-huge", "gpt2-xl"]),
        ("optbench:tiny", ["optbench:tiny", "optbench:tiny-gpt2"]),
    ],
)
def test_an_unknown_model_is_refused_with_what_there_is(name, words, monkeypatch):
    """The next step stands in the message."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        meta_model(name)
    assert all(word in str(caught.value) for word in words)


def test_the_page_is_sorted_by_total_and_adds_up():
    """Smallest first; weights, gradients and state make the total."""
    facts = memory_json(TINY, ["adan", "lion@int8", "lion", "sgd", "lion-8bit"])
    rows = facts["optimizers"]
    assert len(rows) == 3 + 3 + 1 + 1
    totals = [row["total_bytes"] for row in rows]
    assert totals == sorted(totals)
    assert {row["storage"] for row in rows if row["optimizer"] == "lion"} == {
        "fp32",
        "bf16",
        "int8",
    }
    for row in rows:
        rest = facts["weights_bytes"] + facts["gradients_bytes"]
        assert row["total_bytes"] == rest + row["state_bytes"]
        per_param = row["state_bytes"] / facts["trainable_parameters"]
        assert row["state_bytes_per_param"] == per_param


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("adagrad@int8", "full precision"),
        ("addam", "Nearest"),
        ("hf:adamw_torch_fused", "inside a Trainer"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(spec, words):
    """An optimizer that was asked for by name is not dropped in silence."""
    with pytest.raises(ValueError, match=words):
        memory_json(TINY, [spec])


def test_the_command_shows_every_row_once():
    """All of the catalog as JSON, and as a table with a storage in each column."""
    command = ["memory", "--model", TINY]
    done = run_here(*command, "--json")
    named = {row["optimizer"] for row in json.loads(done.stdout)["optimizers"]}
    assert named == set(ob.list_optimizers())
    assert done.stderr == ""
    done = run_here(*command, "--optim", "lion")
    heading = next(line for line in done.stdout.splitlines() if "optimizer" in line)
    assert heading.split() == ["optimizer", "fp32", "bf16", "int8", "B/param", "total"]
