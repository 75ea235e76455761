"""What an optimizer's step would take of a training step on H100s: calculated, never measured.

Data sheet of the H100 SXM5: 3.35 TB/s of memory, NVLink 900 GB/s in both directions together,
989 TFLOP/s of dense bf16. Reached are assumed to be all of the bandwidths, and 40 % of the
products. No latency, no launch of a kernel is in it, and no exchange overlaps with arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.plan import ELEMENT_BYTES, Plan, Share

MEMORY_BYTES_PER_S = 3.35e12
LINK_BYTES_PER_S = 450e9
FLOPS_PER_S = 0.4 * 989e12
CAPACITY_BYTES = 80e9
#: Tokens that each GPU takes in one step.
TOKENS = {"gpt2": 16 * 1024, "llama 7B": 2 * 4096}
#: Reading a buffer to send it, filling it, and reading it once more; the same of what comes.
COPIES = 3


@dataclass(frozen=True)
class Cost:
    """Seconds of one optimizer step on the slowest GPU, by what they go to."""

    memory_s: float
    link_s: float
    products_s: float

    @property
    def total_s(self) -> float:
        """One after the other."""
        return self.memory_s + self.link_s + self.products_s


def optimizer_cost(plan: Plan) -> Cost:
    """Of the process that takes longest."""
    costs = [_cost(share, measures=plan.measures) for share in plan.shares]
    return max(costs, key=lambda cost: cost.total_s)


def _cost(share: Share, *, measures: bool) -> Cost:
    """Parameter, gradient and state are read, parameter and state written; twice read if measured.

    Rows that measure read once before they know their sums, and once after.
    """
    moved = 3 * ELEMENT_BYTES * share.elements + 2 * share.state_bytes
    if measures:
        moved += 2 * ELEMENT_BYTES * share.elements + share.state_bytes
    moved += COPIES * share.exchanged_bytes
    return Cost(
        moved / MEMORY_BYTES_PER_S,
        max(share.sent_bytes, share.received_bytes) / LINK_BYTES_PER_S,
        share.flops / FLOPS_PER_S,
    )


def training_s(shapes: str, parameters: int) -> float:
    """Forward and backward of one GPU's tokens: six operations per parameter and token."""
    return 6 * parameters * TOKENS[shapes] / FLOPS_PER_S


def held_bytes(plan: Plan) -> float:
    """Weights and gradients in fp32 and state on the fullest GPU; activations are not in it."""
    return 2 * ELEMENT_BYTES * plan.elements / plan.processes + plan.most("state_bytes")
