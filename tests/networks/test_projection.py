"""Patch projection against its definition, and the feature maps that generators show."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks import PatchProjection, ResnetGenerator, UNetGenerator

SIZES = ((3, 8, 12), (4, 4, 6), (5, 2, 3))  # channels, height, width of three maps


def draws(*numbers: int, seed: int = 0) -> Draws:
    return Draws(seed, "patches", torch.tensor(numbers))


def maps(count: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(count, *size, dtype=dtype) for size in SIZES]


def projection(**arguments: Any) -> PatchProjection:
    torch.manual_seed(0)
    settings = {"channels": (3, 4, 9, 5), "layers": (0, 1, 3), "width": 7, "patches": 5, **arguments}
    heads = PatchProjection(**settings)
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    return heads


class Places(nn.Module):
    """In place of a head: what it is given, the map's row and column among the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        self.seen = values
        return values


def places(size: tuple[int, int], patches: int, keys: Draws) -> list[Tensor]:
    """Of two maps of this size (N, P, 2): the row and column of each place that is taken."""
    heads = projection(channels=(2, 2), layers=(0, 1), patches=patches)
    heads.heads = nn.ModuleList([Places(), Places()])
    grid = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).float()
    heads([grid.expand(len(keys), -1, -1, -1)] * 2, keys)
    return [head.seen for head in heads.heads]  # type: ignore[misc]


def test_vectors_are_the_mlp_of_each_place_divided_by_its_norm() -> None:
    """With as many patches as places every place is taken once, in an order that the draws know."""
    heads = projection(patches=96).double()
    inputs = maps(dtype=torch.float64)
    for (channels, height, width), head, features, vectors in zip(
        SIZES, heads.heads, inputs, heads(inputs, draws(3, 4)), strict=True
    ):
        assert vectors.shape == (2, height * width, 7)
        rows = features.permute(0, 2, 3, 1).reshape(2, -1, channels)
        first, _, last = head
        hidden = (rows @ first.weight.T + first.bias).clamp(min=0)
        expected = hidden @ last.weight.T + last.bias
        expected = expected / expected.square().sum(2, keepdim=True).sqrt()
        # equal as multisets: so are their products with any vector
        probe = torch.randn(7, dtype=torch.float64)
        torch.testing.assert_close((vectors @ probe).sort(1).values, (expected @ probe).sort(1).values)


def test_places_are_distinct_and_every_one_is_as_likely() -> None:
    taken, _ = places((3, 4), 6, draws(*range(4000)))
    numbers = (taken[..., 0] * 4 + taken[..., 1]).long()
    assert all(len(set(row)) == 6 for row in numbers.tolist())
    counts = numbers.flatten().bincount(minlength=12)
    # each is taken with probability 1/2: five standard deviations of 4000 fair coins
    assert (counts - 2000).abs().max() < 5 * 1000**0.5


def test_places_belong_to_the_image_and_differ_between_layers() -> None:
    first, second = places((8, 8), 4, draws(5, 6))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(places((8, 8), 4, draws(6))[0], first[1:])
    assert not torch.equal(places((8, 8), 4, draws(5, 6, seed=1))[0], first)


def test_mirrored_pictures_give_the_places_of_their_mirror_images() -> None:
    heads, inputs = projection(), maps()
    mirrored = torch.tensor([True, False])
    plain = heads(inputs, draws(1, 2))
    flipped = heads([torch.stack((features[0].flip(2), features[1])) for features in inputs], draws(1, 2), mirrored)
    for one, other in zip(plain, flipped, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(heads(inputs, draws(1, 2), mirrored)[0][0], plain[0][0])


def test_gradients_reach_every_weight_and_only_the_places_that_were_taken() -> None:
    heads = projection().double()
    inputs = [features.requires_grad_() for features in maps(dtype=torch.float64)]
    weights = [torch.randn(2, 5, 7, dtype=torch.float64) for _ in inputs]

    def total(*features: Tensor) -> Tensor:
        vectors = heads(features, draws(1, 2))
        return torch.stack([(vector * weight).sum() for vector, weight in zip(vectors, weights, strict=True)]).sum()

    total(*inputs).backward()
    for features in inputs:
        assert features.grad is not None
        touched = features.grad.abs().sum(1).flatten(1).count_nonzero(dim=1)
        assert touched.tolist() == [5, 5]
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in heads.parameters())
    assert torch.autograd.gradgradcheck(total, inputs, fast_mode=True)


def test_all_weights_exist_before_the_first_call_and_on_meta() -> None:
    with torch.device("meta"):
        heads = PatchProjection(channels=ResnetGenerator().feature_channels)
    shapes = [tuple(parameter.shape) for parameter in heads.parameters()]
    # pixels, 128 and 256 channels behind the halvings, 256 behind each block
    assert shapes[::4] == [(256, channels) for channels in (3, 128, 256, 256, 256)]
    assert shapes[1::4] == shapes[3::4] == [(256,)] * 5
    assert shapes[2::4] == [(256, 256)] * 5


