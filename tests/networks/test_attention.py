"""Self-attention: the identity at first, the softmax by hand, twice differentiable."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from img2img.networks.attention import SelfAttention, attend


def open_layer(channels: int = 16, pool: bool = True) -> SelfAttention:
    torch.manual_seed(0)
    layer = SelfAttention(channels, pool).double()
    with torch.no_grad():
        layer.gate.fill_(0.7)
    return layer


def test_identity_at_the_start() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 4, 6)
    layer = SelfAttention(16)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gate.grad is not None
    assert layer.gate.grad != 0


@pytest.mark.parametrize("pool", [True, False])
def test_by_hand(pool: bool) -> None:
    layer = open_layer(pool=pool)
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    query = torch.einsum("oc,nchw->nohw", layer.query.weight[..., 0, 0], x).flatten(2)
    key, value = (torch.einsum("oc,nchw->nohw", part.weight[..., 0, 0], x) for part in (layer.key, layer.value))
    if pool:
        key, value = (part.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5)) for part in (key, value))
    likeness = torch.einsum("ndp,ndq->npq", query, key.flatten(2)).exp()
    likeness = likeness / likeness.sum(dim=2, keepdim=True)
    attended = torch.einsum("npq,neq->nep", likeness, value.flatten(2))
    expected = x + 0.7 * torch.einsum("oc,ncp->nop", layer.out.weight[..., 0, 0], attended).unflatten(2, (4, 6))
    torch.testing.assert_close(layer(x), expected)


def test_with_and_without_gradients_alike() -> None:
    query, key, value = (torch.randn(2, n, d, dtype=torch.float64) for n, d in ((12, 2), (6, 2), (6, 8)))
    with_gradients = attend(query.requires_grad_(), key, value)
    with torch.no_grad():
        torch.testing.assert_close(attend(query, key, value), with_gradients)


def test_derivatives() -> None:
    layer = open_layer(8, pool=False)
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x).square().sum(), x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square().sum(), x)


def test_gradient_penalty_reaches_every_weight() -> None:
    layer = open_layer()
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    gradients = torch.autograd.grad(slope.square().sum(), list(layer.parameters()))
    assert all(gradient.any() for gradient in gradients)


def test_inference_in_bfloat16_is_near_float32() -> None:
    layer = open_layer(64).float()
    x = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        exact = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = layer(x)
    assert F.mse_loss(rounded.float(), exact) < 1e-4 * exact.square().mean()
