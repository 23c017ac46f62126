"""The ResNet generator: sizes, the published parameter count, layouts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img2img.draws import Draws
from img2img.networks.resample import DOWNSAMPLINGS, UPSAMPLINGS
from img2img.networks.resnet import ResnetGenerator

every_resampling = pytest.mark.parametrize(
    "resampling",
    [{"downsampling": down, "upsampling": up} for down in DOWNSAMPLINGS for up in UPSAMPLINGS],
    ids=lambda resampling: " ".join(resampling.values()),
)


@every_resampling
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (3, 1), (4, 4)])
@pytest.mark.parametrize("size", [(8, 8), (8, 20), (36, 16)])
def test_shapes(size: tuple[int, int], inputs: int, outputs: int, resampling: dict[str, str]) -> None:
    generator = ResnetGenerator(in_channels=inputs, out_channels=outputs, width=2, blocks=2, **resampling)
    images = generator(torch.randn(2, inputs, *size))
    assert images.shape == (2, outputs, *size)
    assert images.abs().max() <= 1


def test_parameter_count_of_the_paper() -> None:
    """The authors' code prints 11.378 M for 9 blocks: 11,378,179, with 5,248 biases that instance norm subtracts."""
    with torch.device("meta"):
        generator = ResnetGenerator()
    useless_biases = 64 + 128 + 256 + 18 * 256 + 128 + 64
    assert sum(p.numel() for p in generator.parameters()) == 11_378_179 - useless_biases


@every_resampling
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5))
def test_every_multiple_of_stride_from_min_size_on_works(
    resampling: dict[str, str], downsamplings: int, rows: int, columns: int
) -> None:
    generator = ResnetGenerator(width=1, blocks=1, downsamplings=downsamplings, **resampling)
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


def test_resampling_changes_no_number_of_parameters() -> None:
    with torch.device("meta"):
        counts = {
            sum(p.numel() for p in ResnetGenerator(downsampling=down, upsampling=up).parameters())
            for down in DOWNSAMPLINGS
            for up in UPSAMPLINGS
        }
    assert len(counts) == 1


def test_the_plain_one_keeps_its_keys() -> None:
    """Model files hold them."""
    with torch.device("meta"):
        keys = [key for key in ResnetGenerator(blocks=1).state_dict() if key.endswith("weight")]
    assert keys == [
        "first.0.weight",
        "down.0.0.weight",
        "down.1.0.weight",
        "blocks.0.conv1.weight",
        "blocks.0.conv2.weight",
        "up.0.0.weight",
        "up.1.0.weight",
        "last.weight",
    ]


def test_antialiased_outputs_move_with_their_inputs() -> None:
    """Moved by one pixel of the four that the generator's stride has, white noise becomes nearly the same picture."""
    changes = {}
    for down, up in (("strided", "transposed"), ("antialiased", "antialiased")):
        torch.manual_seed(0)
        generator = ResnetGenerator(width=8, blocks=2, norm="none", downsampling=down, upsampling=up).double()
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.mul_(3)  # else the tanh sees next to nothing
            images = torch.randn(4, 3, 65, 65, dtype=torch.float64)
            here, there = generator(images[..., :64, 1:]), generator(images[..., :64, :-1])
        inner, moved = here[..., 16:-16, 16:-16], there[..., 16:-16, 17:-15]
        spread = inner - inner.mean((2, 3), keepdim=True)
        changes[down] = ((inner - moved).square().mean() / spread.square().mean()).item()
    assert changes["antialiased"] < 0.3 * changes["strided"], changes


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_constant_weights_make_a_checkerboard_of_transposed_convolutions_alone(upsampling: str) -> None:
    """A plain picture through equal weights: 1, 2 or 4 products of a 3×3 kernel of stride 2 fall on a pixel."""
    generator = ResnetGenerator(in_channels=1, out_channels=1, width=1, blocks=1, norm="none", upsampling=upsampling)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(0.1 if parameter.ndim > 1 else 0.0)
        planes = generator.up(torch.ones(1, 4, 16, 16))[0, 0, 8:-8, 8:-8]
    phases = planes.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((0, 2))
    uneven = (phases.max() - phases.min()) / phases.mean()
    assert (uneven > 0.5) if upsampling == "transposed" else (uneven < 1e-5)
