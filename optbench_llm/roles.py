"""Which weights of a model are heads, which read its input, which are tables: told by structure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Modules = Mapping[str, nn.Module]
#: Names by which models call the layer that makes their output, where nothing else tells it.
HEAD_NAMES = re.compile(r"(?:^|_)(?:heads?|classifier|score|fc|fc_out|output)$")
#: What the names of parameters say that hold learned inputs: looked up, put in front, or added.
TABLE_NAMES = re.compile(
    r"emb|token|query|latent|prompt|prefix|mask|bias|table|newline|probe|position|vector_bank"
    r"|(?:^|_)(?:cls|pos|ape|rpb)(?:_|$)"
)
#: Linear layers that read patches of pixels, or other numbers.
INPUT_NAMES = re.compile(r"patch_embed[^.]*(?:\.[^.]+)?$|(?:^|\.)embed_[^.]+$")
#: Scales of two dimensions: also the decay and the skip of state-space models.
GAIN_NAMES = re.compile(r"scale|^A_log$|^D$")


class Layer(NamedTuple):
    """A layer with a weight of its own: its place among all modules, how wide it reads and puts."""

    path: str
    module: nn.Module
    position: int
    inputs: int
    outputs: int


def head_weights(modules: Modules) -> set[Tensor]:
    """The weights that make the model's output.

    - Output embeddings of every transformers model within, as it says itself.
    - Layers outside the body of a transformers model (its ``base_model``; without one, behind what
      models it is made of), or behind all transformers models within a module of another kind.
      Among these, a layer whose outputs some later one of them takes is hidden.
    - The projections of a model that compares them (one that has a ``logit_scale``).
    - In a model without any of these, layers by the names of :data:`HEAD_NAMES`.
    """
    layers = list(_layers(modules))
    heads = [head for module in modules.values() for head in _output_embeddings(module)]
    heads += (layer.module for layer in _projections(modules, layers))
    for candidates in _candidates(modules, layers):
        heads += (layer.module for layer in _last(candidates))
    return {p for head in heads for p in head.parameters()}


def _output_embeddings(module: Any) -> list[nn.Module]:
    if not hasattr(module, "get_output_embeddings"):
        return []
    try:
        head = module.get_output_embeddings()
    except NotImplementedError:
        # How some of transformers' models say that they have none.
        return []
    heads = head if isinstance(head, (list, tuple)) else [head]
    return [head for head in heads if isinstance(head, nn.Module)]


def _candidates(modules: Modules, layers: list[Layer]) -> Iterator[list[Layer]]:
    """Layers that stand behind a body, for each model that has one."""
    from transformers import PreTrainedModel

    pretrained = {path: m for path, m in modules.items() if isinstance(m, PreTrainedModel)}
    for path, model in pretrained.items():
        inner = [p for p in pretrained if p != path and _within(p, path)]
        bodies = [p for p, m in modules.items() if m is model.base_model and p != path]
        outside = [
            x
            for x in layers
            if _within(x.path, path) and not any(_within(x.path, p) for p in (*bodies, *inner))
        ]
        if bodies:
            yield outside
        elif inner and "For" in type(model).__name__:
            yield _behind(modules, outside, inner)
        else:
            own = [x for x in outside if x.path.rpartition(".")[0] == path]
            yield [x for x in own if HEAD_NAMES.search(x.path.rpartition(".")[2])]
    if not pretrained:
        root = _unwrapped(modules)
        yield [x for x in layers if HEAD_NAMES.search(_below(x.path, root).partition(".")[0])]
    elif "" not in pretrained:
        outside = [x for x in layers if not any(_within(x.path, p) for p in pretrained)]
        yield _behind(modules, outside, list(pretrained))


def _projections(modules: Modules, layers: list[Layer]) -> Iterator[Layer]:
    """What brings the outputs of several towers into one space, where they are compared."""
    for layer in layers:
        path, _, name = layer.path.rpartition(".")
        if name.endswith("projection") and hasattr(modules[path], "logit_scale"):
            yield layer


def _behind(modules: Modules, layers: list[Layer], bodies: list[str]) -> list[Layer]:
    """The layers that come after all bodies, and are no adapter of PEFT's."""
    places = list(modules)
    last = max(places.index(body) for body in bodies)
    return [x for x in layers if x.position > last and "prompt_encoder" not in x.path]


