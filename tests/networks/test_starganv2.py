"""StarGAN v2: sizes, published parameter counts, styles, one head for each domain, derivatives."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks.starganv2 import (
    EncoderBlock,
    HeadLinear,
    StarGANv2Discriminator,
    StarGANv2Generator,
    StarGANv2Mapping,
    StarGANv2StyleEncoder,
    StyledBlock,
    StyleNorm,
    take_head,
)

DOMAINS, STYLE = 3, 5
SMALL: dict[str, Any] = {"resolution": (16, 24), "width": 4, "max_width": 8}


def make(kind: type[nn.Module], **options: Any) -> nn.Module:
    """Small and in float64, with biases and scales away from where they begin."""
    torch.manual_seed(0)
    needed: dict[type[nn.Module], dict[str, Any]] = {
        StarGANv2Generator: {**SMALL, "style_dim": STYLE, "downsamplings": 1},
        StarGANv2Mapping: {"num_classes": DOMAINS, "style_dim": STYLE, "latent_dim": 6, "width": 8},
        StarGANv2StyleEncoder: {**SMALL, "num_classes": DOMAINS, "style_dim": STYLE},
        StarGANv2Discriminator: {**SMALL, "num_classes": DOMAINS},
    }
    network = kind(**{**needed[kind], **options}).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def pictures(count: int = 2, size: tuple[int, int] = (16, 24), channels: int = 3) -> Tensor:
    return torch.rand(count, channels, *size, dtype=torch.float64) * 2 - 1


def test_parameter_counts() -> None:
    """Those that the authors' code prints for 256×256 and two domains without the high-pass skip."""

    def count(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    with torch.device("meta"):
        assert count(StarGANv2Generator(resolution=(256, 256), style_dim=64)) == 33_892_995
        assert count(StarGANv2Mapping(num_classes=2)) == 2_438_272
        assert count(StarGANv2StyleEncoder(resolution=(256, 256), num_classes=2, style_dim=64)) == 20_916_928
        assert count(StarGANv2Discriminator(resolution=(256, 256), num_classes=2)) == 20_852_290


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [(8, 8), (40, 20), (24, 56)])
def test_shapes(resolution: tuple[int, int], channels: int) -> None:
    images, labels = pictures(2, resolution, channels), torch.tensor([2, 0])
    own = {"resolution": resolution, "in_channels": channels}
    generator = make(StarGANv2Generator, **own, out_channels=channels, downsamplings=None)
    styles = make(StarGANv2StyleEncoder, **own)(images, labels)
    assert styles.shape == (2, STYLE)
    result = generator(images, styles)
    assert result.shape == images.shape
    logits, features = make(StarGANv2Discriminator, **own)(result, labels, with_features=True)
    assert logits.shape == (2,)
    assert features.shape == (2, 8)
    assert make(StarGANv2Mapping)(torch.randn(2, 6, dtype=torch.float64), labels).shape == (2, STYLE)


def test_the_bottleneck_of_the_paper_s_size_is_the_paper_s() -> None:
    with torch.device("meta"):
        generator = StarGANv2Generator(resolution=(256, 256), style_dim=64)
        assert generator.stride == 16
        assert generator.encode(generator.from_image(torch.empty(1, 3, 256, 256))).shape == (1, 512, 16, 16)


