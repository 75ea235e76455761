"""How often the tuned track claims what is not so, and finds what is, on simulated boards.

    python benchmarks/protocol_figures.py                # 1000 boards of each kind, a minute
    python benchmarks/protocol_figures.py --boards 100

All rows of a simulated board are one optimizer under declared lrs that are off by up to a decade;
the second is the baseline again (A/A), off by 10^0.25. Their lrs are found by the package's search
and their losses compared by its statistics. Losses are in units of the noise between seeds, sigma.
Over log10(lr) they rise by c sigma per decade squared, three times as steeply above the optimum,
with a cliff one decade above it. Each board is compared twice: as it is, and with three rows made
worse, which must be found. Writes ``benchmarks/results/protocol_figures.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.search import found, next_lrs
from optbench_llm.leaderboard.statistics import a_a, compare, loss_intervals, rank_intervals

RESULT = Path(__file__).parent / "results" / "protocol_figures.json"
BEST_LR = 1e-3
BASELINE, TWIN, WORSE = 0, 1, (2, 3, 4)
SEEDS = 5
#: Rows, and steepness c.
KINDS = [(24, c) for c in (0, 5, 20, 80, 300)] + [(6, c) for c in (0, 5, 20, 80)]
#: PROTOCOL's sketch: 24 rows, 100 boards of each kind.
SKETCH = {
    (24, 0): {"any_false_claim": 0.00, "power": 0.98, "lr_regret": 0.00, "coverage": 0.951},
    (24, 5): {"any_false_claim": 0.02, "power": 0.98, "lr_regret": 0.14, "coverage": 0.962},
    (24, 20): {"any_false_claim": 0.00, "power": 0.98, "lr_regret": 0.19, "coverage": 0.952},
    (24, 80): {"any_false_claim": 0.00, "power": 0.74, "lr_regret": 0.62, "coverage": 0.937},
    (24, 300): {"any_false_claim": 0.00, "power": 1.00, "lr_regret": 2.36, "coverage": 0.940},
}
Truth = Callable[[float], float]


def truth_of(c: float) -> Truth:
    """The expected loss at an lr, above the best one's."""

    def truth(lr: float) -> float:
        x = math.log10(lr / BEST_LR)
        return c * x**2 * (1 if x < 0 else 3) + (30 * c if x > 1 else 0)

    return truth


def searched(truth: Truth, declared: float, rng: np.random.Generator) -> tuple[float, float]:
    """The lr that a row's search finds, and its margin."""
    losses: dict[float, float] = {}
    while asked := next_lrs(losses, declared):
        losses |= {lr: truth(lr) + rng.standard_normal() for lr in asked}
    ended = found(losses, declared)
    assert ended is not None
    return ended.lr, ended.lr_margin


def board(rng: np.random.Generator, rows: int, c: float, effect: float) -> dict[str, float]:
    """One board's claims, right and wrong."""
    truth = truth_of(c)
    declared = BEST_LR * 10 ** rng.uniform(-1, 1, rows)
    declared[TWIN] = declared[BASELINE] * 10**0.25
    ends = [searched(truth, float(lr), rng) for lr in declared]
    margins = [margin for _, margin in ends]
    regret = np.array([truth(lr) for lr, _ in ends])
    noise = rng.standard_normal(SEEDS) + rng.standard_normal((rows, SEEDS))
    equal = regret[:, None] + noise
    expected = regret.copy()
    expected[list(WORSE)] += effect
    unequal = expected[:, None] + noise

    true_differences = expected - expected[BASELINE]
    compared = {
        row: one for row, one in enumerate(compare(unequal, BASELINE, margins)) if one is not None
    }
    covered = [one.low <= true_differences[row] <= one.high for row, one in compared.items()]
    covered_losses = [
        low <= loss <= high
        for loss, (low, high) in zip(expected, loss_intervals(unequal), strict=True)
    ]
    in_null = [one for one in compare(equal, BASELINE, margins) if one is not None]
    twin = compared[TWIN]
    return {
        "any_false_claim": any(one.differs for row, one in compared.items() if row not in WORSE),
        "any_false_claim_if_all_equal": any(one.differs for one in in_null),
        "power": float(np.mean([compared[row].differs for row in WORSE])),
        "lr_regret": float(regret.mean()),
        "coverage": float(np.mean(covered)),
        "coverage_of_losses": float(np.mean(covered_losses)),
        "a_a_differs": a_a(twin),
        "all_ranks_kept_if_all_equal": all(
            interval == (1, rows) for interval in rank_intervals(equal, margins)
        ),
    }


def figures(rows: int, c: float, boards: int, seed: int = 1) -> dict[str, Any]:
    """Means over boards; those of ``any`` and ``all`` are shares of boards, regret is in sigma."""
    rng = np.random.default_rng([seed, rows, int(c)])
    effect = max(4, 0.05 * c)
    found = [board(rng, rows, c, effect) for _ in range(boards)]
    means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    return {"rows": rows, "seeds": SEEDS, "boards": boards, "c": c, "effect": effect, **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", type=int, default=1000, help="simulated boards of each kind")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    start = time.perf_counter()
    measured = []
    for rows, c in KINDS:
        one = figures(rows, c, options.boards)
        measured.append({**one, "sketch": SKETCH.get((rows, c))})
        print(", ".join(f"{key} {value:.4g}" for key, value in one.items()), flush=True)
    environment = describe_environment()
    environment["versions"] |= {name: version(name) for name in ("numpy", "scipy")}
    document = {
        "command": f"python benchmarks/protocol_figures.py --boards {options.boards}",
        "wall_s": time.perf_counter() - start,
        "environment": environment,
        "rows": measured,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
