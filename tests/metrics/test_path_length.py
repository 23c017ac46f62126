from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from img2img.metrics.path_length import PathLength, lerp, path_length, slerp

MANY = 400_000


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().flatten(1).sum(dim=1)


def linear(matrix: Tensor) -> Any:
    """A generator z -> A z, as pictures of one row, in the precision of its matrix."""
    return lambda z, labels: (z.to(matrix.dtype) @ matrix.T)[:, None, None]


def matrix(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, columns, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def measured(generate: Any, latent_dim: int, **choices: Any) -> PathLength:
    return path_length(generate, squared, latent_dim, **{"discard": 0.0, "batch": 1 << 15, "count": MANY, **choices})


def near(found: PathLength, expected: float) -> bool:
    """Within 1 % and four standard errors; the standard error is less than a third of a percent."""
    error = found.std / math.sqrt(found.count - found.discarded)
    assert error < expected / 300
    return abs(found.mean - expected) < min(4 * error, 0.01 * expected)


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_uniform_latents_and_a_linear_generator(sampling: Any) -> None:
    """On a straight line the length is |A(z₂ − z₁)|² everywhere: 2 Var ‖A‖² on average, with Var = 1/3."""
    a = matrix(6, 12)
    found = measured(linear(a), 12, prior="uniform", sampling=sampling)
    assert near(found, 2 / 3 * a.square().sum().item())


def test_latents_that_were_mapped() -> None:
    """w = B z with z normal, and the straight line there: 2 ‖A B‖²."""
    a, b = matrix(6, 12), matrix(12, 8, seed=1)
    found = measured(linear(a), 8, mapping=lambda z: z.double() @ b.T)
    assert found.space == "w"
    assert near(found, 2 * (a @ b).square().sum().item())


@pytest.mark.parametrize(
    ("dim", "mean_length", "mean_squared_angle"),
    [(2, math.sqrt(math.pi / 2), math.pi**2 / 3), (3, math.sqrt(8 / math.pi), (math.pi**2 - 4) / 2)],
)
@pytest.mark.parametrize("sampling", ["full", "end"])
def test_normal_latents_and_the_identity(
    sampling: Any, dim: int, mean_length: float, mean_squared_angle: float
) -> None:
    """With lengths r₁, r₂ and the angle Ω between them, all independent, the arc r(t) = (1−t)r₁ + t r₂ has the speed
    |z′|² = (r₂ − r₁)² + r(t)² Ω². E r² = d, E(r₂ − r₁)² = 2(d − μ²), and E r(t)² is d at the start and (2d + μ²)/3 over
    all t; the angle of two directions is even in [0, π] for d = 2, and has density ½ sin Ω for d = 3."""
    mean_square = dim if sampling == "end" else (2 * dim + mean_length**2) / 3
    expected = 2 * (dim - mean_length**2) + mean_square * mean_squared_angle
    found = measured(linear(torch.eye(dim, dtype=torch.float64)), dim, sampling=sampling)
    assert near(found, expected)


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_float32_at_the_usual_step_is_right(prior: Any) -> None:
    """A generator that works in float32 gives what it gives in float64, though its steps are 1e-4 of its values."""
    a = matrix(768, 64, dtype=torch.float32)
    choices = {"prior": prior, "count": 256, "batch": 32}
    single, double = (measured(linear(weight), 64, **choices) for weight in (a, a.double()))
    assert single.mean == pytest.approx(double.mean, rel=1e-3)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-4, 1e-2])
def test_on_a_straight_line_the_step_does_not_matter(epsilon: float) -> None:
    a = matrix(6, 12)
    found = measured(linear(a), 12, prior="uniform", count=500, epsilon=epsilon)
    usual = measured(linear(a), 12, prior="uniform", count=500)
    # what is left is the rounding of the points to float32, 6e-8 against a step of epsilon
    assert found.mean == pytest.approx(usual.mean, rel=1e-3)
    assert found.epsilon == epsilon


def test_it_is_a_square() -> None:
    a = matrix(6, 12)
    once, twice = (measured(linear(scale * a), 12, count=500).mean for scale in (1, 2))
    assert twice == pytest.approx(4 * once, rel=1e-12)


def test_the_curved_way_is_measured_where_it_is() -> None:
    """G(z) = z² on uniform z in one dimension: (d/dt z²)² = 4 z(t)² (z₂ − z₁)², at t = 0 on average 4(1/9 + 1/5)."""
    found = measured(lambda z, labels: z.double().square()[:, None, None], 1, prior="uniform", sampling="end")
    assert near(found, 4 * (1 / 9 + 1 / 5))


# --- interpolation ---------------------------------------------------------------------------------------------------


