"""Self-attention between the places of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """(N, C, H, W) -> same: x + gate · out(attention), the gate learned from 0 (Zhang et al. 2018, arXiv:1805.08318).

    One head; queries and keys have C/8 channels, values C/2, all by 1×1 convolutions without bias. Inner products are
    not divided by the root of their length. At the start the layer is the identity.

    Args:
        pool: halve the plane of keys and values by 2×2 maxima, as the authors' and BigGAN's code does: a quarter of the
            memory.
    """

    def __init__(self, channels: int, pool: bool = True) -> None:
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.out = nn.Conv2d(half, channels, 1, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.pool:
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        attended = attend(*(plane.flatten(2).transpose(1, 2) for plane in (query, key, value)))
        return x + self.gate * self.out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))

    def extra_repr(self) -> str:
        return f"pool={self.pool}"


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query keyᵀ) value: (N, P, d), (N, Q, d), (N, Q, e) -> (N, P, e)."""
    if not (torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))):
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)
    # torch's fused kernels cannot be differentiated twice, which R1 through a discriminator asks for
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(dim=2), value)
