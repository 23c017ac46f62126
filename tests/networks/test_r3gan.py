"""R3GAN: sizes, published parameter counts, what the network is before it learns, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from img2img.errors import UsageFault
from img2img.networks.r3gan import R3GANDiscriminator, R3GANGenerator, ResidualBlock
from img2img.networks.resample import fir_upsample


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def awaken(network: nn.Module) -> nn.Module:
    """In float64, every parameter that begins as zero moved away from it."""
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.3)
    return network


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [(8, 8), (32, 48), (40, 20)])
def test_shapes(resolution: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    size = {"width": 8, "max_width": 16, "group_width": 4}
    generator = R3GANGenerator(resolution=resolution, out_channels=channels, latent_dim=5, **size)
    discriminator = R3GANDiscriminator(resolution=resolution, in_channels=channels, **size)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, channels, *resolution)
    logits, features = discriminator(images, with_features=True)
    assert logits.shape == (3,)
    assert features.shape == (3, 16)
    torch.testing.assert_close(discriminator.logit(features)[:, 0], logits)


def test_parameter_counts() -> None:
    """Those of the authors' networks: 23.058 and 23.010 million at 256×256; with classes at 32×32, counted by hand."""
    with torch.device("meta"):
        assert count(R3GANGenerator(resolution=(256, 256))) == 23_057_952
        assert count(R3GANDiscriminator(resolution=(256, 256))) == 23_009_568
        generator = R3GANGenerator(resolution=(32, 32), width=768, num_classes=10)
        discriminator = R3GANDiscriminator(resolution=(32, 32), width=768, num_classes=10, conditioning="projection")
    block = 2 * 768 * 1536 + 1536 * 16 * 9 + 2 * 1536
    assert count(generator) == 8 * block + 768 * 16 + (64 + 64) * 768 + 10 * 64 + 3 * 768
    assert count(discriminator) == 8 * block + 768 * 16 + 768 * 768 + 10 * 768 + 3 * 768


