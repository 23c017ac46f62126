"""What is only watched: how much the layers of a network can stretch their input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from img2img.networks.layers import filter_matrices

_STEPS = 8


@torch.no_grad()
def largest_singular_value(matrices: Tensor) -> Tensor:
    """The largest singular value of each of (..., m, n), as seen by 8 steps of Golub & Kahan's bidiagonalisation.

    From one fixed start; NaN where a weight is not finite. Never above the true value but for rounding; below it by 4 %
    at most in the recipes' fresh weights, whose values lie close together: nearer than 20 steps of power iteration,
    which take three times as long.
    """
    matrices = matrices.float()
    start = torch.linspace(1.0, 2.0, matrices.shape[-1], device=matrices.device)
    right = functional.normalize(start.expand(*matrices.shape[:-2], -1), dim=-1).unsqueeze(-1)
    left, above = torch.zeros_like(matrices[..., :1]), torch.zeros_like(matrices[..., :1, :1])
    bidiagonal = matrices.new_zeros(*matrices.shape[:-2], _STEPS, _STEPS)
    for step in range(_STEPS):
        left, diagonal = _direction_and_length(matrices @ right - above * left)
        bidiagonal[..., step, step] = diagonal[..., 0, 0]
        if step + 1 < _STEPS:
            right, above = _direction_and_length(matrices.mT @ left - diagonal * right)
            bidiagonal[..., step, step + 1] = above[..., 0, 0]
    finite = bidiagonal.isfinite().all(-1).all(-1)
    # of what is not finite torch takes no singular values
    values = torch.linalg.matrix_norm(bidiagonal.where(finite[..., None, None], 0.0), ord=2)
    return values.where(finite, torch.nan)


def _direction_and_length(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n, 1) -> unit vectors (zero where there is nothing) and lengths (..., 1, 1)."""
    return functional.normalize(vectors, dim=-2), torch.linalg.vector_norm(vectors, dim=-2, keepdim=True)


def largest_of(network: nn.Module) -> dict[str, Tensor]:
    """The largest singular values among the weights of `network` (a convolution's as one filter a row), scalars.

    "spectral_norm" is that of the weights as they are used. Where spectral normalisation holds that at one,
    "raw_spectral_norm" is that of the weights that it divides, whose growth tells of a game that is going wrong
    (Brock et al. 2018, arXiv:1809.11096, section 4).
    """
    used = [largest_singular_value(matrix).max() for matrix in filter_matrices(network)]
    found = {"spectral_norm": torch.stack(used).max() if used else torch.zeros(())}
    raw = [
        largest_singular_value(layer.parametrizations.weight.original.flatten(1))  # type: ignore[operator, union-attr]
        for layer in network.modules()
        if parametrize.is_parametrized(layer, "weight") and isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    return found | ({"raw_spectral_norm": torch.stack(raw).max()} if raw else {})
