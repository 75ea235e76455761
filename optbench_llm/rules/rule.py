"""What a rule is: the mathematics of one optimizer, without memory, devices or loops.

Rules use tensors' methods alone and import no torch, so that the catalog reads them at no cost.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

Initial = Callable[["Tensor", "Tensor", Any], "Tensor"]
#: How a slot may lie in memory.
STORAGES = ("fp32", "bf16", "int8")
#: Roles of weights that are used as linear maps.
MATRIX_ROLES = frozenset({"matrix", "query", "key", "value"})
#: All that a parameter may be to a rule by layout; see ``params.py``.
ROLES = MATRIX_ROLES | {"embedding", "head", "norm", "bias", "vector"}
#: What a parameter group may say of its weights; see ``params.py``.
LAYOUT_KEYS = ("role", "conv1d", "parts", "stacked", "embeds")
#: Before the names of a companion's hyperparameters.
COMPANION = "companion_"
Update = tuple["Tensor", dict[str, "Tensor"]]


class Scope(str, Enum):
    """What a rule must see to update one element."""

    ELEMENT = "element"
    TENSOR = "tensor"
    MATRIX = "matrix"
    MODEL = "model"


@dataclass(frozen=True)
class Slot:
    """One named state tensor of a rule.

    ``shape`` says how it follows the parameter's: ``full`` (the same), ``row`` (without the last
    dimension), ``column`` (without the last but one), ``scalar`` (0-dim), ``left`` and ``right``
    (square, of a matrix's rows and columns), or sizes of its own. ``positive`` promises
    values >= 0. ``delicate`` keeps the slot out of 16 and 8 bits, where rounding would swallow its
    steps, which are far smaller than itself.
    ``initial(parameter, gradient, hyperparameters)`` gives the first value, zeros where it is None.
    ``storage`` is the one it always lies in, whatever was asked for.
    """

    name: str
    shape: Literal["full", "row", "column", "scalar", "left", "right"] | tuple[int, ...] = "full"
    positive: bool = False
    delicate: bool = False
    initial: Initial | None = None
    storage: Literal["bf16"] | None = None

    def shape_for(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of this slot for a parameter of the given shape."""
        if isinstance(self.shape, tuple):
            return self.shape
        match self.shape:
            case "full":
                return shape
            case "row":
                return shape[:-1]
            case "column":
                return shape[:-2] + shape[-1:]
            case "left":
                return (shape[0], shape[0])
            case "right":
                return (shape[-1], shape[-1])
            case "scalar":
                return ()


class Rule:
    """One optimizer: pure functions from (parameter, gradient, state, scalars) to their successors.

    All functions are out of place, in fp32, free of ``.item()`` and of branches on values, so that
    the engine may run them on pieces of a tensor, on many tensors at once (by ``torch.vmap``),
    compile them and shard them.

    - ``p, g``: parameter and gradient, or a piece of them. A rule that is ``by_layout`` gets
      matrices, (out, in), the fused parts of a weight one by one.
    - ``s``: the slots by name (``s.exp_avg``); a slot that :meth:`slots_for` left out is None.
    - ``c``: what :meth:`scalars` computed, by name.
    - ``sums``: what :meth:`measure` returned, summed over the whole tensor (over the whole model
      for ``Scope.MODEL``, and there what :meth:`conclude` made of it), by name.
    - ``h``: the hyperparameters of a group, and of a parameter its ``role`` (see ``params.py``) and
      count of attention ``heads`` (0 where it has none).
    """

    #: Raised when the rule's numbers change: through its own code, through functions that it shares
    #: with others, its programs (which run for the rules that name them alone) or its defaults. So
    #: stored results of older numbers are not ranked with new ones. A class derived from a rule
    #: changes with it; a wrapper's own is the one that its class states, else 1.
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = Scope.ELEMENT
    slots: ClassVar[tuple[Slot, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    #: Hyperparameters whose accepted values differ from :data:`hyperparameters.RANGES`.
    ranges: ClassVar[Mapping[str, Any]] = {}
    #: Host floats that live from step to step, and their first values; see :meth:`scalars`. Each
    #: parameter has its own; under ``Scope.MODEL`` all share those in the parameter groups. One of
    #: the name ``observed`` counts how often :meth:`observe` ran.
    carry: ClassVar[Mapping[str, float]] = {}
    #: The rule needs whole output channels: pieces are cut between rows of an (out, in) matrix.
    by_channel: ClassVar[bool] = False
    #: The rule must know what each parameter is: it is made from a model, or from groups that name
    #: a role. Fused weights come to it part by part, those of more dimensions as (out, rest).
    by_layout: ClassVar[bool] = False
    #: Steps the parameters whose role is not among ``roles``; its hyperparameters are the rule's
    #: own with ``companion_`` before their names.
    companion: ClassVar[type[Rule] | None] = None
    roles: ClassVar[frozenset[str]] = frozenset()
    #: Names of the programs that run before a step, in order.
    programs: ClassVar[tuple[str, ...]] = ()
    #: A program puts other gradients in the place of the step's own.
    replaces_gradients: ClassVar[bool] = False
    #: Names of what a program keeps of each parameter in its state, in the parameter's shape and in
    #: 32 bits.
    kept_by_program: ClassVar[tuple[str, ...]] = ()

    #: Names of the partial sums that ``measure(p, g, s, c)`` returns, a tuple of 0-dim tensors.
    measures: ClassVar[tuple[str, ...]] = ()
    measure: ClassVar[Callable[..., tuple[Any, ...]] | None] = None
    #: ``shortcut(p, g, c) -> bool``: whether the first rows of a large matrix show that cheaper
    #: code comes to the same. ``measure`` and ``update`` are that code if ``c`` has a ``shortcut``;
    #: they may get any range of elements then. It looks at values, and the engine need not ask.
    shortcut: ClassVar[Callable[..., bool] | None] = None
    #: ``conclude(h, c, sums) -> {name: float}``, for ``Scope.MODEL``: what the sums over the model
    #: come to, in float64 on the host; the names are ``conclusions``. A number that bears the name
    #: of a ``carry`` entry also becomes its next value.
    conclude: ClassVar[Callable[..., dict[str, float]] | None] = None
    conclusions: ClassVar[tuple[str, ...]] = ()
    #: ``observe(p, g, s, c) -> {slot: tensor}`` takes in a second gradient, such as a curvature
    #: estimate; ``c.scale`` is what the program passes along.
    observe: ClassVar[Callable[..., dict[str, Any]] | None] = None
    #: ``evaluation_point(p, s, h) -> tensor``: where the model is evaluated and saved, if elsewhere
    #: than where it is trained.
    evaluation_point: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def slots_for(cls, shape: tuple[int, ...], h: Any) -> tuple[Slot, ...]:
        """Slots that a parameter of this shape has under these hyperparameters."""
        return cls.slots

    @staticmethod
    def stages(h: Any, t: int) -> tuple[str, ...]:
        """Names of what step ``t`` runs, in order.

        Beside ``update`` (with ``measure`` right before it) any static method of the rule
        ``stage(p, g, s, c) -> {slot: tensor}``, for what is not done at every step.
        """
        return ("update",)

    @staticmethod
    def conflict(h: Any) -> str | None:
        """What is wrong with a combination of hyperparameters that are each in range."""
        return None

    @staticmethod
    def caution(h: Any) -> str | None:
        """What is unusual about hyperparameters that are allowed: the user is warned of it."""
        return None

    @staticmethod
    def scalars(h: Any, t: int, carry: Mapping[str, float]) -> dict[str, float]:
        """All numbers of step ``t`` (from 1), in float64 on the host.

        A number that bears the name of a ``carry`` entry also becomes its next value. ``scale`` and
        ``noise`` are names of the engine's.
        """
        raise NotImplementedError

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, c: Any, sums: Any) -> Update:
        """Return the new parameter and the new value of each slot."""
        raise NotImplementedError

    @classmethod
    def state_type(cls, names: Iterable[str] = ()) -> Any:
        """A named tuple over all slots of the rule and further ``names`` of :meth:`slots_for`."""
        every = dict.fromkeys((*(slot.name for slot in cls.slots), *names))
        return namedtuple(f"{cls.__name__}State", every, defaults=[None] * len(every))

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """All hyperparameters and their defaults, the companion's among them."""
        if cls.companion is None:
            return dict(cls.defaults)
        others = cls.companion.settings()
        return {**{f"{COMPANION}{name}": value for name, value in others.items()}, **cls.defaults}


def bias_corrections(h: Any, t: int) -> dict[str, float]:
    """Scalars of Adam's moments: EMA weights ``1 - beta`` and the corrections of step ``t``.

    ``correction1`` multiplies the first moment, ``correction2`` the square root of the second.
    """
    beta1, beta2 = h.betas[:2]
    return {
        "weight1": 1 - beta1,
        "weight2": 1 - beta2,
        "correction1": 1 / (1 - beta1**t),
        "correction2": (1 - beta2**t) ** -0.5,
        "eps": h.eps,
    }


def decoupled_decay(h: Any) -> float:
    """Factor of the parameter under decoupled weight decay: ``1 - lr * weight_decay``."""
    return 1 - h.lr * h.weight_decay


def ema(old: Tensor, new: Tensor, weight: Any) -> Tensor:
    """Exponential moving average ``(1 - weight) * old + weight * new``; ``new`` itself at weight 1.

    In terms of the small weight, since ``1 - 0.999`` in fp32 is off by 1e-5.
    """
    return old.lerp(new, weight)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1, and NaN where x is NaN: torch's sign is 0 there, so that nobody would see it."""
    return x.sign().where(x == x, x)


def trust_ratio(norm: Tensor, step_norm: Tensor) -> Tensor:
    """``norm / step_norm``, 1 where either is 0."""
    ratio = norm / step_norm
    return ratio.where((norm > 0) & (step_norm > 0), 1.0)


def nesterov_without_momentum(h: Any) -> str | None:
    """The conflict of a Nesterov flag that would have no effect."""
    if h.nesterov and not h.momentum:
        return "nesterov=True has no effect without momentum; set momentum, such as 0.9"
    return None
