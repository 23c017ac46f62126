"""How near two pictures are in the eyes of a network: perceptual distance, and what of a picture is preserved.

Both compare what a network made of one picture with what it made of another. They are as good as the network, and mean
nothing without its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-10  # added to norms, as in the authors' code: a place where no feature answers stays zero


def perceptual_distance(
    features_a: Sequence[Tensor], features_b: Sequence[Tensor], lin: Sequence[Tensor] | None = None
) -> Tensor:
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924) from several layers' feature maps of two pictures: (N,), ≥ 0.

    At each place the features are scaled to unit length; their squared differences, weighted by channel, are averaged
    over places and summed over layers. It is symmetric, and 0 for equal features, whatever their length.

    Args:
        features_a, features_b: a (N, C, h, w) for each layer; both of the same shapes.
        lin: a (C,) for each layer: weights fitted to people's judgements, for this network alone. None weighs all
            channels by one, which is no LPIPS.
    """
    weights = [None] * len(features_a) if lin is None else lin
    layers = zip(features_a, features_b, weights, strict=True)
    return torch.stack([_layer_distance(*layer) for layer in layers]).sum(dim=0)


def _layer_distance(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    squared = (_unit_length(a) - _unit_length(b)).square_().mean(dim=(2, 3))
    return squared.sum(dim=1) if weights is None else squared @ weights


def _unit_length(features: Tensor) -> Tensor:
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _EPSILON)


def feature_similarity(features_a: Tensor, features_b: Tensor) -> Tensor:
    """Content preservation: the cosine of features of a translator's input and of its output, (n, d) twice -> (n,).

    In [−1, 1], and in [0, 1] for features that are never negative, as pooled activations are; 0 where either is zero.
    1 is best: to this network the output shows what the input shows. It is blind to whether anything was translated:
    the identity scores 1, so it is of use only beside a measure of the target domain (a Fréchet or kernel distance).
    Nor is 0 its other end: with SqueezeNet's pooled features, photographs that have nothing in common score 0.53 on
    average, and different drawings by one hand 0.72. Compare with inputs and outputs paired at random.
    """
    return functional.cosine_similarity(features_a, features_b, dim=1)
