"""Parameter groups: what each parameter is, whether it decays, and how its weight is laid out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from optbench_llm.rules.rule import Rule

#: Roles of parameters that weight decay leaves alone.
UNDECAYED = ("norm", "bias", "vector")
#: Attention modules whose fused weight holds all query rows, then all key, then all value rows.
FUSED = {
    "c_attn": ("GPT2", "OpenAIGPT", "ImageGPT", "DecisionTransformer", "GPTBigCode"),
    "qkv_proj": ("Phi3", "Phi4Multimodal"),
    "Wqkv": ("Mpt", "Dbrx", "ModernBert"),
}
#: Names of separate projections: query, key, value, in modules that have the first of them.
SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("wq", "wk", "wv"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("q_attn",),
)
QUERY_KEY_VALUE = ("query", "key", "value")
HEADS = ("num_heads", "num_attention_heads", "n_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "kv_heads", "num_kv_heads")

Part = tuple[str, int, int]


class Layout(NamedTuple):
    """What one parameter is; see :func:`param_groups`."""

    role: str
    conv1d: bool = False
    parts: tuple[Part, ...] = ()
    stacked: bool = False
    embeds: bool = False


def param_groups(
    model: nn.Module,
    weight_decay: float | None,
    rule: type[Rule] | None = None,
    *,
    mark_embeddings: bool = False,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of equal keys: those that decay, then those that do not.

    Biases, norms and other vectors do not decay. Tied weights appear once. ``weight_decay`` None
    leaves the optimizer's own default to the decaying groups. What else ``rule`` must know of the
    layout stands in the groups as plain values:

    - ``conv1d``: weights stored (in, out), transformers' Conv1D among them, for rules that look at
      output channels or layouts.
    - ``role``, for rules by layout: ``embedding`` (of positions too), ``head`` (tied ones too),
      ``norm``, ``bias``, ``query``, ``key``, ``value``, ``matrix`` (every other weight of two
      dimensions and more), ``vector``. LoRA's matrices are ``matrix``, whatever they adapt.
    - ``parts``, for rules by layout: (role, rows, attention heads) of each part of an (out, in)
      matrix, cut by rows. Several for a fused query-key-value or gate-and-up weight, whose own role
      is ``matrix``, and for its bias; one for a projection that has heads.
    - ``stacked``, for rules by layout: experts' matrices in one tensor (experts, out, in).

    ``mark_embeddings`` puts the weights of embeddings, tied ones too, in groups with ``embeds``.

    Roles that a rule leaves to its companion have groups of their own; those that decay do so by
    the companion's weight decay, whatever ``weight_decay`` is.

    Fused weights that interleave query, key and value head by head (``query_key_value`` of
    GPT-NeoX, Bloom and Falcon, ``c_attn`` of GPTBigCode without multi-query, ``qkv_proj`` of
    CodeGen), and what else this module does not know stay one ``matrix``.

    Raises ValueError for a model without trainable parameters, or without any for the rule.
    """
    groups: dict[Any, dict[str, Any]] = {}
    for p, layout in _trainable(model):
        keys = _keys(layout, weight_decay, rule)
        if mark_embeddings and layout.embeds:
            keys["embeds"] = True
        groups.setdefault(tuple(keys.items()), {"params": [], **keys})["params"].append(p)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    found = {group.get("role") for group in groups.values()}
    if rule is not None and rule.roles and not found & rule.roles:
        raise ValueError(
            f"{type(model).__name__} has no trainable parameter for {rule.__name__}, which steps"
            f" {', '.join(sorted(rule.roles))} and found {', '.join(sorted(map(str, found)))};"
            " use an optimizer for any parameter, such as adamw"
        )
    return sorted(groups.values(), key=lambda group: group.get("weight_decay") == 0.0)


def _keys(layout: Layout, weight_decay: float | None, rule: type[Rule] | None) -> dict[str, Any]:
    """The keys of the group that a parameter belongs to."""
    keys: dict[str, Any] = {}
    foreign = rule is not None and rule.companion is not None and layout.role not in rule.roles
    if layout.role in UNDECAYED:
        keys["weight_decay"] = 0.0
    elif weight_decay is not None and not foreign:
        keys["weight_decay"] = weight_decay
    if layout.conv1d and rule is not None and (rule.by_channel or rule.by_layout):
        keys["conv1d"] = True
    if rule is not None and rule.by_layout:
        keys.update(role=layout.role, parts=layout.parts)
        if layout.stacked:
            keys["stacked"] = True
    return keys


