"""Schedule-free averaging around other rules (Defazio et al. 2024, arXiv:2405.15682)."""

from __future__ import annotations

import inspect
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from optbench_llm.rules.adadelta import AdaDelta
from optbench_llm.rules.adagrad import AdaGrad
from optbench_llm.rules.adam import Adam, AdamW
from optbench_llm.rules.adamax import AdaMax
from optbench_llm.rules.hyperparameters import NON_NEGATIVE, OPEN_FRACTION, REAL
from optbench_llm.rules.lamb import Lamb
from optbench_llm.rules.lars import Lars
from optbench_llm.rules.novograd import NovoGrad
from optbench_llm.rules.rmsprop import RMSprop
from optbench_llm.rules.rule import Rule, Slot, Update, ema
from optbench_llm.rules.schedulefree import AdamWScheduleFree, averaging
from optbench_llm.rules.sgd import SGD
from optbench_llm.rules.wrapped import WrappedRule
from optbench_llm.rules.yogi import Yogi

if TYPE_CHECKING:
    from torch import Tensor

Z = Slot("z", delicate=True, initial=lambda p, g, h: p)
#: The rules whose own momentum can be switched off, and the hyperparameter that holds it (of
#: ``betas`` the first), if they have any. The averaging is the momentum: with both, the theory no
#: longer holds.
BASES: dict[type[Rule], str | None] = {
    SGD: "momentum",
    RMSprop: "momentum",
    Lars: "momentum",
    AdaGrad: None,
    AdaDelta: None,
    Adam: "betas",
    AdamW: "betas",
    AdaMax: "betas",
    Yogi: "betas",
    NovoGrad: "betas",
    Lamb: "betas",
}


@cache
def schedulefree(base: type[Rule]) -> type[Rule]:
    """Return schedule-free averaging around a rule: the same class each time for the same base.

    Raises ValueError for a base whose momentum cannot be switched off.
    """
    if base not in BASES:
        allowed = ", ".join(rule.__name__ for rule in BASES)
        raise ValueError(
            f"schedule-free averaging cannot wrap {base.__name__}: the averaging is the momentum,"
            f" and only rules that work without their own can take it: {allowed}"
        )
    momentum = BASES[base]
    off = _switched_off(base, momentum)
    # Without momentum the average of gradients is the gradient itself: nothing to remember.
    idle = {"exp_avg"} if momentum == "betas" else set()

    def alone(s: Any, g: Tensor) -> Any:
        return s._replace(**dict.fromkeys(idle, g))

    def measure_at_z(p: Tensor, g: Tensor, s: Any, c: Any) -> tuple[Tensor, ...]:
        assert base.measure is not None
        return base.measure(s.z, g, alone(s, g), c)

    class ScheduleFree(base, metaclass=WrappedRule):
        r"""Steps of a base sequence z, its average x, gradients taken between them at y.

        .. math::
            z_{t+1} &= \operatorname{base}(z_t, \nabla f(y_t)) \\
            x_{t+1} &= (1 - c_t)\,x_t + c_t\,z_{t+1}, \quad
                c_t = w_t / \textstyle\sum_{i\le t} w_i, \quad
                w_t = t^r \max_{i\le t}(\eta_i)^{p} \\
            y_{t+1} &= (1-\mu)\,z_{t+1} + \mu\,x_{t+1}

        with :math:`\mu` = ``schedulefree_momentum`` > 0, :math:`r` = ``schedulefree_r`` and
        :math:`p` = ``schedulefree_weight_lr_power``. The parameter is y while training and x for
        evaluation and saving; z is state. The base's own momentum is off. Its weight decay acts at
        z, as in the authors' wrapper (their AdamWScheduleFree decays at y). The lr is to stay
        constant.
        """

        made_by, made_of = schedulefree, base

        slots = (*base.slots, Z)
        defaults = {
            **base.defaults,
            **off,
            "schedulefree_momentum": 0.9,
            "schedulefree_r": 0.0,
            "schedulefree_weight_lr_power": 2.0,
        }
        ranges = {
            **base.ranges,
            "schedulefree_momentum": OPEN_FRACTION,
            "schedulefree_r": REAL,
            "schedulefree_weight_lr_power": NON_NEGATIVE,
        }
        carry = {**base.carry, **AdamWScheduleFree.carry}
        measure = None if base.measure is None else staticmethod(measure_at_z)
        # It would look at y, and the base steps z.
        shortcut = None

        @classmethod
        def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
            return (*(slot for slot in base.slots_for(shape, h) if slot.name not in idle), Z)

        @staticmethod
        def conflict(h: Any) -> str | None:
            for name, zero in off.items():
                own = getattr(h, name)
                if own[0] if name == "betas" else own:
                    return (
                        f"{name}={own!r} is momentum of its own, which the averaging replaces; set"
                        f" schedulefree_momentum instead, and {name} as in {name}={zero!r}"
                    )
            return base.conflict(h)

        @staticmethod
        def scalars(h: Any, t: int, carry: Any) -> dict[str, float]:
            mu = h.schedulefree_momentum
            power = h.schedulefree_weight_lr_power
            weights = SimpleNamespace(r=h.schedulefree_r, weight_lr_power=power)
            average = averaging(weights, t, carry, mu, h.lr)
            return {
                **base.scalars(h, t, carry),
                **{name: average[name] for name in (*AdamWScheduleFree.carry, "average")},
                "follow": 1 - mu * (1 - average["average"]),
            }

        @staticmethod
        def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
            z, new = base.update(s.z, g, alone(s, g), c, sums)
            y = ema(p, s.z, c.average) + (z - s.z) * c.follow
            return y, {**{name: new[name] for name in new if name not in idle}, "z": z}

        @staticmethod
        def evaluation_point(p: Tensor, s: Any, h: Any) -> Tensor:
            return ema(p, s.z, 1 - 1 / h.schedulefree_momentum)

    ScheduleFree.__doc__ = f"{inspect.getdoc(ScheduleFree)}\n\nThe base: {inspect.getdoc(base)}"
    ScheduleFree.__name__ = ScheduleFree.__qualname__ = f"ScheduleFree{base.__name__}"
    return ScheduleFree


def _switched_off(base: type[Rule], momentum: str | None) -> dict[str, Any]:
    """The hyperparameter that holds a base's own momentum, if it has any, without it."""
    if momentum is None:
        return {}
    return {momentum: (0.0, *base.defaults["betas"][1:]) if momentum == "betas" else 0.0}
