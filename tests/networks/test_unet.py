"""The U-Net: sizes, the published parameter count, skip connections, dropout."""

from __future__ import annotations

import pytest
import torch

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.layers import InstanceNorm, KeyedDropout
from img2img.networks.resample import DOWNSAMPLINGS, UPSAMPLINGS
from img2img.networks.unet import UNetGenerator


def draws_for(*numbers: int) -> Draws:
    return Draws(1, "dropout", torch.tensor(numbers))


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "none"])
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 9])
def test_shapes_at_min_size_and_rectangles_of_any_depth(depth: int, norm: str) -> None:
    generator = UNetGenerator(in_channels=1, out_channels=4, width=1, depth=depth, norm=norm)
    assert generator.stride == generator.min_size == 2**depth
    for height, width in ((1, 1), (1, 2), (3, 1)):
        images = torch.randn(1, 1, height * generator.stride, width * generator.stride)
        output = generator(images)
        assert output.shape == (1, 4, *images.shape[2:])
        assert output.abs().max() <= 1


def test_below_min_size_or_off_the_stride_fails() -> None:
    generator = UNetGenerator(width=1, depth=3)
    for size in ((4, 8), (12, 8)):
        with pytest.raises(RuntimeError):
            generator(torch.zeros(1, 3, *size))


def test_min_size_output_depends_on_the_input() -> None:
    """No norm erases the 1×1 plane: the innermost weights get a gradient."""
    torch.manual_seed(0)
    generator = UNetGenerator(width=2, depth=3)
    generator(torch.randn(1, 3, 8, 8)).sum().backward()
    assert generator.down[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("resolution", "depth"), [((256, 256), 8), ((512, 1024), 8), ((64, 64), 6), ((96, 64), 5), ((100, 100), 2)]
)
def test_default_depth_is_the_deepest_for_the_resolution(resolution: tuple[int, int], depth: int) -> None:
    with torch.device("meta"):
        assert UNetGenerator(resolution=resolution, width=1).depth == depth


def test_an_odd_side_is_refused() -> None:
    with pytest.raises(UsageFault, match=r"^data\.resolution: \[99, 100\] .*\[128, 128\]"):
        UNetGenerator(resolution=(99, 100))


def test_parameter_count_of_the_paper() -> None:
    """The authors' code prints 54.414 M with batch norm: 54,413,955. Ours has 64 + 512 biases where no norm follows."""
    with torch.device("meta"):
        batch, instance = UNetGenerator(norm="batch"), UNetGenerator(norm="instance")
    assert sum(p.numel() for p in batch.parameters()) == 54_413_955 + 64 + 512
    learned_by_batch_norm = 2 * ((128 + 256 + 512 * 4) + (512 * 4 + 256 + 128 + 64))
    assert sum(p.numel() for p in instance.parameters()) == 54_413_955 + 64 + 512 - learned_by_batch_norm


def test_instance_norm_is_batch_norm_at_batch_1() -> None:
    torch.manual_seed(0)
    instance = UNetGenerator(width=2, depth=4, norm="instance")
    batch = UNetGenerator(width=2, depth=4, norm="batch").train()
    batch.load_state_dict(instance.state_dict(), strict=False)
    for layer in batch.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(layer.weight)
    images = torch.randn(1, 3, 16, 32)
    torch.testing.assert_close(batch(images), instance(images))


def test_skips_carry_each_size_around_the_middle() -> None:
    """With the innermost silenced, a U-Net still sees its input; with all skips cut it cannot."""
    torch.manual_seed(0)
    generator = UNetGenerator(width=2, depth=3, norm="none")
    torch.nn.init.zeros_(generator.up[0].weight)
    images = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(*generator(images))
    with torch.no_grad():
        for conv in list(generator.up)[1:]:
            conv.weight[conv.in_channels // 2 :] = 0
    torch.testing.assert_close(*generator(images))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)
