"""The page: what a reader learns first, the tables, how it was counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ledger import h100
from ledger.check import counted_plans, deviations
from ledger.plan import Plan, plans

SIZES = {"gpt2": "124,439,808 parameters", "gpt2, small": "3,122,944"}
SCOPES = ("element", "tensor", "model", "matrix")
FURTHER = (8, 64)
MODELS = {"gpt2": "GPT-2 124M", "llama 7B": "Llama 7B"}
ON_H100 = (
    "sgd", "lion", "lion@int8", "adamw", "adamw@bf16", "lamb", "prodigy", "adafactor", "adam-mini",
    "came", "muon", "scion",
)  # fmt: skip
Rows = list[dict[str, Any]]
Cells = Sequence[str]


def page(rows: Rows) -> str:
    """All of ``SCALING.md``."""
    specs = [row["optimizer"] for row in rows]
    further = {(m, n): plans(m, n, specs) for m in MODELS for n in (1, *FURTHER)}
    planned = counted_plans(rows)
    wrong = deviations(rows, planned)
    parts = [
        "# Scaling on paper",
        "What the optimizer's own step sends and keeps when several processes train: counted on two"
        " and four, planned for 8 and 64, and what it takes of a step on H100s, calculated. No GPU"
        " was used and nothing here was timed. Written by `python benchmarks/scaling.py`.",
        _first(rows, further),
        "## Counted on two and four processes",
        _counted_text(rows, planned, wrong),
        _by_scope(rows, _counted_line(rows, planned), COUNTED),
        *(
            part
            for model, title in MODELS.items()
            for part in _further(rows, title, {n: further[model, n] for n in (1, *FURTHER)})
        ),
        "## Share of a training step on H100s: calculated, not measured",
        H100_TEXT,
        _h100_table(specs, further),
        "## What could be saved",
        SAVINGS,
        "## How it was counted",
        HOW,
        _runs(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _first(rows: Rows, further: dict[tuple[str, int], dict[str, Plan]]) -> str:
    """The five lines."""
    seven = {n: further["llama 7B", n] for n in (1, *FURTHER)}
    small = {n: further["gpt2", n] for n in (1, *FURTHER)}
    parts = [row["optimizer"] for row in rows if not seven[8][row["optimizer"]].whole_elements]
    replicated = seven[1]["muon"], further["llama 7B", 8]["muon"]
    alone, eight = (h100.optimizer_cost(plan).total_s for plan in replicated)
    training = h100.training_s("llama 7B", seven[1]["muon"].elements)
    adamw = [h100.optimizer_cost(seven[n]["adamw"]).total_s for n in (1, 8)]
    unequal = small[64]["adamp"]
    return "\n".join(
        [
            f"- **{len(parts)} of {len(rows)} rows send nothing, or some numbers**: each process"
            " steps its part. Rows that measure sums send 8 bytes for each in one all-reduce a"
            f" step, `lamb` {seven[8]['lamb'].payload_bytes:,} bytes on Llama 7B.",
            "- **Rows that need whole matrices move each of those elements three times** (parameter"
            " and gradient to the owner, new parameter back): 12 (n − 1) / n² bytes per element and"
            f" process. Muon on Llama 7B sends {seven[8]['muon'].mean('sent_bytes') / 1e9:.2f} GB"
            f" from each of 8 GPUs, {seven[64]['muon'].mean('sent_bytes') / 1e9:.2f} from each of"
            " 64. FSDP2 itself sends 6 (n − 1) / n for every element in bf16 (two gathers, one"
            " reduction; calculated): n / 2 times as much.",
            "- **State is divided by n** wherever parameters are stepped in parts. Owners hold it"
            f" whole, and one parameter has one owner: on 64 processes `adamp` on GPT-2 keeps"
            f" {unequal.most('state_bytes') / unequal.mean('state_bytes'):.0f} times the mean on"
            " the process that owns the embedding.",
            "- **DDP**: no row sends anything, each process keeps all state and does all the work.",
            "- **On H100s (calculated, not measured)** AdamW takes"
            f" {adamw[0] / (adamw[0] + training):.1%} of a step of Llama 7B with 8,192 tokens a GPU"
            f" alone or under DDP, {adamw[1] / (adamw[1] + training):.1%} on eight under FSDP2;"
            f" Muon {alone / (alone + training):.0%} and {eight / (eight + training):.0%}: its"
            " products are what is worth dividing.",
        ]
    )


COUNTED = (
    "optimizers", "shapes", "stepped", "all-reduce, bytes", "sent, MB: n=2", "n=4",
    "state, MB: n=2", "n=4", "extra memory, MB: n=2", "n=4",
)  # fmt: skip
FURTHER_COLUMNS = (
    "optimizers", "stepped", "all-reduce, bytes", "a ring sends: n=8", "n=64",
    "exchanges, MB sent: n=8", "n=64", "state, MB: n=1", "n=8", "n=64", "buffers, MB: n=8", "n=64",
)  # fmt: skip


def _counted_text(rows: Rows, planned: dict[tuple[str, int], Plan], wrong: list[str]) -> str:
    unlike = [
        abs(plan.mean("sent_bytes") / plan.formula_bytes - 1)
        for plan in planned.values()
        if plan.whole_elements
    ]
    verdict = (
        "**All counts are those of the plan, to the byte**, on every process: bytes sent and"
        " received, all-reduces and their payloads, exchanges, state, and the products of muon and"
        " scion."
        if not wrong
        else "**Counts and plan differ**:\n\n" + "\n".join(f"- {line}" for line in wrong) + "\n\n"
    )
    count = sum(len(counts) for row in rows for counts in row["fsdp2"].values())
    return (
        f"{len(rows)} optimizers over GPT-2's shapes, all of its {SIZES['gpt2']} or *small*"
        f" ({SIZES['gpt2, small']}: 2 layers, 256 wide, 5,003 words), in fp32 cut by FSDP2, with"
        " random gradients; the second step. Each cell is the"
        f" process that has the most. {verdict} ({count} processes' steps.) The closed formula"
        f" 12 (n − 1) / n² is the mean over processes to {max(unlike, default=0.0):.2%}, since not"
        " all parts are equal.\n\n"
        "Under DDP the same rows, over plain parameters on two processes, called no collective: 0"
        " bytes for each, and all of the state on each."
    )


def _counted_line(rows: Rows, planned: dict[tuple[str, int], Plan]) -> dict[str, list[Any]]:
    lines = {}
    for row in rows:
        spec, counts = row["optimizer"], list(row["fsdp2"].values())
        lines[spec] = [
            row["shapes"].partition(", ")[2] or "all",
            _way(planned[spec, 2]),
            f"{counts[0][0]['payload_bytes']:,}",
            *(_mb(max(c["sent_bytes"] for c in found)) for found in counts),
            *(_mb(max(c["state_bytes"] for c in found)) for found in counts),
            *(max(c["peak_bytes"] for c in found) for found in counts),
        ]
    return lines


def _further(rows: Rows, title: str, plans_by_n: dict[int, dict[str, Plan]]) -> Iterable[str]:
    yield f"## Planned for 8 and 64 processes: {title}"
    elements = plans_by_n[1]["adamw"].elements
    yield (
        f"{elements:,} parameters. Sent: mean over processes. State: the process with the most, and"
        " where that is more than 1.05 times the mean, how many times. What a ring all-reduce sends"
        " from each process is calculated, 2 (n − 1) / n times its payload. Buffers: what packed"
        " parts and gathered matrices take at once, beside the rule's own temporaries."
    )
    lines: dict[str, list[Any]] = {}
    for row in rows:
        spec = row["optimizer"]
        alone, *several = (plans_by_n[n][spec] for n in (1, *FURTHER))
        lines[spec] = [
            _way(several[0]),
            f"{several[0].payload_bytes:,}",
            *(f"{plan.ring_bytes:,.0f}" for plan in several),
            *(_mb(plan.mean("sent_bytes")) for plan in several),
            _mb(alone.most("state_bytes")),
            *(_unequal(plan) for plan in several),
            *(_mb(plan.most("buffer_bytes")) for plan in several),
        ]
    yield _by_scope(rows, lines, FURTHER_COLUMNS)


def _by_scope(rows: Rows, lines: dict[str, list[Any]], columns: Cells) -> str:
    """A table in four parts; rows of equal cells in one line, numbers as a range over them."""
    head = [f"| {' | '.join(columns)} |", "|---|" + "---|" * (len(columns) - 1)]
    body = []
    for scope in SCOPES:
        body.append(f"| **{scope}** |" + " |" * (len(columns) - 1))
        groups: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            if row["scope"] == scope:
                spec = row["optimizer"]
                key = tuple(cell for cell in lines[spec] if isinstance(cell, str))
                groups.setdefault(key, []).append(spec)
        for key, specs in groups.items():
            found = [[c for c in lines[spec] if not isinstance(c, str)] for spec in specs]
            ranges = [_range(values) for values in zip(*found, strict=True)]
            body.append(f"| {' | '.join([', '.join(specs), *key, *ranges])} |")
    return "\n".join([*head, *body])


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys((_mb(min(values)), _mb(max(values))))
    return "…".join(ends)


def _way(plan: Plan) -> str:
    if not plan.whole_elements:
        return "in parts, sums" if plan.sums else "in parts"
    share = plan.whole_elements / plan.elements
    sums = ", sums" if plan.sums else ""
    return f"{share:.0%} whole{sums}" if share < 0.995 else f"whole{sums}"


def _unequal(plan: Plan) -> str:
    most, mean = plan.most("state_bytes"), plan.mean("state_bytes")
    return _mb(most) + (f" ({most / mean:.1f}×)" if mean and most > 1.05 * mean else "")


def _mb(size: float) -> str:
    return "0" if not size else f"{size / 1e6:,.1f}" if size < 1e8 else f"{size / 1e6:,.0f}"


H100_TEXT = (
    "Every figure is **calculated, not measured**, from the data sheet of the H100 SXM5: 3.35 TB/s"
    " of memory, 450 GB/s of NVLink in each direction and GPU, 989 TFLOP/s of dense bf16, of which"
    " 40 % are assumed to be reached, by the model and by Newton-Schulz alike. The model's part of"
    " a step is 6 × parameters × tokens (16,384 a GPU for GPT-2, 8,192 for Llama), without"
    " attention's products and with FSDP2's and DDP's own communication hidden behind it. The"
    " optimizer's is what must be moved: parameter and gradient read, parameter written, state read"
    " and written, all in fp32 or the row's storage; once more read where sums are measured; what"
    " is exchanged copied into and out of buffers; then the link and the products, one after the"
    " other, on the GPU that takes longest. So it is a lower bound: neither latencies nor launches"
    " are in it, nor further passes that `adafactor`, `adam-mini` and `came` make over their means."
    " `soap`,"
    " `shampoo` and `psgd-kron` are left out, since their decompositions do not run at the rate of"
    " products. Under DDP each of eight GPUs takes what one takes. *Held* is weights and gradients"
    " in fp32 and state on the fullest GPU, in GB; above 80 it does not fit, and the figure is what"
    " it would be."
)


def _h100_table(specs: list[str], further: dict[tuple[str, int], dict[str, Plan]]) -> str:
    lines = [
        "| model, its own time | optimizer | one H100, or each under DDP: ms | share | held, GB |"
        " eight, FSDP2: ms | memory + link + products | share | held, GB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model, title in MODELS.items():
        for spec in (spec for spec in ON_H100 if spec in specs):
            alone, eight = (further[model, n][spec] for n in (1, 8))
            training = h100.training_s(model, alone.elements)
            first, second = h100.optimizer_cost(alone), h100.optimizer_cost(eight)
            terms = (second.memory_s, second.link_s, second.products_s)
            cells = [
                f"{title}, {training * 1e3:.0f} ms",
                spec,
                f"{first.total_s * 1e3:.2f}",
                f"{first.total_s / (first.total_s + training):.1%}",
                _held(alone),
                f"{second.total_s * 1e3:.2f}",
                " + ".join(f"{term * 1e3:.2f}" for term in terms),
                f"{second.total_s / (second.total_s + training):.2%}",
                _held(eight),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _held(plan: Plan) -> str:
    size = h100.held_bytes(plan)
    return f"{size / 1e9:.1f}" + (" (does not fit)" if size > h100.CAPACITY_BYTES else "")


SAVINGS = """\
- `adahessian`, `adamp`, `ranger` and `sgdp` need whole output channels, not whole matrices. Where
  these are rows (every weight of Llama, embeddings everywhere) FSDP2's parts are whole channels,
  and nothing but sums would have to be sent; today all of it is.
