"""An unrolled discriminator (Metz et al. 2016, arXiv:1611.02163): the generator answers D as it will be in K steps.

D takes K steps of its own optimiser on the batch, on a copy of its weights; every step is differentiable, so that the
generator's gradient knows how D would react. D's own weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Weights = list[Tensor]


class WithWeights(nn.Module):
    """`network` as it would be with other parameters: {name: tensor that may carry a graph}."""

    def __init__(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network = network
        self.weights = weights

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return torch.func.functional_call(self.network, dict(self.weights), arguments, keywords)


def with_weights(networks: Mapping[str, nn.Module], weights: Weights) -> dict[str, WithWeights]:
    """The networks with `weights`, one for each of their parameters in order."""
    remaining = iter(weights)
    return {
        name: WithWeights(network, {key: next(remaining) for key, _ in network.named_parameters()})
        for name, network in networks.items()
    }


def unroll(
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    moments: Mapping[int, Mapping[str, Tensor]],
    loss_of: Callable[[Weights], Tensor],
    count: int,
) -> Weights:
    """The parameters after `count` differentiable steps of `optimizer` on `loss_of`.

    Args:
        optimizer: Adam, RMSprop or SGD without extras; it is only read.
        moments: its state for each parameter, in the shape of that parameter.
        loss_of: weights -> scalar.
    """
    options = optimizer.param_groups[0]
    weights: Weights = [parameter.detach().requires_grad_() for parameter in parameters]
    state = [{key: value.detach() for key, value in moments.get(index, {}).items()} for index in range(len(weights))]
    for _ in range(count):
        gradients = torch.autograd.grad(loss_of(weights), weights, create_graph=True)
        for index, gradient in enumerate(gradients):
            change = _change(optimizer, options, gradient, state[index])
            weights[index] = weights[index] - options["lr"] * change
    return weights


def _change(
    optimizer: torch.optim.Optimizer, options: Mapping[str, Any], gradient: Tensor, state: dict[str, Tensor]
) -> Tensor:
    """What the optimiser subtracts, divided by the learning rate; `state` moves on."""
    if isinstance(optimizer, torch.optim.SGD):
        return gradient
    nothing = torch.zeros_like(gradient)
    if isinstance(optimizer, torch.optim.RMSprop):
        state["square_avg"] = state.get("square_avg", nothing).lerp(gradient.square(), 1 - options["alpha"])
        return gradient / _root(state["square_avg"], options["eps"])
    assert isinstance(optimizer, torch.optim.Adam), f"{type(optimizer).__name__} has no differentiable step here"
    mean_decay, square_decay = options["betas"]
    state["step"] = state.get("step", torch.zeros((), device=gradient.device)) + 1
    state["exp_avg"] = state.get("exp_avg", nothing).lerp(gradient, 1 - mean_decay)
    state["exp_avg_sq"] = state.get("exp_avg_sq", nothing).lerp(gradient.square(), 1 - square_decay)
    step = state["step"].double()  # torch counts in float32, whose powers would make float64 moments inexact
    mean = state["exp_avg"] / (1 - mean_decay**step)
    square = state["exp_avg_sq"] / (1 - square_decay**step)
    return mean / _root(square, options["eps"])


def _root(square: Tensor, eps: float) -> Tensor:
    """√square + eps; a weight that never had a gradient must not get an infinite derivative."""
    return (square + 1e-32).sqrt() + eps
