"""StyleGAN: adaptive normalisation, noise, style mixing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.layers import draw_latents
from img2img.networks.stylegan import AdaptiveNorm, StyleGANGenerator
from img2img.networks.stylegan2 import StyleGAN2Generator

KINDS = [StyleGANGenerator, StyleGAN2Generator]


def make(kind: type[nn.Module], **options: Any) -> nn.Module:
    """Small, float64, away from the start, so that no noise strength is 0."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"resolution": (16, 24), "latent_dim": 5, "w_dim": 6, "mapping_layers": 2}
    network = kind(channel_base=64, max_width=8, **{**sizes, **options}).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def latents(count: int = 4) -> Tensor:
    return torch.randn(count, 5, dtype=torch.float64)


def test_adaptive_norm_gives_each_plane_the_styles_mean_and_deviation() -> None:
    torch.manual_seed(0)
    layer = AdaptiveNorm(4, 6).double()
    w, images = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 4, 16, 16, dtype=torch.float64)
    outputs = layer(images, w, None)
    scale, shift = layer.style(w).chunk(2, dim=1)
    torch.testing.assert_close(outputs.mean(dim=(2, 3)), shift)
    torch.testing.assert_close(outputs.std(dim=(2, 3), correction=0), (1 + scale).abs(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
class TestStyles:
    def test_forward_is_map_then_synthesize(self, kind: type[nn.Module]) -> None:
        network = make(kind)
        z, draws = latents(), Draws(0, "x", torch.arange(4))
        w = network.map(z)
        assert w.shape == (4, network.w_dim) == (4, 6)
        torch.testing.assert_close(network(z), network.synthesize(w))
        network.eval()
        torch.testing.assert_close(network(z, None, draws), network.synthesize(w, draws))
        each = w[:, None].expand(-1, network.num_styles, -1)
        torch.testing.assert_close(network.synthesize(each), network.synthesize(w))

    def test_every_style_has_a_part(self, kind: type[nn.Module]) -> None:
        network = make(kind)
        assert network.num_styles == 6
        w = network.map(latents(1))[:, None].expand(-1, 6, -1).detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(network.synthesize(w).square().sum(), w)
        assert (slope.abs().amax(dim=(0, 2)) > 0).all()

    def test_noise_follows_the_draws(self, kind: type[nn.Module]) -> None:
        network = make(kind).eval()
        z = latents(1).expand(3, -1)
        quiet = network(z)
        torch.testing.assert_close(quiet[0], quiet[1])
        images = network(z, None, Draws(0, "x", torch.tensor([7, 8, 7])))
        torch.testing.assert_close(images[0], images[2])
        assert not torch.allclose(images[0], images[1])
        assert not torch.allclose(images, quiet)

    def test_noise_begins_with_no_strength(self, kind: type[nn.Module]) -> None:
        network = kind(resolution=(8, 8), latent_dim=5, w_dim=6, mapping_layers=1, max_width=8).eval()
        z = torch.randn(2, 5)
        torch.testing.assert_close(network(z), network(z, None, Draws(0, "x", torch.arange(2))))

    def test_styles_are_mixed_in_training_with_draws_only(self, kind: type[nn.Module]) -> None:
        mixing, alone = make(kind, style_mixing=1.0), make(kind, style_mixing=0.0)
        z, draws = latents(), Draws(0, "x", torch.arange(4))
        torch.testing.assert_close(mixing.eval()(z, None, draws), alone.eval()(z, None, draws))
        mixing.train()
        alone.train()
        torch.testing.assert_close(mixing(z), alone(z))
        mixed = mixing(z, None, draws)
        torch.testing.assert_close(mixed, mixing(z, None, draws))
        changed = (mixed - alone(z, None, draws)).abs().amax(dim=(1, 2, 3))
        assert (changed > 1e-6).all()

    def test_mixed_styles_are_two_with_one_crossing(self, kind: type[nn.Module]) -> None:
        """A share of the samples; every crossing from after the first style to before the last, equally often."""
        network = make(kind, style_mixing=0.75)
        count = 4000
        draws = Draws(0, "x", torch.arange(count))
        w = network.map(torch.randn(count, 5, dtype=torch.float64))
        styles = network.mix(w, None, draws)
        other = network.map(draw_latents(network, draws.stream("z")).double())
        own = (styles == w[:, None]).all(dim=2)
        assert torch.equal(~own, (styles == other[:, None]).all(dim=2))
        assert (own[:, :-1] >= own[:, 1:]).all()
        crossing = own.sum(dim=1)
        share = torch.bincount(crossing, minlength=7) / count
        assert share[6].item() == pytest.approx(0.25, abs=0.03)
        assert share[0] == 0
        torch.testing.assert_close(share[1:6], torch.full((5,), 0.15), atol=0.03, rtol=0)

    def test_the_path_length_differentiates_twice(self, kind: type[nn.Module]) -> None:
        """d/dθ of ‖Jᵀy‖² by finite differences along one direction."""
        network = make(kind)
        w, y = network.map(latents(2)).detach().requires_grad_(), torch.randn(2, 3, 16, 24, dtype=torch.float64)
        draws = Draws(0, "x", torch.arange(2))
        names, parameters = zip(*((n, p) for n, p in network.named_parameters() if not n.startswith("mapping")))
        directions = [torch.randn_like(parameter) for parameter in parameters]

        def length(shift: float) -> Tensor:
            moved = {n: p + shift * way for n, p, way in zip(names, parameters, directions)}
            images = torch.func.functional_call(
                _Synthesis(network), {f"network.{n}": p for n, p in moved.items()}, (w, draws)
            )
            (slope,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
            return slope.square().sum()

        slopes = torch.autograd.grad(length(0.0), parameters, allow_unused=True)
        found = sum((slope * way).sum() for slope, way in zip(slopes, directions) if slope is not None)
        step = 1e-6
        expected = (length(step) - length(-step)).detach() / (2 * step)
        assert abs(found) > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_autocast_changes_little(self, kind: type[nn.Module]) -> None:
        network = make(kind).float().eval()
        z = latents().float()
        exact = network(z)
        with torch.autocast("cpu", torch.bfloat16):
            images = network(z)
            assert network.map(z).dtype == torch.float32
        error = (images.float() - exact).square().mean().sqrt() / exact.std()
        assert 0 < error < 0.05


class _Synthesis(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, w: Tensor, draws: Draws) -> Tensor:
        return self.network.synthesize(w, draws)


def test_a_lower_level_mixes_only_the_styles_it_uses() -> None:
    network = make(StyleGANGenerator, level=0, style_mixing=1.0)
    assert network.styles_used() == 2
    w = network.map(latents())
    styles = network.mix(w, None, Draws(0, "x", torch.arange(4)))
    assert torch.equal(styles[:, 0], w)
    assert not torch.isclose(styles[:, 1], w).all(dim=1).any()
