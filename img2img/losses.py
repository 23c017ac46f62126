"""Adversarial objectives and image losses: plain functions of tensors, one value per sample.

An objective is a frozen dataclass of its constants with two methods. `real` and `fake` are raw discriminator outputs
(logits) of shape (N,) or (N, 1, h, w); each method returns (N,), the mean over the patches of each sample, to be
minimised. To add one: write the class, add it to ADVERSARIAL beneath, add a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor


def per_sample(values: Tensor) -> Tensor:
    """Mean over everything but the batch: (N, ...) -> (N,)."""
    return values.flatten(1).mean(1) if values.ndim > 1 else values


@dataclass(frozen=True)
class Objective:
    """What the two players minimise.

    Attributes:
        generator_sees_real: the generator's loss needs D's logits of real images too (relativistic objectives).
    """

    generator_sees_real: ClassVar[bool] = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss, (N,)."""
        raise AssertionError(f"{type(self).__name__} must define the discriminator's loss")

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss, (N,); `real` is given when generator_sees_real."""
        raise AssertionError(f"{type(self).__name__} must define the generator's loss")


@dataclass(frozen=True)
class NonSaturating(Objective):
    """D: −log σ(r) − log(1−σ(f)); G: −log σ(f) (Goodfellow et al. 2014, arXiv:1406.2661, section 3).

    With these signs D's loss at the optimum p = q is log 4.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return per_sample(F.softplus(-real)) + per_sample(F.softplus(fake))

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return per_sample(F.softplus(-fake))


@dataclass(frozen=True)
class Minimax(NonSaturating):
    """D as NonSaturating; G: log(1−σ(f)) (Goodfellow et al. 2014, arXiv:1406.2661, equation 1).

    G's gradient vanishes where D is sure of itself: it is here to show that.
    """

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return per_sample(-F.softplus(fake))


@dataclass(frozen=True)
class Hinge(Objective):
    """D: max(0, 1−r) + max(0, 1+f); G: −f (Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return per_sample(F.relu(1 - real)) + per_sample(F.relu(1 + fake))

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return per_sample(-fake)


@dataclass(frozen=True)
class LeastSquares(Objective):
    """D: ½(r−b)² + ½(f−a)²; G: ½(f−c)² (Mao et al. 2017, arXiv:1611.04076, equation 2).

    b − c = 1 and b − a = 2 minimise the Pearson χ² divergence: a = −1, b = 1, c = 0.
    """

    a: float = 0.0
    b: float = 1.0
    c: float = 1.0

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * per_sample((real - self.b).square()) + 0.5 * per_sample((fake - self.a).square())

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return 0.5 * per_sample((fake - self.c).square())


@dataclass(frozen=True)
class Wasserstein(Objective):
    """D: −r + f, with weight_clip or gradient_penalty; G: −f (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return per_sample(fake) - per_sample(real)

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return per_sample(-fake)


@dataclass(frozen=True)
class Relativistic(Objective):
    """D: −log σ(r−f); G: −log σ(f−r), each fake beside one real image of its batch, patch beside patch.

    RSGAN of Jolicoeur-Martineau 2018, arXiv:1807.00734; RpGAN in Huang et al. 2024
    (R3GAN, arXiv:2501.05441), who pair it with r1 and r2. A fake is judged against real images everywhere they are, so
    making one kind of picture only does not pay (Sun et al. 2020, arXiv:2011.04926).
    """

    generator_sees_real: ClassVar[bool] = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return per_sample(F.softplus(fake - real))

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        assert real is not None, "a relativistic generator needs the real images' logits"
        return per_sample(F.softplus(real - fake))


ADVERSARIAL: dict[str, type[Objective]] = {
    "minimax": Minimax,
    "nonsaturating": NonSaturating,
    "hinge": Hinge,
    "lsgan": LeastSquares,
    "wgan": Wasserstein,
    "relativistic": Relativistic,
}


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of each sample, (N, C, H, W) twice -> (N,)."""
    return per_sample((output - target).abs())
