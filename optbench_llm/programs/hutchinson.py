"""The Hessian's diagonal from products with random vectors (Hutchinson 1989)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from optbench_llm.programs.products import PRODUCTS, check_product
from optbench_llm.programs.program import Program, setting
from optbench_llm.programs.replay import Replay
from optbench_llm.programs.weights import own_part, stepped


class Hutchinson(Program):
    """Feeds ``v * Hv`` to ``optimizer.observe``, every ``k`` steps from the first on.

    On average it is the diagonal of the Hessian of the step's loss, under the same dropout. The
    entries of v are 1 or -1. All processes draw the same v.
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
        params = stepped(optimizer)
        vectors = [own_part(p, self.draw(p, replay.shared_generator)) for p in params]
        with replay.gradients_put_aside():
            products = PRODUCTS[setting(optimizer, "hvp")](replay, params, vectors)
            for p, product, vector in zip(params, products, vectors, strict=True):
                p.grad = product.mul_(vector)
            optimizer.observe()

    @staticmethod
    def draw(p: Tensor, generator: torch.Generator) -> Tensor:
        """A random vector in the shape of a parameter; drawn on the CPU, so that all draw one."""
        signs = torch.randint(0, 2, p.shape, generator=generator, dtype=torch.int8, device="cpu")
        return signs.mul_(2).sub_(1).to(p.device, p.dtype)


class NormalHutchinson(Hutchinson):
    """The same from standard normal entries, as Sophia-H has it."""

    name: ClassVar[str] = "hutchinson-normal"

    @staticmethod
    def draw(p: Tensor, generator: torch.Generator) -> Tensor:
        """A random vector in the shape of a parameter; drawn on the CPU, so that all draw one."""
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.float32, device="cpu")
        return drawn.to(p.device, p.dtype)
