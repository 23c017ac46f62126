"""StyleGAN3: equivariance, the schedule of bands, the authors' parameter counts, tracked magnitudes."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.metrics.equivariance import eq_r, eq_t
from img2img.networks.stylegan2 import StyleGAN2Generator
from img2img.networks.stylegan3 import FourierInput, Signal, StyledConv2d, StyleGAN3Generator, plan_signals


def make(variant: str = "t", seed: int = 0, **arguments: Any) -> StyleGAN3Generator:
    """A small generator whose biases, and what w says of places, are not the zeros they begin with."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {"latent_dim": 8, "w_dim": 8, "channel_base": 256, "max_width": 8, "num_layers": 4}
    generator = StyleGAN3Generator(variant=variant, **{"resolution": (32, 32)} | small | arguments)
    with torch.no_grad():
        generator.input.affine.weight.normal_(0, 0.1)
        for conv in generator.convs:
            conv.bias.normal_(0, 0.3)
    return generator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def turned(angle: float, x: float = 0.0, y: float = 0.0) -> Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle), x], [math.sin(angle), math.cos(angle), y]])


@pytest.mark.parametrize("variant", ["t", "r"])
@pytest.mark.parametrize(("resolution", "channels"), [((8, 8), 1), ((48, 32), 3), ((20, 40), 4), ((16, 28), 3)])
def test_shapes(resolution: tuple[int, int], channels: int, variant: str) -> None:
    generator = make(variant, resolution=resolution, out_channels=channels)
    images = generator(torch.randn(2, 8))
    assert images.shape == (2, channels, *resolution)
    assert images.isfinite().all()
    w = generator.map(torch.randn(3, 8))
    assert w.shape == (3, generator.w_dim)
    every = w[:, None].expand(-1, generator.num_styles, -1)
    torch.testing.assert_close(generator.synthesize(every), generator.eval().synthesize(w), rtol=0.01, atol=0.01)


def test_parameter_counts_of_the_authors_networks() -> None:
    """NVlabs/stylegan3 (c233a91) builds these at 256², 512² and 1024² with the arguments of its train.py."""
    known = {"t": (28_472_133, 24_873_519, 22_313_167), "r": (18_816_387, 16_665_594, 15_093_151)}
    with torch.device("meta"):
        for variant, counts in known.items():
            for side, expected in zip((256, 512, 1024), counts):
                assert count(StyleGAN3Generator(resolution=(side, side), variant=variant)) == expected


