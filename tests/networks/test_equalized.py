"""Equalised layers, pixel norm, the mapping network."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from img2img.networks.equalized import EqualizedConv2d, EqualizedLinear, MappingNetwork, pixel_norm
from img2img.networks.layers import filter_matrices


def test_a_layer_keeps_the_variance_and_begins_with_unit_weights() -> None:
    """Karras et al. 2018, section 4.1: outputs of N(0, 1) inputs have variance 1 at the start, whatever the fan-in."""
    torch.manual_seed(0)
    for inputs in (64, 512):
        layer = EqualizedLinear(inputs, 256)
        assert layer.weight.std().item() == pytest.approx(1, abs=0.02)
        assert layer(torch.randn(512, inputs)).std().item() == pytest.approx(1, abs=0.03)
    conv = EqualizedConv2d(32, 64, 3)
    assert conv(torch.randn(16, 32, 20, 20))[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.03)


def test_scale_of_the_layers() -> None:
    """c = 1 / √fan-in."""
    assert EqualizedConv2d(3, 8, 3).scale == pytest.approx(1 / math.sqrt(27))
    layer = EqualizedLinear(50, 4, lr_multiplier=0.01)
    torch.testing.assert_close(next(filter_matrices(layer)), layer.weight * 0.01 / math.sqrt(50))


def test_the_multiplier_slows_learning_and_changes_nothing_else() -> None:
    """A gradient step moves what the layer is used with by lr_multiplier² less."""
    torch.manual_seed(0)
    fast = EqualizedLinear(6, 5, bias_start=1.0)
    slow = EqualizedLinear(6, 5, bias_start=1.0, lr_multiplier=0.1)
    with torch.no_grad():
        slow.weight.copy_(fast.weight / 0.1)
    x = torch.randn(7, 6)
    torch.testing.assert_close(slow(x), fast(x))
    for layer in (fast, slow):
        layer(x).square().sum().backward()
    torch.testing.assert_close(slow.weight.grad, fast.weight.grad * 0.1)
    torch.testing.assert_close(slow.bias.grad, fast.bias.grad * 0.1)


def test_convolution_is_that_of_torch_with_scaled_weights() -> None:
    torch.manual_seed(0)
    layer, images = EqualizedConv2d(4, 6, 3, stride=2), torch.randn(2, 4, 9, 8)
    expected = F.conv2d(images, layer.weight / 6, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(images), expected)


def test_pixel_norm_gives_unit_mean_square_at_each_place() -> None:
    x = 5 * torch.randn(3, 8, 4, 2)
    torch.testing.assert_close(pixel_norm(x).square().mean(dim=1), torch.ones(3, 4, 2))
    torch.testing.assert_close(pixel_norm(10 * x), pixel_norm(x))
    assert pixel_norm(torch.zeros(1, 4)).isfinite().all()


def test_mapping_does_not_see_how_long_z_is_but_where_it_points() -> None:
    torch.manual_seed(0)
    network = MappingNetwork(latent_dim=16, w_dim=12, layers=3)
    z = torch.randn(4, 16)
    torch.testing.assert_close(network(z), network(3 * z))
    assert not torch.allclose(network(z), network(-z))


def test_mapping_follows_the_class() -> None:
    torch.manual_seed(0)
    network = MappingNetwork(latent_dim=16, w_dim=12, layers=2, num_classes=3)
    z = torch.randn(1, 16).expand(3, -1)
    w = network(z, torch.tensor([0, 1, 2]))
    assert w.shape == (3, 12)
    assert (w[0] - w[1]).abs().max() > 1e-3
