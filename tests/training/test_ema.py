"""The average against a reference written out: weights and running statistics averaged, other buffers copied."""

from __future__ import annotations

import torch
from torch import nn

from img2img.networks.layers import apply_spectral_norm
from img2img.networks.stylegan3 import StyledConv2d
from img2img.training.ema import Ema


def test_parameters_and_statistics_are_averaged_and_other_buffers_copied() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 3)).double()
    apply_spectral_norm(network)
    average = Ema({"generator": network})
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    for _ in range(3):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(4, 2, 8, 8, dtype=torch.float64))  # moves the statistics, the counter and the unit vectors
        average.update({"generator": network}, 0.7)
        for key, value in network.state_dict().items():
            copied = key.endswith((".u", "num_batches_tracked"))
            expected[key] = value.clone() if copied else 0.7 * expected[key] + 0.3 * value
    got = average.state_dict()["generator"]
    assert {key for key in got if key.endswith((".u", "num_batches_tracked", "running_mean", "running_var"))} == {
        "0.parametrizations.weight.0.u",
        "2.parametrizations.weight.0.u",
        "1.num_batches_tracked",
        "1.running_mean",
        "1.running_var",
    }
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-12, atol=1e-12)
    assert not average.networks["generator"].training


def test_magnitudes_that_stylegan3_tracks_are_averaged() -> None:
    torch.manual_seed(0)
    conv = StyledConv2d(2, 3, 1, 4)
    average = Ema({"generator": conv})
    conv.running_magnitude.fill_(5)
    average.update({"generator": conv}, 0.75)
    assert average.networks["generator"].running_magnitude == 0.75 * 1 + 0.25 * 5


def test_where_nothing_is_averaged_the_copy_holds_the_networks_memory() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).train()
    average = Ema({"generator": network}, shared=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    network(torch.randn(4, 2, 8, 8)).square().sum().backward()
    optimizer.step()
    average.update({"generator": network}, 0.0)
    copied = average.networks["generator"].state_dict()
    for key, value in network.state_dict().items():
        assert copied[key].data_ptr() == value.data_ptr(), key
    assert network.training
    assert not average.networks["generator"].training
    assert all(parameter.requires_grad for parameter in network.parameters())
