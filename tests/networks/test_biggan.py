"""BigGAN and BigGAN-deep: sizes, published parameter counts, how z and class enter, spectral norm, derivatives."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from img2img.errors import UsageFault
from img2img.networks.attention import SelfAttention
from img2img.networks.biggan import (
    BigGANDeepDiscriminator,
    BigGANDeepGenerator,
    BigGANDiscriminator,
    BigGANGenerator,
    DeepDiscriminatorBlock,
    DeepGeneratorBlock,
    VectorBatchNorm,
    discriminator_widths,
    generator_widths,
)

GENERATORS = [BigGANGenerator, BigGANDeepGenerator]
DISCRIMINATORS = [BigGANDiscriminator, BigGANDeepDiscriminator]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [(8, 8), (16, 24), (40, 20), (32, 32), (96, 64)])
def test_shapes(resolution: tuple[int, int], channels: int, deep: bool) -> None:
    torch.manual_seed(0)
    generator = GENERATORS[deep](resolution=resolution, out_channels=channels, width=2, latent_dim=60, attention=8)
    discriminator = DISCRIMINATORS[deep](resolution=resolution, in_channels=channels, width=2, attention=8)
    images = generator(torch.randn(2, 60))
    assert images.shape == (2, channels, *resolution)
    assert images.abs().max() <= 1
    logits, features = discriminator(images, with_features=True)
    assert logits.shape == (2,)
    assert features.shape == (2, discriminator.logit.in_features)
    discriminator.eval()
    logits, features = discriminator(images, with_features=True)
    torch.testing.assert_close(discriminator.logit(features)[:, 0], logits)


@pytest.mark.parametrize(
    ("deep", "side", "width", "latent_dim", "attention", "counts"),
    [
        (False, 128, 96, 120, 64, (70_433_988, 87_982_370)),  # the paper's 70.43 and 87.98 million
        (False, 256, 96, 140, 64, (82_235_844, 99_225_890)),
        (False, 64, 64, 120, 32, (31_969_540, 20_571_842)),
        (False, 32, 64, 128, 0, (4_499_971, 4_460_801)),
        (True, 128, 128, 128, 64, (50_244_484, 34_590_210)),
        (True, 256, 128, 128, 64, (55_736_708, 38_247_426)),
    ],
)
def test_parameter_counts(
    deep: bool, side: int, width: int, latent_dim: int, attention: int, counts: tuple[int, int]
) -> None:
    """Those of the authors' PyTorch code with 1000 classes and a shared embedding of 128 values."""
    common = {"resolution": (side, side), "num_classes": 1000, "width": width, "attention": attention}
    with torch.device("meta"):
        assert count(GENERATORS[deep](**common, latent_dim=latent_dim)) == counts[0]
        assert count(DISCRIMINATORS[deep](**common, conditioning="projection")) == counts[1]


def test_widths() -> None:
    """The paper's tables for 128, 256 and 512 pixels."""
    assert generator_widths(1, 5) == [16, 16, 8, 4, 2, 1]
    assert generator_widths(1, 6) == [16, 16, 8, 8, 4, 2, 1]
    assert discriminator_widths(1, 7) == [1, 1, 2, 4, 8, 8, 16, 16]
    assert discriminator_widths(1, 9) == [1, 1, 1, 1, 2, 4, 8, 8, 16, 16]
    assert generator_widths(1, 4) == [16, 16, 8, 4, 2]


