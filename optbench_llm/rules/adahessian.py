"""AdaHessian: Adam with curvature for the second moment (Yao et al. 2021, arXiv:2006.00719)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG, HVP, UNIT
from optbench_llm.rules.rule import Rule, Slot, Update, decoupled_decay, ema

if TYPE_CHECKING:
    from torch import Tensor

#: Has a logarithm in fp32, and a root that is nothing beside any eps.
SMALLEST = 2e-38


class AdaHessian(Rule):
    r"""Adam whose second moment is that of the Hessian's diagonal, averaged over neighbours.

    .. math::
        D &= z \odot H z, \quad z_i = \pm 1 \quad\text{every } k \text{ steps} \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
            v_n = \beta_2 v_{n-1} + (1-\beta_2)\,(D^{(s)})^2 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,
            \frac{m_t / (1-\beta_1^t)}{\bigl(\sqrt{v_n / (1-\beta_2^n)}\bigr)^{\kappa} + \epsilon}

    after n estimates, with :math:`\kappa` = ``hessian_power``. :math:`D^{(s)}` is D's mean over the
    weights of an output channel, of convolutions over the positions of a kernel, and D itself for
    vectors or without ``spatial_average``; the authors' code takes the mean of :math:`|D|`. The
    products H z come from the program ``hutchinson``: from the gradient ahead and the step's own
    (one more pass), with ``hvp="finite-difference"`` from those ahead and behind (two), or with
    ``"autograd"`` by differentiating twice. Without a Trainer, feed D through
    ``optimizer.observe()``.
    """

    by_channel = True
    programs = ("hutchinson",)
    slots = (Slot("exp_avg"), Slot("exp_hessian_diag_sq", positive=True))
    carry = {"observed": 0.0}
    defaults = {
        "lr": 0.01,
        "betas": (0.9, 0.999),
        "eps": 1e-4,
        "weight_decay": 0.0,
        "hessian_power": 1.0,
        "spatial_average": True,
        "k": 1,
        "hvp": "forward-difference",
    }
    ranges = {"hessian_power": UNIT, "spatial_average": FLAG, "hvp": HVP}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        beta1, beta2 = h.betas
        estimates = max(1.0, carry["observed"])
        numbers = {
            "lr": h.lr / (1 - beta1**t),
            "decay": decoupled_decay(h),
            "weight1": 1 - beta1,
            "weight2": 1 - beta2,
            "correction2": 1 / (1 - beta2**estimates),
            "eps": h.eps,
            "average": float(h.spatial_average),
        }
        return numbers if h.hessian_power == 1 else {**numbers, "power": h.hessian_power / 2}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        m = ema(s.exp_avg, g, c.weight1)
        curvature = s.exp_hessian_diag_sq * c.correction2
        if hasattr(c, "power"):
            # Out of functions that vectorise: a power itself takes twice as long as all the rest.
            root = (curvature.clamp(min=SMALLEST).log() * c.power).exp()
        else:
            root = curvature.sqrt()
        return p * c.decay - m / (root + c.eps) * c.lr, {"exp_avg": m}

    @staticmethod
    def shortcut(p: Tensor, g: Tensor, c: Any) -> bool:
        """Always: channels are for ``observe`` alone."""
        return True

    @staticmethod
    def observe(p: Tensor, g: Tensor, s: Any, c: Any) -> dict[str, Tensor]:
        if g.ndim > 1:
            dims = (1,) if g.ndim == 2 else tuple(range(2, g.ndim))
            g = g.lerp(g.mean(dims, keepdim=True).expand_as(g), c.average)
        return {"exp_hessian_diag_sq": ema(s.exp_hessian_diag_sq, g * g, c.weight2)}
