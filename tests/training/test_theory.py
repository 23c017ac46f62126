"""Games whose outcome theory gives in closed form, played by the engine through the recipe `points`."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from theory import (
    CLIP,
    CRITICAL,
    DIRAC,
    FAR,
    KINK_WEIGHT,
    RATE,
    Dirac,
    best_critic,
    coefficients,
    dirac_game,
    gaussian_game,
    generated,
    linear_radius,
    log_ratio,
    measured_critics,
    measured_update,
    place_generator,
    play,
    radius_of,
    shift_game,
    trajectory,
)

from img2img.metrics.divergences import cells, gaussian, js

BY_NAME = {case.name: case for case in DIRAC}
LINEAR = [case for case in DIRAC if case.radius is not None]


# --- Dirac-GAN --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.name)
def test_one_step_at_the_equilibrium_has_the_spectral_radius_of_theory(case: Dirac) -> None:
    """Central differences over ±1e-4 see errors of the order 1e-8; at a double eigenvalue the root of them.

    Instance noise has the damping (mean of e² over the batch's 2 · 4096 draws) / 2 and not 1/2: five standard errors.
    """
    measured = radius_of(measured_update(dirac_game(case.sets)))
    critical = abs(case.radius - (1 - RATE / 2)) < 1e-12
    noisy = any("instance_noise" in text for text in case.sets)
    noise = 5 * RATE / 4 * math.sqrt(2 / 8192)
    assert measured == pytest.approx(case.radius, abs=noise if noisy else 1e-4 if critical else 1e-7)


def test_unpenalised_eigenvalues_are_a_pair_on_the_unit_circle() -> None:
    """Trace 2 − a², determinant 1, a = h/2: the angle is 2·asin(a/2)."""
    eigenvalues = torch.linalg.eigvals(measured_update(dirac_game(BY_NAME["minimax"].sets)))
    torch.testing.assert_close(eigenvalues.abs(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-7)
    assert eigenvalues.angle().abs().tolist() == pytest.approx([2 * math.asin(RATE / 4)] * 2, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.8, 1.0, 1.25])
def test_below_the_critical_r1_the_eigenvalues_turn_and_above_they_are_real(gamma: float) -> None:
    """γ = (1 − h/4) · `gamma`; at the critical one the trace's square is four times the determinant."""
    weight = CRITICAL * gamma
    update = measured_update(dirac_game(("loss.penalties=r1", f"loss.penalties.r1.weight={weight}", *NONSATURATING)))
    discriminant = (update.trace() ** 2 - 4 * torch.linalg.det(update)).item()
    expected = (RATE * weight + RATE**2 / 4) ** 2 - RATE**2
    assert discriminant == pytest.approx(expected, abs=1e-8)
    assert (discriminant > 1e-8, discriminant < -1e-8) == (gamma > 1, gamma < 1)
    assert radius_of(update) >= 1 - RATE / 2 - 1e-4


NONSATURATING = ("loss.adversarial=nonsaturating",)


def test_wgan_stays_on_the_ellipse_that_alternating_steps_conserve() -> None:
    """ψ' = ψ − hθ, θ' = θ + hψ' keep ψ² + θ² − hψθ."""
    psi, theta = trajectory(dirac_game(BY_NAME["wgan"].sets), 300).T
    np.testing.assert_allclose(psi**2 + theta**2 - RATE * psi * theta, 2 - RATE, rtol=1e-12)


def test_minimax_neither_converges_nor_diverges() -> None:
    """ψ² + θ² is constant in continuous time; steps of h change it by a share of h within a turn, and not for good."""
    distance = np.hypot(*trajectory(dirac_game(BY_NAME["minimax"].sets), 300).T)
    assert np.abs(distance / FAR - 1).max() < RATE / 2
    turn = round(2 * math.pi / (RATE / 2))
    assert distance[-turn:].max() == pytest.approx(distance[:turn].max(), rel=RATE**2)


@pytest.mark.parametrize("name", ["nonsaturating", "lecam, λ = 0.3"])
def test_what_only_higher_orders_damp_comes_home_like_one_over_the_root_of_time(name: str) -> None:
    """Averaged over turns; the steps' ellipse and the turn in progress move it by shares of h."""
    case = BY_NAME[name]
    assert case.distance is not None
    distance = np.hypot(*trajectory(dirac_game(case.sets), 400).T)
    assert distance[-1] == pytest.approx(case.distance(400), rel=RATE)


@pytest.mark.parametrize(
    "name",
    [
        f"r1, γ = {CRITICAL:g} (critical)",
        "consensus, γ = 1",
        "unroll = 5",
    ],
)
def test_what_attracts_converges_at_its_rate(name: str) -> None:
    """Far along, 100 more steps shrink the distance by radius^100, but for where on its turn it stands.

    At the double eigenvalue it falls like n · radius^n.
    """
    case = BY_NAME[name]
    assert case.radius is not None
    distance = np.hypot(*trajectory(dirac_game(case.sets), 200).T)
    assert distance[-1] < 0.1 * FAR
    rate = (distance[-1] / distance[-101]) ** 0.01
    assert rate == pytest.approx(case.radius, abs=0.25 * (1 - case.radius))


def test_instance_noise_converges() -> None:
    """Damped as by r1 with γ = 1/2, down to what the noise of a batch of 256 stirs up: h/2 · √(2/256) at each step.

    A linear system with damping h/4 in each step holds noise of std e at e / √(2 · h/4) on both coordinates.
    """
    case = BY_NAME["instance_noise, σ = 1"]
    distance = np.hypot(*trajectory(dirac_game((*case.sets, "train.batch=256")), 300).T)
    floor = RATE / 2 * math.sqrt(2 / 256) / math.sqrt(RATE / 2) * math.sqrt(2)
    assert distance[-50:].max() < 4 * floor < 0.2 * FAR


def test_weight_clipping_ends_on_the_largest_ellipse_within_the_clip() -> None:
    case = BY_NAME["wgan, weight_clip c = 0.5"]
    psi, theta = trajectory(dirac_game(case.sets), 250)[-100:].T
    assert np.abs(psi).max() <= CLIP
    # it leaves the clip within one step's way h·c of θ = 0, so ψ² + θ² − hψθ is c² but for h·c² · (1 + h)
    np.testing.assert_allclose(psi**2 + theta**2 - RATE * psi * theta, CLIP**2, atol=RATE * (1 + RATE) * CLIP**2)


@pytest.mark.parametrize("name", ["wgan, gradient_penalty λ = 1", "dragan, λ = 1"])
def test_a_slope_of_one_does_not_let_the_game_come_to_rest(name: str) -> None:
    """The penalty pushes ψ away from 0 by 2hλ(1 − |ψ|) in each step.

    From |ψ|, |θ| ≤ ε a step leads to |ψ'| ≥ 2hλ(1 − ε) − ε − hε, so no two steps in a row stay within
    ε = 2hλ / (2 + h + 2hλ).
    """
    distance = np.abs(trajectory(dirac_game(BY_NAME[name].sets), 250)).max(1)
    push = 2 * RATE * KINK_WEIGHT
    within = distance < push / (2 + RATE + push)
    assert not (within[1:] & within[:-1]).any()
    assert distance[-100:].mean() > 1


def test_the_linear_update_is_the_one_in_the_docstring() -> None:
    """A check on the theory itself: R1 in closed form, √(1 − hγ) below the critical weight."""
    assert linear_radius(0.5) == pytest.approx(1.0, abs=1e-12)
    assert linear_radius(0.5, 0.4) == pytest.approx(math.sqrt(1 - RATE * 0.4), abs=1e-12)
    assert linear_radius(0.5, 0.3, 0.3) == pytest.approx(1 - RATE * 0.3, abs=1e-12)


# --- a Gaussian on the line -------------------------------------------------------------------------------------------

MEMBERS = 8


def _precision_of_logistic_regression(mean: float, std: float) -> Tensor:
    """Covariance · pairs of the coefficients of (x², x, 1) fitted to pairs from N(1, ½²) and N(mean, std²), (3, 3).

    H⁻¹ C H⁻¹ with the loss's second derivative H = ∫ pq/(p+q) φφᵀ and C the covariance of a pair's gradient.
    """
    x, width = cells(-8, 8, 8000)
    p, q = gaussian(0.5, 1.0)(x).exp(), gaussian(std, mean)(x).exp()
    d = p / (p + q)
    phi = torch.stack((x * x, x, torch.ones_like(x)), dim=1)

    def integral(weights: Tensor) -> Tensor:
        return (phi * weights[:, None]).T @ phi * width

    pull = (phi * (p * (1 - d))[:, None]).sum(0) * width
    hessian = integral(p * (1 - d))
    gradients = integral(p * (1 - d) ** 2 + q * d**2) - 2 * torch.outer(pull, pull)
    return torch.linalg.inv(hessian) @ gradients @ torch.linalg.inv(hessian)


def test_the_best_discriminator_is_p_over_p_plus_q() -> None:
    """G held at N(0, 1): D's logit is log p/q, and its loss log 4 − 2 JS.

    The allowed error is five standard errors of a logistic regression on the last tenth of what D has seen.
    """
    steps, batch = 400, 1024
    held = ("optim.lr=1e-12", "optim.discriminator_lr=0.1", "optim.betas=[0.9,0.99]", "optim.decay_share=1")
    game = gaussian_game((*held, f"train.batch={batch}"), MEMBERS, steps)
    place_generator(game, 0.0, 1.0)
    for engine in play(game, steps):
        if engine.step == steps - 50:
            engine.terms.take(engine.world)
    found, wanted = coefficients(engine), log_ratio(1.0, 0.5, 0.0, 1.0)
    assert wanted.tolist() == pytest.approx([-1.5, 4.0, math.log(2) - 2])
    error = _precision_of_logistic_regression(0.0, 1.0) / (steps * batch / 10)
    assert ((found - wanted).abs() < 5 * error.diagonal().sqrt()).all()
    x = torch.linspace(-2, 3, 101, dtype=torch.float64)
    phi = torch.stack((x * x, x, torch.ones_like(x)), dim=1)
    p, q = gaussian(0.5, 1.0)(x).exp(), gaussian(1.0)(x).exp()
    best = p / (p + q)
    allowed = 5 * best * (1 - best) * ((phi @ error) * phi).sum(1).sqrt()
    says = game.engine.translator.discriminator(x.repeat(MEMBERS).view(-1, 1, 1, 1)).detach().view(MEMBERS, -1)
    assert ((says.sigmoid() - best).abs() < allowed + 1e-3).all()
    line, width = cells(-8, 8, 8000)
    expected = math.log(4) - 2 * js(gaussian(0.5, 1.0)(line), gaussian(1.0)(line), width)
    # of 50 steps of 8 · 1024 pairs, whose losses spread by less than 1
    assert engine.terms.take(engine.world)["discriminator"] == pytest.approx(expected, abs=5 / math.sqrt(50 * 8192))


def test_both_players_reach_the_data_and_log_4() -> None:
    """From N(−1, 1) to the data's N(1, ½²).

    The averaged generator remembers about 5,000 images, from which nobody learns the mean to better than
    ½/√5000 = 0.007; allowed are five times that. D's loss differs from log 4 by the squares of such errors.
    """
    steps = 800
    rates = ("optim.lr=0.01", "optim.discriminator_lr=0.3", "optim.betas=[0.5,0.9]", "optim.decay_share=1")
    game = gaussian_game((*rates, "train.ema_kimg=5"), MEMBERS, steps)
    place_generator(game, -1.0, 1.0)
    for engine in play(game, steps):
        if engine.step == steps - 100:
            engine.terms.take(engine.world)
    truth = torch.tensor([1.0, 0.5], dtype=torch.float64)
    assert ((generated(engine) - truth).abs() < 5 * 0.5 / math.sqrt(5000)).all()
    assert engine.terms.take(engine.world)["discriminator"] == pytest.approx(math.log(4), abs=0.005)


# --- shifted distributions --------------------------------------------------------------------------------------------


def test_the_critic_estimates_the_shift() -> None:
    """WGAN-GP on N(s, ¼²) against N(0, ¼²), where W1 = s: within 10 %, and within 2 % of what its penalty allows.

    A critic that begins with the wrong sign ends there too, or at the best of the falling ones,
    g = −1 + (Q − P) / (2λm), whose estimate is 2·W1 lower.
    """
    shifts, weight, steps = (0.5, 1.0), 10.0, 350
    game = shift_game((*shifts, *shifts), weight, steps, width=16, falling=(False, False, True, True))
    for _ in play(game, steps):
        pass
    found = measured_critics(game, (*shifts, *shifts))
    for shift, critic, begun_wrong in zip(shifts, found[:2], found[2:], strict=True):
        expected = best_critic(shift, weight)
        assert critic.estimate == pytest.approx(shift, rel=0.1)
        assert critic.normalised == pytest.approx(shift, rel=0.02)
        assert critic.estimate == pytest.approx(expected.estimate, rel=0.02)
        assert critic.gradient == pytest.approx(expected.gradient, rel=0.02)
        turned = 2 * shift if begun_wrong.estimate < 0 else 0.0
        assert begun_wrong.estimate == pytest.approx(expected.estimate - turned, rel=0.02)