def test_ends_and_halves() -> None:
    first, second = matrix(20, 5), matrix(20, 5, seed=1)
    for join in (lerp, slerp):
        torch.testing.assert_close(join(first, second, torch.zeros(20, 1)), first)
        torch.testing.assert_close(join(first, second, torch.ones(20, 1).double()), second)
    middle = slerp(first, second, torch.full((20, 1), 0.5).double())
    lengths = (first.norm(dim=1) + second.norm(dim=1)) / 2
    torch.testing.assert_close(middle.norm(dim=1), lengths)
    torch.testing.assert_close(
        (middle * first).sum(1) / first.norm(dim=1), (middle * second).sum(1) / second.norm(dim=1)
    )


def test_slerp_turns_evenly() -> None:
    quarter = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
    for t in (0.1, 0.5, 0.9):
        point = slerp(*quarter, torch.tensor([[t]]).double())
        angle = t * math.pi / 2
        assert point[0].tolist() == pytest.approx([3 * math.cos(angle), 3 * math.sin(angle)])


def test_slerp_where_there_is_no_circle() -> None:
    same = torch.tensor([[2.0, 1.0]]).double()
    torch.testing.assert_close(slerp(same, 3 * same, torch.tensor([[0.5]]).double()), 2 * same)
    line = slerp(*(torch.tensor([[x]]).double() for x in (2.0, -4.0)), torch.tensor([[0.5]]).double())
    assert line.item() == pytest.approx(0, abs=1e-15)


def test_slerp_of_directions_is_torch_fidelitys() -> None:
    utils = pytest.importorskip("torch_fidelity.utils")
    first, second = (torch.nn.functional.normalize(matrix(20, 5, seed=seed)) for seed in (0, 1))
    expected = utils.batch_interp(first, second, 0.3, "slerp_unit")
    torch.testing.assert_close(slerp(first, second, torch.full((20, 1), 0.3).double()), expected)


# --- choices ---------------------------------------------------------------------------------------------------------


def test_batches_do_not_matter_and_seeds_do() -> None:
    a = matrix(6, 12)
    usual = measured(linear(a), 12, count=100, batch=100)
    for batch in (1, 7, 1000):
        assert measured(linear(a), 12, count=100, batch=batch).mean == pytest.approx(usual.mean, rel=1e-12)
    assert measured(linear(a), 12, count=100, seed=1).mean != usual.mean


def test_outliers_are_left_out_at_both_ends() -> None:
    """As numpy's percentiles "lower" and "higher" say, which are the authors'."""
    numpy = pytest.importorskip("numpy")
    lengths = torch.rand(250, generator=torch.Generator().manual_seed(0)).double()
    lengths[:2] = torch.tensor([1e9, -5.0])
    given = iter(lengths.split(50))
    found = path_length(lambda z, labels: z, lambda a, b: next(given), 3, count=250, epsilon=1.0, batch=50)
    low, high = numpy.percentile(lengths, 1, method="lower"), numpy.percentile(lengths, 99, method="higher")
    kept = lengths[(lengths >= low) & (lengths <= high)]
    assert found.discarded == 250 - len(kept) == 4
    assert found.mean == pytest.approx(kept.mean().item())
    assert found.std == pytest.approx(kept.std(correction=0).item())


def test_both_ends_of_a_step_have_the_paths_class() -> None:
    seen = []

    def generate(z: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        seen.append(labels)
        return z * labels[:, None]

    labels = torch.arange(10) % 3
    path_length(generate, squared, 4, labels=labels, count=10, batch=5)
    assert [part.tolist() for part in seen] == [part.tolist() for part in labels.split(5) for _ in range(2)]


def test_what_is_said_of_it() -> None:
    found = path_length(linear(matrix(2, 3)), squared, 3, count=300)
    assert dataclasses.asdict(found) == {
        "mean": found.mean,
        "std": found.std,
        "count": 300,
        "discarded": 4,
        "epsilon": 1e-4,
        "sampling": "full",
        "space": "z",
    }


def test_a_generator_of_one_picture_has_no_path() -> None:
    """The blind spot: it is best."""
    found = measured(lambda z, labels: torch.zeros(len(z), 1, 2, 2), 5, count=50)
    assert (found.mean, found.std) == (0, 0)


def test_a_broken_generator_is_no_outlier() -> None:
    def generate(z: Tensor, labels: Tensor | None) -> Tensor:
        return torch.where(torch.arange(len(z))[:, None] == 3, math.nan, z)

    with pytest.raises(ValueError, match="the distance of 1 pairs of pictures is not finite"):
        path_length(generate, squared, 4, count=1000, batch=1000)


def test_float32_is_whole_meanwhile() -> None:
    """TF32, which is torch's default for convolutions on CUDA, has 10 bits: a step of 1e-4 would round away."""
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    during = []

    def generate(z: Tensor, labels: Tensor | None) -> Tensor:
        during.extend(backend.fp32_precision for backend in backends)
        return z

    path_length(generate, squared, 4, count=2)
    assert set(during) == {"ieee"}
    assert [backend.fp32_precision for backend in backends] == before