class TestBlocks:
    """Against the sentence that describes them, step by step."""

    @pytest.mark.parametrize("halves", [False, True])
    def test_encoder(self, halves: bool) -> None:
        torch.manual_seed(0)
        block = EncoderBlock(4, 6, halves=halves, normalises=True).double()
        x = torch.randn(3, 4, 32, 32, dtype=torch.float64)  # so large that convolution and halving are one

        def pool(x: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(x, 2) if halves else x

        def normed(x: Tensor) -> Tensor:
            return nn.functional.leaky_relu(nn.functional.instance_norm(x), 0.2)

        expected = block.conv2(normed(pool(block.conv1(normed(x))))) + pool(block.shortcut(x))
        torch.testing.assert_close(block(x), expected / math.sqrt(2))

    @pytest.mark.parametrize("doubles", [False, True])
    def test_styled(self, doubles: bool) -> None:
        torch.manual_seed(0)
        block = StyledBlock(6, 4, STYLE, doubles=doubles).double()
        x, style = torch.randn(3, 6, 16, 16, dtype=torch.float64), torch.randn(3, STYLE, dtype=torch.float64)

        def double(x: Tensor) -> Tensor:
            return nn.functional.interpolate(x, scale_factor=2) if doubles else x

        def normed(norm: StyleNorm, x: Tensor) -> Tensor:
            return nn.functional.leaky_relu(norm(x, style), 0.2)

        expected = block.conv2(normed(block.norm2, block.conv1(double(normed(block.norm1, x)))))
        torch.testing.assert_close(block(x, style), (expected + double(block.shortcut(x))) / math.sqrt(2))

    def test_style_norm_gives_each_plane_the_style_s_mean_and_deviation(self) -> None:
        torch.manual_seed(0)
        layer = StyleNorm(4, STYLE).double()
        style, images = torch.randn(3, STYLE, dtype=torch.float64), torch.randn(3, 4, 9, 9, dtype=torch.float64)
        outputs = layer(images, style)
        scale, shift = layer.style(style).chunk(2, dim=1)
        torch.testing.assert_close(outputs.mean(dim=(2, 3)), shift)
        torch.testing.assert_close(outputs.std(dim=(2, 3), correction=0), (1 + scale).abs(), rtol=1e-3, atol=1e-3)

    def test_style_norm_that_learned_nothing_is_instance_norm(self) -> None:
        layer = StyleNorm(4, STYLE)
        nn.init.zeros_(layer.style.weight)
        nn.init.zeros_(layer.style.bias)
        images = torch.randn(2, 4, 5, 6)
        torch.testing.assert_close(layer(images, torch.randn(2, STYLE)), nn.functional.instance_norm(images))


class TestStyles:
    def test_the_result_follows_its_own_style_and_no_other(self) -> None:
        generator, images = make(StarGANv2Generator), pictures(1).expand(3, -1, -1, -1)
        styles = torch.randn(3, STYLE, dtype=torch.float64)
        styles[2] = styles[0]
        results = generator(images, styles)
        torch.testing.assert_close(results[0], results[2])
        assert (results[0] - results[1]).abs().mean() > 0.01
        torch.testing.assert_close(generator(images[1:2], styles[1:2])[0], results[1])

    def test_equal_pictures_have_equal_styles(self) -> None:
        encoder, images = make(StarGANv2StyleEncoder), pictures(2)
        styles = encoder(images[[0, 1, 0]], torch.tensor([1, 1, 1]))
        torch.testing.assert_close(styles[0], styles[2])
        assert not torch.allclose(styles[0], styles[1])

    def test_any_multiple_of_the_stride_is_translated(self) -> None:
        generator = make(StarGANv2Generator)
        assert generator.stride == 2
        assert generator(pictures(1, (10, 34)), torch.zeros(1, STYLE).double()).shape == (1, 3, 10, 34)


def test_take_head_is_indexing() -> None:
    values, labels = torch.randn(4, 3, 2), torch.tensor([2, 0, 1, 2])
    assert torch.equal(take_head(values, labels), values[torch.arange(4), labels])
    assert torch.equal(take_head(values[..., 0], labels), values[torch.arange(4), labels, 0])


KINDS = [StarGANv2Mapping, StarGANv2StyleEncoder, StarGANv2Discriminator]


def given(kind: type[nn.Module], count: int = 4) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 6, dtype=torch.float64) if kind is StarGANv2Mapping else pictures(count)