class TestSchedule:
    def plan(self, resolution: tuple[int, int], layers: int = 14) -> list[Signal]:
        return plan_signals(resolution, num_layers=layers, margin=10, channel_base=32768, max_width=512)

    def test_bands_grow_in_equal_ratios_to_what_the_picture_holds(self) -> None:
        signals = self.plan((256, 256))
        cutoffs = [signal.cutoff for signal in signals]
        assert cutoffs[0] == 2
        assert cutoffs[-2:] == pytest.approx([128, 128])
        ratios = [after / before for before, after in pairwise(cutoffs[:13])]
        assert ratios == pytest.approx([64 ** (1 / 12)] * 12)

    def test_rates_hold_the_band_and_double(self) -> None:
        """By hand for 256: twice the stop band, 2^2.1 · (256 / 2 · 2^0.3 / 2^2.1)^(i / 12), up to a power of two."""
        signals = self.plan((256, 256))
        assert [s.rate for s in signals] == [16, 16, 16, 32, 32, 64, 64, 128, 128, 128, 256, 256, 256, 256]
        for signal in signals[:-2]:
            stopband = signal.cutoff + signal.half_width
            assert stopband * 2 <= signal.rate * 1.25  # the last but two may already stop beyond the picture's band
            assert stopband >= signal.rate / 2
        assert [s.size for s in signals[:2]] == [(36, 36)] * 2
        assert [s.size[0] for s in signals[-3:]] == [276, 276, 256]

    def test_a_rectangle_has_the_bands_of_its_shorter_side(self) -> None:
        for square, rectangle in zip(self.plan((32, 32), 6), self.plan((48, 32), 6)):
            assert (rectangle.rate, rectangle.cutoff, rectangle.half_width, rectangle.channels) == (
                square.rate,
                square.cutoff,
                square.half_width,
                square.channels,
            )
            assert rectangle.size == (square.size[0] + square.rate // 2, square.size[1])

    def test_other_bases_than_four_halve_to_whole_sizes(self) -> None:
        signals = self.plan((7 * 16, 13 * 16), 8)
        assert [s.rate for s in signals] == [14, 14, 28, 56, 56, 112, 112, 112]
        assert signals[0].size == (14 + 20, 26 + 20)

    def test_channels_follow_the_cutoff(self) -> None:
        signals = self.plan((1024, 1024))
        assert all(s.channels == min(512, round(16384 / s.cutoff)) for s in signals)
        assert [s.channels for s in signals[-2:]] == [32, 32]


class TestInput:
    def make(self) -> FourierInput:
        torch.manual_seed(0)
        return FourierInput(Signal(16, (36, 44), 16, 2.0, 6.0), 8).double()

    def test_frequencies_are_even_in_the_disc(self) -> None:
        torch.manual_seed(0)
        layer = FourierInput(Signal(4096, (4, 4), 16, 2.0, 6.0), 1)
        radii = layer.frequencies.norm(dim=1) / 2
        assert radii.max() <= 1
        # the area within a radius grows as its square
        assert radii.square().mean().item() == pytest.approx(0.5, abs=0.02)
        assert (layer.frequencies.mean(dim=0).abs() < 0.1).all()

    def test_it_is_waves_mixed(self) -> None:
        layer = self.make()
        expected = torch.empty(16, 36, 44, dtype=torch.float64)
        for row in (0, 7, 35):
            for column in (0, 20, 43):
                place = torch.tensor([(column - 21.5) / 16, (row - 17.5) / 16], dtype=torch.float64)
                waves = torch.sin(2 * math.pi * (layer.frequencies @ place + layer.phases))
                expected[:, row, column] = layer.weight @ waves / 4
                got = layer(torch.zeros(1, 8, dtype=torch.float64))[0, :, row, column]
                torch.testing.assert_close(got, expected[:, row, column])

    def test_w_moves_and_turns(self) -> None:
        """First turned, then moved: the place p shows R (p - t); the four values' common scale is of no account."""
        layer, w = self.make(), torch.zeros(1, 8, dtype=torch.float64)
        plain = copy.deepcopy(layer)
        with torch.no_grad():
            layer.affine.bias.copy_(3 * torch.tensor([math.cos(0.4), math.sin(0.4), 0.2, -0.1]))  # type: ignore[union-attr]
        transform = turned(0.4).double()
        transform[:, 2] = -(transform[:, :2] @ torch.tensor([0.2, -0.1], dtype=torch.float64))
        torch.testing.assert_close(layer(w), plain(w, transform), rtol=1e-5, atol=1e-5)

    def test_transforms_follow_each_other(self) -> None:
        """A transform of what w has turned is the product of the two."""
        layer, w = self.make(), torch.randn(2, 8, dtype=torch.float64)
        with torch.no_grad():
            layer.affine.weight.normal_()
        first, second = turned(0.3, 0.1, 0.2).double(), turned(-1.1, 0.05, -0.3).double()
        rows = torch.cat((torch.stack((first, second)), torch.tensor([0, 0, 1.0]).expand(2, 1, 3)), dim=1)
        matrix, offset = layer._placement(w, (rows[0] @ rows[1])[:2])
        inner_matrix, inner_offset = layer._placement(w, first)
        torch.testing.assert_close(matrix, inner_matrix @ second[:, :2])
        torch.testing.assert_close(offset, inner_offset + inner_matrix @ second[:, 2])

    def test_what_is_too_fine_fades(self) -> None:
        """Shown ten times as small, no wave is left that 16 samples a unit cannot hold."""
        layer, w = self.make(), torch.zeros(1, 8, dtype=torch.float64)
        small = 10 * torch.eye(2, 3, dtype=torch.float64)
        left = layer(w, small).square().mean()
        slow = layer.frequencies.norm(dim=1) * 10 < 8
        with torch.no_grad():
            layer.weight[:, ~slow] = 0
        torch.testing.assert_close(layer(w, small).square().mean(), left)


class TestEquivariance:
    few: dict[str, Any] = {"count": 12, "batch": 6}  # noqa: RUF012

    def rendering(self, generator: StyleGAN3Generator) -> Any:
        generator.eval()
        return lambda z, transforms: generator.synthesize(generator.map(z), transform=transforms)

    @pytest.mark.parametrize("resolution", [(32, 32), (48, 32)])
    @pytest.mark.parametrize("variant", ["t", "r"])
    def test_translation(self, variant: str, resolution: tuple[int, int]) -> None:
        """Between pixels, Lanczos' kernel is what limits the number."""
        generate = self.rendering(make(variant, resolution=resolution, num_layers=6))
        assert eq_t(generate, 8, **self.few) > 60
        assert eq_t(generate, 8, whole=False, **self.few) > 45

    def test_rotation(self) -> None:
        """ "r" turns, "t" cannot: a 3×3 kernel has directions."""
        assert eq_r(self.rendering(make("r", num_layers=6)), 8, **self.few) > 50
        assert eq_r(self.rendering(make("t", num_layers=6)), 8, **self.few) < 40

    def test_far_above_stylegan2(self) -> None:
        """StyleGAN2's input is a learned constant; it is moved and turned as well as four by four values can be."""
        torch.manual_seed(0)
        older = StyleGAN2Generator(
            resolution=(32, 32), latent_dim=8, w_dim=8, mapping_layers=2, channel_base=256, max_width=8
        ).eval()
        constant = older.constant.detach().clone()
        with torch.no_grad():
            # pictures as loud as StyleGAN3's, for the measure is of absolute errors
            loudness = older(torch.randn(16, 8)).std() / make()(torch.randn(16, 8)).std()

        def generate(z: Tensor, transforms: Tensor) -> Tensor:
            images = []
            for row, transform in zip(z, transforms):
                # normalised coordinates are two for a shorter side
                theta = torch.cat((transform[:, :2], 2 * transform[:, 2:]), dim=1)[None]
                grid = F.affine_grid(theta, list(constant.shape), align_corners=False)
                moved = F.grid_sample(constant, grid, "bicubic", padding_mode="reflection", align_corners=False)
                older.constant.copy_(moved)
                images.append(older.synthesize(older.map(row[None])))
            return torch.cat(images) / loudness

        assert eq_t(generate, 8, **self.few) < eq_t(self.rendering(make("t")), 8, **self.few) - 20
        assert eq_r(generate, 8, **self.few) < eq_r(self.rendering(make("r")), 8, **self.few) - 20

    def test_a_quarter_turn_is_exact(self) -> None:
        """Every layer of "r" is symmetric under it, margins and all."""
        generator = make("r").double().eval()
        w = torch.randn(2, 8, dtype=torch.float64)
        with torch.no_grad():
            generator.input.affine.weight.zero_()
        straight, quarter = (generator.synthesize(w, transform=turned(angle)) for angle in (0, math.pi / 2))
        torch.testing.assert_close(quarter, straight.rot90(1, (2, 3)), rtol=0, atol=1e-6)

    def test_a_rectangle_shows_more_of_the_same(self) -> None:
        square = make("t", num_layers=6).eval()
        rectangle = make("t", num_layers=6, resolution=(48, 32)).eval()
        rectangle.load_state_dict(square.state_dict())
        z = torch.randn(4, 8)
        whole, part = rectangle(z)[:, :, 8:-8], square(z)
        # the square's margin ends where the rectangle goes on
        assert (whole - part).std() < 1e-3 * part.std()
        assert torch.equal(square(z), square.synthesize(square.map(z), transform=torch.eye(2, 3)))


class TestMagnitude:
    def test_training_tracks_the_mean_square(self) -> None:
        torch.manual_seed(0)
        conv = StyledConv2d(3, 4, 3, 5).double()
        x, w = 3 * torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
        first = conv(x, w)
        assert conv.running_magnitude.item() == pytest.approx(0.999 + 0.001 * x.square().mean().item())
        with torch.no_grad():
            second = conv(x, w)
        moved = 0.999 * (0.999 + 0.001 * x.square().mean()) + 0.001 * x.square().mean()
        torch.testing.assert_close(conv.running_magnitude, moved)
        # a call answers by what it found
        assert not torch.equal(first, second)
        conv.eval()
        conv(x, w)
        torch.testing.assert_close(conv.running_magnitude, moved)

    def test_it_takes_the_loudness_out(self) -> None:
        """x twice as loud, its mean square four times as large: the same answer."""
        torch.manual_seed(0)
        conv = StyledConv2d(3, 4, 3, 5).double().eval()
        x, w = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
        expected = conv(x, w)
        conv.running_magnitude.fill_(4)
        torch.testing.assert_close(conv(2 * x, w), expected)

    def test_halves_of_a_batch_agree_and_average_to_the_whole(self) -> None:
        """What each of two ranks does with its half."""
        whole = make().double()
        halves = [copy.deepcopy(whole), copy.deepcopy(whole)]
        z = torch.randn(4, 8, dtype=torch.float64)
        for _ in range(2):
            images = whole(z)
            torch.testing.assert_close(torch.cat([half(part) for half, part in zip(halves, z.split(2))]), images)
            for buffers in zip(whole.buffers(), *(half.buffers() for half in halves)):
                torch.testing.assert_close((buffers[1] + buffers[2]) / 2, buffers[0])
                for buffer in buffers[1:]:
                    buffer.copy_(buffers[0])

    def test_what_is_not_finite_is_passed_over(self) -> None:
        conv = StyledConv2d(3, 4, 1, 5)
        conv(torch.full((1, 3, 2, 2), math.nan), torch.zeros(1, 5))
        assert conv.running_magnitude == 1

    def test_it_is_saved(self) -> None:
        assert sum(name.endswith("running_magnitude") for name in make().state_dict()) == 5


def test_convolutions_keep_the_variance_at_the_start() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(8, 64, 16, 16), torch.randn(8, 32)
    for demodulate in (True, False):
        conv = StyledConv2d(64, 64, 1, 32, demodulate=demodulate)
        # styles are 1 + N(0, 1) at the start: without demodulation, they have a mean square of 2
        assert conv(x, w).var().item() == pytest.approx(1 if demodulate else 2, rel=0.1)


def test_convolutions_answer_no_more_than_the_clamp() -> None:
    conv = StyledConv2d(2, 2, 1, 3)
    assert conv(torch.full((1, 2, 4, 4), 1e6), torch.zeros(1, 3)).abs().max() == 256


@pytest.mark.parametrize("variant", ["t", "r"])
def test_derivatives_of_both_orders(variant: str) -> None:
    """In w, as the path length and its penalty take them."""
    generator = make(
        variant, resolution=(8, 8), w_dim=3, max_width=2, num_layers=3, margin=1, out_channels=1
    ).double().eval()  # fmt: skip
    w = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(generator.synthesize, w)
    assert torch.autograd.gradgradcheck(generator.synthesize, w)


def test_every_parameter_learns() -> None:
    generator = make(num_classes=3)
    generator(torch.randn(2, 8), torch.tensor([0, 2])).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in generator.parameters())