class TestVectorBatchNorm:
    def test_one_vector_is_batch_norm(self) -> None:
        torch.manual_seed(0)
        norm, plain = VectorBatchNorm(4, 3).double(), nn.BatchNorm2d(4).double()
        vector = torch.randn(1, 3, dtype=torch.float64)
        with torch.no_grad():
            plain.weight.copy_(1 + norm.scale(vector)[0])
            plain.bias.copy_(norm.shift(vector)[0])
        images = torch.randn(5, 4, 2, 3, dtype=torch.float64) * 3 + 1
        torch.testing.assert_close(norm(images, vector.expand(5, -1)), plain(images))
        norm.eval(), plain.eval()
        torch.testing.assert_close(norm(images, vector.expand(5, -1)), plain(images))

    def test_each_row_has_its_own(self) -> None:
        torch.manual_seed(0)
        norm = VectorBatchNorm(4, 3).double()
        images, vectors = torch.randn(5, 4, 2, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        scale = 1 + torch.einsum("cd,nd->nc", norm.scale.weight, vectors)
        shift = torch.einsum("cd,nd->nc", norm.shift.weight, vectors)
        expected = F.batch_norm(images, None, None, training=True) * scale[..., None, None] + shift[..., None, None]
        torch.testing.assert_close(norm(images, vectors), expected)


class TestConditioning:
    @pytest.mark.parametrize("kind", GENERATORS)
    def test_generator_follows_the_label(self, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        generator = kind(resolution=(16, 16), num_classes=3, width=2, latent_dim=6).eval()
        images = generator(torch.randn(1, 6).expand(3, -1), torch.tensor([0, 1, 0]))
        torch.testing.assert_close(images[0], images[2])
        assert not torch.allclose(images[0], images[1])

    @pytest.mark.parametrize("num_classes", [0, 2])
    def test_every_part_of_z_matters(self, num_classes: int) -> None:
        torch.manual_seed(0)
        generator = BigGANGenerator(resolution=(16, 16), num_classes=num_classes, width=2, latent_dim=6).eval()
        z = torch.randn(1, 6, requires_grad=True)
        labels = torch.tensor([1]) if num_classes else None
        (slope,) = torch.autograd.grad(generator(z, labels).square().sum(), z)
        assert slope.all()

    def test_a_part_of_z_reaches_its_own_block_only(self) -> None:
        torch.manual_seed(0)
        generator = BigGANGenerator(resolution=(16, 16), width=2, latent_dim=6).eval()
        seen: list[torch.Tensor] = []
        for block in generator.blocks:
            block.register_forward_hook(lambda _block, given, _out: seen.append(given[1]))
        z = torch.randn(2, 6)
        generator(z)
        torch.testing.assert_close(torch.cat(seen, dim=1), z[:, 2:])

    @pytest.mark.parametrize("kind", DISCRIMINATORS)
    def test_projection_is_an_inner_product_with_the_sums(self, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        discriminator = kind(resolution=(16, 16), num_classes=3, width=2, conditioning="projection").eval()
        images, labels = torch.randn(1, 3, 16, 16).expand(3, -1, -1, -1), torch.tensor([2, 0, 2])
        logits, features = discriminator(images, labels, with_features=True)
        torch.testing.assert_close(features, discriminator.layers(images).relu().sum(dim=(2, 3)))
        inner = torch.einsum("nf,nf->n", features, discriminator.embed.weight[labels])
        torch.testing.assert_close(logits, discriminator.logit(features)[:, 0] + inner)
        assert logits[0] != logits[1]

    @pytest.mark.parametrize("kind", DISCRIMINATORS)
    def test_a_classifier_leaves_the_logit_alone(self, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        discriminator = kind(resolution=(16, 16), num_classes=3, width=2, conditioning="classifier").eval()
        images = torch.randn(2, 3, 16, 16)
        logits, features = discriminator(images, torch.tensor([0, 1]), with_features=True)
        assert torch.equal(logits, discriminator(images))
        assert discriminator.classify(features).shape == (2, 3)

    def test_z_that_cannot_be_cut_is_refused(self) -> None:
        with pytest.raises(UsageFault, match=r"^latent_dim: 128 cannot be cut into 6 equal parts. Use 126 or another"):
            BigGANGenerator(resolution=(128, 128), latent_dim=128)

    def test_attention_below_every_plane_is_refused(self) -> None:
        with pytest.raises(UsageFault, match=r"^attention: .* at most 3. Use 0, or 4 or more"):
            BigGANDiscriminator(resolution=(16, 16), attention=3)


class TestAttention:
    @pytest.mark.parametrize(("attention", "side"), [(64, 16), (16, 16), (15, 8), (8, 8), (4, 4)])
    @pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
    def test_where_it_is(self, kind: type[nn.Module], attention: int, side: int) -> None:
        """At 32×48 the shorter sides are 32, 16, 8 and 4; the image itself has none. (BigGAN's D ends with 8.)"""
        if kind is BigGANDiscriminator and side == 4:
            return
        torch.manual_seed(0)
        network = kind(resolution=(32, 48), width=2, attention=attention)
        (layer,) = (layer for layer in network.modules() if isinstance(layer, SelfAttention))
        planes: list[torch.Size] = []
        layer.register_forward_hook(lambda _layer, given, _out: planes.append(given[0].shape[2:]))
        network(
            torch.randn(2, 120 if kind is BigGANGenerator else 128) if kind in GENERATORS else torch.randn(2, 3, 32, 48)
        )
        assert planes == [(side, side * 3 // 2)]

    @pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
    def test_none(self, kind: type[nn.Module]) -> None:
        network = kind(resolution=(32, 32), width=2, attention=0)
        assert not any(isinstance(layer, SelfAttention) for layer in network.modules())


class TestWeights:
    @pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
    def test_orthogonal_at_the_start(self, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        extra = {"conditioning": "projection"} if kind in DISCRIMINATORS else {}
        network = kind(resolution=(32, 32), num_classes=3, width=4, spectral_norm=False, **extra)
        weights = [
            layer.weight.flatten(1)
            for layer in network.modules()
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)
        ]
        assert len(weights) > 10
        for weight in weights:
            gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
            torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
    def test_spectral_norm_is_everywhere_but_on_the_shared_embedding(self, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        extra = {"conditioning": "projection"} if kind in DISCRIMINATORS else {}
        network = kind(resolution=(16, 16), num_classes=3, width=2, **extra)
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                shared = kind in GENERATORS and name == "embed"
                assert parametrize.is_parametrized(layer, "weight") != shared, name
                with torch.no_grad():
                    if not shared:
                        layer.parametrizations.weight.original.mul_(3)
                    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) == pytest.approx(1, rel=1e-3)


class TestDerivatives:
    @pytest.mark.parametrize("kind", GENERATORS)
    def test_generator(self, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        generator = (
            kind(resolution=(8, 8), num_classes=2, width=1, latent_dim=4, label_dim=2, attention=4).double().eval()
        )
        with torch.no_grad():
            generator.attention.gate.fill_(0.5)
        z, labels = torch.randn(1, 4, dtype=torch.float64, requires_grad=True), torch.tensor([1])
        assert torch.autograd.gradcheck(lambda z: generator(z, labels).mean(), z)
        assert torch.autograd.gradgradcheck(lambda z: generator(z, labels).mean(), z)

    @pytest.mark.parametrize("kind", DISCRIMINATORS)
    @pytest.mark.parametrize("conditioning", ["none", "projection"])
    def test_discriminator(self, kind: type[nn.Module], conditioning: str) -> None:
        """R1's gradient along a direction of all weights, against a difference."""
        torch.manual_seed(0)
        discriminator = kind(
            resolution=(16, 16),
            num_classes=0 if conditioning == "none" else 2,
            width=2,
            attention=8,
            conditioning=conditioning,
        ).double()
        discriminator.eval()
        for layer in discriminator.modules():
            if isinstance(layer, SelfAttention):
                nn.init.constant_(layer.gate, 0.5)
        labels = None if conditioning == "none" else torch.tensor([0, 1])
        images = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)

        def penalty(create_graph: bool) -> torch.Tensor:
            (slope,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=create_graph)
            return slope.square().sum()

        weights = [p for name, p in discriminator.named_parameters() if "bias" not in name]
        gradients = torch.autograd.grad(penalty(True), weights)
        assert all(gradient.any() for gradient in gradients)
        direction = [torch.randn_like(weight) for weight in weights]
        values = []
        for sign in (1e-6, -1e-6):
            moved = copy.deepcopy([weight.data for weight in weights])
            for weight, way in zip(weights, direction):
                weight.data.add_(way, alpha=sign)
            values.append(penalty(False))
            for weight, before in zip(weights, moved):
                weight.data.copy_(before)
        slope = sum((gradient * way).sum() for gradient, way in zip(gradients, direction))
        torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-4, atol=1e-8)


def test_deep_shortcuts_keep_what_there_is() -> None:
    torch.manual_seed(0)
    down, up = DeepDiscriminatorBlock(4, 6, halves=True), DeepGeneratorBlock(8, 3, dim=2, doubles=True)
    for conv in (down.conv4, up.conv4):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    x = torch.randn(2, 4, 4, 6)
    torch.testing.assert_close(down(x)[:, :4], F.avg_pool2d(x, 2))
    torch.testing.assert_close(down(x)[:, 4:], down.shortcut(F.avg_pool2d(x, 2)))
    x = torch.randn(2, 8, 4, 6)
    torch.testing.assert_close(up(x, torch.randn(2, 2)), F.interpolate(x[:, :3], scale_factor=2))


@pytest.mark.parametrize(("generator_kind", "discriminator_kind"), list(zip(GENERATORS, DISCRIMINATORS)))
def test_bfloat16_autocast_trains(generator_kind: type[nn.Module], discriminator_kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    generator = generator_kind(resolution=(16, 16), num_classes=2, width=4, attention=8)
    discriminator = discriminator_kind(
        resolution=(16, 16), num_classes=2, width=4, attention=8, conditioning="projection"
    )
    labels = torch.tensor([0, 1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(torch.randn(3, generator.latent_dim), labels)
        logits = discriminator(images, labels)
    logits.sum().backward()
    for parameter in itertools.chain(generator.parameters(), discriminator.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
