"""The Hessian's diagonal from products with random vectors (Hutchinson 1989)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from optbench_llm.engine.noise import Noise
from optbench_llm.programs.products import PRODUCTS, check_product
from optbench_llm.programs.program import Program, setting
from optbench_llm.programs.random_vectors import drawn, normal, signs
from optbench_llm.programs.replay import Replay
from optbench_llm.programs.weights import has_gradient


class Hutchinson(Program):
    """Feeds ``v * Hv`` to ``optimizer.observe``, every ``k`` steps from the first on.

    On average it is the diagonal of the Hessian of the step's loss, under the same dropout. The
    entries of v are 1 or -1. They follow from seed, step, parameter and position, so that all
    processes and a resumed run have the same.
    """

    name: ClassVar[str] = "hutchinson"

    def check(self, trainer: Any, optimizer: Any) -> None:
        """Refuse what the chosen kind of product cannot do."""
        check_product(trainer, optimizer, setting(optimizer, "hvp"))

    def due(self, optimizer: Any, step: int) -> bool:
        """Every ``k`` steps, from the first on."""
        return (step - 1) % setting(optimizer, "k") == 0

    def before_step(self, replay: Replay, optimizer: Any) -> None:
        """Draw v, multiply it by the Hessian, feed the estimate to the optimizer."""
        every = (p for group in optimizer.param_groups for p in group["params"])
        # By the number among all, whether or not others have a gradient.
        numbered = {index: p for index, p in enumerate(every) if has_gradient(p)}
        params = [*numbered.values()]
        vectors = [
            self.draw(p, replay.shared_noise(f"hutchinson/{index}"))
            for index, p in numbered.items()
        ]
        with replay.gradients_put_aside():
            products = PRODUCTS[setting(optimizer, "hvp")](replay, params, vectors)
            for p, product, vector in zip(params, products, vectors, strict=True):
                p.grad = product.mul_(vector)
            optimizer.observe()

    @staticmethod
    def draw(p: Tensor, noise: Noise) -> Tensor:
        """A random vector in the shape of a parameter, on its device."""
        return drawn(p, noise, signs)


class NormalHutchinson(Hutchinson):
    """The same from standard normal entries, as Sophia-H has it."""

    name: ClassVar[str] = "hutchinson-normal"

    @staticmethod
    def draw(p: Tensor, noise: Noise) -> Tensor:
        """A random vector in the shape of a parameter, on its device."""
        return drawn(p, noise, normal)
