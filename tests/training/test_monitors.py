"""The largest singular value, beside what linear algebra says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.networks.layers import filter_matrices
from img2img.training.monitors import largest_of, largest_singular_value


@pytest.mark.parametrize("shape", [(64, 1024), (128, 128), (300, 20), (1, 50), (50, 1), (4, 3, 2, 128), (5, 128, 2)])
def test_of_random_matrices(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.matrix_norm(matrices, ord=2)
    found = largest_singular_value(matrices)
    assert found.shape == shape[:-2]
    assert (found <= exact * (1 + 1e-5)).all()
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.0)


@pytest.mark.parametrize(
    ("matrix", "value"),
    [
        (torch.zeros(5, 7), 0.0),
        (3 * torch.eye(40), 3.0),
        (torch.ones(30, 20), 600**0.5),
        (torch.diag(torch.tensor([1e-4, 2.0, 1e-4])), 2.0),
        (1e15 * torch.eye(3), 1e15),
        (torch.tensor([[1.0, torch.inf], [0.0, 1.0]]), torch.nan),
        (1e-20 * torch.eye(3), 0.0),  # below what a normalised float32 can show: no division by nothing
    ],
)
def test_of_matrices_whose_value_is_known(matrix: torch.Tensor, value: float) -> None:
    torch.testing.assert_close(
        largest_singular_value(matrix), torch.tensor(value), rtol=1e-5, atol=1e-12, equal_nan=True
    )


def test_of_a_network_it_is_the_largest_of_all_layers() -> None:
    torch.manual_seed(0)
    unet = GENERATORS["unet"](in_channels=3, out_channels=3, width=8, depth=3)
    with torch.no_grad():
        for layer in unet.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight.mul_(10)
    matrices = [*filter_matrices(unet)]
    exact = max(torch.linalg.matrix_norm(matrix, ord=2).max() for matrix in matrices)
    torch.testing.assert_close(largest_of(unet)["spectral_norm"], exact.detach(), rtol=0.02, atol=0.0)


def test_of_members_it_is_that_of_the_one_with_the_largest() -> None:
    judge = DISCRIMINATORS["mlp"](resolution=(1, 1), in_channels=2, members=3, width=16)
    with torch.no_grad():
        judge.hidden[2].weight[1].mul_(100)  # type: ignore[index, union-attr]
    exact = torch.linalg.matrix_norm(judge.hidden[2].weight[1], ord=2)  # type: ignore[index, union-attr]
    torch.testing.assert_close(largest_of(judge)["spectral_norm"], exact.detach(), rtol=0.02, atol=0.0)


def test_spectral_norm_is_seen_as_one() -> None:
    torch.manual_seed(0)
    judge = DISCRIMINATORS["dcgan"](resolution=(16, 16), width=8, max_width=16, norm="none", spectral_norm=True)
    for _ in range(50):
        judge(torch.randn(2, 3, 16, 16))
    found = largest_of(judge)
    torch.testing.assert_close(found["spectral_norm"], torch.tensor(1.0), rtol=0.02, atol=0.0)
    raw = [layer.parametrizations.weight.original.flatten(1) for layer in judge.modules() if is_parametrized(layer)]
    exact = torch.stack([torch.linalg.matrix_norm(matrix, ord=2) for matrix in raw]).max()
    torch.testing.assert_close(found["raw_spectral_norm"], exact.detach(), rtol=0.02, atol=0.0)


def test_a_network_without_layers_has_none() -> None:
    assert largest_of(GENERATORS["constant"](resolution=(1, 1))) == {"spectral_norm": 0}
