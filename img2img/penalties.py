"""Terms that need autograd.grad, and constraints on weights; both apply to whatever objective and networks are chosen.

A penalty is a frozen dataclass of its constants. Its `terms` is a plain function of a Game, what the engine offers of
the current step: the views (which discriminator sees what), keyed draws, and both players' losses. To add one: write
the class, add it to PENALTIES beneath, add a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.losses import per_sample


@dataclass(frozen=True)
class View:
    """What one discriminator sees in one step.

    Attributes:
        name: the discriminator's name in its translator, and of its terms in the log ("discriminator_b").
        discriminator: (images, condition) -> logits (N,) or (N, 1, h, w).
        real, fake: (N, C, H, W) in [−1, 1].
        real_condition, fake_condition: labels (N,) or images (N, C', H, W); None where D takes none.
    """

    name: str
    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    real_condition: Tensor | None = None
    fake_condition: Tensor | None = None


class Game(Protocol):
    """What a penalty may ask of the step it is part of."""

    views: list[View]

    def draws(self, stream: str) -> Draws:
        """Random numbers keyed by the images of this batch."""

    def discriminator_loss(self) -> Tensor:
        """The discriminators' objective on this batch, a fresh scalar graph."""

    def generator_loss(self) -> Tensor:
        """The generators' objective on this batch, a fresh scalar graph."""

    def parameters(self, player: str) -> list[nn.Parameter]:
        """The parameters of "discriminator" or "generator"."""


@dataclass(frozen=True)
class Penalty:
    """A term added to a player's loss, or a constraint put on its weights after each of its steps.

    Attributes:
        player: whose loss or weights, "discriminator" or "generator".
        assumes_independent_samples: the term is derived for a D that judges each image by itself (no BatchNorm).
        weight: multiplies the term.
        every: evaluate only in every N-th step, with N times the weight (lazy regularisation, Karras et al. 2020,
            arXiv:1912.04958, appendix B). A lazy term gets an optimiser step of its own.
    """

    player: ClassVar[str] = "discriminator"
    assumes_independent_samples: ClassVar[bool] = False
    weight: float = field(default=1.0, metadata={"minimum": 0.0})
    every: int = field(default=1, metadata={"minimum": 1})

    def terms(self, game: Game) -> dict[str, Tensor]:
        """Unweighted terms by name, each (N,) or a scalar."""
        return {}

    def constrain(self, network: nn.Module) -> None:
        """Change the network's weights in place after its player's step."""


def squared_gradient_norm(discriminator: Callable[..., Tensor], images: Tensor, condition: Tensor | None) -> Tensor:
    """‖∇ₓ D(x)‖² of each sample, summed over C, H, W, differentiable again; (N, C, H, W) -> (N,).

    D(x) of a patch discriminator is the mean of its patches' logits.
    """
    images = images.detach().requires_grad_()
    verdict = per_sample(discriminator(images, condition)).sum()
    (gradient,) = torch.autograd.grad(verdict, images, create_graph=True)
    return gradient.square().flatten(1).sum(1)


@dataclass(frozen=True)
class R1(Penalty):
    """½‖∇D(x)‖² on real images (Mescheder et al. 2018, arXiv:1801.04406, equation 9); `weight` is their γ.

    The ½ is inside, as in the paper and in StyleGAN2's γ/2.
    """

    weight: float = field(default=10.0, metadata={"minimum": 0.0})

    def terms(self, game: Game) -> dict[str, Tensor]:
        return {
            view.name: 0.5 * squared_gradient_norm(view.discriminator, view.real, view.real_condition)
            for view in game.views
        }


@dataclass(frozen=True)
class R2(Penalty):
    """½‖∇D(G(z))‖² on generated images (Mescheder et al. 2018, arXiv:1801.04406, equation 10); `weight` is their γ."""

    weight: float = field(default=10.0, metadata={"minimum": 0.0})

    def terms(self, game: Game) -> dict[str, Tensor]:
        return {
            view.name: 0.5 * squared_gradient_norm(view.discriminator, view.fake, view.fake_condition)
            for view in game.views
        }


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    """(‖∇D(x̂)‖₂ − 1)², x̂ uniform on segments between real and fake.

    Gulrajani et al. 2017, arXiv:1704.00028, equation 3. A conditional D judges x̂ under the real image's condition.
    """

    assumes_independent_samples: ClassVar[bool] = True
    weight: float = field(default=10.0, metadata={"minimum": 0.0})

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for view in game.views:
            position = game.draws(f"gradient_penalty/{view.name}").uniform(1, 1, 1).to(view.real.dtype)
            between = view.real.detach().lerp(view.fake.detach(), position)
            norm = squared_gradient_norm(view.discriminator, between, view.real_condition).clamp_min(1e-12).sqrt()
            terms[view.name] = (norm - 1).square()
        return terms


@dataclass(frozen=True)
class WeightClip(Penalty):
    """clamp(w, −c, c) after every discriminator step (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1)."""

    c: float = field(default=0.01, metadata={"minimum": 0.0})

    @torch.no_grad()
    def constrain(self, network: nn.Module) -> None:
        for parameter in network.parameters():
            parameter.clamp_(-self.c, self.c)


PENALTIES: dict[str, type[Penalty]] = {
    "r1": R1,
    "r2": R2,
    "gradient_penalty": GradientPenalty,
    "weight_clip": WeightClip,
}
