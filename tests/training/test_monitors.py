"""The largest singular value beside what linear algebra says, and faults of pictures that are put in by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from img2img.draws import Draws
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.networks.layers import filter_matrices
from img2img.training.monitors import (
    checkerboard,
    colour_correlation,
    diversity,
    grid,
    grid_periods,
    hidden,
    largest_of,
    largest_singular_value,
    relative_change,
    watch_translation,
)
from img2img.translators.base import Translation


@pytest.mark.parametrize("shape", [(64, 1024), (128, 128), (300, 20), (1, 50), (50, 1), (4, 3, 2, 128), (5, 128, 2)])
def test_of_random_matrices(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.matrix_norm(matrices, ord=2)
    found = largest_singular_value(matrices)
    assert found.shape == shape[:-2]
    assert (found <= exact * (1 + 1e-5)).all()
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.0)


@pytest.mark.parametrize(
    ("matrix", "value"),
    [
        (torch.zeros(5, 7), 0.0),
        (3 * torch.eye(40), 3.0),
        (torch.ones(30, 20), 600**0.5),
        (torch.diag(torch.tensor([1e-4, 2.0, 1e-4])), 2.0),
        (1e15 * torch.eye(3), 1e15),
        (torch.tensor([[1.0, torch.inf], [0.0, 1.0]]), torch.nan),
        (1e-20 * torch.eye(3), 0.0),  # below what a normalised float32 can show: no division by nothing
    ],
)
def test_of_matrices_whose_value_is_known(matrix: torch.Tensor, value: float) -> None:
    torch.testing.assert_close(
        largest_singular_value(matrix), torch.tensor(value), rtol=1e-5, atol=1e-12, equal_nan=True
    )


def test_of_a_network_it_is_the_largest_of_all_layers() -> None:
    torch.manual_seed(0)
    unet = GENERATORS["unet"](in_channels=3, out_channels=3, width=8, depth=3)
    with torch.no_grad():
        for layer in unet.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight.mul_(10)
    matrices = [*filter_matrices(unet)]
    exact = max(torch.linalg.matrix_norm(matrix, ord=2).max() for matrix in matrices)
    torch.testing.assert_close(largest_of(unet)["spectral_norm"], exact.detach(), rtol=0.02, atol=0.0)


def test_of_members_it_is_that_of_the_one_with_the_largest() -> None:
    judge = DISCRIMINATORS["mlp"](resolution=(1, 1), in_channels=2, members=3, width=16)
    with torch.no_grad():
        judge.hidden[2].weight[1].mul_(100)  # type: ignore[index, union-attr]
    exact = torch.linalg.matrix_norm(judge.hidden[2].weight[1], ord=2)  # type: ignore[index, union-attr]
    torch.testing.assert_close(largest_of(judge)["spectral_norm"], exact.detach(), rtol=0.02, atol=0.0)


def test_spectral_norm_is_seen_as_one() -> None:
    torch.manual_seed(0)
    judge = DISCRIMINATORS["dcgan"](resolution=(16, 16), width=8, max_width=16, norm="none", spectral_norm=True)
    for _ in range(50):
        judge(torch.randn(2, 3, 16, 16))
    found = largest_of(judge)
    torch.testing.assert_close(found["spectral_norm"], torch.tensor(1.0), rtol=0.02, atol=0.0)
    raw = [layer.parametrizations.weight.original.flatten(1) for layer in judge.modules() if is_parametrized(layer)]
    exact = torch.stack([torch.linalg.matrix_norm(matrix, ord=2) for matrix in raw]).max()
    torch.testing.assert_close(found["raw_spectral_norm"], exact.detach(), rtol=0.02, atol=0.0)


def test_looking_moves_nothing_of_spectral_normalisation() -> None:
    """Else how often the log is written would change what is learned, and a run that was stopped would not be itself."""
    torch.manual_seed(0)
    judge = DISCRIMINATORS["dcgan"](resolution=(16, 16), width=8, max_width=16, norm="none", spectral_norm=True)
    judge(torch.randn(2, 3, 16, 16))
    before = {key: value.clone() for key, value in judge.state_dict().items()}
    assert any(key.endswith(".u") for key in before)
    largest_of(judge)
    for key, value in judge.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(module.training for module in judge.modules())


def test_a_network_without_layers_has_none() -> None:
    assert largest_of(GENERATORS["constant"](resolution=(1, 1))) == {"spectral_norm": 0}


DRAWS = Draws(0, "watch", torch.arange(4))


def pictures(seed: int, channels: int = 3, size: int = 64) -> Tensor:
    """Four pictures with the spectrum of natural ones, 1 / f in amplitude, in [-1, 1]."""
    noise = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(size)[:, None].square() + torch.fft.fftfreq(size).square()
    falling = (frequency + 1 / size**2) ** -0.5
    images = torch.fft.ifft2(torch.fft.fft2(noise) * falling).real
    return images / images.abs().amax((1, 2, 3), keepdim=True)


def stripes(size: int, period: int, rms: float) -> Tensor:
    """Vertical ones, of so many of 255 steps."""
    wave = torch.cos(2 * math.pi * torch.arange(size) / period)
    return rms / 127.5 * wave / wave.square().mean().sqrt()


class TestColourCorrelation:
    def test_of_negatives_of_the_same_and_of_unrelated_pictures(self) -> None:
        images = pictures(0)
        assert colour_correlation(images, -images).item() == pytest.approx(-1)
        assert colour_correlation(images, 0.3 * images + 0.2).item() == pytest.approx(1)
        assert abs(colour_correlation(images, pictures(1)).item()) < 0.3

    def test_fine_texture_is_not_looked_at(self) -> None:
        images = pictures(0)
        assert colour_correlation(images, 0.5 * stripes(64, 2, 40.0) - images).item() < -0.99

    def test_channels_count_alike_and_grey_is_compared_with_grey(self) -> None:
        images = pictures(0)
        one_turned = images * torch.tensor([1.0, 1.0, -1.0])[:, None, None]
        assert colour_correlation(images, one_turned).item() == pytest.approx(1 / 3)
        assert colour_correlation(images, -images.mean(1, keepdim=True)).item() == pytest.approx(-1)

    def test_of_a_plain_output_it_is_nothing(self) -> None:
        assert colour_correlation(pictures(0), torch.zeros(4, 3, 64, 64)).item() == 0


def test_change_is_relative_to_that_of_targets() -> None:
    inputs, targets = pictures(0), pictures(1)
    assert relative_change(inputs, inputs, targets).item() == 0
    assert relative_change(inputs, targets, targets).item() == pytest.approx(1)
    assert relative_change(inputs, inputs.lerp(targets, 0.1), targets).item() == pytest.approx(0.1)
    assert relative_change(inputs.mean(1, keepdim=True), inputs, targets).item() == pytest.approx(0, abs=1e-6)


def test_diversity_is_relative_to_that_of_targets() -> None:
    images = pictures(0)
    assert diversity(0.5 * images, images).item() == pytest.approx(0.5)
    collapsed = images[:1].expand_as(images) + 0.1 * stripes(64, 2, 20.0) * torch.arange(4)[:, None, None, None]
    assert diversity(collapsed, images).item() < 1e-3


class TestGrid:
    @pytest.mark.parametrize("period", [2, 4, 8])
    @pytest.mark.parametrize("steps", [2.0, 8.0])
    def test_steps_are_those_that_were_put_in(self, period: int, steps: float) -> None:
        images = pictures(0, size=128)
        assert grid(images, [2, 4, 8]).item() < 0.5
        assert grid(images + stripes(128, period, steps), [2, 4, 8]).item() == pytest.approx(steps, rel=0.1)

    @pytest.mark.parametrize("period", [2, 4])
    def test_energy_is_that_of_real_pictures_until_one_is_put_in(self, period: int) -> None:
        real, other = pictures(0, size=128), pictures(1, size=128)
        assert 0.3 < checkerboard(other, real, [2, 4]).item() < 3
        assert checkerboard(other + stripes(128, period, 8.0), real, [2, 4]).item() > 10
        # in real pictures too it is no fault of the generator's
        gridded = [images + stripes(128, period, 8.0) for images in (other, real)]
        assert 0.3 < checkerboard(*gridded, [2, 4]).item() < 3

    def test_a_generator_of_transposed_convolutions_begins_with_one_others_do_not(self) -> None:
        real, found = pictures(0, size=128), {}
        for upsampling in ("transposed", "nearest", "antialiased"):
            torch.manual_seed(0)
            generator = GENERATORS["resnet"](width=8, blocks=1, upsampling=upsampling)
            with torch.no_grad():
                found[upsampling] = checkerboard(generator(real), real, [2, 4]).item()
        assert found["transposed"] > 20
        assert max(found["nearest"], found["antialiased"]) < 3

    @pytest.mark.parametrize(
        ("size", "stride", "periods"),
        [(64, 4, [2, 4]), (128, 256, [2, 4, 8]), (64, 256, [2, 4]), (31, 4, []), (256, 2, [2]), (256, 1, [])],
    )
    def test_periods_that_can_be_told(self, size: int, stride: int, periods: list[int]) -> None:
        assert grid_periods(torch.zeros(1, 3, size, 300), stride) == periods


class TestHidden:
    def test_what_hands_noise_on_is_one(self) -> None:
        inputs = pictures(0)
        value = hidden(Translation(inputs, inputs, inputs, lambda images: images), DRAWS)
        assert value.item() == pytest.approx(1)

    def test_what_lives_on_a_faint_copy_amplifies_it(self) -> None:
        inputs = pictures(0)
        plain = torch.full_like(inputs, 0.3)
        value = hidden(Translation(inputs, plain + 0.05 * inputs, inputs, lambda images: (images - plain) * 20), DRAWS)
        assert value.item() == pytest.approx(20, rel=0.01)

    def test_a_way_back_that_blurs_is_indifferent(self) -> None:
        inputs = pictures(0)

        def blur(images: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(images, 9, stride=1, padding=4)

        assert abs(hidden(Translation(inputs, inputs, inputs, blur), DRAWS).item()) < 0.2


class TestWatchTranslation:
    def watch(self, translation: Translation, *, is_paired: bool = False) -> dict[str, Tensor]:
        return watch_translation(translation, is_paired=is_paired, stride=4, draws=DRAWS)

    def test_numbers_of_a_cycle_and_of_pairs(self) -> None:
        inputs, outputs, targets = (pictures(seed) for seed in range(3))
        cycle = self.watch(Translation(inputs, outputs, targets, lambda images: images))
        assert set(cycle) == {"colour_correlation", "change", "diversity", "checkerboard", "grid", "hidden"}
        pairs = self.watch(Translation(inputs, outputs, targets), is_paired=True)
        assert set(pairs) == {"change", "diversity", "checkerboard", "grid"}
        assert all(value.shape == () for value in (*cycle.values(), *pairs.values()))

    def test_a_paired_target_is_that_of_its_input(self) -> None:
        inputs = pictures(0)
        targets = inputs + 0.01
        outputs = inputs + 0.005
        assert self.watch(Translation(inputs, outputs, targets), is_paired=True)["change"].item() == pytest.approx(0.5)
        assert self.watch(Translation(inputs, outputs, targets))["change"].item() < 0.05

    def test_a_map_of_labels_is_no_picture_and_opacity_no_colour(self) -> None:
        images = pictures(0)
        labels = torch.zeros(4, 12, 64, 64)
        assert "change" not in self.watch(Translation(labels, images, images), is_paired=True)
        opaque = torch.cat((images, torch.ones(4, 1, 64, 64)), dim=1)
        seen = self.watch(Translation(opaque, -images, opaque))
        assert seen["colour_correlation"].item() == pytest.approx(-1)

    def test_one_small_picture_tells_what_it_can(self) -> None:
        image = pictures(0, size=16)[:1]
        assert set(self.watch(Translation(image, image, image))) == {"colour_correlation", "change"}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_other_types(self, dtype: torch.dtype) -> None:
        images = pictures(0).to(dtype)
        numbers = self.watch(Translation(images.float(), images, images.float(), lambda images: images))
        assert all(value.isfinite() for value in numbers.values())
