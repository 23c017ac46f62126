"""The coarse-to-fine generator: sizes, the released code's parameter count, and how its stages are joined."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img2img.errors import UsageFault
from img2img.networks.coarse_to_fine import CoarseToFineGenerator
from img2img.networks.growing import enlarge, shrink
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


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2), st.integers(0, 2), st.integers(0, 2), st.integers(1, 4), st.integers(1, 4))
def test_every_multiple_of_stride_from_min_size_on_works(
    downsamplings: int, enhancers: int, halvings: int, rows: int, columns: int
) -> None:
    doublings = min(halvings, enhancers)
    generator = CoarseToFineGenerator(
        width=1,
        blocks=1,
        local_blocks=1,
        downsamplings=downsamplings,
        enhancers=enhancers,
        doublings=doublings,
        level=0,
    )
    height, width = rows * generator.stride, columns * generator.stride
    images = torch.zeros(1, 3, height, width)
    if min(height, width) >= generator.min_size:
        assert generator(images).shape == images.shape
    else:
        with pytest.raises(RuntimeError):
            generator(images)


class TestGrowing:
    """Two enhancers that join one after the other: quarter, half and whole size."""

    WIDTH = 2

    def make(self, doublings: int = 2) -> CoarseToFineGenerator:
        torch.manual_seed(0)
        generator = CoarseToFineGenerator(
            width=self.WIDTH, blocks=1, local_blocks=1, enhancers=2, downsamplings=1, doublings=doublings
        )
        return generator.double()

    def alone(self, grown: CoarseToFineGenerator, enhancers: int) -> CoarseToFineGenerator:
        """A whole generator of so many enhancers, with the weights of `grown` and the last layer of that level."""
        below = grown.enhancers - enhancers
        width = self.WIDTH * 2**below
        network = CoarseToFineGenerator(width=width, blocks=1, local_blocks=1, enhancers=enhancers, downsamplings=1)
        state = grown.state_dict()
        last = f"last_below.{below - 1}" if below else "last"
        keys = {key: key.replace("last", last) if key.startswith("last") else key for key in network.state_dict()}
        network.double().load_state_dict({own: state[key] for own, key in keys.items()})
        return network

    @pytest.mark.parametrize("level", [0, 1, 2])
    def test_each_level_is_a_whole_generator_with_fewer_enhancers(self, level: int) -> None:
        """At the first one it is G1 with a last layer of its own, as the paper trains it."""
        generator = self.make()
        alone = self.alone(generator, enhancers=level)
        generator.grow_to(level)
        images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
        assert torch.equal(generator(images), alone(images))
        assert (generator.stride, generator.min_size) == (alone.stride, alone.min_size)

    @pytest.mark.parametrize("level", [1, 2])
    def test_a_fade_begins_with_the_level_below_and_ends_with_its_own(self, level: int) -> None:
        generator = self.make()
        images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
        made = {}
        for alpha in (0.0, 0.25, 1.0):
            generator.grow_to(level, alpha)
            made[alpha] = generator(images)
        generator.grow_to(level - 1)
        below = enlarge(generator(shrink(images, 1, 1.0)), (16, 24))
        torch.testing.assert_close(made[0.0], below)
        torch.testing.assert_close(made[0.25], 0.75 * below + 0.25 * made[1.0])
        assert not torch.allclose(made[1.0], below)

    def test_what_has_no_part_gets_no_gradient_and_all_is_there_from_the_start(self) -> None:
        generator = self.make()
        parts = {0: {"stages.0", "last_below.1"}, 1: {"stages.0", "stages.1", "last_below.0"}}
        parts[2] = {"stages.0", "stages.1", "stages.2", "last"}
        names = [name for name, _ in generator.named_parameters()]
        for level, wanted in parts.items():
            generator.grow_to(level)
            generator.zero_grad()
            generator(torch.randn(1, 3, 16, 16, dtype=torch.float64)).square().sum().backward()
            moved = {name for name, parameter in generator.named_parameters() if parameter.grad is not None}
            assert {".".join(name.split(".")[: 1 if name.startswith("last.") else 2]) for name in moved} == wanted
            assert [name for name, _ in generator.named_parameters()] == names

    def test_without_growing_there_is_no_other_last_layer_and_the_weights_are_the_same(self) -> None:
        plain, growing = self.make(0).state_dict(), self.make(2).state_dict()
        assert {key for key in growing if key not in plain} == {
            f"last_below.{below}.{kind}" for below in (0, 1) for kind in ("weight", "bias")
        }
        assert all(plain[key].shape == growing[key].shape for key in plain)

    @pytest.mark.parametrize(
        ("enhancers", "doublings", "mend"),
        [
            (1, 2, "Set it 2 times as high, or generator.enhancers=2"),
            (1, 4, "Set it 8 times as high"),
            (0, 1, "Set it to 0, or generator.enhancers=1"),
        ],
    )
    def test_more_doublings_than_enhancers_are_refused(self, enhancers: int, doublings: int, mend: str) -> None:
        with pytest.raises(UsageFault) as caught:
            CoarseToFineGenerator(enhancers=enhancers, doublings=doublings)
        assert (caught.value.subject, caught.value.mend) == ("growth.start", mend)
