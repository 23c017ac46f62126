"""The residual family of WGAN-GP, SNGAN and SAGAN: sizes, published widths, classes, spectral norm, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from img2img.errors import UsageFault
from img2img.networks.attention import SelfAttention
from img2img.networks.layers import mixes_samples
from img2img.networks.residual import DiscriminatorBlock
from img2img.networks.sngan import SNGANDiscriminator, SNGANGenerator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


@pytest.mark.parametrize("attention", [0, 8])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [(8, 8), (16, 24), (40, 20), (96, 64)])
def test_shapes(resolution: tuple[int, int], channels: int, attention: int) -> None:
    torch.manual_seed(0)
    size = {"resolution": resolution, "width": 4, "max_width": 8, "attention": attention}
    generator = SNGANGenerator(**size, out_channels=channels, latent_dim=5)
    discriminator = SNGANDiscriminator(**size, in_channels=channels)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, channels, *resolution)
    assert images.abs().max() <= 1
    logits, features = discriminator.eval()(images, with_features=True)
    assert logits.shape == (2,)
    assert features.shape == (2, 8)
    torch.testing.assert_close(discriminator.logit(features)[:, 0], logits)


def test_cifar_networks_of_the_paper() -> None:
    """Miyato et al. 2018, table 4: 256 channels everywhere in G; 128 in D, of whose four blocks two halve."""
    with torch.device("meta"):
        generator = SNGANGenerator(resolution=(32, 32), width=256, max_width=256)
        discriminator = SNGANDiscriminator(resolution=(32, 32), width=128, max_width=128, flat_blocks=2)
    block = 2 * conv(256, 256, 3) + conv(256, 256, 1) + 2 * 2 * 256
    assert count(generator) == 128 * 4096 + 4096 + 3 * block + 2 * 256 + conv(256, 3, 3) == 4_276_739
    first = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1)
    assert count(discriminator) == first + 6 * conv(128, 128, 3) + conv(128, 128, 1) + 129 == 1_053_825
    assert [block.halves for block in discriminator.layers] == [True, True, False, False]


def test_sagan_has_as_many_weights_as_published() -> None:
    """81.5 M in both players: BigGAN's table 1 (arXiv:1809.11096), first row, the SAGAN it starts from."""
    common = {"resolution": (128, 128), "num_classes": 1000, "width": 64, "max_width": 1024, "attention": 32}
    with torch.device("meta"):
        generator = SNGANGenerator(**common, latent_dim=128, spectral_norm=True)
        discriminator = SNGANDiscriminator(**common, wide=True, conditioning="projection")
    assert round((count(generator) + count(discriminator)) / 1e6, 1) == 81.5


def test_minibatch_std_is_one_more_feature() -> None:
    """The sum over 4×4 places of the deviation: √1e-8 of each where all pictures are alike; the others stay."""
    torch.manual_seed(0)
    discriminator = SNGANDiscriminator(resolution=(16, 16), width=4, max_width=8, minibatch_std=True).double().eval()
    assert mixes_samples(discriminator)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    _, features = discriminator(images, with_features=True)
    _, alike = discriminator(images[:1].expand(4, -1, -1, -1), with_features=True)
    assert features.shape == (4, 9)
    torch.testing.assert_close(alike[:, :8], features[:1, :8].expand(4, -1))
    torch.testing.assert_close(alike[:, 8], torch.full((4,), 16e-4, dtype=torch.float64))
    assert (features[:, 8] > 10 * alike[:, 8]).all()


def test_imagenet_widths_of_the_paper() -> None:
    """Miyato & Koyama 2018, figure 14: 1024 to 64 channels in G, 64 to 1024 in D, whose last block is flat."""
    with torch.device("meta"):
        generator = SNGANGenerator(resolution=(128, 128), num_classes=1000)
        discriminator = SNGANDiscriminator(resolution=(128, 128), num_classes=1000, conditioning="projection")
    assert [block.conv1.in_channels for block in generator.blocks] == [1024, 1024, 512, 256, 128]
    assert [block.conv2.out_channels for block in discriminator.layers] == [64, 128, 256, 512, 1024, 1024]
    assert [block.halves for block in discriminator.layers] == [True] * 5 + [False]
    assert discriminator.embed.weight.shape == (1000, 1024)


class TestConditioning:
    def test_generator_follows_the_label(self) -> None:
        torch.manual_seed(0)
        generator = SNGANGenerator(resolution=(16, 16), num_classes=3, width=4, latent_dim=5).eval()
        images = generator(torch.randn(1, 5).expand(3, -1), torch.tensor([0, 1, 0]))
        torch.testing.assert_close(images[0], images[2])
        assert not torch.allclose(images[0], images[1])

    @pytest.mark.parametrize("pooling", ["sum", "mean"])
    def test_projection_is_an_inner_product_with_the_pooled_features(self, pooling: str) -> None:
        torch.manual_seed(0)
        discriminator = SNGANDiscriminator(
            resolution=(16, 24), num_classes=3, width=4, conditioning="projection", pooling=pooling
        ).eval()
        images, labels = torch.randn(1, 3, 16, 24).expand(3, -1, -1, -1), torch.tensor([2, 0, 2])
        logits, features = discriminator(images, labels, with_features=True)
        sums = discriminator.layers(images).relu().sum(dim=(2, 3))
        torch.testing.assert_close(features, sums if pooling == "sum" else sums / (4 * 6))
        inner = torch.einsum("nf,nf->n", features, discriminator.embed.weight[labels])
        torch.testing.assert_close(logits, discriminator.logit(features)[:, 0] + inner)
        assert logits[0] != logits[1]

    def test_a_classifier_leaves_the_logit_alone(self) -> None:
        torch.manual_seed(0)
        discriminator = SNGANDiscriminator(resolution=(8, 8), num_classes=3, width=4, conditioning="classifier").eval()
        images = torch.randn(2, 3, 8, 8)
        logits, features = discriminator(images, torch.tensor([0, 1]), with_features=True)
        assert torch.equal(logits, discriminator(images))
        assert discriminator.classify(features).shape == (2, 3)


