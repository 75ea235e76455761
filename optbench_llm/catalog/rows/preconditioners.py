"""Rules with a preconditioner for each side of a matrix."""

from __future__ import annotations

from optbench_llm.catalog.info import ADAPTIVE, OptimizerInfo

ROWS: tuple[OptimizerInfo, ...] = (
    OptimizerInfo(
        "shampoo", "Shampoo", "Gupta et al., Shampoo: Preconditioned Stochastic Tensor"
        " Optimization", 2018, ADAPTIVE, "shampoo:Shampoo", url="https://arxiv.org/abs/1802.09568",
        category_is_ours=True, aliases=("distributed-shampoo",),
        notes="Grafted on Adam's step length. AdamW steps embeddings, head and vectors.",
    ),
    OptimizerInfo(
        "soap", "SOAP", "Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam", 2024,
        ADAPTIVE, "soap:Soap", url="https://arxiv.org/abs/2409.11321", category_is_ours=True,
        notes="The first step only initialises. AdamW steps embeddings, head and vectors.",
    ),
    OptimizerInfo(
        "psgd-kron", "PSGD-Kron", "Li, Stochastic Hessian Fittings with Lie Groups", 2024,
        ADAPTIVE, "psgd_kron:PsgdKron", url="https://arxiv.org/abs/2402.11858",
        category_is_ours=True, aliases=("kron", "psgd"),
        notes="A third of AdamW's lr. AdamW steps embeddings, head and vectors.",
    ),
)  # fmt: skip