class TestStart:
    def test_a_block_is_the_identity(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(2, 8, 5, 6)
        block = ResidualBlock(8, expansion=2, group_width=4, depth=3)
        assert torch.equal(block(x), x)
        assert not torch.equal(awaken(block)(x.double()), x.double())

    def test_a_generator_is_its_upsampled_basis(self) -> None:
        """With equal widths nothing lies between basis and colours but the upsampling, which 1×1 kernels commute with."""
        torch.manual_seed(0)
        generator = R3GANGenerator(resolution=(16, 24), latent_dim=5, width=8, max_width=8, group_width=4).double()
        z = torch.randn(2, 5, dtype=torch.float64)
        small = torch.einsum(
            "oc,chw,nc->nohw", generator.to_image.weight[:, :, 0, 0], generator.basis, z @ generator.modulate.weight.T
        )
        torch.testing.assert_close(generator(z), fir_upsample(fir_upsample(small)))

    def test_a_discriminator_is_linear(self) -> None:
        torch.manual_seed(0)
        discriminator = R3GANDiscriminator(resolution=(16, 16), width=8, max_width=16, group_width=4).double()
        x, y = torch.randn(2, 3, 3, 16, 16, dtype=torch.float64).unbind()
        torch.testing.assert_close(discriminator(2 * x - y), 2 * discriminator(x) - discriminator(y))

    @torch.no_grad()
    def test_scales(self) -> None:
        """Gain² / (fan-in · √blocks) as the variance of both convolutions before the last one of a block."""
        torch.manual_seed(0)
        blocks, levels = 3, 3
        generator = R3GANGenerator(resolution=(16, 16), width=128, max_width=128, blocks=blocks)
        expected = 2 / (1 + 0.2**2) / math.sqrt(blocks * levels)
        for block in (block for level in generator.levels for block in level):
            assert block.widen.weight.var() * 128 == pytest.approx(expected, rel=0.05)
            assert block.group.weight.var() * 16 * 9 == pytest.approx(expected, rel=0.05)
            assert not block.narrow.weight.any()

    @torch.no_grad()
    def test_signals_keep_their_variance(self) -> None:
        """z of unit variance -> first level of unit variance; features of unit variance -> logits of unit variance."""
        torch.manual_seed(0)
        generator = R3GANGenerator(resolution=(8, 8), width=256, max_width=256, num_classes=7)
        assert generator.embed is not None
        z = torch.cat((torch.randn(64, 64), generator.embed(torch.arange(64) % 7)), dim=1)
        assert (generator.basis * generator.modulate(z)[:, :, None, None]).var() == pytest.approx(1, rel=0.1)
        discriminator = R3GANDiscriminator(
            resolution=(8, 8), width=256, max_width=256, num_classes=500, conditioning="projection"
        )
        assert discriminator.embed is not None
        inner = discriminator.logit(torch.randn(500, 256)) * discriminator.embed.weight
        assert inner.sum(dim=1).var() == pytest.approx(1, rel=0.25)


SMALL = {"resolution": (8, 8), "num_classes": 3, "width": 8, "max_width": 8, "group_width": 4}


class TestConditioning:
    def test_generator_follows_the_label(self) -> None:
        torch.manual_seed(0)
        generator = R3GANGenerator(**SMALL, latent_dim=5)
        images = generator(torch.randn(1, 5).expand(3, -1), torch.tensor([0, 1, 0]))
        torch.testing.assert_close(images[0], images[2])
        assert not torch.allclose(images[0], images[1])

    def test_projection_is_an_inner_product(self) -> None:
        torch.manual_seed(0)
        discriminator = awaken(R3GANDiscriminator(**SMALL, conditioning="projection"))
        labels = torch.tensor([2, 0, 2])
        images = torch.randn(1, 3, 8, 8, dtype=torch.float64).expand(3, -1, -1, -1)
        logits, features = discriminator(images, labels, with_features=True)
        expected = torch.einsum("nf,of,no->n", features, discriminator.logit.weight, discriminator.embed.weight[labels])
        torch.testing.assert_close(logits, expected)
        assert logits[0] == logits[2] != logits[1]

    def test_a_classifier_leaves_the_logit_alone(self) -> None:
        torch.manual_seed(0)
        discriminator = R3GANDiscriminator(**SMALL, conditioning="classifier")
        images = torch.randn(2, 3, 8, 8)
        logits, features = discriminator(images, torch.tensor([0, 1]), with_features=True)
        assert torch.equal(logits, discriminator(images))
        classes = discriminator.classify(features)
        assert classes.shape == (2, 3)
        (slope,) = torch.autograd.grad(classes.sum(), discriminator.from_image.weight)
        assert slope.any()


class TestDerivatives:
    def test_generator(self) -> None:
        torch.manual_seed(0)
        generator = awaken(
            R3GANGenerator(
                resolution=(8, 8), latent_dim=3, width=2, max_width=4, group_width=2, blocks=1, num_classes=2
            )
        )
        z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([0, 1])
        assert torch.autograd.gradcheck(lambda z: generator(z, labels).square().mean(), z)
        assert torch.autograd.gradgradcheck(lambda z: generator(z, labels).square().mean(), z)

    @pytest.mark.parametrize("conditioning", ["none", "projection"])
    def test_discriminator(self, conditioning: str) -> None:
        torch.manual_seed(0)
        discriminator = awaken(
            R3GANDiscriminator(
                resolution=(8, 8),
                in_channels=1,
                num_classes=0 if conditioning == "none" else 2,
                width=2,
                max_width=4,
                group_width=2,
                blocks=1,
                conditioning=conditioning,
            )
        )
        labels = None if conditioning == "none" else torch.tensor([0, 1])
        images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: discriminator(x, labels), images)
        (slope,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=True)
        weights = [p for p in discriminator.parameters() if p.dim() > 1]
        second = torch.autograd.grad(slope.square().sum(), weights)
        assert all(value.any() for value in second)
        # R1's gradient by the weight that reads the image, against a difference
        weight, step = discriminator.from_image.weight, torch.randn_like(discriminator.from_image.weight) * 1e-6
        penalties = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(step, alpha=sign)
            (moved,) = torch.autograd.grad(discriminator(images, labels).sum(), images)
            penalties.append(moved.square().sum())
            with torch.no_grad():
                weight.sub_(step, alpha=sign)
        (expected,) = [g for p, g in zip(weights, second) if p is weight]
        torch.testing.assert_close((penalties[0] - penalties[1]) / 2, (expected * step).sum(), rtol=1e-5, atol=1e-12)


def test_groups_that_do_not_divide_a_block_are_refused() -> None:
    with pytest.raises(UsageFault, match=r"^group_width: 16 does not divide the 12 · 2 channels"):
        R3GANGenerator(resolution=(8, 8), width=12)
    with pytest.raises(UsageFault, match=r"^group_width: .*Use for example 4"):
        R3GANDiscriminator(resolution=(8, 8), width=6, max_width=8, group_width=8)


def test_bfloat16_autocast_trains() -> None:
    torch.manual_seed(0)
    size = {"resolution": (16, 16), "width": 8, "max_width": 16, "group_width": 4}
    generator, discriminator = R3GANGenerator(**size), R3GANDiscriminator(**size)
    with torch.autocast("cpu", torch.bfloat16):
        logits = discriminator(generator(torch.randn(2, 64)))
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
