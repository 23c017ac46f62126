from __future__ import annotations

import itertools
import math

import pytest
import torch

from img2img.metrics.divergences import cells, compare_shifts, gaussian, js, kl, uniform, w1, w1_of_samples

STD = 0.25


def test_gaussians_of_equal_variance() -> None:
    """KL = s²/2σ², with slope s/σ²; W₁ = s with slope 1; a shift of 16σ included, where densities underflow."""
    for row in compare_shifts(gaussian(STD), [0.1, 0.5, 1.0, 4.0], low=-6, high=8):
        assert row.kl == pytest.approx(row.shift**2 / (2 * STD**2), rel=1e-10)
        assert row.kl_slope == pytest.approx(row.shift / STD**2, rel=1e-9)
        assert row.w1 == pytest.approx(row.shift, rel=1e-9)
        assert row.w1_slope == pytest.approx(1, rel=1e-9)


def test_gaussians_of_any_variance() -> None:
    """KL(N(a, s²) ‖ N(b, t²)) = log(t/s) + (s² + (a − b)²)/2t² − ½; W₁ of one centre is |s − t|·E|z|."""
    x, width = cells(-12, 12, 4000)
    p, q = gaussian(0.5, 0.3)(x), gaussian(0.8, -0.4)(x)
    assert kl(p, q, width) == pytest.approx(math.log(1.6) + (0.25 + 0.49) / 1.28 - 0.5, rel=1e-10)
    distance = w1(gaussian(0.5)(x), gaussian(0.8)(x), width)
    assert distance == pytest.approx(0.3 * math.sqrt(2 / math.pi), rel=1e-4)


def test_uniforms() -> None:
    """U(0, 1) beside U(s, 1 + s): KL is infinite at once, JS = s log 2 until they part and then has no slope."""
    rows = compare_shifts(uniform(0, 1), [0.25, 0.5, 2.0, 4.0], low=-1, high=6, count=7000)
    for row in rows:
        assert row.kl == math.inf
        assert math.isnan(row.kl_slope)
        assert row.js == pytest.approx(min(1, row.shift) * math.log(2), rel=1e-10)
        assert row.js_slope == pytest.approx(math.log(2) if row.shift < 1 else 0, abs=1e-10)
        assert row.w1 == pytest.approx(row.shift, rel=1e-10)
        assert row.w1_slope == pytest.approx(1, rel=1e-9)


def test_only_wasserstein_still_pulls_where_gaussians_have_parted() -> None:
    near, far = compare_shifts(gaussian(STD), [0.5, 4.0], low=-6, high=8)
    assert near.js_slope > 0.5
    assert far.js == pytest.approx(math.log(2), abs=1e-12)
    assert abs(far.js_slope) < 1e-9
    assert far.w1_slope == pytest.approx(1)


def test_slopes_are_derivatives() -> None:
    """dJS/ds = ½ ∫ ∂q/∂s log(q/m), by itself, and the sign turns with the shift."""
    shift = 0.3
    (row,) = compare_shifts(gaussian(STD), [shift], low=-4, high=4)
    x, width = cells(-4, 4, 20_000)
    log_p, log_q = gaussian(STD)(x), gaussian(STD, shift)(x)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    change = log_q.exp() * (x - shift) / STD**2
    assert row.js_slope == pytest.approx(0.5 * (change * (log_q - log_m)).sum().item() * width, rel=1e-6)
    (mirrored,) = compare_shifts(gaussian(STD), [-shift], low=-4, high=4)
    assert mirrored.js == pytest.approx(row.js)
    assert (mirrored.kl_slope, mirrored.js_slope, mirrored.w1_slope) == pytest.approx(
        (-row.kl_slope, -row.js_slope, -row.w1_slope)
    )


def test_no_shift_is_no_distance_and_no_slope() -> None:
    (row,) = compare_shifts(gaussian(STD), [0.0], low=-4, high=4)
    assert (row.kl, row.js, row.w1) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (row.kl_slope, row.js_slope, row.w1_slope) == pytest.approx((0, 0, 0), abs=1e-9)


def test_kl_is_not_symmetric_about_missing_mass() -> None:
    x, width = cells(-1, 3, 400)
    inner, outer = uniform(0, 1)(x), uniform(0, 2)(x)
    assert kl(inner, outer, width) == pytest.approx(math.log(2))
    assert kl(outer, inner, width) == math.inf
    assert js(inner, outer, width) == pytest.approx(js(outer, inner, width))


def test_distance_of_samples_is_that_of_the_best_matching() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    best = min((x - y[list(order)]).abs().mean().item() for order in itertools.permutations(range(6)))
    assert w1_of_samples(x, y) == pytest.approx(best, rel=1e-12)
    # three copies of each point are the same distribution
    assert w1_of_samples(x.repeat(3), y) == pytest.approx(best, rel=1e-12)
    assert w1_of_samples(x, x) == 0


def test_distance_of_samples_of_unequal_number() -> None:
    """{0} to {0, 1, 5}: every third travels by itself, (0 + 1 + 5)/3."""
    assert w1_of_samples(torch.zeros(1), torch.tensor([5.0, 0.0, 1.0])) == pytest.approx(2)


def test_samples_approach_the_distance_of_their_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20_000, generator=generator, dtype=torch.float64)
    assert w1_of_samples(x, 0.5 * y + 1.5) == pytest.approx(_w1_of_gaussians(), abs=0.03)


def _w1_of_gaussians() -> float:
    x, width = cells(-10, 10, 4000)
    return w1(gaussian(1.0)(x), gaussian(0.5, 1.5)(x), width)