@pytest.mark.parametrize("kind", KINDS)
class TestHeads:
    def test_a_row_s_answer_is_that_of_its_domain(self, kind: type[nn.Module]) -> None:
        network, inputs = make(kind), given(kind)
        together = network(inputs, torch.tensor([0, 1, 2, 1]))
        for row, domain in enumerate((0, 1, 2, 1)):
            alone = network(inputs[row : row + 1], torch.tensor([domain]))
            torch.testing.assert_close(together[row : row + 1], alone)
        same = network(inputs[:1].expand(3, *inputs.shape[1:]), torch.arange(3))
        assert not torch.allclose(same[0], same[1])
        assert not torch.allclose(same[1], same[2])

    def test_heads_that_nobody_asked_have_a_gradient_of_zero(self, kind: type[nn.Module]) -> None:
        network = make(kind)
        network(given(kind), torch.tensor([1, 1, 1, 1])).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name} has none: Adam would leave its moments alone"
        heads = network.layers[-1] if kind is StarGANv2Mapping else network.heads
        of_weight = heads.weight.grad.unflatten(0, (DOMAINS, -1))
        assert of_weight[1].any()
        assert not of_weight[[0, 2]].any()


def test_mapping_is_a_chain_of_linear_layers_each_domain_with_its_own_end() -> None:
    mapping, z = make(StarGANv2Mapping, lr_multiplier=0.25), torch.randn(1, 6, dtype=torch.float64)
    assert [layer.heads for layer in mapping.layers] == [1] * 4 + [DOMAINS] * 4
    x = z
    for index, layer in enumerate(mapping.layers):
        head = 1 if index >= 4 else 0
        weight = layer.weight.unflatten(0, (layer.heads, -1))[head]
        x = (x.relu() if index else x) @ (0.25 * weight.T) + 0.25 * layer.bias[head]
    torch.testing.assert_close(mapping(z, torch.tensor([1])), x)


def test_a_slow_layer_begins_as_a_fast_one_and_learns_at_its_share_of_the_rate() -> None:
    """Adam's first step moves every parameter by the learning rate, so the layer itself by its multiple."""
    for multiplier in (1.0, 0.01):
        torch.manual_seed(0)
        layer = HeadLinear(2, 400, 300, multiplier)
        assert layer.scaled_weight().std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
        before = layer.scaled_weight().detach()
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        layer(torch.randn(1, 3, 400)).sum().backward()
        optimizer.step()
        moved = (layer.scaled_weight() - before).abs().median().item()
        assert moved == pytest.approx(1e-3 * multiplier, rel=0.01)


def test_signals_keep_their_size() -> None:
    """Sums are divided by √2: the features of a fresh encoder are neither faint nor loud, however many its blocks."""
    torch.manual_seed(0)
    for side in (8, 64):
        encoder = StarGANv2StyleEncoder(resolution=(side, side), num_classes=2, style_dim=64, width=32, max_width=64)
        size = encoder.encode(torch.randn(4, 3, side, side)).square().mean().sqrt()
        assert 0.2 < size < 3


class TestDerivatives:
    def test_generator(self) -> None:
        generator = make(StarGANv2Generator, resolution=(8, 8), width=2, max_width=2)
        images, styles = pictures(2, (8, 8)).requires_grad_(), torch.randn(2, STYLE, dtype=torch.float64)
        styles.requires_grad_()
        assert torch.autograd.gradcheck(lambda x, s: generator(x, s).square().mean(), (images, styles))

    def test_discriminator_s_gradient_penalty(self) -> None:
        discriminator = make(StarGANv2Discriminator, resolution=(8, 8), in_channels=1, width=2, max_width=4)
        images, labels = pictures(2, (8, 8), 1).requires_grad_(), torch.tensor([2, 0])
        assert torch.autograd.gradcheck(lambda x: discriminator(x, labels), images)
        (slope,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=True)
        weights = [parameter for parameter in discriminator.parameters() if parameter.dim() > 1]
        second = torch.autograd.grad(slope.square().sum(), weights)
        assert all(value.any() for value in second)
        # R1's gradient by the weight that reads the image, against a difference
        weight = discriminator.encode.from_image.weight
        step = torch.randn_like(weight) * 1e-6
        penalties = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(step, alpha=sign)
            (moved,) = torch.autograd.grad(discriminator(images, labels).sum(), images)
            penalties.append(moved.square().sum())
            with torch.no_grad():
                weight.sub_(step, alpha=sign)
        (expected,) = [gradient for parameter, gradient in zip(weights, second) if parameter is weight]
        torch.testing.assert_close((penalties[0] - penalties[1]) / 2, (expected * step).sum(), rtol=1e-5, atol=1e-12)