def test_autocast_and_a_memory_layout_change_rounding_only() -> None:
    heads, inputs = projection(), maps()
    expected = heads(inputs, draws(1, 2))
    last = [features.to(memory_format=torch.channels_last) for features in inputs]
    for one, other in zip(expected, heads(last, draws(1, 2)), strict=True):
        torch.testing.assert_close(one, other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = heads(inputs, draws(1, 2))
    for one, other in zip(expected, rounded, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other.norm(dim=2), torch.ones(2, 5))
        torch.testing.assert_close(one, other, rtol=0, atol=0.05)
    wide = copy.deepcopy(heads).double()(maps(dtype=torch.float64), draws(1, 2))
    assert wide[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"layers": (0, 4)}, "layers: 4 is out of range. Use a whole number from 0 to 3"),
        ({"layers": (0, -1)}, "layers: -1 is out of range"),
        ({"layers": (1, 1)}, r"layers: \[1, 1\] names a layer twice"),
        ({"layers": ()}, r"layers: \(\) is not a list"),
        ({"layers": 3}, "layers: 3 is not a list"),
        ({"layers": (0.5,)}, "layers: 0.5 is not a whole number"),
        ({"channels": (3, 10**9)}, "channels: 1000000000 is out of range"),
        ({"channels": (3,) * 10**4}, "channels: "),
        ({"width": 0}, "width: 0 is out of range"),
        ({"width": 10**9}, "width: 1000000000 is out of range"),
        ({"patches": 1}, "patches: 1 is out of range. Use a whole number from 2"),
        ({"patches": 10**9}, "patches: 1000000000 is out of range"),
        ({"mirror": 1}, "mirror: 1 is not a number from 0 to below 1"),
        ({"init": "he"}, "init: 'he' is unknown"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageFault, match=problem):
        projection(**arguments)


# --- the feature maps of generators


def resnet(**arguments: Any) -> ResnetGenerator:
    torch.manual_seed(0)
    return ResnetGenerator(width=4, blocks=3, **arguments)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_feature_maps_are_those_that_the_translation_meets(norm: str) -> None:
    generator = resnet(norm=norm).train()
    images = torch.randn(2, 3, 16, 24)
    layers = range(len(generator.feature_channels))
    output, met = generator.translate(images, layers)
    assert torch.equal(output, generator(images))
    assert met[0] is images
    assert [features.shape[1:] for features in met] == [(3, 16, 24), (8, 8, 12), *[(16, 4, 6)] * 4]
    assert tuple(features.shape[1] for features in met) == generator.feature_channels
    for one, other in zip(met, generator.encode(images, layers), strict=True):
        assert torch.equal(one, other)
    # what comes behind must not have changed them
    last = generator.blocks[2](met[4])
    torch.testing.assert_close(last, met[5])


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("skips", ["all", "none", "inner:1"])
def test_feature_maps_of_a_unet_are_those_of_the_way_down(norm: str, skips: str) -> None:
    torch.manual_seed(0)
    generator = UNetGenerator(width=4, depth=3, norm=norm, skips=skips, dropout_levels=(1,)).train()
    images, layers = torch.randn(2, 3, 16, 24), range(4)
    output, met = generator.translate(images, layers)
    assert torch.equal(output, generator(images))
    assert met[0] is images
    assert [features.shape[1:] for features in met] == [(3, 16, 24), (4, 8, 12), (8, 4, 6), (16, 2, 3)]
    assert tuple(features.shape[1] for features in met) == generator.feature_channels
    for one, other in zip(met, generator.encode(images, layers), strict=True):
        assert torch.equal(one, other)
    # what comes behind must not have changed them
    for level in (1, 2):
        activated = torch.where(met[level] > 0, met[level], 0.2 * met[level])
        torch.testing.assert_close(generator.down_norms[level](generator.down[level](activated)), met[level + 1])
    keys = draws(1, 2)
    dropped, (third,) = generator.translate(images, (2,), keys)
    assert torch.equal(dropped, generator(images, keys))
    assert torch.equal(third, met[2])
    assert not torch.equal(dropped, output)


def test_a_unet_computes_nothing_behind_the_last_layer_asked_for() -> None:
    torch.manual_seed(0)
    generator = UNetGenerator(width=4, depth=3)
    calls: list[int] = []
    for number, layer in enumerate((*generator.down, *generator.up)):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    images = torch.randn(1, 3, 16, 16)
    second, pixels = generator.encode(images, (2, 0))
    assert calls == [0, 1]
    assert pixels is images
    assert second.shape == (1, 8, 4, 4)


def test_layers_come_in_the_order_asked_for_and_none_behind_them_is_computed() -> None:
    generator = resnet()
    calls: list[int] = []
    for number, block in enumerate(generator.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    images = torch.randn(1, 3, 8, 8)
    third, pixels = generator.encode(images, (3, 0))
    assert calls == [0]
    assert pixels is images
    assert third.shape == (1, 16, 2, 2)
    _, (again,) = generator.translate(images, (3,))
    assert torch.equal(again, third)
    assert calls == [0, 0, 1, 2]


def test_translating_with_draws_drops_as_forward_does() -> None:
    generator, images = resnet(dropout=0.5), torch.randn(2, 3, 8, 8)
    keys = draws(1, 2)
    output, _ = generator.translate(images, (1,), keys)
    assert torch.equal(output, generator(images, keys))
    assert not torch.equal(output, generator(images))
