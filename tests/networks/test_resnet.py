"""The ResNet generator: sizes, the published parameter count, layouts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img2img.draws import Draws
from img2img.networks.resnet import ResnetGenerator


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (3, 1), (4, 4)])
@pytest.mark.parametrize("size", [(8, 8), (8, 20), (36, 16)])
def test_shapes(size: tuple[int, int], inputs: int, outputs: int) -> None:
    generator = ResnetGenerator(in_channels=inputs, out_channels=outputs, width=2, blocks=2)
    images = generator(torch.randn(2, inputs, *size))
    assert images.shape == (2, outputs, *size)
    assert images.abs().max() <= 1


def test_parameter_count_of_the_paper() -> None:
    """The authors' code prints 11.378 M for 9 blocks: 11,378,179, with 5,248 biases that instance norm subtracts."""
    with torch.device("meta"):
        generator = ResnetGenerator()
    useless_biases = 64 + 128 + 256 + 18 * 256 + 128 + 64
    assert sum(p.numel() for p in generator.parameters()) == 11_378_179 - useless_biases


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5))
def test_every_multiple_of_stride_from_min_size_on_works(downsamplings: int, rows: int, columns: int) -> None:
    generator = ResnetGenerator(width=1, blocks=1, downsamplings=downsamplings)
    height, width = rows * generator.stride, columns * generator.stride
    images = torch.zeros(1, 3, height, width)
    if min(height, width) >= generator.min_size:
        assert generator(images).shape == images.shape
    else:
        with pytest.raises(RuntimeError):
            generator(images)


def test_another_size_than_a_multiple_of_stride_changes_it() -> None:
    generator = ResnetGenerator(width=1, blocks=1)
    assert generator(torch.zeros(1, 3, 18, 20)).shape != (1, 3, 18, 20)


def test_channels_last_and_contiguous_agree() -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(width=4, blocks=2).double()
    images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    gradients = []
    outputs = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        generator.to(memory_format=memory_format)  # type: ignore[call-overload]
        output = generator(images.contiguous(memory_format=memory_format))
        gradients.append(torch.autograd.grad(output.abs().sum(), tuple(generator.parameters())))
        outputs.append(output)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_dropout_only_with_draws_and_keyed_by_image() -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(width=4, blocks=2, dropout=0.5).double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    draws = Draws(0, "dropout", torch.tensor([4, 5, 6]))
    noisy = generator(images, draws)
    assert not torch.allclose(noisy, generator(images))
    torch.testing.assert_close(generator(images[1:2], Draws(0, "dropout", torch.tensor([5]))), noisy[1:2])
    first, second = (block.dropout for block in generator.blocks)
    assert first.probability == second.probability == 0.5


def test_each_block_drops_other_values() -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(width=1, blocks=2, dropout=0.5, norm="none")
    kept = []
    for block in generator.blocks:
        block.dropout.register_forward_hook(lambda module, inputs, output: kept.append(output / inputs[0]))
        torch.nn.init.constant_(block.conv1.bias, 9.0)
    generator(torch.randn(1, 3, 16, 16), Draws(0, "dropout", torch.tensor([0])))
    assert not torch.equal(kept[0] > 0, kept[1] > 0)