def test_without_classes_a_discriminator_has_one_output() -> None:
    discriminator = make(StarGANv2Discriminator, num_classes=0)
    logits, features = discriminator(pictures(), with_features=True)
    torch.testing.assert_close(logits, discriminator.heads(features)[:, 0])


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_autocast_trains_and_leaves_styles_whole(channels_last: bool) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    size = {"resolution": (32, 32), "width": 4, "max_width": 8}
    generator = StarGANv2Generator(**size, style_dim=STYLE).to(memory_format=layout)
    encoder = StarGANv2StyleEncoder(**size, num_classes=2, style_dim=STYLE).to(memory_format=layout)
    mapping = StarGANv2Mapping(num_classes=2, style_dim=STYLE, width=8)
    discriminator = StarGANv2Discriminator(**size, num_classes=2).to(memory_format=layout)
    images, labels = torch.randn(2, 3, 32, 32).to(memory_format=layout), torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        styles = mapping(torch.randn(2, 16), labels)
        found = encoder(generator(images, styles), labels)
        loss = found.sum() + discriminator(images, labels).float().sum()
    assert styles.dtype == found.dtype == torch.float32
    loss.backward()
    for network in (generator, encoder, mapping, discriminator):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_copies_answer_alike() -> None:
    for kind in KINDS:
        network, inputs, labels = make(kind), given(kind), torch.tensor([0, 1, 2, 1])
        assert torch.equal(copy.deepcopy(network)(inputs, labels), network(inputs, labels))


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        (StarGANv2Generator, "style_dim", 0),
        (StarGANv2Generator, "width", 10**9),
        (StarGANv2Generator, "max_width", 2),
        (StarGANv2Generator, "downsamplings", 3),
        (StarGANv2Generator, "in_channels", 0),
        (StarGANv2Mapping, "num_classes", 0),
        (StarGANv2Mapping, "num_classes", 10**9),
        (StarGANv2Mapping, "style_dim", 10**9),
        (StarGANv2Mapping, "latent_dim", 0),
        (StarGANv2Mapping, "width", True),
        (StarGANv2Mapping, "shared_layers", -1),
        (StarGANv2Mapping, "head_layers", 0),
        (StarGANv2Mapping, "lr_multiplier", 0),
        (StarGANv2StyleEncoder, "num_classes", 0),
        (StarGANv2StyleEncoder, "style_dim", "64"),
        (StarGANv2StyleEncoder, "width", 0),
        (StarGANv2Discriminator, "num_classes", -1),
        (StarGANv2Discriminator, "in_channels", 10**9),
        (StarGANv2Discriminator, "max_width", 10**9),
    ],
)
def test_absurd_arguments_are_refused_by_name(kind: type[nn.Module], argument: str, value: object) -> None:
    with pytest.raises(UsageFault) as caught:
        make(kind, **{argument: value})
    assert caught.value.subject == argument
    assert caught.value.mend


@pytest.mark.parametrize("kind", [StarGANv2Generator, StarGANv2StyleEncoder, StarGANv2Discriminator])
def test_sizes_that_are_no_doublings_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(UsageFault, match=r"^data\.resolution: .*Use \["):
        make(kind, resolution=(18, 18))
