"""Log-likelihood of pictures under a Gaussian Parzen window around samples (Goodfellow et al. 2014, section 5).

The protocol is of Breuleux, Bengio & Vincent 2011 ("Quickly generating representative samples from an RBM-derived
process"). It says little about how samples look: blurry ones may score higher than the training pictures themselves
(Theis, van den Oord & Bethge 2016, arXiv:1511.01844). It is here to compare with the papers that report it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The ten bandwidths of the authors' released code, for values in [0, 1]
CANDIDATES = tuple(10 ** (-1 + step / 9) for step in range(10))
_CHUNK = 500  # with 10,000 samples, 40 MB of distances at a time


@dataclass(frozen=True)
class ParzenScore:
    """A log-likelihood in nats: the mean over pictures, its standard error, and the bandwidth it was taken at."""

    mean: float
    standard_error: float
    bandwidth: float


def parzen_log_likelihood(samples: Tensor, test: Tensor, sigma: float, chunk: int = _CHUNK) -> Tensor:
    """log of the mean over samples s of N(x; s, σ²I), for each x of `test`: (n, d), (N, d) -> (N,) float64, in nats.

    Args:
        sigma: the bandwidth, in the units of the values; pictures are given in [0, 1].
        chunk: how many of `test` are compared at a time: memory, not the result, depends on it.
    """
    (values,) = _log_likelihoods(samples, test, [sigma], chunk)
    return values


def choose_bandwidth(samples: Tensor, validation: Tensor, candidates: Sequence[float] = CANDIDATES) -> float:
    """The candidate under which `validation` (N, d) is likeliest on average, given samples (n, d)."""
    means = _log_likelihoods(samples, validation, candidates, _CHUNK).mean(dim=1)
    return candidates[int(means.argmax())]


def score(samples: Tensor, validation: Tensor, test: Tensor) -> ParzenScore:
    """The protocol: bandwidth by `validation`, then mean and standard error over `test`; each (…, d) in [0, 1]."""
    sigma = choose_bandwidth(samples, validation)
    values = parzen_log_likelihood(samples, test, sigma)
    return ParzenScore(values.mean().item(), values.std(correction=0).item() / math.sqrt(len(values)), sigma)


def _log_likelihoods(samples: Tensor, test: Tensor, sigmas: Sequence[float], chunk: int) -> Tensor:
    """(len(sigmas), N): the distances, which cost most, serve all bandwidths."""
    dim = samples.shape[1]
    scales = torch.tensor([-0.5 / sigma**2 for sigma in sigmas], dtype=torch.float64)
    constants = torch.tensor(
        [math.log(len(samples)) + dim * math.log(sigma * math.sqrt(2 * math.pi)) for sigma in sigmas],
        dtype=torch.float64,
    )
    parts = []
    for squared in _squared_distances(samples, test, chunk):
        # the largest exponent of a row, which logsumexp takes out, is at the nearest sample for every bandwidth
        nearest = squared.amin(dim=1, keepdim=True)
        squared -= nearest
        scaled = torch.empty_like(squared)
        sums = [torch.mul(squared, scale, out=scaled).exp_().sum(dim=1).log() for scale in scales]
        parts.append(torch.stack(sums) + scales[:, None] * nearest[:, 0])
    return torch.cat(parts, dim=1) - constants[:, None]


def _squared_distances(samples: Tensor, test: Tensor, chunk: int) -> Iterator[Tensor]:
    """‖x − s‖² as (at most chunk, n) float64, by ‖x‖² + ‖s‖² − 2⟨x, s⟩, which is a matrix product."""
    centre = samples.double().mean(dim=0)  # near zero, less is lost where large squares are subtracted
    samples = samples.double() - centre
    norms = samples.square().sum(dim=1)
    for part in test.split(chunk):
        x = part.double() - centre
        products = torch.addmm(norms, x, samples.T, alpha=-2)
        yield products.add_(x.square().sum(dim=1, keepdim=True)).clamp_(min=0)
