"""Kaiser filters by their frequency response, resampling matrices against convolution, the filtered LeakyReLU."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.networks.filters import (
    RANK_TOLERANCE,
    FilteredLeakyReLU,
    LowPass,
    Resampling,
    kaiser_attenuation,
    kaiser_beta,
    resampling_matrix,
)


def response(kernel: Tensor, frequencies: Tensor, angle: float = 0.0) -> Tensor:
    """The gain at frequencies (cycles a sample) of a filter about its middle: of a line, or of a plane at an angle."""
    index = torch.arange(len(kernel), dtype=torch.float64) - (len(kernel) - 1) / 2
    if kernel.dim() == 1:
        return (2 * math.pi * frequencies[:, None] * index).cos() @ kernel
    x, y = math.cos(angle) * frequencies, math.sin(angle) * frequencies
    phases = 2 * math.pi * (x[:, None, None] * index + y[:, None, None] * index[:, None])
    return (phases.cos() * kernel).sum((1, 2))


@pytest.mark.parametrize(("taps", "width"), [(24, 0.15), (48, 0.12), (60, 0.1)])
def test_a_filter_passes_and_stops_as_kaiser_says(taps: int, width: float) -> None:
    """Ripple and stop band are within the formula's dB and 6 more: it is empirical, and for long filters."""
    rate, cutoff = 10.0, 1.5
    kernel = LowPass(taps, cutoff, width * rate / 2, rate).kernel()
    allowed = 2 * 10 ** (-kaiser_attenuation(taps, 2 * width) / 20)
    low = torch.linspace(0, cutoff / rate - width / 2, 200, dtype=torch.float64)
    high = torch.linspace(cutoff / rate + width / 2, 0.5, 200, dtype=torch.float64)
    assert response(kernel, low[:1]).item() == pytest.approx(1)
    assert (response(kernel, low) - 1).abs().max() < allowed
    assert response(kernel, high).abs().max() < allowed
    assert response(kernel, torch.tensor([cutoff / rate], dtype=torch.float64)).item() == pytest.approx(0.5, abs=0.01)


def test_designs_are_scipys() -> None:
    signal = pytest.importorskip("scipy.signal")
    for taps, cutoff, half_width, rate in ((12, 2.0, 6.0, 32), (24, 4.7, 3.3, 64), (12, 11.0, 21.0, 128)):
        expected = signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
        torch.testing.assert_close(LowPass(taps, cutoff, half_width, rate).kernel(), torch.from_numpy(expected))
    for attenuation in (10.0, 21.0, 30.0, 50.0, 50.1, 80.0):
        assert kaiser_beta(attenuation) == pytest.approx(signal.kaiser_beta(attenuation))


class TestRadial:
    low_pass = LowPass(12, 5.6, 10.4, 64, radial=True)

    def test_it_is_the_same_in_all_directions(self) -> None:
        """But for the window's square shape; a product of a row and a column passes more along the diagonals."""
        frequencies = torch.linspace(0, 0.3, 60, dtype=torch.float64)
        kernel = LowPass(48, 12.0, 4.0, 64, radial=True).kernel()
        straight, oblique = (response(kernel, frequencies, angle) for angle in (0.0, math.pi / 4))
        assert straight[0].item() == pytest.approx(1)
        assert (straight - oblique).abs().max() < 0.02
        row = LowPass(48, 12.0, 4.0, 64).kernel()
        product = row[:, None] * row
        separable = [response(product, frequencies, angle) for angle in (0.0, math.pi / 4)]
        assert (separable[0] - separable[1]).abs().max() > 4 * (straight - oblique).abs().max()

    def test_an_odd_number_of_taps_has_a_finite_middle(self) -> None:
        kernel = LowPass(13, 5.6, 10.4, 64, radial=True).kernel()
        assert kernel.isfinite().all()
        assert kernel.argmax() == 6 * 13 + 6

    def test_few_products_make_the_filter(self) -> None:
        factors = self.low_pass.factors()
        assert len(factors) <= 4
        kernel = self.low_pass.kernel()
        together = sum(column[:, None] * row for column, row in factors)
        assert (together - kernel).norm() < 4 * RANK_TOLERANCE * kernel.norm()

    def test_resampling_is_convolution_with_it(self) -> None:
        torch.manual_seed(0)
        planes = torch.randn(30, 3, 26, dtype=torch.float64)
        resampling = Resampling((30, 26), (10, 8), 1, 2, self.low_pass, gain=1.5)
        expected = F.conv2d(planes.transpose(0, 1)[:, None], 1.5 * self.low_pass.kernel()[None, None], stride=2)[:, 0]
        assert expected.shape == (3, 10, 8)
        torch.testing.assert_close(resampling.multiply(planes).transpose(0, 1), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(resampling.convolve(planes.transpose(0, 1)[None])[0], expected)


class TestMatrix:
    def test_up_is_zeros_between_and_convolution(self) -> None:
        torch.manual_seed(0)
        line, kernel = torch.randn(9, dtype=torch.float64), torch.rand(12, dtype=torch.float64)
        stuffed = torch.zeros(18, dtype=torch.float64)
        stuffed[::2] = 2 * line
        # samples stand in the middle of the two places they take: one more zero before than after
        padded = F.pad(stuffed, (6, 5))
        expected = F.conv1d(padded[None, None], kernel.flip(0)[None, None])[0, 0]
        assert len(expected) == 18
        torch.testing.assert_close(resampling_matrix(9, 18, 2, 1, kernel) @ line, expected)

    @pytest.mark.parametrize(("size_in", "size_out", "up", "down"), [(9, 30, 4, 1), (30, 9, 1, 2), (7, 40, 2, 1)])
    def test_it_has_no_side(self, size_in: int, size_out: int, up: int, down: int) -> None:
        matrix = resampling_matrix(size_in, size_out, up, down, LowPass(12, 0.2, 0.2, 1).kernel())
        torch.testing.assert_close(matrix.flip(0, 1), matrix)

    def test_a_wave_is_read_between_its_samples(self) -> None:
        """cos(2π f x) at a rate of 16 and, twice as fine, at 32; what differs is the filter's ripple."""
        low_pass = LowPass(24, 4.5, 3.5, 32)
        ripple = 4 * 10 ** (-kaiser_attenuation(24, 2 * 7 / 32) / 20)
        coarse, fine = ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / rate for n, rate in ((40, 16), (60, 32)))
        for frequency in (0.0, 0.7):
            read = resampling_matrix(40, 60, 2, 1, low_pass.kernel()) @ (2 * math.pi * frequency * coarse).cos()
            assert (read - (2 * math.pi * frequency * fine).cos()).abs().max() < ripple

    def test_what_cannot_be_aligned_is_an_error(self) -> None:
        with pytest.raises(AssertionError, match="cannot align"):
            resampling_matrix(8, 16, 2, 1, torch.ones(3, dtype=torch.float64))


