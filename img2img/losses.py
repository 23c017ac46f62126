"""Adversarial objectives and image losses: plain functions of tensors, one value per sample.

An objective is a frozen dataclass of its constants with two methods. `real` and `fake` are what the discriminator said:
raw outputs (logits) of shape (N,) or (N, 1, h, w), or, where it judges by energy, reconstruction errors (N,). Each
method returns (N,), the mean over the patches of each sample, to be minimised. To add one: write the class, add it to
ADVERSARIAL beneath, add a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


def per_sample(values: Tensor) -> Tensor:
    """Mean over everything but the batch: (N, ...) -> (N,)."""
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def _share(default: float) -> Any:
    return field(default=default, metadata={"minimum": 0.0, "maximum": 1.0})


def _at_least(minimum: float, default: float) -> Any:
    return field(default=default, metadata={"minimum": minimum})


@dataclass(frozen=True)
class Objective:
    """What the two players minimise.

    Attributes:
        judges_by: what it wants from a discriminator, "logit" or "energy" (an autoencoder's reconstruction error).
        sees_batch: a sample's loss depends on the rest of its batch, or on a control variable.
        critic: the discriminator estimates a distance and must be kept from growing steep.
        generator_sees_real: the generator's loss needs what D says of real images too.
        generator_sees_features: the generator's loss needs D's features of the fakes.
        start_of_control: value at the start of a control variable that the engine keeps; None where there is none.
    """

    judges_by: ClassVar[str] = "logit"
    sees_batch: ClassVar[bool] = False
    critic: ClassVar[bool] = False
    generator_sees_real: ClassVar[bool] = False
    generator_sees_features: ClassVar[bool] = False
    start_of_control: ClassVar[float | None] = None

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        """The discriminator's loss, (N,). `control`: the control variable, one value."""
        raise AssertionError(f"{type(self).__name__} must define the discriminator's loss")

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """The generator's loss, (N,). `real` and `features` (N, F) are given where the class says it needs them."""
        raise AssertionError(f"{type(self).__name__} must define the generator's loss")

    @property
    def boundary(self) -> float | None:
        """The logit at which D holds an image for as likely real as generated; None where its loss fixes none."""
        return None

    @property
    def undecided_loss(self) -> float | None:
        """The discriminator's loss where it says the same of all images; None where that tells nothing of the game."""
        if self.critic or self.judges_by == "energy":
            return None
        verdict = torch.full((1,), self.boundary or 0.0)
        return float(self.discriminator(verdict, verdict))

    def next_control(self, control: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """The control variable after a discriminator step on these judgements."""
        return control

    def watch(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Named scalars that say how the game stands, for the log."""
        return {}


@dataclass(frozen=True)
class NonSaturating(Objective):
    """D: −log σ(r) − log(1−σ(f)); G: −log σ(f) (Goodfellow et al. 2014, arXiv:1406.2661, section 3).

    With these signs D's loss at the optimum p = q is log 4.

    Attributes:
        real_label, fake_label: D's targets a and b: −a log σ(r) − (1−a) log(1−σ(r)) and the same of f with b.
            a = 0.9 is one-sided label smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4). Labels flipped
            at random with probability p have a = 1 − p, b = p as their mean. G's target stays 1.
    """

    real_label: float = _share(1.0)
    fake_label: float = _share(0.0)

    @property
    def boundary(self) -> float | None:
        undecided = (self.real_label + self.fake_label) / 2
        return math.log(undecided / (1 - undecided)) if 0 < undecided < 1 else None

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        return per_sample(_cross_entropy(real, self.real_label)) + per_sample(_cross_entropy(fake, self.fake_label))

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        return per_sample(F.softplus(-fake))


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    """−label·log σ(logits) − (1 − label)·log(1 − σ(logits)), elementwise."""
    if label in (0.0, 1.0):
        return F.softplus(-logits if label else logits)
    return F.softplus(logits) - label * logits


@dataclass(frozen=True)
class Minimax(NonSaturating):
    """D as NonSaturating; G: log(1−σ(f)) (Goodfellow et al. 2014, arXiv:1406.2661, equation 1).

    G's gradient vanishes where D is sure of itself: it is here to show that.
    """

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        return per_sample(-F.softplus(fake))


@dataclass(frozen=True)
class Hinge(Objective):
    """D: max(0, 1−r) + max(0, 1+f); G: −f (Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957)."""

    @property
    def boundary(self) -> float | None:
        return 0.0

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        return per_sample(F.relu(1 - real)) + per_sample(F.relu(1 + fake))

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        return per_sample(-fake)


@dataclass(frozen=True)
class LeastSquares(Objective):
    """D: ½(r−b)² + ½(f−a)²; G: ½(f−c)² (Mao et al. 2017, arXiv:1611.04076, equation 2).

    b − c = 1 and b − a = 2 minimise the Pearson χ² divergence: a = −1, b = 1, c = 0.
    """

    a: float = 0.0
    b: float = 1.0
    c: float = 1.0

    @property
    def boundary(self) -> float | None:
        return (self.a + self.b) / 2

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        return 0.5 * per_sample((real - self.b).square()) + 0.5 * per_sample((fake - self.a).square())

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        return 0.5 * per_sample((fake - self.c).square())


@dataclass(frozen=True)
class Wasserstein(Objective):
    """D: −r + f, with weight_clip or gradient_penalty; G: −f (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1)."""

    critic: ClassVar[bool] = True

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        return per_sample(fake) - per_sample(real)

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        return per_sample(-fake)

    def watch(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The critic's estimate of the distance between data and fakes, times its Lipschitz constant."""
        return {"critic_distance": real.mean() - fake.mean()}


FORMS = ("logistic", "ls", "hinge")


def _preferred(margin: Tensor, form: str) -> Tensor:
    """What a player loses where one judgement should exceed another and exceeds it by `margin`, elementwise."""
    if form == "ls":
        return (margin - 1).square()
    return F.relu(1 - margin) if form == "hinge" else F.softplus(-margin)


@dataclass(frozen=True)
class Relativistic(Objective):
    """D: −log σ(r−f); G: −log σ(f−r), each fake beside one real image of its batch, patch beside patch.

    RSGAN of Jolicoeur-Martineau 2018, arXiv:1807.00734; RpGAN in Huang et al. 2024
    (R3GAN, arXiv:2501.05441), who pair it with r1 and r2. A fake is judged against real images everywhere they are, so
    making one kind of picture only does not pay (Sun et al. 2020, arXiv:2011.04926).

    Attributes:
        form: with m = r−f for D and f−r for G, "logistic" softplus(−m), "ls" (m−1)², "hinge" max(0, 1−m).
    """

    generator_sees_real: ClassVar[bool] = True
    form: str = field(default="logistic", metadata={"choices": FORMS})

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        return per_sample(_preferred(real - fake, self.form))

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        assert real is not None, "a relativistic generator needs the real images' logits"
        return per_sample(_preferred(fake - real, self.form))


@dataclass(frozen=True)
class RelativisticAverage(Relativistic):
    """D: −log σ(r − f̄) − log σ(r̄ − f); G: the same with real and fake swapped (RaGAN of Jolicoeur-Martineau 2018).

    The means are over the batch (of one process, or micro-batch) and its patches, and gradients flow through both.
    arXiv:1807.00734; `form` as in Relativistic (RaSGAN, RaLSGAN, RaHingeGAN).
    """

    sees_batch: ClassVar[bool] = True

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        above = _preferred(real - fake.mean(), self.form)
        below = _preferred(real.mean() - fake, self.form)
        return per_sample(above) + per_sample(below)

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        assert real is not None, "a relativistic generator needs the real images' logits"
        return self.discriminator(fake, real)


@dataclass(frozen=True)
class EnergyBased(Objective):
    """D: e(x) + max(0, m − e(G(z))); G: e(G(z)) + weight · pull-away, e an autoencoder's reconstruction error.

    Zhao et al. 2016, arXiv:1609.03126.

    Attributes:
        margin: m; what reconstruction errors of fakes are pushed up to. It depends on the data and on how the
            autoencoder measures its error.
        pull_away: weight of the pull-away term, the mean over i ≠ j of cos² of the codes of fakes i and j.
    """

    judges_by: ClassVar[str] = "energy"
    sees_batch: ClassVar[bool] = True
    generator_sees_features: ClassVar[bool] = True
    margin: float = _at_least(0.0, 1.0)
    pull_away: float = _at_least(0.0, 0.1)

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        return per_sample(real) + per_sample(F.relu(self.margin - fake))

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        energy = per_sample(fake)
        if features is None or self.pull_away == 0:
            return energy
        return energy + self.pull_away * pull_away(features)


def pull_away(codes: Tensor) -> Tensor:
    """Mean over i ≠ j of cos² of the angle between codes i and j: (N, F) -> scalar (arXiv:1609.03126)."""
    if len(codes) < 2:
        return codes.sum() * 0.0
    directions = F.normalize(codes, dim=1)
    cosines = directions @ directions.T
    return (cosines.square().sum() - cosines.diagonal().square().sum()) / (len(codes) * (len(codes) - 1))


@dataclass(frozen=True)
class BoundaryEquilibrium(Objective):
    """D: L(x) − k·L(G(z)); G: L(G(z)), L an autoencoder's L1 error (Berthelot et al. 2017, arXiv:1703.10717).

    After each discriminator step k ← clip(k + λ(γL(x) − L(G(z))), 0, 1), from 0. The log has k and the convergence
    measure M = L(x) + |γL(x) − L(G(z))|.

    Attributes:
        gamma: γ in (0, 1], wanted ratio of L(G(z)) to L(x): lower for sharper pictures, higher for more variety.
        rate: λ, the step of k.
    """

    judges_by: ClassVar[str] = "energy"
    sees_batch: ClassVar[bool] = True
    start_of_control: ClassVar[float | None] = 0.0
    gamma: float = _share(0.5)
    rate: float = _share(0.001)

    def discriminator(self, real: Tensor, fake: Tensor, control: Tensor | None = None) -> Tensor:
        assert control is not None, "the engine keeps k and gives it"
        return per_sample(real) - control * per_sample(fake)

    def generator(self, fake: Tensor, real: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        return per_sample(fake)

    def next_control(self, control: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        return (control + self.rate * (self.gamma * real.mean() - fake.mean())).clamp(0.0, 1.0)

    def watch(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"convergence": real.mean() + (self.gamma * real.mean() - fake.mean()).abs()}


ADVERSARIAL: dict[str, type[Objective]] = {
    "minimax": Minimax,
    "nonsaturating": NonSaturating,
    "hinge": Hinge,
    "lsgan": LeastSquares,
    "wgan": Wasserstein,
    "relativistic": Relativistic,
    "relativistic_average": RelativisticAverage,
    "ebgan": EnergyBased,
    "began": BoundaryEquilibrium,
}


def most_realistic(losses: Tensor, scores: Tensor, share: float) -> Tensor:
    """The generator's losses on the `share` of its samples that D scores highest: (N,) twice -> (⌈share·N⌉,).

    Top-k training of GANs (Sinha et al. 2020, arXiv:2002.06224): a generator learns from its better samples only.
    """
    return losses[scores.topk(math.ceil(share * len(scores)), sorted=False).indices]


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """‖E φ(x) − E φ(G(z))‖² of D's features (N, F) twice -> (1,) (Salimans et al. 2016, arXiv:1606.03498, sec. 3.1)."""
    return (real.mean(0) - fake.mean(0)).square().sum(0, keepdim=True)


def layer_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Σ over D's layers of the mean |φ(x) − φ(G(s))|, image by image: layers (N, ...) twice -> (N,).

    The feature matching of Wang et al. 2018 (pix2pixHD, arXiv:1711.11585, section 3.2), for one discriminator.
    """
    return torch.stack([l1(made, wanted) for made, wanted in zip(fake, real, strict=True)]).sum(0)


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """−log P(label) of a classifier's logits: (N, K), (N,) -> (N,) (ACGAN: Odena et al. 2017, arXiv:1610.09585)."""
    return F.cross_entropy(logits, labels, reduction="none")


def patch_nce(queries: Tensor, keys: Tensor, temperature: float = 0.07) -> Tensor:
    """How badly each query tells its own key from the others of its picture: unit vectors (N, P, D) twice -> (N,).

    −log (exp(qᵢ·kᵢ/τ) / Σⱼ exp(qᵢ·kⱼ/τ)), mean over the places i (CUT: Park et al. 2020, arXiv:2007.15651). log P where
    all keys are alike, 0 where each query meets its own alone.
    """
    logits = queries @ keys.transpose(1, 2) / temperature
    return (logits.logsumexp(2) - logits.diagonal(dim1=1, dim2=2)).mean(1)


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of each sample, (N, ...) twice -> (N,)."""
    return per_sample((output - target).abs())
