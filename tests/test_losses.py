"""Every objective's value and direction at chosen logits, and its optimum, from closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from img2img.losses import ADVERSARIAL, LeastSquares, Objective, l1

LOG_2 = math.log(2.0)
# name, then D's and G's value at real = fake = 0, and at real = 2, fake = -1
CLOSED_FORMS = {
    "minimax": ((2 * LOG_2, -LOG_2), (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)), -math.log1p(math.exp(-1)))),
    "nonsaturating": ((2 * LOG_2, LOG_2), (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)), math.log1p(math.e))),
    "hinge": ((2.0, 0.0), (0.0, 1.0)),
    "lsgan": ((0.5, 0.5), (0.5 * 1 + 0.5 * 1, 0.5 * 4)),
    "wgan": ((0.0, 0.0), (-3.0, 1.0)),
    "relativistic": ((LOG_2, LOG_2), (math.log1p(math.exp(-3)), math.log1p(math.exp(3)))),
}


def test_every_objective_has_a_closed_form_here() -> None:
    assert set(CLOSED_FORMS) == set(ADVERSARIAL)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize(("case", "real", "fake"), [(0, 0.0, 0.0), (1, 2.0, -1.0)])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 2, 5)])
def test_values(name: str, case: int, real: float, fake: float, shape: tuple[int, ...]) -> None:
    objective = ADVERSARIAL[name]()
    discriminator, generator = CLOSED_FORMS[name][case]
    reals, fakes = torch.full(shape, real).double(), torch.full(shape, fake).double()
    torch.testing.assert_close(objective.discriminator(reals, fakes), torch.full((3,), discriminator).double())
    torch.testing.assert_close(objective.generator(fakes, reals), torch.full((3,), generator).double())


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_directions(name: str) -> None:
    """D pushes real logits up and fake logits down from an even start; G pushes fake logits up."""
    objective = ADVERSARIAL[name]()
    real, fake = (torch.full((4,), 0.5).double().requires_grad_() for _ in range(2))
    up, down = torch.autograd.grad(objective.discriminator(real, fake).sum(), (real, fake))
    (push,) = torch.autograd.grad(objective.generator(fake, real.detach()).sum(), fake)
    assert (up < 0).all()
    assert (down > 0).all()
    assert (push < 0).all()


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_gradients_match_finite_differences(name: str) -> None:
    objective = ADVERSARIAL[name]()
    # away from the hinge's kinks at ±1
    real, fake = torch.tensor([-1.7, 0.3, 2.2]).double(), torch.tensor([-2.1, 0.4, 1.3]).double()
    real.requires_grad_()
    fake.requires_grad_()
    assert torch.autograd.gradcheck(objective.discriminator, (real, fake))
    assert torch.autograd.gradcheck(lambda fake: objective.generator(fake, real.detach()), (fake,))


def test_minimax_saturates_where_nonsaturating_does_not() -> None:
    def slope(objective: Objective) -> Tensor:
        fake = torch.tensor([-12.0], dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(objective.generator(fake).sum(), fake)[0].abs()

    assert slope(ADVERSARIAL["minimax"]()) == pytest.approx(math.exp(-12), rel=1e-4)
    assert slope(ADVERSARIAL["nonsaturating"]()) == pytest.approx(1.0, rel=1e-4)


def test_the_optimal_discriminator_of_the_log_loss_is_the_density_ratio() -> None:
    """Minimising p·softplus(−d) + q·softplus(d) over d gives d = log(p/q), and log 4 where p = q."""
    p, q = 0.7, 0.3
    logit = torch.tensor(math.log(p / q), dtype=torch.float64, requires_grad=True)
    objective = ADVERSARIAL["nonsaturating"]()
    zero = torch.zeros(1, dtype=torch.float64)
    only_real = objective.discriminator(logit[None], zero) - LOG_2
    only_fake = objective.discriminator(zero, logit[None]) - LOG_2
    (slope,) = torch.autograd.grad((p * only_real + q * only_fake).sum(), logit)
    assert abs(slope) < 1e-12
    assert objective.discriminator(zero, zero).item() == pytest.approx(math.log(4))


def test_pearson_constants_minimise_the_chi_squared_divergence() -> None:
    """With b − c = 1, b − a = 2, G's loss against the optimal D is ½·χ²(p + q ‖ 2q) plus a constant (Mao, section 3.2)."""
    objective = LeastSquares(a=-1, b=1, c=0)
    p, q = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    optimal = (objective.b * p + objective.a * q) / (p + q)
    value = ((p + q) * 0.5 * (optimal - objective.c).square()).sum()
    pearson = ((2 * q - (p + q)).square() / (p + q)).sum()
    assert value.item() == pytest.approx(0.5 * pearson.item())


def test_l1_is_the_mean_of_each_sample() -> None:
    output, target = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.5, -0.5]])
    assert l1(output, target).tolist() == [2.0, 0.5]