def make(radial: bool = False) -> FilteredLeakyReLU:
    return FilteredLeakyReLU(
        (20, 16),
        (18, 14),
        up=2,
        down=2,
        up_filter=LowPass(12, 2.0, 6.0, 32),
        down_filter=LowPass(12, 2.8, 5.2, 32, radial=radial),
    )


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize(("size_in", "size_out", "up", "down"), [((9, 8), (20, 16), 2, 1), ((9, 8), (24, 14), 4, 1), ((28, 24), (9, 7), 1, 2)])  # fmt: skip
def test_two_forms_of_resampling_are_one(
    size_in: tuple[int, int], size_out: tuple[int, int], up: int, down: int, radial: bool
) -> None:
    torch.manual_seed(0)
    resampling = Resampling(size_in, size_out, up, down, LowPass(12, 3.0, 4.0, 32, radial=radial), gain=1.3)
    planes = torch.randn(2, 3, *size_in, dtype=torch.float64)
    multiplied = resampling.multiply(planes.permute(2, 0, 1, 3).flatten(1, 2)).unflatten(1, (2, 3)).permute(1, 2, 0, 3)
    assert multiplied.shape == (2, 3, *size_out)
    torch.testing.assert_close(resampling.convolve(planes), multiplied, rtol=0, atol=1e-4 if radial else 1e-12)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("value", [1.5, -2.0])
def test_a_constant_keeps_its_leaky_value_within(value: float, radial: bool) -> None:
    """√2 · LeakyReLU(0.2), where no filter reaches the edge."""
    planes = torch.full((2, 3, 20, 16), value, dtype=torch.float64)
    expected = math.sqrt(2) * max(value, 0.2 * value)
    result = make(radial)(planes)
    assert result.shape == (2, 3, 18, 14)
    torch.testing.assert_close(result[:, :, 6:-6, 6:-6], torch.full((2, 3, 6, 2), expected).double(), rtol=2e-3, atol=0)
    # beyond the plane is zero
    assert (result[:, :, 0, 0] / expected).max() < 0.9


def test_planes_do_not_mix() -> None:
    torch.manual_seed(0)
    planes = torch.randn(2, 3, 20, 16).contiguous(memory_format=torch.channels_last)
    whole = make()(planes)
    alone = torch.cat([make()(plane[None, None]) for plane in planes.flatten(0, 1)])
    torch.testing.assert_close(whole, alone.view_as(whole))


@pytest.mark.parametrize("radial", [False, True])
def test_derivatives_of_both_orders(radial: bool) -> None:
    torch.manual_seed(0)
    low_pass = LowPass(4, 1.0, 1.0, 8)
    layer = FilteredLeakyReLU((4, 3), (3, 2), up=2, down=2, up_filter=low_pass, down_filter=low_pass)
    planes = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, planes)
    assert torch.autograd.gradgradcheck(layer, planes)


def test_training_follows_inference_mode() -> None:
    """Matrices that inference made first may be saved for a backward pass."""
    layer = FilteredLeakyReLU(
        (21, 17), (18, 14), up=2, down=2, up_filter=LowPass(12, 1.9, 6.0, 32), down_filter=LowPass(12, 1.9, 6.0, 32)
    )
    with torch.inference_mode():
        before = layer(torch.ones(1, 1, 21, 17))
    planes = torch.ones(1, 1, 21, 17, requires_grad=True)
    after = layer(planes)
    torch.testing.assert_close(after.detach(), before.clone())
    after.sum().backward()
    assert planes.grad is not None