def test_classes() -> None:
    generator = make(num_classes=3).eval()
    images = generator(torch.randn(1, 8).expand(3, -1), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(images[0], images[2])
    assert not torch.allclose(images[0], images[1])


def test_mixing_follows_the_draws_and_only_in_training() -> None:
    generator = make(style_mixing=1.0)
    z, draws = torch.randn(2, 8), Draws(0, "generator", torch.arange(2))
    state = copy.deepcopy(generator.state_dict())

    def image(drawn: Draws | None) -> Tensor:
        generator.load_state_dict(state)
        return generator(z, None, drawn)

    assert torch.equal(image(draws), image(draws))
    assert not torch.allclose(image(draws), image(None))
    generator.eval()
    assert torch.equal(image(draws), image(None))


def test_bfloat16() -> None:
    generator = make("r").eval()
    z = torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(z)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert (images - generator(z)).std() < 0.05 * images.std()


def test_copies_answer_alike() -> None:
    generator = make().eval()
    z = torch.randn(2, 8)
    assert torch.equal(copy.deepcopy(generator)(z), generator(z))


def test_meta() -> None:
    with torch.device("meta"):
        generator = StyleGAN3Generator(resolution=(64, 64), num_layers=6, variant="r")
        assert generator(torch.empty(2, 512)).shape == (2, 3, 64, 64)


def test_weights_put_on_a_meta_network() -> None:
    """As a model file is read."""
    generator = make("r").eval()
    with torch.device("meta"):
        shell = StyleGAN3Generator(
            resolution=(32, 32), variant="r", latent_dim=8, w_dim=8, channel_base=256, max_width=8, num_layers=4
        ).eval()
    shell.load_state_dict(generator.state_dict(), assign=True)
    z = torch.randn(2, 8)
    assert torch.equal(shell(z), generator(z))


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ({"variant": "s"}, "variant"),
        ({"num_layers": 2}, "num_layers"),
        ({"margin": -1}, "margin"),
        ({"channel_base": 0}, "channel_base"),
        ({"max_width": 2048}, "max_width"),
        ({"w_dim": 0}, "w_dim"),
        ({"style_mixing": 1.5}, "style_mixing"),
        ({"resolution": (33, 64)}, "data.resolution"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], subject: str) -> None:
    with pytest.raises(UsageFault) as fault:
        StyleGAN3Generator(**{"resolution": (32, 32)} | arguments)
    assert fault.value.subject == subject
