"""StyleGAN2: published parameter counts, the skip and residual sums, classes. What it shares: test_stylegan.py."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks.resample import conv_down, fir_downsample, fir_upsample
from img2img.networks.stylegan2 import StyledConv, StyleGAN2Discriminator, StyleGAN2Generator, ToImage

SMALL: dict[str, Any] = {"channel_base": 64, "max_width": 8}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def make_discriminator(**options: Any) -> StyleGAN2Discriminator:
    """float64, biases away from 0."""
    torch.manual_seed(0)
    network = StyleGAN2Discriminator(**{"resolution": (16, 24), **SMALL, **options}).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [(8, 8), (16, 24), (40, 20)])
def test_shapes(resolution: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        resolution=resolution, out_channels=channels, latent_dim=5, w_dim=6, mapping_layers=1, **SMALL
    )
    discriminator = StyleGAN2Discriminator(resolution=resolution, in_channels=channels, **SMALL)
    images = generator(torch.randn(4, 5))
    assert images.shape == (4, channels, *resolution)
    logits, features = discriminator(images, with_features=True)
    assert logits.shape == (4,)
    assert features.shape == (4, 8)
    torch.testing.assert_close(discriminator.head.logit(features)[:, 0], logits)


@pytest.mark.parametrize(
    ("channel_base", "generator", "discriminator"), [(16384, 24_767_458, 24_001_089), (32768, 30_034_338, 28_864_129)]
)
def test_parameter_counts_of_the_published_code_at_256_pixels(
    channel_base: int, generator: int, discriminator: int
) -> None:
    """StyleGAN2-ADA's code builds networks of these sizes; its class embeddings have one bias more, 512 values."""
    with torch.device("meta"):
        sizes: dict[str, Any] = {"resolution": (256, 256), "channel_base": channel_base}
        assert count(StyleGAN2Generator(**sizes)) == generator
        assert count(StyleGAN2Discriminator(**sizes)) == discriminator
        # ten embeddings, a wider first layer; in D eight layers of 512 and 512 values for the inner product
        assert count(StyleGAN2Generator(num_classes=10, **sizes)) == generator + 10 * 512 + 512 * 512
        conditional = StyleGAN2Discriminator(num_classes=10, conditioning="projection", **sizes)
        assert count(conditional) == discriminator + 10 * 512 + 8 * (512 * 512 + 512) + 511 * (512 + 1)


def test_channels_follow_the_shorter_side() -> None:
    with torch.device("meta"):
        network = StyleGAN2Generator(resolution=(64, 96), channel_base=1024, max_width=100)
    assert [layer.weight.shape[1] for layer in network.to_image if isinstance(layer, ToImage)] == [100, 100, 64, 32, 16]


def test_images_of_all_levels_are_summed() -> None:
    torch.manual_seed(0)
    network = StyleGAN2Generator(resolution=(8, 12), latent_dim=5, w_dim=6, mapping_layers=1, **SMALL).double()
    w = torch.randn(2, network.num_styles, 6, dtype=torch.float64)
    first = network.convs[0](network.constant.expand(2, -1, -1, -1), w[:, 0], None)
    third = network.convs[2](network.convs[1](first, w[:, 1], None), w[:, 2], None)
    expected = fir_upsample(network.to_image[0](first, w[:, 1])) + network.to_image[1](third, w[:, 3])
    torch.testing.assert_close(network.synthesize(w), expected)


@pytest.mark.parametrize("up", [1, 2])
def test_a_styled_convolution_keeps_unit_mean_square(up: int) -> None:
    """E[(√2·LeakyReLU(x))²] = 1 + 0.2² for x of N(0, 1); doubled pixels are filtered and so have less."""
    torch.manual_seed(0)
    layer = StyledConv(64, 64, 16, up=up)
    outputs = layer(torch.randn(8, 64, 32, 32), torch.randn(8, 16), None)
    if up == 1:
        assert outputs[:, :, 1:-1, 1:-1].square().mean().item() == pytest.approx(1.04, abs=0.02)
    torch.testing.assert_close(
        layer.scaled_weight().square().sum(dim=(1, 2, 3)).mean(), torch.tensor(1.0), atol=0.02, rtol=0
    )
    assert layer.scaled_weight().shape == (64, 64, 3, 3)


