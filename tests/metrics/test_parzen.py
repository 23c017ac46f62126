from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from img2img.metrics.parzen import CANDIDATES, choose_bandwidth, parzen_log_likelihood, score


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_sample_is_one_gaussian() -> None:
    """log N(x; s, σ²I) = −‖x − s‖²/2σ² − d log(σ√2π), by hand for (3, 4) at distance 5."""
    values = parzen_log_likelihood(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 0.5)
    constant = -2 * math.log(0.5 * math.sqrt(2 * math.pi))
    assert values.dtype == torch.float64
    assert values.tolist() == pytest.approx([constant - 50, constant])


def test_two_samples_average_their_densities_not_their_logarithms() -> None:
    values = parzen_log_likelihood(torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0]]), 1.0)
    density = (1 + math.exp(-2)) / 2 / math.sqrt(2 * math.pi)
    assert values.item() == pytest.approx(math.log(density), rel=1e-14)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 4.0])
def test_brute_force(sigma: float) -> None:
    """Also where every density is zero in float64: at σ = 0.05 the exponents are about −8000."""
    samples, test = normal(40, 30), 1 + normal(17, 30, seed=1)
    differences = (test[:, None] - samples).square().sum(dim=2)
    expected = (
        (-differences / (2 * sigma**2)).logsumexp(1) - math.log(40) - 30 * math.log(sigma * math.sqrt(2 * math.pi))
    )
    torch.testing.assert_close(parzen_log_likelihood(samples, test, sigma), expected, rtol=1e-12, atol=0)


def test_neither_the_chunk_nor_the_order_matters() -> None:
    samples, test = normal(50, 8), normal(23, 8, seed=1)
    whole = parzen_log_likelihood(samples, test, 0.4)
    for chunk in (1, 7, 23, 100):
        torch.testing.assert_close(parzen_log_likelihood(samples, test, 0.4, chunk), whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(parzen_log_likelihood(samples.flip(0), test.flip(0), 0.4), whole.flip(0))


def test_it_is_a_density() -> None:
    """Its integral over the line is one."""
    x = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    density = parzen_log_likelihood(normal(20, 1), x[:, None], 0.5).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-9)


def test_far_from_zero_nothing_is_lost() -> None:
    samples, test = normal(30, 5), normal(9, 5, seed=1)
    moved = parzen_log_likelihood(samples + 1e4, test + 1e4, 0.3)
    torch.testing.assert_close(moved, parzen_log_likelihood(samples, test, 0.3), rtol=1e-6, atol=1e-6)


def test_the_bandwidth_of_a_known_gaussian_is_found() -> None:
    """With the one sample at the mean of N(0, 0.4² I), the likeliest σ of 500 × 20 values is 0.4 to one percent."""
    validation = 0.4 * normal(500, 20)
    candidates = (0.2, 0.3, 0.38, 0.4, 0.42, 0.6)
    assert choose_bandwidth(torch.zeros(1, 20), validation, candidates) == 0.4


def test_the_bandwidth_is_the_best_of_all() -> None:
    samples, validation = normal(60, 3), normal(40, 3, seed=1)
    means = {sigma: parzen_log_likelihood(samples, validation, sigma).mean() for sigma in CANDIDATES}
    assert choose_bandwidth(samples, validation) == max(CANDIDATES, key=lambda sigma: means[sigma])


def test_candidates_are_even_in_their_logarithm() -> None:
    assert CANDIDATES[0] == pytest.approx(0.1)
    assert CANDIDATES[-1] == 1
    ratios = [second / first for first, second in pairwise(CANDIDATES)]
    assert ratios == pytest.approx([10 ** (1 / 9)] * 9)


def test_the_score_is_mean_and_standard_error_of_the_test_pictures() -> None:
    samples, validation, test = (normal(50, 4, seed=seed) for seed in range(3))
    found = score(samples, validation, test)
    values = parzen_log_likelihood(samples, test, found.bandwidth)
    assert found.bandwidth == choose_bandwidth(samples, validation)
    assert found.mean == pytest.approx(values.mean().item())
    assert found.standard_error == pytest.approx(values.numpy().std() / 50**0.5)
