"""What the figures of one board measure by: the untouched model's loss, and how far axes go."""

from __future__ import annotations

from statistics import median

from optbench_llm.leaderboard.table import Board

#: Rows further from the baseline than so many medians stand at the edge.
_MEDIANS = 6


def initial_loss(board: Board) -> float | None:
    """The untouched model's loss of the kind that ranks; None where it is not known."""
    metric, untouched = board.recipe.ranked_by, board.untouched
    if metric == "train_loss":
        # What the first batch lost, before any step.
        first = [row.first_loss for row in board.rows if row.first_loss is not None]
        return first[0] if first else None
    return None if untouched is None else getattr(untouched, metric)


def axis_limit(board: Board) -> float | None:
    """How far from the baseline an axis of differences goes; None without a difference.

    So far that most rows are told apart, and never beyond what the best row gains.
    """
    found = [abs(d) for row in board.rows if (d := row.verdict.difference) is not None]
    if not found:
        return None
    wide = max(_MEDIANS * median(found), 10 * (board.noise_between_seeds or 0.0))
    limits = [max(found), wide]
    initial = initial_loss(board)
    if initial is not None:
        losses = [row.loss(board.recipe.ranked_by) for row in board.rows if row.done]
        gain = initial - min(loss for loss in losses if loss is not None)
        limits += [gain] if gain > 0 else []
    return min(limits) * 1.1 or 1e-3
