from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from img2img.metrics.paired import ms_ssim, psnr, ssim

MEASURES = (psnr, ssim, ms_ssim)
_C1, _C2 = 0.02**2, 0.06**2


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def pictures(count: int = 2, channels: int = 3, height: int = 164, width: int = 171, seed: int = 0) -> Tensor:
    """Smooth pictures of every brightness, float64 in [−1, 1]."""
    coarse = noise(count, channels, 9, 9, seed=seed)
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)


def noisy(images: Tensor, amount: float, seed: int = 1) -> Tensor:
    return (images + amount * noise(*images.shape, seed=seed)).clamp(-1, 1)


# --- against others --------------------------------------------------------------------------------------------------


def test_psnr_and_ssim_are_scikit_images_of_the_bytes() -> None:
    """Published values are of bytes, data range 255; the same pictures in [−1, 1] give the same values."""
    metrics = pytest.importorskip("skimage.metrics")
    data = pytest.importorskip("skimage.data")
    picture = data.astronaut()[:200, :180]
    blurred = functional.avg_pool2d(torch.from_numpy(picture).permute(2, 0, 1)[None].double(), 3, 1, 1)
    other = blurred[0].permute(1, 2, 0).round().byte().numpy()
    a, b = (torch.from_numpy(image).permute(2, 0, 1)[None].double() / 127.5 - 1 for image in (picture, other))
    expected = metrics.structural_similarity(
        picture,
        other,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-12)
    assert psnr(a, b).item() == pytest.approx(metrics.peak_signal_noise_ratio(picture, other), rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 3, 40, 52), (1, 1, 11, 11), (2, 4, 300, 40)])
def test_ssim_is_kornias_and_more_exact_in_float32(shape: tuple[int, int, int, int]) -> None:
    metrics = pytest.importorskip("kornia.metrics")
    a = pictures(*shape)
    b = noisy(a, 0.1)
    expected = metrics.ssim(a + 1, b + 1, 11, 2.0, eps=0.0, padding="valid").mean(dim=(1, 2, 3))
    torch.testing.assert_close(ssim(a, b), expected, rtol=0, atol=1e-12)
    in_float32 = ssim(a.float(), b.float())
    assert in_float32.dtype == torch.float32
    assert (in_float32 - expected).abs().max() < 5e-7


def test_psnr_is_kornias_one_picture_at_a_time() -> None:
    metrics = pytest.importorskip("kornia.metrics")
    a = pictures(3, 3, 20, 30)
    b = noisy(a, 0.1)
    expected = torch.stack([metrics.psnr(one, other, 2.0) for one, other in zip(a, b)])
    torch.testing.assert_close(psnr(a, b), expected, rtol=1e-12, atol=0)


