"""Penalties against closed forms on discriminators whose gradients are known, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.penalties import PENALTIES, R1, R2, GradientPenalty, Penalty, View, WeightClip, squared_gradient_norm


class Quadratic(nn.Module):
    """D(x) = w·‖x‖²/2, so that ∇D(x) = w·x."""

    def __init__(self, weight: float = 1.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.weight * images.square().flatten(1).sum(1) / 2


class FakeGame:
    def __init__(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> None:
        self.views = [View("discriminator", discriminator, real, fake)]
        self.numbers = torch.arange(len(real))

    def draws(self, stream: str) -> Draws:
        return Draws(0, stream, self.numbers)

    def discriminator_loss(self) -> Tensor:
        return torch.zeros(())

    def generator_loss(self) -> Tensor:
        return torch.zeros(())

    def parameters(self, player: str) -> list[nn.Parameter]:
        return list(self.views[0].discriminator.parameters())


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


@pytest.mark.parametrize("penalty", [R1(), R2(), GradientPenalty()])
def test_the_penalty_reaches_the_weights_as_finite_differences_say(
    penalty: Penalty, images: tuple[Tensor, Tensor]
) -> None:
    def value(weight: float) -> Tensor:
        return penalty.terms(FakeGame(Quadratic(weight), *images))["discriminator"].mean()

    discriminator = Quadratic()
    penalty.terms(FakeGame(discriminator, *images))["discriminator"].mean().backward()
    difference = (value(1.5 + 1e-6) - value(1.5 - 1e-6)) / 2e-6
    assert discriminator.weight.grad is not None
    assert discriminator.weight.grad.item() != 0
    torch.testing.assert_close(discriminator.weight.grad, difference.detach(), rtol=1e-7, atol=1e-7)


def test_weight_clip_bounds_every_weight() -> None:
    network = nn.Linear(50, 50)
    before = network.weight.detach().clone()
    WeightClip(c=0.05).constrain(network)
    assert network.weight.abs().max() <= 0.05
    torch.testing.assert_close(network.weight.detach(), before.clamp(-0.05, 0.05))


def test_every_penalty_names_its_player() -> None:
    assert {penalty().player for penalty in PENALTIES.values()} <= {"discriminator", "generator"}
