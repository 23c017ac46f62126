"""Networks of a few parameters against their formulas, and a game whose course is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from img2img.networks.toy import ConstantGenerator, LinearDiscriminator, QuadraticDiscriminator

DISCRIMINATORS = {"linear": LinearDiscriminator, "quadratic": QuadraticDiscriminator}
every_discriminator = pytest.mark.parametrize("kind", DISCRIMINATORS)


def images(count: int, channels: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(count, channels, 1, 1, dtype=torch.float64)


def test_the_constant_generator_makes_its_point_of_every_z() -> None:
    generator = ConstantGenerator(resolution=(1, 1), out_channels=2, members=3, start=0.25)
    with torch.no_grad():
        generator.point[1] = torch.tensor([4.0, -1.0])
    made = generator(torch.randn(6, generator.latent_dim))
    assert made.shape == (6, 2, 1, 1)
    assert made.flatten(1).tolist() == [[0.25, 0.25]] * 2 + [[4.0, -1.0]] * 2 + [[0.25, 0.25]] * 2


def test_the_constant_generator_moves_by_the_sum_of_its_rows() -> None:
    generator = ConstantGenerator(resolution=(1, 1), members=2)
    weights = torch.tensor([1.0, 2.0, 10.0, 20.0])
    (generator(torch.zeros(4, 1)).flatten() * weights).sum().backward()
    assert generator.point.grad is not None
    assert generator.point.grad.tolist() == [[3.0], [30.0]]


def test_linear_is_an_inner_product() -> None:
    discriminator = LinearDiscriminator(resolution=(1, 1), in_channels=2, members=2, start=0.5).double()
    with torch.no_grad():
        discriminator.slope[1] = torch.tensor([3.0, -2.0])
    x = images(4)
    expected = torch.cat((0.5 * x[:2].sum(dim=(1, 2, 3)), 3 * x[2:, 0, 0, 0] - 2 * x[2:, 1, 0, 0]))
    logits, features = discriminator(x, with_features=True)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(features, x.flatten(1))


def test_quadratic_holds_the_log_ratio_of_two_gaussians() -> None:
    """log N(x; m, s²) - log N(x; n, t²) = (1/t² - 1/s²)/2 · x² + (m/s² - n/t²) x + offset."""
    discriminator = QuadraticDiscriminator(resolution=(1, 1), in_channels=2).double()
    mean_p, std_p, mean_q, std_q = torch.tensor([[0.5, -1.0], [0.3, 2.0], [-0.2, 0.4], [1.5, 0.7]], dtype=torch.float64)
    with torch.no_grad():
        discriminator.curvature[0] = (std_q**-2 - std_p**-2) / 2
        discriminator.slope[0] = mean_p / std_p**2 - mean_q / std_q**2
        offset = (mean_q / std_q) ** 2 / 2 - (mean_p / std_p) ** 2 / 2 + (std_q / std_p).log()
        discriminator.offset[0] = offset.sum()
    x = images(5)
    p, q = (torch.distributions.Normal(*pair) for pair in ((mean_p, std_p), (mean_q, std_q)))
    expected = (p.log_prob(x.flatten(1)) - q.log_prob(x.flatten(1))).sum(dim=1)
    torch.testing.assert_close(discriminator(x), expected)


def test_quadratic_begins_undecided_and_shows_its_features() -> None:
    discriminator = QuadraticDiscriminator(resolution=(1, 1), in_channels=2, members=2).double()
    x = images(4)
    logits, features = discriminator(x, with_features=True)
    assert logits.eq(0).all()
    torch.testing.assert_close(features, torch.cat((x.flatten(1).square(), x.flatten(1)), dim=1))


@every_discriminator
def test_members_answer_and_learn_as_alone(kind: str, members_are_separate: Callable[..., None]) -> None:
    members_are_separate(
        lambda members: DISCRIMINATORS[kind](resolution=(1, 1), in_channels=2, members=members), [images(12)]
    )


@every_discriminator
def test_no_member_sees_another_s_rows(kind: str, no_member_sees_another: Callable[..., None]) -> None:
    discriminator = DISCRIMINATORS[kind](resolution=(1, 1), in_channels=2, members=3)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.fill_(0.5)
    no_member_sees_another(discriminator, [images(12)])


def test_pictures_are_points_of_many_coordinates() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5)
    made = ConstantGenerator(resolution=(4, 5), out_channels=3)(torch.zeros(2, 1))
    assert made.shape == x.shape
    torch.testing.assert_close(LinearDiscriminator(resolution=(4, 5), in_channels=3)(x), x.sum(dim=(1, 2, 3)))


def test_the_dirac_gan_s_players_turn_about_the_equilibrium() -> None:
    """With value f(θψ), f(t) = -log(1 + exp(-t)): θ' = -ψ f'(θψ) and ψ' = θ f'(θψ), at right angles to (θ, ψ).

    Mescheder et al. 2018, arXiv:1801.04406, section 2.
    """
    theta, psi = 0.6, -0.8
    generator = ConstantGenerator(resolution=(1, 1), start=theta).double()
    discriminator = LinearDiscriminator(resolution=(1, 1), start=psi).double()
    value = -F.softplus(-discriminator(generator(torch.zeros(1, 1)))).sum()
    of_theta, of_psi = (
        gradient.item() for gradient in torch.autograd.grad(value, (generator.point, discriminator.slope))
    )
    slope = 1 / (1 + math.exp(theta * psi))
    assert of_theta == pytest.approx(psi * slope, rel=1e-6)
    assert of_psi == pytest.approx(theta * slope, rel=1e-6)
    assert theta * -of_theta + psi * of_psi == pytest.approx(0, abs=1e-7)
