"""Terms beside the objective, constraints on weights, and noise on what discriminators see.

All apply to whatever objective and networks are chosen. A penalty is a frozen dataclass of its constants. Its `terms`
is a plain function of a Game, what the engine offers of the current step: the views (which discriminator sees what),
keyed draws, judgements, and both players' losses. To add one: write the class, add it to PENALTIES beneath, add a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.data.augment import augment
from img2img.draws import Draws
from img2img.losses import per_sample
from img2img.networks.layers import filter_matrices


@dataclass(frozen=True)
class View:
    """What one discriminator sees in one step.

    Attributes:
        name: the discriminator's name in its translator, and of its terms in the log ("discriminator_b").
        discriminator: (images, condition) -> logits (N,) or (N, 1, h, w).
        real, fake: (N, C, H, W) in [−1, 1].
        real_condition, fake_condition: labels (N,) or images (N, C', H, W); None where D takes none.
        aligned: row i of `fake` is to be like row i of `real`, so both are augmented alike.
        condition_is_labels: the condition images are planes of classes, which move with the picture but have no colour.
        scale_of: the view that this one shows at one of several sizes; empty for a view that stands alone.
    """

    name: str
    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    real_condition: Tensor | None = None
    fake_condition: Tensor | None = None
    aligned: bool = False
    condition_is_labels: bool = False
    scale_of: str = ""


@dataclass
class Verdict:
    """What a discriminator said of one view.

    Attributes:
        name: the view's.
        real, fake: logits (N,) or (N, 1, h, w), or energies (N,); `real` is None where nobody asked.
        real_features, fake_features: (N, F) activations before its last layer, where asked for.
        real_layers, fake_layers: the activations of every layer but the last, each (N, ...), where asked for.
        control: (members,), the objective's control variable, where it has one.
        kept: share of the fakes, those that D finds most realistic, that the generator learns from.
    """

    name: str
    real: Tensor | None
    fake: Tensor
    real_features: Tensor | None = None
    fake_features: Tensor | None = None
    real_layers: tuple[Tensor, ...] = ()
    fake_layers: tuple[Tensor, ...] = ()
    control: Tensor | None = None
    kept: float = 1.0


class Game(Protocol):
    """What a penalty may ask of the step it is part of.

    Attributes:
        views: what each discriminator sees.
        members: independent games in this batch, member-major; 1 but for toy worlds.
        progress: share of the run that is done, from 0 to 1.
    """

    members: int
    progress: float

    @property
    def views(self) -> list[View]: ...

    def draws(self, stream: str, count: int) -> Draws:
        """Random numbers for `count` rows of this batch, keyed by its images."""

    def verdicts(self) -> list[Verdict]:
        """What the discriminators say of the views, real images included."""

    def discriminator_loss(self) -> Tensor:
        """The discriminators' objective on this batch, a fresh scalar graph; of several members their sum."""

    def generator_loss(self) -> Tensor:
        """The generators' objective on this batch, a fresh scalar graph; of several members their sum."""

    def networks(self, player: str) -> dict[str, nn.Module]:
        """The networks of "discriminator" or "generator"."""

    def parameters(self, player: str) -> list[nn.Parameter]:
        """The parameters of "discriminator" or "generator"."""

    def latents_and_images(self) -> tuple[Tensor, Tensor]:
        """Latents (N, L) that require gradients, and the images (N, C, H, W) generated from them."""

    def running_mean(self, name: str, values: Tensor, decay: float) -> Tensor:
        """Each member's average of `values` (N,) over time, this step's included: (N,), without gradient.

        It begins with the first step's mean, then mean ← decay · mean + (1 − decay) · new; saved with the state.
        """


def _at_least_zero(default: float) -> Any:
    return field(default=default, metadata={"minimum": 0.0})


@dataclass(frozen=True)
class Penalty:
    """A term added to a player's loss, a constraint put on its weights, or noise on what its opponent judges.

    Attributes:
        players: whose loss or weights, of "discriminator" and "generator".
        assumes_independent_samples: the term is derived for a D that judges each image by itself (no BatchNorm).
        wants_unit_slope: the term pulls D's slope to a length of one, as a critic has it and an energy has not.
        moves_pictures: the term needs pictures that can be shifted, not points.
        keeps_means: the term compares a batch with running means that it moves itself.
        weight: multiplies the term.
        every: evaluate only in every N-th step, with N times the weight (lazy regularisation, Karras et al. 2020,
            arXiv:1912.04958, appendix B). A lazy term gets an optimiser step of its own.
    """

    players: ClassVar[tuple[str, ...]] = ("discriminator",)
    assumes_independent_samples: ClassVar[bool] = False
    wants_unit_slope: ClassVar[bool] = False
    bounds_slope: ClassVar[bool] = False
    moves_pictures: ClassVar[bool] = False
    needs_latents: ClassVar[bool] = False
    needs_both_losses: ClassVar[bool] = False
    keeps_means: ClassVar[bool] = False
    weight: float = _at_least_zero(1.0)
    every: int = field(default=1, metadata={"minimum": 1})

    def terms(self, game: Game) -> dict[str, Tensor]:
        """Unweighted terms by name, each (N,) or a scalar; a scalar is the mean over members."""
        return {}

    def constrain(self, network: nn.Module) -> None:
        """Change the network's weights in place after its player's step."""

    def perturb(self, view: View, game: Game) -> View:
        """Change what a discriminator sees, in both players' steps."""
        return view


def squared_gradient_norm(discriminator: Callable[..., Tensor], images: Tensor, condition: Tensor | None) -> Tensor:
    """‖∇ₓ D(x)‖² of each sample, summed over C, H, W, differentiable again; (N, C, H, W) -> (N,).

    D(x) of a patch discriminator is the mean of its patches' logits.
    """
    images = images.detach().requires_grad_()
    verdict = per_sample(discriminator(images, condition)).sum()
    (gradient,) = torch.autograd.grad(verdict, images, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def _slope(discriminator: Callable[..., Tensor], images: Tensor, condition: Tensor | None) -> Tensor:
    """‖∇ₓ D(x)‖₂ of each sample, (N,); its gradient is finite where the slope is zero."""
    return squared_gradient_norm(discriminator, images, condition).clamp_min(1e-12).sqrt()


def _between(view: View, game: Game, stream: str) -> Tensor:
    """A uniform point on the segment from each real image to its fake, (N, C, H, W)."""
    position = game.draws(f"{stream}/{view.name}", len(view.real)).uniform(1, 1, 1).to(view.real.dtype)
    return view.real.detach().lerp(view.fake.detach(), position)


@dataclass(frozen=True)
class R1(Penalty):
    """½‖∇D(x)‖² on real images (Mescheder et al. 2018, arXiv:1801.04406, equation 9); `weight` is their γ.

    The ½ is inside, as in the paper and in StyleGAN2's γ/2.
    """

    bounds_slope: ClassVar[bool] = True
    weight: float = _at_least_zero(10.0)

    def terms(self, game: Game) -> dict[str, Tensor]:
        return {
            view.name: 0.5 * squared_gradient_norm(view.discriminator, view.real, view.real_condition)
            for view in game.views
        }


@dataclass(frozen=True)
class R2(Penalty):
    """½‖∇D(G(z))‖² on generated images (Mescheder et al. 2018, arXiv:1801.04406, equation 10); `weight` is their γ."""

    bounds_slope: ClassVar[bool] = True
    weight: float = _at_least_zero(10.0)

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
    wants_unit_slope: ClassVar[bool] = True
    bounds_slope: ClassVar[bool] = True
    weight: float = _at_least_zero(10.0)

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for view in game.views:
            between = _between(view, game, "gradient_penalty")
            terms[view.name] = (_slope(view.discriminator, between, view.real_condition) - 1).square()
        return terms


@dataclass(frozen=True)
class ZeroCenteredGP(Penalty):
    """‖∇D(x̂)‖², x̂ uniform on segments between real and fake (Thanh-Tung et al. 2019, arXiv:1902.03984)."""

    assumes_independent_samples: ClassVar[bool] = True
    bounds_slope: ClassVar[bool] = True
    weight: float = _at_least_zero(10.0)

    def terms(self, game: Game) -> dict[str, Tensor]:
        return {
            view.name: squared_gradient_norm(
                view.discriminator, _between(view, game, "zero_centered_gp"), view.real_condition
            )
            for view in game.views
        }


@dataclass(frozen=True)
class Dragan(Penalty):
    """(‖∇D(x + δ)‖₂ − k)² around real images (Kodali et al. 2017, arXiv:1705.07215).

    Attributes:
        k: wanted slope.
        noise: "gaussian", δ ~ N(0, c·I), as the paper writes it, or "uniform", δ = ½·std·U with U uniform on [0, 1] and
            std that of all of the batch's values, as the authors' released code has it.
        c: variance of the gaussian noise.
    """

    assumes_independent_samples: ClassVar[bool] = True
    wants_unit_slope: ClassVar[bool] = True
    bounds_slope: ClassVar[bool] = True
    weight: float = _at_least_zero(10.0)
    k: float = _at_least_zero(1.0)
    noise: str = field(default="uniform", metadata={"choices": ("gaussian", "uniform")})
    c: float = _at_least_zero(0.01)

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for view in game.views:
            real = view.real.detach()
            draws = game.draws(f"dragan/{view.name}", len(real))
            if self.noise == "gaussian":
                offset = self.c**0.5 * draws.normal(*real.shape[1:]).to(real.dtype)
            else:
                spread = real.unflatten(0, (game.members, -1)).flatten(1).std(1)
                spread = spread.repeat_interleave(len(real) // game.members).view(-1, 1, 1, 1)
                offset = 0.5 * spread * draws.uniform(*real.shape[1:]).to(real.dtype)
            slope = _slope(view.discriminator, real + offset, view.real_condition)
            terms[view.name] = (slope - self.k).square()
        return terms


@dataclass(frozen=True)
class Consensus(Penalty):
    """½(‖∇_D L_D‖² + ‖∇_G L_G‖²), each loss by its own player's weights, added to both players' losses.

    Mescheder et al. 2017, arXiv:1705.10461, section 4: both players also seek a point where neither moves.
    """

    players: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    needs_both_losses: ClassVar[bool] = True
    weight: float = _at_least_zero(10.0)

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for player, loss in (("discriminator", game.discriminator_loss()), ("generator", game.generator_loss())):
            # of a network that grows some layers have no part
            gradients = torch.autograd.grad(loss, game.parameters(player), create_graph=True, allow_unused=True)
            squares = torch.stack([gradient.square().sum() for gradient in gradients if gradient is not None])
            terms[f"{player}_gradient"] = 0.5 * squares.sum() / game.members
        return terms


@dataclass(frozen=True)
class InstanceNoise(Penalty):
    """N(0, σ²) on all that discriminators see, σ falling linearly to 0 at `share` of the run.

    Sønderby et al. 2016, arXiv:1610.04490; Arjovsky & Bottou 2017, arXiv:1701.04862. Data and fakes that lie on thin
    sheets overlap once they are blurred, and D then has a slope everywhere.

    Attributes:
        std: σ at the start, in the units of the images ([−1, 1]).
        share: of the run, after which there is no noise.
    """

    std: float = _at_least_zero(0.1)
    share: float = field(default=1.0, metadata={"minimum": 0.0, "maximum": 1.0})

    def perturb(self, view: View, game: Game) -> View:
        std = self.std * (1 - game.progress / self.share) if self.share else 0.0
        if std <= 0:
            return view
        draws = game.draws(f"instance_noise/{view.name}", len(view.real))
        real, fake = (
            images + std * draws.stream(name).normal(*images.shape[1:]).to(images.dtype)
            for name, images in (("real", view.real), ("fake", view.fake))
        )
        return replace(view, real=real, fake=fake)


@dataclass(frozen=True)
class Drift(Penalty):
    """E r²: keeps a critic's output near zero (Karras et al. 2018, arXiv:1710.10196, appendix A.1)."""

    weight: float = _at_least_zero(0.001)

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for verdict in game.verdicts():
            assert verdict.real is not None, "a game's verdicts are of real images too"
            terms[verdict.name] = per_sample(verdict.real.square())
        return terms


@dataclass(frozen=True)
class LeCam(Penalty):
    """(r − ā_F)² + (f − ā_R)², ā running means of D on fakes and on real images (Tseng et al. 2021, arXiv:2104.03310).

    For few data: D must not call its training pictures much more real than it has called fakes.
    """

    keeps_means: ClassVar[bool] = True
    weight: float = _at_least_zero(0.3)
    decay: float = field(default=0.99, metadata={"minimum": 0.0, "maximum": 1.0})

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for verdict in game.verdicts():
            assert verdict.real is not None, "a game's verdicts are of real images too"
            real, fake = per_sample(verdict.real), per_sample(verdict.fake)
            of_real = game.running_mean(f"lecam/{verdict.name}/real", real, self.decay)
            of_fake = game.running_mean(f"lecam/{verdict.name}/fake", fake, self.decay)
            terms[verdict.name] = (real - of_fake).square() + (fake - of_real).square()
        return terms


@dataclass(frozen=True)
class Consistency(Penalty):
    """(D(x) − D(T(x)))², T a random mirroring and shift (Zhang et al. 2020, arXiv:1910.12027).

    A condition that is an image is moved with its picture.

    Attributes:
        shift: pixels that T moves a picture by at most, in each direction.
        on_fakes: the same for generated images: balanced consistency, bCR (Zhao et al. 2020, arXiv:2002.04724).
    """

    moves_pictures: ClassVar[bool] = True
    weight: float = _at_least_zero(10.0)
    shift: int = field(default=4, metadata={"minimum": 0})
    on_fakes: bool = False

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for view in game.views:
            sides = [("real", view.real, view.real_condition)]
            sides += [("fake", view.fake, view.fake_condition)] if self.on_fakes else []
            for side, images, condition in sides:
                draws = game.draws(f"consistency/{view.name}/{side}", len(images))
                moved = self._move(images.detach(), draws)
                moved_condition = (
                    self._move(condition, draws) if condition is not None and condition.ndim == 4 else None
                )
                before = view.discriminator(images.detach(), condition)
                after = view.discriminator(moved, condition if moved_condition is None else moved_condition)
                terms[f"{view.name}_{side}"] = (per_sample(before) - per_sample(after)).square()
        return terms

    def _move(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        shift = min(self.shift, height - 1, width - 1)
        padded = F.pad(images, (shift, shift, shift, shift), mode="reflect")
        return augment(padded, draws, resolution=(height, width), flip=True)


@dataclass(frozen=True)
class Orthogonal(Penalty):
    """‖(WWᵀ) ⊙ (1 − I)‖²_F of every layer of the generators, one filter a row of W.

    Brock et al. 2018 (BigGAN), arXiv:1809.11096, section 3.1.
    Filters are kept from growing alike, their lengths are left alone: what makes truncation work. Embeddings are left
    out, as the paper leaves out the shared one. The gradient is that of the term; a widespread program applies half.
    """

    players: ClassVar[tuple[str, ...]] = ("generator",)
    weight: float = _at_least_zero(1e-4)

    def terms(self, game: Game) -> dict[str, Tensor]:
        terms = {}
        for name, network in game.networks("generator").items():
            squares = []
            for filters in filter_matrices(network):
                products = filters @ filters.mT
                squares.append(products.square().sum() - products.diagonal(dim1=-2, dim2=-1).square().sum())
            terms[name] = torch.stack(squares).sum() / game.members
        return terms


@dataclass(frozen=True)
class PathLength(Penalty):
    """(‖Jᵀy‖₂ − a)², J the images' derivative by the latents, y ~ N(0, I)/√(H·W), a the running mean of the norms.

    Karras et al. 2020, arXiv:1912.04958, equation 4: a step in latent space changes the picture equally much
    everywhere. The latents are w, one for all layers, of a generator with styles, else z.
    """

    players: ClassVar[tuple[str, ...]] = ("generator",)
    needs_latents: ClassVar[bool] = True
    keeps_means: ClassVar[bool] = True
    weight: float = _at_least_zero(2.0)
    every: int = field(default=4, metadata={"minimum": 1})
    decay: float = field(default=0.99, metadata={"minimum": 0.0, "maximum": 1.0})

    def terms(self, game: Game) -> dict[str, Tensor]:
        latents, images = game.latents_and_images()
        noise = game.draws("path_length", len(images)).normal(*images.shape[1:]).to(images.dtype)
        direction = (images * noise).sum() / (images.shape[-2] * images.shape[-1]) ** 0.5
        (gradient,) = torch.autograd.grad(direction, latents, create_graph=True)
        lengths = gradient.square().flatten(1).sum(1).clamp_min(1e-12).sqrt()
        return {"generator": (lengths - game.running_mean("path_length", lengths, self.decay)).square()}


@dataclass(frozen=True)
class WeightClip(Penalty):
    """clamp(w, −c, c) after every discriminator step (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1)."""

    bounds_slope: ClassVar[bool] = True
    c: float = _at_least_zero(0.01)

    @torch.no_grad()
    def constrain(self, network: nn.Module) -> None:
        for parameter in network.parameters():
            parameter.clamp_(-self.c, self.c)


PENALTIES: dict[str, type[Penalty]] = {
    "r1": R1,
    "r2": R2,
    "gradient_penalty": GradientPenalty,
    "zero_centered_gp": ZeroCenteredGP,
    "dragan": Dragan,
    "consensus": Consensus,
    "instance_noise": InstanceNoise,
    "weight_clip": WeightClip,
    "drift": Drift,
    "lecam": LeCam,
    "consistency": Consistency,
    "orthogonal": Orthogonal,
    "path_length": PathLength,
}
