"""Parameter groups: what each parameter is, whether it decays, and how its weight is laid out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from optbench_llm.roles import head_weights, input_weights, is_gain, is_table

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
    decays: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: those that decay, then those that do not.

    Those that a rule leaves to its companion come after its own, so that the first group has the
    learning rate that was asked for: it is the one that loggers show. Biases, norms and other
    vectors do not decay; with ``decays``, the weights of these names do and no others. Tied weights
    appear once. ``weight_decay`` None leaves the optimizer's own default to the decaying groups.
    Which groups there are depends on the model, the rule, ``decays`` and ``mark_embeddings``, never
    on the value of a hyperparameter, so that a run may go on with another weight decay, 0 too. What
    else ``rule`` must know of the layout stands in the groups as plain values:

    - ``conv1d``: weights stored (in, out), transformers' Conv1D among them, for rules that look at
      output channels or layouts.
    - ``role``, for rules by layout: ``embedding``, ``head`` (tied ones too), ``norm``, ``bias``,
      ``query``, ``key``, ``value``, ``matrix`` (every other weight of two dimensions and more),
      ``vector``. See below.
    - ``parts``, for rules by layout: (role, rows, attention heads) of each part of an (out, in)
      matrix, cut by rows. Several for a fused query-key-value or gate-and-up weight, whose own role
      is ``matrix``, and for its bias; one for a projection that has heads.
    - ``stacked``, for rules by layout: matrices in one tensor (experts, out, in).

    ``mark_embeddings`` puts the weights of embeddings, tied ones too, in groups with ``embeds``.

    Roles that a rule leaves to its companion have groups of their own; those that decay do so by
    the companion's weight decay, whatever ``weight_decay`` is.

    An ``embedding`` is a table of vectors: nn.Embedding, and positions, tokens, queries and prompts
    that a model, or PEFT, has as bare parameters. So is the layer that reads pixels or sound, as
    Muon's authors have it: all convolutions are hidden, flattened to (out, rest), but the first.
    Rules that step embeddings themselves get that one as a ``matrix`` (it is its own part), since
    its input is no choice of rows. A ``head`` is what makes the output, such as the last layer
    behind the body of a transformers model: of language models, classifiers of sequences, tokens or
    images, spans, rewards, values. In a model that has no part of transformers' it is what bears a
    head's name (``roles.HEAD_NAMES``) right in the model; for other names hand over groups with a
    ``role``. Poolers, and layers within a head but its last, are hidden matrices; so are LoRA's,
    whatever they adapt, but the one that is looked up by token. Vectors are scales too that are
    written with more dimensions, of size 1.

    Fused weights that interleave query, key and value head by head (``query_key_value`` of
    GPT-NeoX, Bloom and Falcon, ``c_attn`` of GPTBigCode without multi-query, ``qkv_proj`` of
    CodeGen), and what else this module does not know stay one ``matrix``.

    Raises ValueError for a model without trainable parameters, or without any for the rule.
    """
    groups: dict[Any, dict[str, Any]] = {}
    named = set(decays or ())
    chosen = {p for name, p in model.named_parameters(remove_duplicate=False) if name in named}
    for p, layout in _trainable(model):
        keys = _keys(layout, rule)
        if mark_embeddings and layout.embeds:
            keys["embeds"] = True
        is_left = _is_left_to_companion(layout, rule)
        is_decayed = layout.role not in UNDECAYED if decays is None else p in chosen
        group = groups.setdefault((is_left, not is_decayed, *keys.items()), {"params": [], **keys})
        group["params"].append(p)
        if not is_decayed:
            group["weight_decay"] = 0.0
        elif weight_decay is not None and not is_left:
            group["weight_decay"] = weight_decay
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    found = {group.get("role") for group in groups.values()}
    if rule is not None and rule.roles and not found & rule.roles:
        raise ValueError(
            f"{type(model).__name__} has no trainable parameter for {rule.__name__}, which steps"
            f" {', '.join(sorted(rule.roles))} and found {', '.join(sorted(map(str, found)))};"
            " use an optimizer for any parameter, such as adamw"
        )
    return [groups[key] for key in sorted(groups, key=lambda key: key[:2])]


def _is_left_to_companion(layout: Layout, rule: type[Rule] | None) -> bool:
    return rule is not None and rule.companion is not None and layout.role not in rule.roles


def _keys(layout: Layout, rule: type[Rule] | None) -> dict[str, Any]:
    """What a group says of the layout of its parameters."""
    keys: dict[str, Any] = {}
    if layout.conv1d and rule is not None and (rule.by_channel or rule.by_layout):
        keys["conv1d"] = True
    if rule is not None and rule.by_layout:
        keys.update(role=layout.role, parts=layout.parts)
        if layout.stacked:
            keys["stacked"] = True
    return keys


def _trainable(model: nn.Module) -> Iterator[tuple[Tensor, Layout]]:
    modules = dict(model.named_modules())
    heads, inputs = head_weights(modules), input_weights(modules)
    seen = set()
    for prefix, module in modules.items():
        for name, p in module.named_parameters(recurse=False):
            if p.requires_grad and p not in seen:
                seen.add(p)
                yield p, _layout(modules, prefix, name, p, p in heads, p in inputs)


def _layout(
    modules: dict[str, nn.Module], prefix: str, name: str, p: Tensor, is_head: bool, is_input: bool
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
    if isinstance(module, (nn.ParameterDict, nn.ParameterList)):
        # Its own names are those of adapters, or numbers.
        name = prefix.rpartition(".")[2]
    if "lora_" in f"{prefix}.{name}":
        return _lora(module, name, p)
    if p.ndim == 3 and hasattr(module, "is_transposed"):
        return _experts(module, name, p)
    table = is_table(module, name, p)
    if is_head or table:
        # A first dimension for the batch: the table is the rest.
        batch = table and p.ndim == 3 and p.shape[0] == 1
        return Layout("head" if is_head else "embedding", stacked=batch, embeds=table)
    if is_input:
        return Layout("embedding", parts=(("matrix", p.shape[0], 0),))
    if is_gain(module, name, p):
        return Layout("vector")
    conv1d = isinstance(module, Conv1D)
    role, parts = _role_and_parts(modules, prefix, p.shape[-1 if conv1d else 0])
    return Layout(role, conv1d, parts)


def _lora(module: nn.Module, name: str, p: Tensor) -> Layout:
    """Layout of what LoRA and its kin put beside a weight."""
    if name == "lora_embedding_A":
        # Stored (rank, tokens).
        return Layout("embedding", conv1d=True, embeds=True)
    scales = not name.startswith("lora_embedding") and is_gain(module, name, p)
    return Layout("vector" if scales else "matrix")


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
    found = (_count(source, name) for source in sources for name in names)
    return next((count for count in found if count is not None), 0)


def _count(source: Any, name: str) -> int | None:
    try:
        count = getattr(source, name, None)
    except RuntimeError:
        # How transformers' configs answer for what differs from layer to layer.
        return None
    return count if isinstance(count, int) else None
