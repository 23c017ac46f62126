from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from img2img.metrics.lpips import feature_similarity, perceptual_distance


def maps(seed: int = 0, count: int = 3) -> list[Tensor]:
    """Two layers' feature maps, float64, none negative."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, *shape, dtype=torch.float64, generator=generator) for shape in ((4, 6, 5), (7, 3, 2))]


def weights(seed: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(channels, dtype=torch.float64, generator=generator) for channels in (4, 7)]


@pytest.mark.parametrize("lin", [None, weights()])
def test_brute_force(lin: list[Tensor] | None) -> None:
    a, b = maps(), maps(seed=1)
    for sample, value in enumerate(perceptual_distance(a, b, lin).tolist()):
        expected = 0.0
        for layer, (map_a, map_b) in enumerate(zip(a, b)):
            _, channels, height, width = map_a.shape
            for y in range(height):
                for x in range(width):
                    at_a, at_b = map_a[sample, :, y, x], map_b[sample, :, y, x]
                    squares = (at_a / math.sqrt(at_a @ at_a) - at_b / math.sqrt(at_b @ at_b)) ** 2
                    weighted = squares if lin is None else squares * lin[layer]
                    expected += float(weighted.sum()) / (height * width)
        assert value == pytest.approx(expected, rel=1e-8)  # 1e-10 is added to the lengths


def test_orthogonal_features_are_two_apart_in_each_layer() -> None:
    """Of unit length, ‖u − v‖² = 2 − 2⟨u, v⟩: 2 for orthogonal ones, 4 for opposite ones; half of the places differ."""
    a = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    a[:, 0] = 5
    b = a.clone()
    b[0, :, 0, 1] = torch.tensor([0.0, 0.1])
    assert perceptual_distance([a], [b]).item() == pytest.approx(1)
    assert perceptual_distance([a, a, a], [b, b, b]).item() == pytest.approx(3)
    assert perceptual_distance([a], [-a]).item() == pytest.approx(4)


def test_weights_choose_channels() -> None:
    a, b = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert perceptual_distance([a], [b], [torch.tensor([0.25, 0.0])]).item() == pytest.approx(0.25)
    assert perceptual_distance([a], [b], [torch.tensor([0.25, 3.0])]).item() == pytest.approx(3.25)


def test_lengths_and_places_that_answer_nothing_do_not_matter() -> None:
    a = maps()
    assert perceptual_distance(a, [5 * layer for layer in a]).abs().max() < 1e-18
    nothing = [torch.zeros_like(layer) for layer in a]
    assert perceptual_distance(nothing, nothing).tolist() == [0, 0, 0]
    torch.testing.assert_close(perceptual_distance(a, nothing), torch.full((3,), 2.0, dtype=torch.float64))


def test_symmetry_zero_and_batch_size() -> None:
    a, b = maps(), maps(seed=1)
    values = perceptual_distance(a, b, weights())
    assert values.shape == (3,)
    assert (values > 0).all()
    assert torch.equal(perceptual_distance(b, a, weights()), values)
    assert perceptual_distance(a, a, weights()).tolist() == [0, 0, 0]
    for sample in range(3):
        alone = perceptual_distance(*([layer[sample : sample + 1] for layer in layers] for layers in (a, b)), weights())
        assert alone.item() == pytest.approx(values[sample].item(), rel=1e-12)


def test_content_preservation_points_up_and_the_identity_is_best() -> None:
    inputs = maps()[0].flatten(1)
    changes = maps(seed=1)[0].flatten(1) - 0.5
    values = [feature_similarity(inputs, inputs + amount * changes).mean().item() for amount in (0, 0.1, 0.3, 1, 3)]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)


def test_feature_similarity_is_the_cosine() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert feature_similarity(a, b).tolist() == pytest.approx([1, 0, -1, math.sqrt(0.5), 0])