def _trainable(model: nn.Module) -> Iterator[tuple[Tensor, Layout]]:
    modules = dict(model.named_modules())
    heads = _output_embeddings(model)
    seen = set()
    for prefix, module in modules.items():
        for name, p in module.named_parameters(recurse=False):
            if p.requires_grad and p not in seen:
                seen.add(p)
                yield p, _layout(modules, prefix, f"{prefix}.{name}", p, p in heads)


def _output_embeddings(model: nn.Module) -> set[Tensor]:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    return set(head.parameters()) if head is not None else set()


def _layout(
    modules: dict[str, nn.Module], prefix: str, name: str, p: Tensor, is_head: bool
) -> Layout:
    """What the parameter ``name`` of the module at ``prefix`` is."""
    from transformers.pytorch_utils import Conv1D

    module = modules[prefix]
    if name.endswith("bias"):
        _, parts = _role_and_parts(modules, prefix, p.numel())
        fused = tuple(("bias", rows, 0) for _, rows, _ in parts)
        return Layout("bias", parts=fused if len(fused) > 1 else ())
    if "norm" in type(module).__name__.lower():
        return Layout("norm")
    if p.ndim < 2:
        return Layout("vector")
    if "lora_" in name:
        return Layout("matrix")
    if p.ndim == 3 and hasattr(module, "is_transposed"):
        return _experts(module, name, p)
    embeds = isinstance(module, nn.Embedding)
    if is_head or embeds:
        return Layout("head" if is_head else "embedding", embeds=embeds)
    conv1d = isinstance(module, Conv1D)
    role, parts = _role_and_parts(modules, prefix, p.shape[-1 if conv1d else 0])
    return Layout(role, conv1d, parts)


def _experts(module: Any, name: str, p: Tensor) -> Layout:
    """Layout of one of transformers' stacks of experts, which say how theirs is stored."""
    rows = p.shape[2 if module.is_transposed else 1]
    gated = name.endswith("gate_up_proj") and module.has_gate and module.is_concatenated
    parts = (("matrix", rows // 2, 0),) * 2 if gated else ()
    return Layout("matrix", module.is_transposed, parts, stacked=True)


def _role_and_parts(
    modules: dict[str, nn.Module], prefix: str, rows: int
) -> tuple[str, tuple[Part, ...]]:
    """Role and parts of a weight with so many rows, told by its name within its parent."""
    path, _, name = prefix.rpartition(".")
    if name == "gate_up_proj":
        return "matrix", (("matrix", rows // 2, 0),) * 2
    parent = modules[path]
    heads = _head_counts(modules, path)
    fused = _fused_roles(parent, name)
    if fused:
        return "matrix", _parts(fused, heads, rows)
    for names in SEPARATE:
        if name in names and hasattr(parent, names[0]):
            role = QUERY_KEY_VALUE[names.index(name)]
            return role, _parts((role,), heads, rows)
    return "matrix", ()


def _fused_roles(parent: nn.Module, name: str) -> tuple[str, ...]:
    """Roles of the parts of a fused weight, in order; none for what is not one."""
    kind = type(parent).__name__
    if not kind.startswith(FUSED.get(name, ())):
        return ()
    if kind.startswith("GPTBigCode") and not getattr(parent, "multi_query", False):
        return ()
    return QUERY_KEY_VALUE[1:] if hasattr(parent, "q_attn") else QUERY_KEY_VALUE


def _parts(roles: tuple[str, ...], heads: tuple[int, int], rows: int) -> tuple[Part, ...]:
    """Parts of heads of one size; none where the rows do not divide into the known heads."""
    counts = [heads[0] if role == "query" else heads[1] for role in roles]
    if not all(counts) or rows % sum(counts):
        return ()
    head_rows = rows // sum(counts)
    return tuple((role, n * head_rows, n) for role, n in zip(roles, counts, strict=True))


def _head_counts(modules: dict[str, nn.Module], path: str) -> tuple[int, int]:
    """Attention heads of the module at ``path``, and its heads of keys and values; 0 if unknown.

    The module's own attributes come before the nearest config's.
    """
    parents = [modules[path]]
    while path:
        path = path.rpartition(".")[0]
        parents.append(modules[path])
    configs = [module.config for module in parents if hasattr(module, "config")]
    sources = (parents[0], *configs[:1])
    heads, keys = (_first_count(sources, names) for names in (HEADS, KEY_VALUE_HEADS))
    return heads, keys or heads


def _first_count(sources: tuple[Any, ...], names: tuple[str, ...]) -> int:
    found = (getattr(source, name, None) for source in sources for name in names)
    return next((count for count in found if isinstance(count, int)), 0)
