"""DCGAN: sizes, published parameter counts, conditioning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from img2img.errors import UsageFault
from img2img.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from img2img.networks.layers import MinibatchStd


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [(8, 8), (32, 48), (40, 20), (64, 64)])
def test_shapes(resolution: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    generator = DCGANGenerator(resolution=resolution, out_channels=channels, width=4, latent_dim=5)
    discriminator = DCGANDiscriminator(resolution=resolution, in_channels=channels, width=4)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, channels, *resolution)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)


def test_parameter_counts_of_the_widespread_64_pixel_network() -> None:
    """PyTorch's DCGAN tutorial has 3,576,704 and 2,765,568; ours add a bias where no norm follows."""
    with torch.device("meta"):
        assert count(DCGANGenerator(resolution=(64, 64))) == 3_576_704 + 3
        assert count(DCGANDiscriminator(resolution=(64, 64))) == 2_765_568 + 64 + 1


def test_widths_of_the_paper() -> None:
    """Radford et al., figure 1: 1024, 512, 256, 128 channels from 4×4 to 32×32."""
    with torch.device("meta"):
        generator = DCGANGenerator(resolution=(64, 64), width=128)
    norms = [layer.num_features for layer in generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms == [1024, 512, 256, 128]


class TestConditioning:
    @pytest.mark.parametrize("conditioning", ["concat", "norm"])
    def test_generator_follows_the_label(self, conditioning: str) -> None:
        torch.manual_seed(0)
        generator = DCGANGenerator(
            resolution=(8, 8), num_classes=3, width=4, latent_dim=5, conditioning=conditioning
        ).eval()
        z = torch.randn(1, 5).expand(3, -1)
        images = generator(z, torch.tensor([0, 1, 0]))
        torch.testing.assert_close(images[0], images[2])
        assert not torch.allclose(images[0], images[1])

    @pytest.mark.parametrize("spectral_norm", [False, True])
    @pytest.mark.parametrize("conditioning", ["concat", "projection"])
    def test_discriminator_follows_the_label(self, conditioning: str, spectral_norm: bool) -> None:
        torch.manual_seed(0)
        discriminator = DCGANDiscriminator(
            resolution=(8, 8), num_classes=3, width=4, conditioning=conditioning, spectral_norm=spectral_norm
        ).eval()
        images = torch.randn(1, 3, 8, 8).expand(3, -1, -1, -1)
        logits = discriminator(images, torch.tensor([0, 1, 0]))
        torch.testing.assert_close(logits[0], logits[2])
        assert not torch.allclose(logits[0], logits[1])

    def test_concat_is_a_plane_per_class(self) -> None:
        """By linearity of the first convolution, a plane of ones is what the label adds."""
        torch.manual_seed(0)
        discriminator = DCGANDiscriminator(
            resolution=(8, 8), num_classes=3, width=4, norm="none", conditioning="concat"
        )
        images = torch.randn(1, 3, 8, 8)
        planes = torch.zeros(1, 3, 8, 8)
        planes[:, 2] = 1
        expected = discriminator.logit(discriminator.layers(torch.cat((images, planes), dim=1)).flatten(1))[:, 0]
        torch.testing.assert_close(discriminator(images, torch.tensor([2])), expected)

    def test_projection_adds_the_inner_product_with_summed_features(self) -> None:
        torch.manual_seed(0)
        discriminator = DCGANDiscriminator(
            resolution=(8, 8), num_classes=3, width=4, norm="none", conditioning="projection"
        )
        images = torch.randn(2, 3, 8, 8)
        labels = torch.tensor([2, 0])
        features = discriminator.layers(images)
        assert discriminator.embed is not None
        inner = torch.einsum("nc,nchw->n", discriminator.embed.weight[labels], features)
        expected = discriminator.logit(features.flatten(1))[:, 0] + inner
        torch.testing.assert_close(discriminator(images, labels), expected)

    def test_minibatch_std_is_seen_by_the_logit_and_not_by_the_projection(self) -> None:
        torch.manual_seed(0)
        discriminator = DCGANDiscriminator(
            resolution=(8, 8), num_classes=3, width=4, norm="none", conditioning="projection", minibatch_std=True
        )
        images, labels = torch.randn(4, 3, 8, 8), torch.tensor([2, 0, 1, 1])
        features = discriminator.layers(images)
        assert discriminator.embed is not None
        inner = torch.einsum("nc,nchw->n", discriminator.embed.weight[labels], features)
        expected = discriminator.logit(MinibatchStd()(features).flatten(1))[:, 0] + inner
        torch.testing.assert_close(discriminator(images, labels), expected)

    def test_minibatch_discrimination_is_seen_by_the_logit_and_not_by_the_projection(self) -> None:
        torch.manual_seed(0)
        discriminator = DCGANDiscriminator(
            resolution=(8, 8),
            num_classes=3,
            width=4,
            norm="none",
            conditioning="projection",
            minibatch_std=True,
            minibatch_discrimination=True,
        )
        images, labels = torch.randn(4, 3, 8, 8), torch.tensor([2, 0, 1, 1])
        features = discriminator.layers(images)
        assert discriminator.embed is not None
        assert discriminator.minibatch_discrimination is not None
        near = discriminator.minibatch_discrimination(features.flatten(1))
        seen = torch.cat((MinibatchStd()(features).flatten(1), near), dim=1)
        inner = torch.einsum("nc,nchw->n", discriminator.embed.weight[labels], features)
        torch.testing.assert_close(discriminator(images, labels), discriminator.logit(seen)[:, 0] + inner)

    def test_conditioning_by_norm_needs_batch_norm(self) -> None:
        with pytest.raises(UsageFault, match=r"^conditioning: 'norm' needs batch normalisation, norm is 'instance'"):
            DCGANGenerator(resolution=(8, 8), num_classes=3, norm="instance", conditioning="norm")

    def test_a_choice_that_does_not_fit_the_classes_is_refused(self) -> None:
        with pytest.raises(UsageFault, match=r"^conditioning: .*3 classes"):
            DCGANDiscriminator(resolution=(8, 8), num_classes=3)
        with pytest.raises(UsageFault, match=r"^conditioning: .*needs classes"):
            DCGANDiscriminator(resolution=(8, 8), conditioning="projection")


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_features_are_what_the_last_layer_takes(norm: str) -> None:
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator(resolution=(8, 12), width=4, norm=norm).eval()
    images = torch.randn(3, 3, 8, 12)
    logits, features = discriminator(images, with_features=True)
    assert features.shape == (3, 4 * 4 * 6)
    assert torch.equal(logits, discriminator(images))
    assert torch.equal(discriminator.logit(features)[:, 0], logits)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_a_classifier_leaves_the_logit_alone(spectral_norm: bool) -> None:
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator(
        resolution=(8, 12), num_classes=3, width=4, conditioning="classifier", spectral_norm=spectral_norm
    ).eval()
    images = torch.randn(2, 3, 8, 12)
    logits, features = discriminator(images, torch.tensor([0, 1]), with_features=True)
    assert torch.equal(logits, discriminator(images))
    classes = discriminator.classify(features)
    assert classes.shape == (2, 3)
    torch.testing.assert_close(classes, features @ discriminator.classify.weight.T + discriminator.classify.bias)
