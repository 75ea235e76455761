"""Schedule-free AdamW and SGD (Defazio et al. 2024, arXiv:2405.15682)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import NON_NEGATIVE, OPEN_FRACTION, REAL, Interval, Several
from optbench_llm.rules.rule import Rule, Slot, Update, ema

if TYPE_CHECKING:
    from torch import Tensor


class AdamWScheduleFree(Rule):
    r"""AdamW steps of a base sequence z, its average x, gradients taken between them at y.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        u_t &= g_t / \bigl(\sqrt{v_t/(1-\beta_2^t)} + \epsilon\bigr) + \lambda y_t \\
        z_{t+1} &= z_t - \eta_t\,u_t \\
        x_{t+1} &= (1 - c_t)\,x_t + c_t\,z_{t+1}, \quad
            c_t = w_t / \textstyle\sum_{i\le t} w_i, \quad
            w_t = t^r \max_{i\le t}(\eta_i)^{p} \\
        y_{t+1} &= (1-\beta_1)\,z_{t+1} + \beta_1\,x_{t+1}

    The parameter is y while training and x for evaluation and saving; z is state, x is computed
    from both. The lr is to stay constant (after a warm-up): the averaging replaces a schedule.
    """

    slots = (Slot("z", delicate=True, initial=lambda p, g, h: p), Slot("exp_avg_sq", positive=True))
    defaults = {
        "lr": 2.5e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
    }
    ranges = {
        "betas": Several(OPEN_FRACTION, 2),
        "warmup_steps": Interval(0, integer=True),
        "r": REAL,
        "weight_lr_power": NON_NEGATIVE,
    }
    carry = {"lr_max": 0.0, "weight_sum": 0.0}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta2 = h.betas[1]
        return {
            **averaging(h, t, carry, h.betas[0], warmed_up(h, t)),
            "weight2": 1 - beta2,
            "correction2": (1 - beta2**t) ** -0.5,
            "eps": h.eps,
            "weight_decay": h.weight_decay,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        v = ema(s.exp_avg_sq, g * g, c.weight2)
        u = g / (v.sqrt() * c.correction2 + c.eps) + p * c.weight_decay
        y = ema(p, s.z, c.average) - u * c.step_y
        return y, {"z": s.z - u * c.step_z, "exp_avg_sq": v}

    @staticmethod
    def evaluation_point(p: Tensor, s: Any, h: Any) -> Tensor:
        return ema(p, s.z, 1 - 1 / h.betas[0])


class SGDScheduleFree(Rule):
    r"""SGD steps of a base sequence z, its average x, gradients taken between them at y.

    .. math::
        z_{t+1} &= z_t - \eta_t\,(g_t + \lambda y_t) \\
        x_{t+1} &= (1 - c_t)\,x_t + c_t\,z_{t+1} \\
        y_{t+1} &= (1-\mu)\,z_{t+1} + \mu\,x_{t+1}

    with the :math:`c_t` of :class:`AdamWScheduleFree`, and :math:`\mu` = ``momentum`` > 0.
    """

    slots = (Slot("z", delicate=True, initial=lambda p, g, h: p),)
    defaults = {
        "lr": 1.0,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
    }
    ranges = {**AdamWScheduleFree.ranges, "momentum": OPEN_FRACTION}
    carry = AdamWScheduleFree.carry

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        numbers = averaging(h, t, carry, h.momentum, warmed_up(h, t))
        return {**numbers, "weight_decay": h.weight_decay}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        u = g + p * c.weight_decay
        return ema(p, s.z, c.average) - u * c.step_y, {"z": s.z - u * c.step_z}

    @staticmethod
    def evaluation_point(p: Tensor, s: Any, h: Any) -> Tensor:
        return ema(p, s.z, 1 - 1 / h.momentum)


def warmed_up(h: Any, t: int) -> float:
    """The lr of step t under a linear warm-up over ``warmup_steps``."""
    return h.lr * min(1.0, t / h.warmup_steps) if h.warmup_steps else h.lr


def averaging(h: Any, t: int, carry: Any, beta: float, lr: float) -> dict[str, float]:
    """Scalars of step t, taken at ``lr``: the weight of z in the average, the steps of y and z.

    Moving y towards z by the weight and then by ``step_y`` equals the textbook's x and y, without
    a third sequence in memory.
    """
    lr_max = max(carry["lr_max"], lr)
    weight = t**h.r * lr_max**h.weight_lr_power
    weight_sum = carry["weight_sum"] + weight
    average = weight / weight_sum if weight_sum else 0.0
    return {
        "lr_max": lr_max,
        "weight_sum": weight_sum,
        "average": average,
        "step_y": lr * (1 - beta * (1 - average)),
        "step_z": lr,
    }