def _last(layers: list[Layer]) -> Iterator[Layer]:
    """Those whose outputs none of the later ones takes."""
    for index, layer in enumerate(layers):
        taken = any(later.inputs == layer.outputs for later in layers[index + 1 :])
        if layer.inputs and not taken:
            yield layer


def _unwrapped(modules: Modules) -> str:
    """The path of the model within wrappers, such as those of DDP and torch.compile."""
    root = ""
    while len(children := [name for name, _ in modules[root].named_children()]) == 1:
        root = f"{root}.{children[0]}".lstrip(".")
    return root


def _below(path: str, root: str) -> str:
    return path[len(root) :].lstrip(".")


def _layers(modules: Modules) -> Iterator[Layer]:
    for position, (path, module) in enumerate(modules.items()):
        # What LoRA puts beside a layer is none of the model's own.
        if "lora_" not in path and any(p.ndim > 1 for p in module.parameters(recurse=False)):
            inputs, outputs = _width(module)
            if outputs:
                yield Layer(path, module, position, inputs, outputs)


def _width(module: Any) -> tuple[int, int]:
    """How many features a layer reads and puts out; 0 for none, or unknown."""
    if isinstance(module, nn.Embedding):
        return 0, module.embedding_dim
    for inputs, outputs in (
        ("in_features", "out_features"),
        ("in_channels", "out_channels"),
        ("nx", "nf"),
    ):
        if isinstance(getattr(module, outputs, None), int):
            return getattr(module, inputs), getattr(module, outputs)
    return 0, 0


def _within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def input_weights(modules: Modules) -> set[Tensor]:
    """Weights of the layers that read pixels, sound or other numbers, not another layer.

    Those are convolutions over channels with fewer inputs than any layer before them puts out (the
    first of a network, and the first of each of several towers), and linear layers that by their
    names embed patches or numbers. A layer without others is none of them.
    """
    found: set[Tensor] = set()
    fewest: int | None = None
    layers = list(_layers(modules))
    for layer in layers if len(layers) > 1 else []:
        module: Any = layer.module
        if isinstance(module, _ConvNd):
            by_channel = 1 < module.groups == module.in_channels
            first = fewest is None or layer.inputs < fewest
            reads = first and not by_channel and not module.transposed
        else:
            reads = layer.inputs > 0 and INPUT_NAMES.search(layer.path) is not None
        if reads:
            found |= set(module.parameters(recurse=False))
        fewest = layer.outputs if fewest is None else min(fewest, layer.outputs)
    return found


def is_table(module: nn.Module, name: str, p: Tensor) -> bool:
    """Whether the parameter ``name`` of ``module`` is a table of vectors, and no linear map.

    Tokens, positions, queries, prompts and the like that a model has as bare parameters are told
    by their names, by that of their module, or by a first dimension for the batch.
    """
    if isinstance(module, nn.Embedding) or "embedding" in type(module).__name__.lower():
        return not _width(module)[0]
    for_batch = p.ndim > 2 and p.shape[0] == 1 and not is_gain(module, name, p)
    return _is_bare(module) and (for_batch or TABLE_NAMES.search(name.lower()) is not None)


def is_gain(module: nn.Module, name: str, p: Tensor) -> bool:
    """Whether a bare parameter scales: a vector, written with dimensions of size 1 or not."""
    return _is_bare(module) and (GAIN_NAMES.search(name) is not None or p.numel() == max(p.shape))


def _is_bare(module: nn.Module) -> bool:
    """Whether a module's own parameters are not the weight of a layer."""
    return not _width(module)[1]
