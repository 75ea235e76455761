"""Ranger: RAdam with centralized gradients and Lookahead (Wright 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.hyperparameters import FLAG, POSITIVE
from optbench_llm.rules.lookahead import lookahead
from optbench_llm.rules.radam import RAdam
from optbench_llm.rules.rule import Scope, Update, decoupled_decay

if TYPE_CHECKING:
    from torch import Tensor


class CentralizedRAdam(RAdam):
    r"""RAdam on gradients whose mean over each output channel is 0; weight decay is decoupled.

    .. math::
        g_t \leftarrow g_t - \operatorname{mean}(g_t) \quad\text{for each output channel}

    Yong et al. 2020 (arXiv:2004.01461). Vectors and scalars are left as they are.
    """

    scope = Scope.TENSOR
    by_channel = True
    defaults = {
        "lr": 1e-3,
        "betas": (0.95, 0.999),
        "eps": 1e-5,
        "weight_decay": 0.0,
        "use_gc": True,
    }
    # Rows of one element have a mean that takes all of them: 0 / 0 without eps.
    ranges = {"eps": POSITIVE, "use_gc": FLAG}

    @staticmethod
    def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
        return {
            **RAdam.scalars(h, t, carry),
            "l2": 0.0,
            "decay": decoupled_decay(h),
            "centralized": 1.0 if h.use_gc else 0.0,
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        if g.ndim > 1:
            g = g - g.mean(tuple(range(1, g.ndim)), keepdim=True) * c.centralized
        return RAdam.update(p * c.decay, g, s, c, sums)


class Ranger(lookahead(CentralizedRAdam)):
    r"""Lookahead over RAdam with gradient centralization; weight decay is decoupled.

    .. math::
        g_t &\leftarrow g_t - \operatorname{mean}(g_t) \quad\text{for each output channel} \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \frac{\eta}{1-\beta_1^t} \cdot
            \begin{cases} r_t\,m_t \sqrt{1-\beta_2^t} / (\sqrt{v_t} + \epsilon)
            & \rho_t > 5 \\ m_t & \text{else} \end{cases} \\
        \phi &\leftarrow \phi + \alpha\,(\theta_t - \phi), \quad \theta_t \leftarrow \phi
            \quad\text{where } k \text{ divides } t

    with Adam's moments, RAdam's :math:`r_t` and :math:`\rho_t`, :math:`k` = ``lookahead_k`` and
    :math:`\alpha` = ``lookahead_alpha``; vectors and scalars are not centralized. Defaults and
    decay are those of the author's ``ranger.py``. His ``use_gc=False`` has no effect there; here,
    as in his ``ranger2020.py``, it leaves the centralization out.
    """

    defaults = {**lookahead(CentralizedRAdam).defaults, "lookahead_k": 6}