def test_every_resampling_at_min_size_and_beyond(downsampling: str, upsampling: str, depth: int) -> None:
    generator = UNetGenerator(
        in_channels=1, out_channels=2, width=1, depth=depth, downsampling=downsampling, upsampling=upsampling
    )
    for height, width in ((1, 1), (3, 1)):
        images = torch.randn(2, 1, height * generator.stride, width * generator.stride)
        assert generator(images).shape == (2, 2, *images.shape[2:])


class TestSkips:
    @pytest.mark.parametrize(
        ("skips", "levels"),
        [("all", {0, 1, 2}), ("none", set()), ("inner:1", {2}), ("inner:3", {0, 1, 2}), ("outer:2", {0, 1})],
    )
    def test_levels(self, skips: str, levels: set[int]) -> None:
        """A level's features reach the output by themselves just where they skip: seen with the innermost silenced."""
        torch.manual_seed(0)
        generator = UNetGenerator(width=2, depth=4, norm="none", skips=skips)
        assert generator.skips == levels
        torch.nn.init.zeros_(generator.up[0].weight)
        features = []
        for conv in generator.down:
            conv.register_forward_hook(lambda _conv, _inputs, output: features.append(output))
        output = generator(torch.randn(1, 3, 16, 16))
        gradients = torch.autograd.grad(output.sum(), features, allow_unused=True)
        reached = {level for level, gradient in enumerate(gradients) if gradient is not None and gradient.any()}
        # what skips at one level has come through all that are outside it
        assert reached == set(range(max(levels) + 1) if levels else ())

    def test_no_skips_leave_the_innermost_alone(self) -> None:
        generator = UNetGenerator(width=2, depth=3, norm="none", skips="none")
        torch.nn.init.zeros_(generator.up[0].weight)
        torch.testing.assert_close(*generator(torch.randn(2, 3, 8, 8)))

    def test_all_are_the_default_with_the_keys_of_old_model_files(self) -> None:
        with torch.device("meta"):
            plain, named = UNetGenerator(depth=3), UNetGenerator(depth=3, skips="all")
        assert str(plain) == str(named)
        assert [key for key in plain.state_dict() if key.startswith("up.")] == [
            "up.0.weight",
            "up.1.weight",
            "up.2.weight",
            "up.2.bias",
        ]

    def test_more_than_there_are_is_refused_with_how_many(self) -> None:
        with pytest.raises(UsageFault, match=r"^skips: 'inner:3': depth 3 has 2"):
            UNetGenerator(depth=3, skips="inner:3")


class TestDropout:
    def test_in_the_three_innermost_up_blocks(self) -> None:
        with torch.device("meta"):
            generator = UNetGenerator(dropout=0.4)
        dropouts = [layer.probability for layer in generator.modules() if isinstance(layer, KeyedDropout)]
        assert dropouts == [0.4] * 3 + [0.0] * 5
        with torch.device("meta"):
            generator = UNetGenerator(dropout=0.4, dropout_levels=(1, 6))
        dropouts = [layer.probability for layer in generator.modules() if isinstance(layer, KeyedDropout)]
        assert dropouts == [0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0]  # the innermost first
        assert isinstance(generator.up_norms[0], InstanceNorm)

    def test_on_only_with_draws_whatever_the_mode(self) -> None:
        torch.manual_seed(0)
        generator = UNetGenerator(width=4, depth=4)
        images = torch.randn(1, 3, 16, 16)
        plain = generator.train()(images)
        torch.testing.assert_close(generator.eval()(images), plain, rtol=0, atol=0)
        assert not torch.allclose(generator(images, draws_for(0)), plain)
        assert not torch.allclose(generator(images, draws_for(0)), generator(images, draws_for(1)))

    def test_a_row_depends_on_its_image_number_alone(self) -> None:
        torch.manual_seed(0)
        generator = UNetGenerator(width=4, depth=4).double()
        images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
        whole = generator(images, draws_for(7, 8, 9))
        torch.testing.assert_close(generator(images[[2, 0]], draws_for(9, 7)), whole[[2, 0]])

    def test_policy_is_kept_for_the_caller(self) -> None:
        with torch.device("meta"):
            assert UNetGenerator().dropout_at_test is True
            assert UNetGenerator(dropout_at_test=False).dropout_at_test is False
