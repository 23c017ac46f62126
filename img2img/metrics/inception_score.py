"""The Inception Score (Salimans et al. 2016, arXiv:1606.03498): are pictures each of one class, and together of many?

It sees no real pictures, and nothing of a picture but the classifier's opinion.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from img2img.draws import permutation


@dataclass(frozen=True)
class InceptionScore:
    """Mean and standard deviation (over n, not n − 1) of the scores of `splits` parts, each from 1 to the classes."""

    mean: float
    std: float
    splits: int


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> InceptionScore:
    """exp of the mean KL(p(y|x) ‖ p(y)) of each split, where p(y) is the mean of the split's p(y|x).

    Pictures are shuffled by `seed` first: they often come sorted by class, and a split of one class scores 1. Splits
    differ by one picture at most. The score grows with the pictures per split: compare equal counts only.

    Args:
        logits: (n, classes), before the softmax.

    Raises:
        ValueError: there are fewer pictures than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"the Inception Score of {splits} splits needs at least {splits} images, got {len(logits)}")
    order = torch.from_numpy(permutation(seed, "inception score", 0, len(logits))).to(logits.device)
    scores = _split_scores(logits, splits, order)
    return InceptionScore(scores.mean().item(), scores.std(correction=0).item(), splits)


def _split_scores(logits: Tensor, splits: int, order: Tensor) -> Tensor:
    """The score of each split (splits,) float64; split i holds order[⌊i·n/splits⌋ : ⌊(i+1)·n/splits⌋]."""
    edges = [i * len(order) // splits for i in range(splits + 1)]
    return torch.stack([_score(logits[order[start:stop]]) for start, stop in pairwise(edges)])


def _score(logits: Tensor) -> Tensor:
    log_p = logits.double().log_softmax(dim=1)
    # a class may be so unlikely that its probability is zero in float64, but its logarithm is not infinite
    log_mean = log_p.logsumexp(dim=0) - torch.tensor(len(log_p), dtype=torch.float64).log()
    return (log_p.exp() * (log_p - log_mean)).sum(dim=1).mean().exp()
