"""CUT's generator of StyleGAN2's layers: sizes, normalised weights, noise that follows the draws."""

from __future__ import annotations

import pytest
import torch

from img2img.draws import Draws
from img2img.networks.stylegan2_resnet import StyleGAN2ResnetGenerator


def draws_for(*numbers: int) -> Draws:
    return Draws(1, "noise", torch.tensor(numbers))


@pytest.mark.parametrize("widths", [(3,), (2, 3), (2, 4, 3)])
def test_shapes_from_min_size_on(widths: tuple[int, ...]) -> None:
    generator = StyleGAN2ResnetGenerator(in_channels=1, out_channels=4, widths=widths, blocks=1)
    assert generator.stride == generator.min_size == 2 ** (len(widths) - 1)
    for height, width in ((1, 1), (1, 3), (5, 2)):
        images = torch.randn(2, 1, height * generator.stride, width * generator.stride)
        assert generator(images).shape == (2, 4, *images.shape[2:])


def test_the_parameter_count_of_the_published_code() -> None:
    """stylegan2 at 256², --ngf 64: 8 convolutions of 128 or 256 channels are in the two halves, 12 in the blocks."""
    with torch.device("meta"):
        generator = StyleGAN2ResnetGenerator(widths=(128, 256), blocks=6)
    first, last = 3 * 128 + 128, 128 * 3 + 3
    down = (128 * 128 * 9 + 128) + (128 * 256 * 9 + 256) + 128 * 256
    blocks = 6 * 2 * (256 * 256 * 9 + 256)
    up = 256 * 128 * 9 + 128 + 1
    assert sum(parameter.numel() for parameter in generator.parameters()) == first + down + blocks + up + last


def test_doubling_does_not_know_the_scale_of_its_weights() -> None:
    torch.manual_seed(0)
    generator = StyleGAN2ResnetGenerator(widths=(2, 3), blocks=0).double()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    before = generator(images)
    with torch.no_grad():
        generator.up[0].weight.mul_(7)
    torch.testing.assert_close(generator(images), before, atol=1e-7, rtol=1e-7)
    norms = generator.up[0].scaled_weight().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_noise_follows_the_draws_and_needs_them() -> None:
    torch.manual_seed(0)
    generator = StyleGAN2ResnetGenerator(widths=(2, 3), blocks=1)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(generator(images, draws_for(4, 5)), generator(images))  # its strength begins at 0
    with torch.no_grad():
        generator.up[0].noise_strength.fill_(1.0)
    given = generator(images, draws_for(4, 5))
    assert not torch.allclose(given, generator(images), atol=0.1)
    torch.testing.assert_close(generator(images.flip(0), draws_for(5, 4)), given.flip(0))
    assert generator.dropout_at_test
    assert not StyleGAN2ResnetGenerator(widths=(2, 3), noise=False).dropout_at_test