def test_a_colour_is_a_styled_sum_without_demodulation() -> None:
    torch.manual_seed(0)
    layer = ToImage(8, 3, 6).double()
    nn.init.normal_(layer.bias)
    x, w = torch.randn(2, 8, 4, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    expected = torch.einsum("nchw,nc,oc->nohw", x, layer.style(w), layer.weight) / math.sqrt(8)
    torch.testing.assert_close(layer(x, w), expected + layer.bias[:, None, None])


def test_a_block_is_residual() -> None:
    """(path + shortcut) / √2, each with its filter; √2 follows every LeakyReLU."""
    block = make_discriminator().blocks[0]
    x = torch.randn(2, block.conv.weight.shape[1], 16, 24, dtype=torch.float64)
    gain = math.sqrt(2)
    path = gain * F.leaky_relu(F.conv2d(x, block.conv.scaled_weight(), block.conv.bias, padding=1), 0.2)
    path = gain * F.leaky_relu(conv_down(path, block.down.scaled_weight(), block.down.bias), 0.2)
    shortcut = F.conv2d(fir_downsample(x), block.shortcut.scaled_weight())
    torch.testing.assert_close(block(x), (path + shortcut) / gain)


def test_the_class_changes_image_and_logit() -> None:
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        resolution=(8, 8), num_classes=3, latent_dim=5, w_dim=6, mapping_layers=1, **SMALL
    ).eval()
    labels = torch.tensor([0, 1, 0, 1])
    images = generator(torch.randn(1, 5).expand(4, -1), labels)
    torch.testing.assert_close(images[0], images[2])
    assert not torch.allclose(images[0], images[1])
    discriminator = make_discriminator(num_classes=3, conditioning="projection")
    same = torch.randn(1, 3, 16, 24, dtype=torch.float64).expand(4, -1, -1, -1)
    logits, features = discriminator(same, labels, with_features=True)
    assert not torch.allclose(logits[0], logits[1])
    mapping = discriminator.head.mapping
    assert mapping is not None
    embedding = mapping(torch.empty(4, 0, dtype=torch.float64), labels)
    expected = (discriminator.head.logit(features) * embedding).sum(dim=1) / math.sqrt(8)
    torch.testing.assert_close(logits, expected)


def test_a_classifiers_logit_does_not_depend_on_the_class() -> None:
    discriminator = make_discriminator(num_classes=3, conditioning="classifier")
    images = torch.randn(4, 3, 16, 24, dtype=torch.float64)
    logits, features = discriminator(images, torch.tensor([0, 1, 2, 0]), with_features=True)
    torch.testing.assert_close(logits, discriminator(images, torch.tensor([2, 2, 1, 1])))
    assert discriminator.classify(features).shape == (4, 3)
    with pytest.raises(UsageFault, match=r"^conditioning: .*3 classes"):
        make_discriminator(num_classes=3)


def test_minibatch_std_shows_whether_samples_differ() -> None:
    images = torch.randn(4, 3, 16, 24, dtype=torch.float64)
    for flag in (True, False):
        network = make_discriminator(minibatch_std=flag)
        alone = torch.cat([network(image[None]) for image in images])
        assert torch.allclose(network(images), alone) is not flag


def test_r1_is_that_of_finite_differences() -> None:
    network = make_discriminator()
    images = torch.randn(2, 3, 16, 24, dtype=torch.float64, requires_grad=True)

    def penalty(judge: nn.Module) -> Tensor:
        (slope,) = torch.autograd.grad(judge(images).sum(), images, create_graph=True)
        return slope.square().sum()

    parameters = list(network.parameters())
    slopes = torch.autograd.grad(penalty(network), parameters, allow_unused=True)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    found = sum((slope * way).sum() for slope, way in zip(slopes, directions) if slope is not None)
    step, sides = 1e-6, []
    for sign in (1, -1):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for parameter, way in zip(moved.parameters(), directions):
                parameter.add_(sign * step * way)
        sides.append(penalty(moved).detach())
    assert abs(found) > 1e-3
    torch.testing.assert_close(found, (sides[0] - sides[1]) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("channel_base", 0), ("max_width", 2000), ("w_dim", 0), ("mapping_layers", 0), ("style_mixing", 1.5)],
)
def test_arguments_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageFault, match=f"^{name}: "):
        StyleGAN2Generator(resolution=(8, 8), **{name: value})
