"""The coarse-to-fine generator: sizes, the released code's parameter count, and how its stages are joined."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img2img.networks.coarse_to_fine import CoarseToFineGenerator
from img2img.networks.resnet import ResnetGenerator


@pytest.mark.parametrize("enhancers", [0, 1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (5, 1)])
def test_shapes(enhancers: int, inputs: int, outputs: int) -> None:
    generator = CoarseToFineGenerator(
        in_channels=inputs, out_channels=outputs, width=2, blocks=1, enhancers=enhancers, downsamplings=1
    )
    images = generator(torch.randn(2, inputs, 24, 32))
    assert images.shape == (2, outputs, 24, 32)
    assert images.abs().max() <= 1


def test_parameter_count_of_the_released_code() -> None:
    """It prints 182,546,755 for its global generator on 36 channels (35 classes and an edge map); 21,376 of these are
    biases that instance norm subtracts."""
    with torch.device("meta"):
        generator = CoarseToFineGenerator(in_channels=36, width=64, enhancers=0)
    useless_biases = 64 * (1 + 2 + 4 + 8 + 16) + 18 * 1024 + 64 * (8 + 4 + 2 + 1)
    assert sum(p.numel() for p in generator.parameters()) == 182_546_755 - useless_biases


def test_without_enhancers_it_is_the_resnet() -> None:
    torch.manual_seed(0)
    alone = CoarseToFineGenerator(width=4, blocks=2, enhancers=0, downsamplings=3)
    resnet = ResnetGenerator(width=4, blocks=2, downsamplings=3)
    resnet.load_state_dict({key.removeprefix("stages.0."): value for key, value in alone.state_dict().items()})
    images = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(alone(images), resnet(images))
    assert (alone.stride, alone.min_size) == (resnet.stride, resnet.min_size)


def test_what_comes_from_inside_is_of_the_halved_picture() -> None:
    """With an enhancer that halves to nothing all comes from inside, and there two pictures with the same 2×2 means are
    one; else they are not."""
    torch.manual_seed(0)
    generator = CoarseToFineGenerator(width=2, blocks=1, local_blocks=1, enhancers=1, downsamplings=1).double()
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    checkered = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(8, 8)
    assert not torch.allclose(generator(images), generator(images + checkered))
    torch.nn.init.zeros_(generator.stages[1].down[0][0].weight)
    torch.testing.assert_close(generator(images), generator(images + checkered))
    assert not torch.allclose(generator(images), generator(images.flip(-1)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2), st.integers(0, 2), st.integers(1, 4), st.integers(1, 4))
def test_every_multiple_of_stride_from_min_size_on_works(
    downsamplings: int, enhancers: int, rows: int, columns: int
) -> None:
    generator = CoarseToFineGenerator(
        width=1, blocks=1, local_blocks=1, downsamplings=downsamplings, enhancers=enhancers
    )
    height, width = rows * generator.stride, columns * generator.stride
    images = torch.zeros(1, 3, height, width)
    if min(height, width) >= generator.min_size:
        assert generator(images).shape == images.shape
    else:
        with pytest.raises(RuntimeError):
            generator(images)