- An embedding has one owner where a rule wants it whole. On GPT-2 that owner keeps 20 times the
  mean on 64 processes, and on eight H100s the exchange makes the steps of `adafactor`,
  `adam-mini` and `came` longer than on one (calculated). All that `scion` needs of an embedding
  is its sign.
- A third of what is sent is the parameter on its way to the owner, which had it a step ago: kept
  there, it would cost 4 / n bytes of memory per element.
- Buffers take up to four times a turn's elements: parameters, gradients, packed new values and
  what other owners send."""

HOW = """\
- **Bytes** are payloads that leave a process or come to it, not what a protocol makes of them.
  What a process puts into an exchange for itself is not in them: `all_to_all_single` copies it
  within its memory. Of an all-reduce the payload stands there; a ring sends 2 (n − 1) / n times
  that from each process. MB are 10^6 bytes.
- **Every collective** is seen where it enters torch's dispatcher (`c10d.*`), whichever function
  called it; an unknown one ends the run. FSDP2's own gathers and scatters are not the optimizer's
  step and not in it, nor is gradient clipping.
- **In parts**: 0 bytes; with sums 8 bytes for each number of each tensor (of the model: once).
  **Whole**: process r sends 4 × (2 × its parts of what others own + what it owns less its own
  parts) bytes, and receives the mirror image. Turns of at most 2^24 elements an owner bound the
  buffers.
- **Extra memory** is the most that tensors made in the step take at once, seen after each of
  torch's operations, the rule's temporaries included, by the eager engine. Compiled steps
  communicate the same.
- **The plan** is made from shapes on the meta device in a feigned group of n processes: the
  engine's own `Division` and `turns` say who owns what and when. State leaves out what programs
  (SVRG) keep. Estimates of curvature (Sophia) exchange as steps do, when there are any.
- Llama 7B has the shapes of `LlamaConfig()`: 32 layers, 4096 wide, 11008 in between, 32,000
  words."""


def _runs(rows: Rows) -> str:
    found: dict[str, None] = {}
    for row in rows:
        about = row["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        command = row["command"]
        if len(command) > 200:
            command = command[:150].rpartition(",")[0] + ",…"
        found[
            f"- `{command}`: {about['processor']}, {about['cores']} cores, Python"
            f" {about['python']}, {versions}."
        ] = None
    return "\n".join(found)
