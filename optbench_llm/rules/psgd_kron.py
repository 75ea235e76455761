"""PSGD-Kron: a Kronecker-factored preconditioner learnt on a Lie group (Li, arXiv:2402.11858)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.hashing import mixed
from optbench_llm.rules.hyperparameters import COUNT, FRACTION, POSITIVE, Interval, Optional
from optbench_llm.rules.products import product
from optbench_llm.rules.rule import MATRIX_ROLES, Rule, Scope, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor

#: Root of fp32's precision: the share of noise in the gradient that the factors are fitted to.
DAMPING = 2**-11.5
#: Root mean square beyond which a step is shortened.
LARGEST_RMS = 1.1


class PsgdKron(Rule):
    r"""Triangular factors that whiten the momentum's rows and columns, moved a little at each fit.

    .. math::
        M_t &= \mu M_{t-1} + (1-\mu)\,G_t, \quad \hat M_t = M_t / (1-\mu^t) \\
        A &= Q_L (\hat M_t + \delta V) Q_R^\top, \quad B = Q_L^{-\top} V Q_R^{-1} \\
        Q_L &\leftarrow Q_L - \frac{\eta_Q}{\ell(A A^\top + B B^\top)}
            \operatorname{triu}(A A^\top - B B^\top)\, Q_L, \quad
            Q_R \text{ with } A^\top, B^\top \text{ likewise} \\
        U_t &= Q_L^\top Q_L \hat M_t Q_R^\top Q_R \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
            - \eta\,U_t \min(1, 1.1 / \operatorname{RMS}(U_t))

    :math:`\ell` is a lower bound of the spectral norm, :math:`\delta = 2^{-11.5}\,
    \operatorname{mean}|\hat M_t|`, :math:`\eta_Q` = ``precond_lr``. The form is that of kron_torch;
    Li's newer code fits other geometries. A side longer than ``max_precond_dim`` has a diagonal
    factor. Fits come at every step at first, and from step 500 to 4,000 ever more seldom down to
    one in 34; ``preconditioner_update_probability`` keeps one rate. Departures: V is not drawn but
    hashed of step and position (see ``probe``); a gradient of zeros teaches the factors nothing
    (they would grow without end); their scales are balanced at each fit, not now and then, which
    changes no step; the damping stays out of U, where kron_torch's leaks into it.
    """

    scope = Scope.MATRIX
    by_layout = True
    companion = AdamW
    roles = MATRIX_ROLES
    slots = (
        Slot("exp_avg"),
        Slot("left_factor", "left", delicate=True, initial=lambda p, g, h: identity(p, h, 0)),
        Slot("right_factor", "right", delicate=True, initial=lambda p, g, h: identity(p, h, 1)),
    )
    defaults = {
        "lr": 3e-4,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "precond_lr": 0.1,
        "precond_init_scale": 1.0,
        "preconditioner_update_probability": None,
        "max_precond_dim": 8192,
    }
    ranges = {
        "precond_lr": FRACTION,
        "precond_init_scale": POSITIVE,
        "preconditioner_update_probability": Optional(Interval(0.0, 1.0, open_low=True)),
        "max_precond_dim": COUNT,
    }

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        momentum, *factors = cls.slots
        return momentum, *(
            slot if 1 < n <= h.max_precond_dim else replace(slot, shape=(n,), initial=scale)
            for slot, n in zip(factors, shape, strict=False)
        )

    @staticmethod
    def stages(h: Any, t: int) -> tuple[str, ...]:
        due = fitting_steps(h.preconditioner_update_probability, 2 ** t.bit_length())
        return ("fit", "update") if t in due else ("update",)

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            "weight": 1 - h.momentum,
            "unbias": 1 / (1 - h.momentum**t),
            "precond_lr": h.precond_lr,
            "t": t,
            "lr": h.lr,
            "decay": decoupled_decay(h),
        }

    @staticmethod
    def fit(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        """One step of both factors towards those that whiten the momentum."""
        m = ema(s.exp_avg, g, c.weight) * c.unbias
        size = m.abs().mean()
        v = probe(g, c.t)
        a = kron(s.left_factor, m + v * (size * DAMPING), s.right_factor)
        b = inverse_rows(s.left_factor, inverse_rows(s.right_factor, v.t()).t())
        rate = (size > 0).to(p.dtype) * c.precond_lr
        left = fitted(s.left_factor, a, b, rate)
        right = fitted(s.right_factor, a.t(), b.t(), rate)
        balance = (right.abs().amax() / left.abs().amax()).sqrt()
        return {"left_factor": left * balance, "right_factor": right / balance}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight)
        whitened = kron(s.left_factor, m * c.unbias, s.right_factor)
        u = kron(s.left_factor.t(), whitened, s.right_factor.t())
        shortened = (LARGEST_RMS / ((u * u).mean().sqrt() + 1e-12)).clamp(max=1.0)
        return p * c.decay - u * (shortened * c.lr), {"exp_avg": m}


def identity(p: Tensor, h: Any, side: int) -> Tensor:
    """The first factor of a side: both together make the identity times the initial scale."""
    return p.new_full((p.shape[side],), h.precond_init_scale**0.5).diag()


def scale(p: Tensor, g: Tensor, h: Any) -> Tensor:
    """The first value of a diagonal factor."""
    return p.new_full((), h.precond_init_scale**0.5)


@lru_cache
def fitting_steps(probability: float | None, last: int) -> frozenset[int]:
    """The steps up to ``last`` that fit the factors, by kron_torch's counter.

    A step fits once at least 1 / probability steps have come since the last that did. None stands
    for a probability of 1 for 500 steps, which then falls exponentially to 0.03.
    """
    due, since = [], 0
    for t in range(1, last + 1):
        since += 1
        scheduled = min(1.0, max(0.03, math.exp(-0.001 * (t - 1 - 500))))
        if since >= 1 / (scheduled if probability is None else probability):
            due.append(t)
            since = 0
    return frozenset(due)


def probe(like: Tensor, t: Any) -> Tensor:
    """Numbers of mean 0 and variance 1, nearly normal, for each element of a matrix.

    They count the ones in 32 bits hashed of the element's position and the step t < 2**24: the same
    on every machine and for every seed, and exact in fp32 but for the last division.
    """
    import torch

    positions = torch.arange(like.numel(), device=like.device)
    step = t.to(torch.int64) if isinstance(t, torch.Tensor) else int(t)
    x = mixed(mixed(positions) ^ step)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    ones = (x * 0x01010101 >> 24) & 0xFF
    return ((ones - 16).to(like.dtype) / 8**0.5).view(like.shape)


def kron(left: Tensor, g: Tensor, right: Tensor) -> Tensor:
    """``left g right'``; a vector stands for a diagonal matrix."""
    g = g * left.unsqueeze(-1) if left.ndim < 2 else product(left, g)
    return g * right if right.ndim < 2 else product(g, right.t())


def inverse_rows(q: Tensor, v: Tensor) -> Tensor:
    """``inverse(q)' v`` for an upper triangular or diagonal q."""
    from torch.linalg import solve_triangular

    return v / q.unsqueeze(-1) if q.ndim < 2 else solve_triangular(q.t(), v, upper=False)


def fitted(q: Tensor, a: Tensor, b: Tensor, rate: Any) -> Tensor:
    """One step of a factor along its Lie group, as long as the rate at most."""
    if q.ndim < 2:
        one, two = (a * a).sum(1), (b * b).sum(1)
        return q - q * (one - two) * (rate / (one + two).amax())
    one, two = product(a, a.t()), product(b, b.t())
    return q - product((one - two).triu(), q) * (rate / spectral_bound(one + two))


def spectral_bound(matrix: Tensor) -> Tensor:
    """A lower bound of a symmetric matrix's spectral norm: a power step from its longest column."""
    largest = matrix.abs().amax()
    unit = matrix / largest
    longest = (unit * unit).sum(0).argmax().view(1)
    row = unit.index_select(1, longest).flatten() @ unit
    return (unit @ (row / row.norm())).norm() * largest
