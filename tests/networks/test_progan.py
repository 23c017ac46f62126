"""Growing networks, ProGAN's and StyleGAN's: sizes, fading, which layers learn, published parameter counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.progan import ProGANDiscriminator, ProGANGenerator
from img2img.networks.resample import average_downsample, fir_downsample, fir_upsample, repeat_upsample
from img2img.networks.stylegan import StyleGANDiscriminator, StyleGANGenerator

FAMILIES = [(ProGANGenerator, ProGANDiscriminator), (StyleGANGenerator, StyleGANDiscriminator)]
SMALL: dict[str, Any] = {"resolution": (16, 24), "channel_base": 64, "max_width": 8}
RESIZE = {
    ProGANGenerator: repeat_upsample,
    StyleGANGenerator: fir_upsample,
    ProGANDiscriminator: average_downsample,
    StyleGANDiscriminator: fir_downsample,
}


def make_generator(kind: type[nn.Module], **options: Any) -> nn.Module:
    styles = {"w_dim": 6, "mapping_layers": 2} if kind is StyleGANGenerator else {}
    return kind(latent_dim=5, **{**SMALL, **styles, **options})


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def spread_weights(network: nn.Module) -> nn.Module:
    """float64 and away from the start, so that no strength is 0."""
    with torch.no_grad():
        for parameter in network.double().parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def has_gradient(network: nn.Module, scalar: Tensor) -> dict[str, bool]:
    names, parameters = zip(*network.named_parameters())
    slopes = torch.autograd.grad(scalar, parameters, allow_unused=True)
    return {name: slope is not None and bool(slope.abs().max() > 0) for name, slope in zip(names, slopes)}


@pytest.mark.parametrize(("generator", "discriminator"), FAMILIES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_of_every_level(generator: type[nn.Module], discriminator: type[nn.Module], channels: int) -> None:
    torch.manual_seed(0)
    g = make_generator(generator, out_channels=channels)
    d = discriminator(in_channels=channels, **SMALL)
    assert g.num_levels == d.num_levels == 3
    assert g.level == d.level == 2
    for level in range(3):
        for alpha in (0.0, 0.3, 1.0):
            for network in (g, d):
                network.grow_to(level, alpha)
            images = g(torch.randn(4, 5))
            assert images.shape == (4, channels, 4 * 2**level, 6 * 2**level)
            logits, features = d(images, with_features=True)
            assert logits.shape == (4,)
            assert features.shape == (4, 8)


@pytest.mark.parametrize("kind", [ProGANGenerator, StyleGANGenerator])
def test_a_generator_fades_from_the_level_below_to_its_own(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = spread_weights(make_generator(kind, alpha=0.0))
    z = torch.randn(3, 5, dtype=torch.float64)
    start = network(z)
    network.grow_to(1)
    torch.testing.assert_close(start, RESIZE[kind](network(z)))
    network.grow_to(2)
    end = network(z)
    assert not torch.allclose(start, end)
    network.grow_to(2, 0.25)
    torch.testing.assert_close(network(z), 0.75 * start + 0.25 * end)


@pytest.mark.parametrize("kind", [ProGANDiscriminator, StyleGANDiscriminator])
def test_a_discriminator_fades_from_the_level_below_to_its_own(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = spread_weights(kind(alpha=0.0, **SMALL))
    images = torch.randn(4, 3, 16, 24, dtype=torch.float64)
    start = network(images)
    network.grow_to(1)
    torch.testing.assert_close(start, network(RESIZE[kind](images)))
    whole = kind(**SMALL).double()
    whole.load_state_dict(network.state_dict())
    network.grow_to(2, 1.0)
    torch.testing.assert_close(network(images), whole(images))
    assert not torch.allclose(start, whole(images))
    network.grow_to(2, 0.25)
    x = network.blocks[1](network.from_image[2](images))
    below = network.from_image[1](RESIZE[kind](images))
    expected = network.head(network.blocks[0](0.75 * below + 0.25 * x))
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize(("generator", "discriminator"), FAMILIES)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_only_layers_that_have_a_part_learn(
    generator: type[nn.Module], discriminator: type[nn.Module], alpha: float
) -> None:
    torch.manual_seed(0)
    g = spread_weights(make_generator(generator, level=1, alpha=alpha))
    d = spread_weights(discriminator(level=1, alpha=alpha, **SMALL))
    draws = Draws(0, "x", torch.arange(4))
    images = g(torch.randn(4, 5, dtype=torch.float64), None, draws)
    learned = {"g": has_gradient(g, images.square().sum()), "d": has_gradient(d, d(images.detach()).square().sum())}
    levels = {0, 1} if alpha < 1 else {1}
    last_blocks = {ProGANGenerator: 1, StyleGANGenerator: 2}  # of level 1
    for player, layer in (("g", "to_image"), ("d", "from_image")):
        for name, has in learned[player].items():
            kind, _, rest = name.partition(".")
            index = int(rest.split(".")[0]) if kind in (layer, "blocks") else 0
            if kind == layer:
                expected = index in levels
            elif kind == "blocks":
                expected = index <= (last_blocks[generator] if player == "g" else 0)
            else:
                expected = True
            assert has is expected, f"{player} {name}"


def test_parameter_counts_of_the_paper() -> None:
    """Karras et al. 2018, table 2: 23.1 M each at 1024²; 2019, section 2: 26.2 M for StyleGAN's generator."""
    with torch.device("meta"):
        assert round(count(ProGANGenerator(resolution=(1024, 1024))) / 1e6, 1) == 23.1
        assert round(count(ProGANDiscriminator(resolution=(1024, 1024))) / 1e6, 1) == 23.1
        assert round(count(StyleGANGenerator(resolution=(1024, 1024))) / 1e6, 1) == 26.2


@pytest.mark.parametrize("kind", [ProGANGenerator, StyleGANGenerator])
def test_the_class_changes_the_image(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = spread_weights(make_generator(kind, num_classes=3)).eval()
    z = torch.randn(1, 5, dtype=torch.float64).expand(3, -1)
    images = network(z, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(images[0], images[2])
    assert not torch.allclose(images[0], images[1])


def test_the_class_changes_the_projection_and_not_the_classifiers_logit() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(1, 3, 16, 24).expand(4, -1, -1, -1), torch.tensor([0, 1, 0, 1])
    logits = ProGANDiscriminator(num_classes=3, conditioning="projection", **SMALL)(images, labels)
    torch.testing.assert_close(logits[0], logits[2])
    assert not torch.allclose(logits[0], logits[1])
    judge = ProGANDiscriminator(num_classes=3, conditioning="classifier", **SMALL)
    logits, features = judge(images, labels, with_features=True)
    torch.testing.assert_close(logits, logits[:1].expand(4))
    assert judge.classify(features).shape == (4, 3)
    assert not torch.equal(judge.classify(features), torch.zeros(4, 3))


@pytest.mark.parametrize("kind", [ProGANDiscriminator, StyleGANDiscriminator])
def test_r1_is_that_of_finite_differences(kind: type[nn.Module]) -> None:
    """The derivative of ‖∇D‖² along a direction of the weights, which needs all second derivatives."""
    torch.manual_seed(0)
    network = spread_weights(kind(alpha=0.4, **SMALL))
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


def test_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageFault, match=r"^level: 3 is out of range"):
        ProGANGenerator(level=3, **SMALL)
    with pytest.raises(UsageFault, match=r"^alpha: "):
        StyleGANDiscriminator(alpha=1.5, **SMALL)