def _window_by_window(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast times structure, of planes in [0, 2], as the definition says: one window after another."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()

    def mean(planes: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(planes, (11, 11))
        return np.einsum("ijkl,kl->ij", windows, weights)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return luminance, (2 * covariance + _C2) / (var_a + var_b + _C2)


def _halved(plane: np.ndarray) -> np.ndarray:
    """The mean of what is there of each 2 × 2 pixels."""
    height, width = plane.shape
    return np.array([[plane[i : i + 2, j : j + 2].mean() for j in range(0, width, 2)] for i in range(0, height, 2)])


@pytest.mark.parametrize("size", [(176, 192), (161, 163)])
def test_ms_ssim_by_brute_force(size: tuple[int, int]) -> None:
    """In numpy, from the definition, of one channel at a time; the second size is odd at every scale."""
    a = pictures(1, 2, *size)
    b = noisy(a, 0.3)
    products = []
    for one, other in zip(a[0].numpy() + 1, b[0].numpy() + 1):
        product = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            luminance, structure = _window_by_window(one, other)
            product *= ((luminance if scale == 4 else 1) * structure).mean() ** weight
            one, other = _halved(one), _halved(other)
        products.append(product)
    assert ms_ssim(a, b).item() == pytest.approx(np.mean(products), abs=1e-12)


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_equal_pictures() -> None:
    for images in (pictures(), pictures().float(), torch.zeros(2, 3, 161, 161), torch.ones(2, 3, 161, 161)):
        assert psnr(images, images).tolist() == [math.inf, math.inf]
        assert ssim(images, images).tolist() == [1, 1]
        torch.testing.assert_close(ms_ssim(images, images), images.new_ones(2), rtol=0, atol=0)


def test_psnr_of_a_constant_difference() -> None:
    """10 log10(4 / δ²): 20 dB at δ = 0.2, and black against white is 0 dB."""
    a = pictures(1).clamp(-0.5, 0.5)
    assert psnr(a, a + 0.2).item() == pytest.approx(20)
    assert psnr(torch.full_like(a, -1), torch.ones_like(a)).item() == pytest.approx(0)


def test_psnr_is_of_each_picture_not_of_the_batch() -> None:
    a = pictures(2)
    b = a.clone()
    b[1] = noisy(a[1:], 0.1)[0]
    values = psnr(a, b)
    assert values[0] == math.inf
    assert values[1].item() == psnr(a[1:], b[1:]).item()


@pytest.mark.parametrize(("a", "b"), [(-1.0, 1.0), (0.0, 0.5), (-0.9, -0.8), (0.9, 0.8)])
def test_ssim_of_flat_pictures_is_their_luminance(a: float, b: float) -> None:
    """Without variance (2AB + C1) / (A² + B² + C1) is left, of the brightness above black A = a + 1, B = b + 1."""
    one, other = (torch.full((1, 3, 16, 16), level, dtype=torch.float64) for level in (a, b))
    expected = (2 * (a + 1) * (b + 1) + _C1) / ((a + 1) ** 2 + (b + 1) ** 2 + _C1)
    assert ssim(one, other).item() == pytest.approx(expected, rel=1e-12)
    large = [image.expand(1, 3, 161, 161) for image in (one[..., :1, :1], other[..., :1, :1])]
    assert ms_ssim(*large).item() == pytest.approx(expected**0.1333, rel=1e-12)


@pytest.mark.parametrize("factor", [-1.0, -0.3, 0.0, 0.5])
def test_ssim_of_stripes_against_others(factor: float) -> None:
    """Stripes ±1 against f times as much: a window's mean is ±m and ±fm, m = Σ wₖ(−1)ᵏ, and with v = 1 − m² its
    variances are v and f²v, its covariance fv. The negative, f = −1, scores less than −0.99."""
    stripes = torch.ones(1, 1, 24, 24, dtype=torch.float64)
    stripes[..., 1::2] = -1
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    m = float((weights * (-1.0) ** np.arange(11)).sum() / weights.sum())
    luminances = [
        (2 * (1 + mean) * (1 + factor * mean) + _C1) / ((1 + mean) ** 2 + (1 + factor * mean) ** 2 + _C1)
        for mean in (m, -m)
    ]
    variance = 1 - m * m
    structure = (2 * factor * variance + _C2) / ((1 + factor**2) * variance + _C2)
    assert ssim(stripes, factor * stripes).item() == pytest.approx(np.mean(luminances) * structure, rel=1e-12)


def test_ms_ssim_of_pictures_that_oppose_each_other_is_zero() -> None:
    a = noise(1, 1, 170, 170).clamp(-1, 1)
    assert ssim(a, -a).item() < -0.5
    assert ms_ssim(a, -a).item() == 0


def test_brightness_counts_as_the_eye_counts_it() -> None:
    """A step of equal height is worse in the dark: a ratio, not a difference; mid-grey is no black."""
    flat = [torch.full((1, 1, 16, 16), value, dtype=torch.float64) for value in (-0.9, -0.8, 0.0, 0.1, 0.8, 0.9)]
    dark, middle, bright = (ssim(*flat[first : first + 2]).item() for first in (0, 2, 4))
    assert dark < middle < bright
    assert middle > 0.99


# --- what holds of all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_symmetry_order_and_batch_size(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    a = pictures(5)
    b = noisy(a, 0.2)
    values = measure(a, b)
    assert values.shape == (5,)
    assert values.dtype == torch.float64
    assert torch.equal(measure(b, a), values)
    assert torch.equal(torch.cat([measure(one[None], other[None]) for one, other in zip(a, b)]), values)
    assert torch.equal(measure(a.flip(0), b.flip(0)), values.flip(0))
    for dims in ((2,), (3,)):
        torch.testing.assert_close(ssim(a.flip(dims), b.flip(dims)), ssim(a, b), rtol=1e-12, atol=0)


@pytest.mark.parametrize("measure", MEASURES)
def test_more_noise_and_more_blur_are_worse(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    a = noisy(pictures(1), 0.05)
    by_noise = [measure(a, noisy(a, amount)).item() for amount in (0, 0.01, 0.03, 0.1, 0.3, 1.0)]
    by_blur = [measure(a, functional.avg_pool2d(a, size, 1, size // 2)).item() for size in (1, 3, 5, 9, 17)]
    for values in (by_noise, by_blur):
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(measure: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    a = pictures(1).to(dtype)
    b = noisy(pictures(1), 0.1).to(dtype)
    assert torch.equal(measure(a, b), measure(a.float(), b.float()))


@pytest.mark.parametrize("measure", MEASURES)
def test_the_pictures_are_left_as_they_were(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = pictures(1), noisy(pictures(1), 0.1)
    copies = a.clone(), b.clone()
    measure(a, b)
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])


def test_flat_bright_pictures_lose_nothing_in_float32() -> None:
    """Where variances are small differences of large squares: the worst case for rounding."""
    a = 0.98 + 0.001 * noise(1, 1, 64, 64)
    b = 0.98 + 0.001 * noise(1, 1, 64, 64, seed=1)
    assert ssim(a.float(), b.float()).item() == pytest.approx(ssim(a, b).item(), abs=1e-5)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_shapes_must_agree(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Broadcasting one channel over three would give a number that means nothing."""
    with pytest.raises(ValueError, match=r"\(1, 1, 200, 200\) and \(1, 3, 200, 200\)"):
        measure(torch.zeros(1, 1, 200, 200), torch.zeros(1, 3, 200, 200))


@pytest.mark.parametrize(("measure", "smallest"), [(ssim, 11), (ms_ssim, 161)])
def test_the_smallest_side(measure: Callable[[Tensor, Tensor], Tensor], smallest: int) -> None:
    fits = torch.zeros(1, 1, smallest, smallest + 9)
    assert measure(fits, fits).item() == pytest.approx(1)
    message = f"needs sides of {smallest} pixels or more, and the pictures are {smallest + 9} × {smallest - 1}"
    with pytest.raises(ValueError, match=message):
        measure(fits[:, :, 1:], fits[:, :, 1:])
