"""Penalties against closed forms on discriminators whose gradients are known, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.layers import filter_matrices
from img2img.penalties import (
    PENALTIES,
    R1,
    R2,
    Consensus,
    Consistency,
    Dragan,
    Drift,
    GradientPenalty,
    InstanceNoise,
    LeCam,
    Orthogonal,
    PathLength,
    Penalty,
    Verdict,
    View,
    WeightClip,
    ZeroCenteredGP,
    squared_gradient_norm,
)


class Quadratic(nn.Module):
    """D(x) = w·‖x‖²/2, so that ∇D(x) = w·x."""

    def __init__(self, weight: float = 1.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.weight * images.square().flatten(1).sum(1) / 2


class Scale(nn.Module):
    """G(z) = w·z, of the shape of an image."""

    def __init__(self, weight: float = 0.7) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, latents: Tensor) -> Tensor:
        return self.weight * latents


class FakeGame:
    """One discriminator and the generator Scale, whose objectives are −E D(G(z)) and E D(G(z)) − E D(x)."""

    members = 1

    def __init__(
        self,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor,
        generator: nn.Module | None = None,
        progress: float = 0.0,
    ) -> None:
        self.views = [View("discriminator", discriminator, real, fake)]
        self.players = {"discriminator": discriminator, "generator": generator or Scale()}
        self.progress = progress
        self.means: dict[str, Tensor] = {}

    def draws(self, stream: str, count: int) -> Draws:
        return Draws(0, stream, torch.arange(count))

    def _judge(self, images: Tensor) -> Tensor:
        logits: Tensor = self.views[0].discriminator(images)
        return logits

    def verdicts(self) -> list[Verdict]:
        return [Verdict("discriminator", self._judge(self.views[0].real), self._judge(self.views[0].fake))]

    def discriminator_loss(self) -> Tensor:
        return (
            self._judge(self.players["generator"](self.views[0].fake)).mean() - self._judge(self.views[0].real).mean()
        )

    def generator_loss(self) -> Tensor:
        return -self._judge(self.players["generator"](self.views[0].fake)).mean()

    def networks(self, player: str) -> dict[str, nn.Module]:
        return {player: self.players[player]}

    def parameters(self, player: str) -> list[nn.Parameter]:
        return list(self.players[player].parameters())

    def latents_and_images(self) -> tuple[Tensor, Tensor]:
        latents = self.views[0].fake.clone().requires_grad_()
        return latents, self.players["generator"](latents)

    def running_mean(self, name: str, values: Tensor, decay: float) -> Tensor:
        new = values.detach().mean()
        self.means[name] = self.means.get(name, new).lerp(new, 1 - decay)
        return self.means[name].expand(len(values))


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    draws = Draws(0, "images", torch.arange(4))
    return draws.normal(2, 3, 3).double(), draws.stream("fake").normal(2, 3, 3).double()


def test_squared_gradient_norm_of_a_quadratic(images: tuple[Tensor, Tensor]) -> None:
    real, _ = images
    expected = 1.5**2 * real.square().flatten(1).sum(1)
    torch.testing.assert_close(squared_gradient_norm(Quadratic(), real, None), expected)


def test_patches_count_by_their_mean(images: tuple[Tensor, Tensor]) -> None:
    """Four equal patches are the same D as one of them."""

    class Patches(Quadratic):
        def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
            return super().forward(images)[:, None, None, None].expand(-1, 1, 2, 2)

    real, _ = images
    torch.testing.assert_close(
        squared_gradient_norm(Patches(), real, None), squared_gradient_norm(Quadratic(), real, None)
    )


def test_r1_has_the_half_inside(images: tuple[Tensor, Tensor]) -> None:
    terms = R1().terms(FakeGame(Quadratic(), *images))
    torch.testing.assert_close(terms["discriminator"], 0.5 * 1.5**2 * images[0].square().flatten(1).sum(1))


def test_r2_is_r1_on_generated_images(images: tuple[Tensor, Tensor]) -> None:
    terms = R2().terms(FakeGame(Quadratic(), *images))
    torch.testing.assert_close(terms["discriminator"], 0.5 * 1.5**2 * images[1].square().flatten(1).sum(1))


def test_gradient_penalty_is_zero_for_unit_slope(images: tuple[Tensor, Tensor]) -> None:
    class Unit(nn.Module):
        def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
            return images.flatten(1).sum(1) / images[0].numel() ** 0.5

    terms = GradientPenalty().terms(FakeGame(Unit(), *images))
    torch.testing.assert_close(terms["discriminator"], torch.zeros(4).double(), atol=1e-12, rtol=0)


def test_gradient_penalty_interpolates_between_real_and_fake() -> None:
    """With ∇D(x) = x, real at 2 and fake at 4, the norm is uniform on [2, 4], so E(‖∇‖ − 1)² = 13/3."""
    count = 20_000
    game = FakeGame(
        Quadratic(1.0), torch.full((count, 1, 1, 1), 2.0).double(), torch.full((count, 1, 1, 1), 4.0).double()
    )
    term = GradientPenalty().terms(game)["discriminator"]
    assert term.min() >= 1
    assert term.max() <= 9
    assert term.mean().item() == pytest.approx(13 / 3, abs=0.06)


def test_every_penalty_with_terms_is_checked_here() -> None:
    # orthogonal regularisation has a closed form of its own
    elsewhere = {"weight_clip", "instance_noise", "orthogonal"}
    assert {type(penalty) for penalty, _ in DIFFERENTIATED} == {
        kind for name, kind in PENALTIES.items() if name not in elsewhere
    }


DIFFERENTIATED: list[tuple[Penalty, str]] = [
    (R1(), "discriminator"),
    (R2(), "discriminator"),
    (GradientPenalty(), "discriminator"),
    (ZeroCenteredGP(), "discriminator"),
    (Dragan(), "discriminator"),
    (Dragan(noise="gaussian"), "discriminator"),
    (Consensus(), "discriminator"),
    (Consensus(), "generator"),
    (Drift(), "discriminator"),
    (LeCam(), "discriminator"),
    (Consistency(shift=1), "discriminator"),
    (Consistency(shift=1, on_fakes=True), "discriminator"),
    (PathLength(), "generator"),
]


class Sloped(Quadratic):
    """D(x) = w²·Σ place·x² / 2 + w·Σ x: neither even nor the same everywhere, so that moved pictures are judged anew."""

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        place = torch.linspace(0.5, 1.5, images[0].numel(), dtype=images.dtype)
        flat = images.flatten(1)
        return self.weight.square() * (place * flat.square()).sum(1) / 2 + self.weight * flat.sum(1)


@pytest.mark.parametrize(("penalty", "player"), DIFFERENTIATED, ids=str)
def test_the_penalty_reaches_the_weights_as_finite_differences_say(
    penalty: Penalty, player: str, images: tuple[Tensor, Tensor]
) -> None:
    """In float64, with what is held constant by definition (running means) held constant in the differences too."""
    means: dict[str, Tensor] = {}

    def make_game(shift: float) -> FakeGame:
        discriminator, generator = Sloped(), Scale()
        weight = {"discriminator": discriminator, "generator": generator}[player].weight
        weight.data += shift
        game = FakeGame(discriminator, *images, generator=generator)
        if means:
            game.running_mean = lambda name, values, decay: means[name].expand(len(values))  # type: ignore[method-assign]
        return game

    def value(game: FakeGame) -> Tensor:
        return torch.stack([term.mean() for term in penalty.terms(game).values()]).sum()

    game = make_game(0.0)
    if isinstance(penalty, LeCam | PathLength):
        # not where the mean of one batch would cancel the term
        means |= {name: torch.tensor(0.3).double() for name in ("lecam/discriminator/real", "lecam/discriminator/fake")}
        means |= {"path_length": torch.tensor(0.4).double()}
        game = make_game(0.0)
    value(game).backward()
    difference = (value(make_game(1e-6)) - value(make_game(-1e-6))) / 2e-6
    gradient = game.players[player].weight.grad
    assert gradient is not None
    assert abs(gradient.item()) > 1e-4
    torch.testing.assert_close(gradient, difference.detach(), rtol=1e-6, atol=1e-6)


def test_orthogonal_is_the_off_diagonal_of_the_gram_matrix_and_its_gradient_is_the_true_one() -> None:
    """Rows (1, 0) and (1, 2): WWᵀ has 1 beside the diagonal, twice. d/dW of 2·(w₁·w₂)² is 4(w₁·w₂)(w₂, w₁)."""
    layer = nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, 0.0], [1.0, 2.0]]).double()
    game = FakeGame(Quadratic(), torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), generator=layer)
    term = Orthogonal().terms(game)["generator"]
    term.backward()
    assert term.item() == 2.0
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[4.0, 8.0], [4.0, 0.0]]


def test_orthogonal_leaves_lengths_and_embeddings_alone() -> None:
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Embedding(5, 2))
    network[0].weight.data = 7 * torch.eye(3)
    game = FakeGame(Quadratic(), torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), generator=network)
    assert Orthogonal().terms(game)["generator"].item() == 0


def test_a_transposed_convolution_s_filters_make_its_output_channels() -> None:
    convolution = nn.ConvTranspose2d(2, 3, 4)
    (matrix,) = filter_matrices(convolution)
    assert matrix.shape == (3, 2 * 4 * 4)
    assert torch.equal(matrix[1], convolution.weight[:, 1].flatten())


def test_zero_centred_penalty_on_segments() -> None:
    """∇D(x) = x, real at 2 and fake at 4: x̂ uniform on [2, 4], E x̂² = 28/3."""
    count = 20_000
    ends = [torch.full((count, 1, 1, 1), end).double() for end in (2.0, 4.0)]
    term = ZeroCenteredGP().terms(FakeGame(Quadratic(1.0), *ends))["discriminator"]
    assert term.mean().item() == pytest.approx(28 / 3, abs=0.1)


@pytest.mark.parametrize(("noise", "expected"), [("gaussian", 0.04), ("uniform", 0.25 / 3 * 0.5)])
def test_dragan_s_noise_has_the_stated_size(noise: str, expected: float) -> None:
    """∇D(x) = x and k = 0: the penalty is ‖x + δ‖². Around x = 0 that is E‖δ‖², for uniform noise with std(x) = √½."""
    count = 40_000
    real = torch.zeros(count, 1, 1, 1).double()
    if noise == "uniform":
        # half of the values ±1, so that the batch's variance is ½; judged on the zeros alone
        real[::4], real[1::4] = 1.0, -1.0
    game = FakeGame(Quadratic(1.0), real, real)
    term = Dragan(k=0.0, noise=noise, c=0.04).terms(game)["discriminator"]
    term = term[(real == 0).flatten()]
    assert term.mean().item() == pytest.approx(expected, rel=0.03)


def test_consensus_is_half_the_squared_gradients() -> None:
    """D(x) = w x²/2 and G(z) = a z: L_D = (w/2)(a²z̄² − x̄²), L_G = −(w/2)a²z̄², bars for means of squares."""
    real, fake = torch.full((2, 1, 1, 1), 3.0).double(), torch.full((2, 1, 1, 1), 2.0).double()
    w, a = 1.5, 0.7
    terms = Consensus().terms(FakeGame(Quadratic(w), real, fake, generator=Scale(a)))
    assert terms["discriminator_gradient"].item() == pytest.approx(0.5 * (0.5 * (a**2 * 4 - 9)) ** 2)
    assert terms["generator_gradient"].item() == pytest.approx(0.5 * (-w * a * 4) ** 2)


def test_lecam_pulls_towards_the_other_side_s_mean() -> None:
    real, fake = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1), torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)

    class Identity(nn.Module):
        def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
            return images.flatten()

    terms = LeCam().terms(FakeGame(Identity(), real, fake))
    # means 3 and 1 in the first step
    assert terms["discriminator"].tolist() == [(2 - 1) ** 2 + (0 - 3) ** 2, (4 - 1) ** 2 + (2 - 3) ** 2]


def test_consistency_is_zero_for_a_discriminator_that_ignores_place() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
            return images.flatten(1).mean(1)

    flat = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 8, 8)
    terms = Consistency(on_fakes=True).terms(FakeGame(Mean(), flat, flat))
    assert set(terms) == {"discriminator_real", "discriminator_fake"}
    assert all(term.abs().max() < 1e-12 for term in terms.values())


def test_consistency_moves_a_condition_with_its_picture(images: tuple[Tensor, Tensor]) -> None:
    """D says how far the picture is from its condition: nothing, before and after the same move."""

    class Apart(nn.Module):
        def forward(self, images: Tensor, condition: Tensor) -> Tensor:
            return (images - condition).square().flatten(1).sum(1)

    real, _ = images
    game = FakeGame(Apart(), real, real)
    game.views = [View("discriminator", Apart(), real, real, real.clone(), real.clone())]
    assert Consistency(shift=2).terms(game)["discriminator_real"].abs().max() == 0


def test_path_length_of_a_linear_map_is_its_scale() -> None:
    """G(z) = a·z of C·H·W = 18 values: ‖Jᵀy‖ = a·‖y‖ with y ~ N(0, I)/√(H·W), so E‖Jᵀy‖² = a²·C."""
    count = 4000
    latents = torch.zeros(count, 2, 3, 3).double()
    game = FakeGame(Quadratic(), latents, latents, generator=Scale(0.7))
    PathLength(decay=0.0).terms(game)
    assert game.means["path_length"].item() ** 2 == pytest.approx(0.7**2 * 2, rel=0.05)


@pytest.mark.parametrize(("progress", "std"), [(0.0, 0.5), (0.25, 0.25), (0.5, 0.0), (0.9, 0.0)])
def test_instance_noise_falls_to_zero(progress: float, std: float) -> None:
    zeros = torch.zeros(2000, 1, 2, 2)
    game = FakeGame(Quadratic(), zeros, zeros, progress=progress)
    seen = InstanceNoise(std=0.5, share=0.5).perturb(game.views[0], game)
    for images in (seen.real, seen.fake):
        assert images.std().item() == pytest.approx(std, rel=0.05)
    if std:
        assert not torch.equal(seen.real, seen.fake)


def test_weight_clip_bounds_every_weight() -> None:
    network = nn.Linear(50, 50)
    before = network.weight.detach().clone()
    WeightClip(c=0.05).constrain(network)
    assert network.weight.abs().max() <= 0.05
    torch.testing.assert_close(network.weight.detach(), before.clamp(-0.05, 0.05))


def test_every_penalty_names_its_players() -> None:
    assert all(
        penalty.players and set(penalty.players) <= {"discriminator", "generator"} for penalty in PENALTIES.values()
    )