class TestWeights:
    def test_spectral_norm_is_on_all_weights_but_the_classes_scales(self) -> None:
        torch.manual_seed(0)
        generator = SNGANGenerator(resolution=(16, 16), num_classes=3, width=2, attention=8, spectral_norm=True)
        discriminator = SNGANDiscriminator(
            resolution=(16, 16), num_classes=3, width=2, attention=8, conditioning="projection"
        )
        for layer in generator.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                assert parametrize.is_parametrized(layer, "weight") != isinstance(layer, nn.Embedding)
        for layer in discriminator.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                assert parametrize.is_parametrized(layer, "weight")
        plain = SNGANDiscriminator(resolution=(16, 16), width=2, spectral_norm=False)
        assert not any(parametrize.is_parametrized(layer) for layer in plain.modules())

    def test_scales_at_the_start(self) -> None:
        torch.manual_seed(0)
        discriminator = SNGANDiscriminator(resolution=(16, 16), width=64, max_width=64, spectral_norm=False)
        block = discriminator.layers[1]
        assert isinstance(block, DiscriminatorBlock)
        for layer, gain in ((block.conv1, math.sqrt(2)), (block.conv2, math.sqrt(2)), (block.shortcut, 1)):
            size = layer.weight[0].numel() + layer.weight[:, 0].numel()
            bound = gain * math.sqrt(6 / size)
            assert 0.97 * bound < layer.weight.abs().max().item() <= bound


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_only_batch_norm_mixes_samples(norm: str) -> None:
    torch.manual_seed(0)
    discriminator = SNGANDiscriminator(resolution=(16, 16), width=4, norm=norm, spectral_norm=False)
    images = torch.randn(3, 3, 16, 16)
    alone = torch.cat([discriminator(image[None]) for image in images])
    assert torch.allclose(discriminator(images), alone, rtol=1e-4, atol=1e-5) != mixes_samples(discriminator)
    assert mixes_samples(discriminator) == (norm == "batch")


def test_attention_is_in_both() -> None:
    for kind in (SNGANGenerator, SNGANDiscriminator):
        (layer,) = (
            m for m in kind(resolution=(32, 32), width=8, attention=8).modules() if isinstance(m, SelfAttention)
        )
        assert layer.query.in_channels == 16 if kind is SNGANDiscriminator else 32


def test_more_flat_blocks_than_halvings_are_refused() -> None:
    with pytest.raises(UsageFault, match=r"^flat_blocks: 3 is out of range"):
        SNGANDiscriminator(resolution=(16, 16), flat_blocks=3)


class TestDerivatives:
    def test_generator(self) -> None:
        torch.manual_seed(0)
        generator = SNGANGenerator(resolution=(8, 8), num_classes=2, width=2, latent_dim=3, attention=4).double().eval()
        nn.init.constant_(generator.attention.gate, 0.5)
        z, labels = torch.randn(1, 3, dtype=torch.float64, requires_grad=True), torch.tensor([1])
        assert torch.autograd.gradcheck(lambda z: generator(z, labels).mean(), z)
        assert torch.autograd.gradgradcheck(lambda z: generator(z, labels).mean(), z)

    @pytest.mark.parametrize("norm", ["none", "layer"])
    def test_discriminator(self, norm: str) -> None:
        """The gradient of a squared slope along a direction of all weights, against a difference."""
        torch.manual_seed(0)
        discriminator = SNGANDiscriminator(
            resolution=(8, 8),
            width=4,
            num_classes=2,
            attention=4,
            norm=norm,
            spectral_norm=False,  # its gradient is exact only where the power iteration has converged
            conditioning="projection",
        )
        discriminator.double().eval()
        nn.init.constant_(discriminator.layers[1].gate, 0.5)
        images, labels = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1])

        def penalty(create_graph: bool) -> torch.Tensor:
            (slope,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=create_graph)
            return slope.square().sum()

        weights = [parameter for parameter in discriminator.parameters() if parameter.dim() > 1]
        gradients = torch.autograd.grad(penalty(True), weights)
        assert all(gradient.any() for gradient in gradients)
        directions = [torch.randn_like(weight) for weight in weights]
        values = []
        for step in (1e-6, -2e-6):
            for weight, direction in zip(weights, directions):
                weight.data.add_(direction, alpha=step)
            values.append(penalty(False))
        slope = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions))
        torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-4, atol=1e-8)
