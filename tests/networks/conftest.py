"""What holds for every network of several members: each answers, and learns, as it would alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


def _wide(network: nn.Module) -> nn.Module:
    """In float64, with weights away from their starting values, so that no scale is 1 and no shift 0."""
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


def _member_state(network: nn.Module, members: int, index: int) -> dict[str, Tensor]:
    """Member `index`'s part of every tensor, as the state of a network of one."""
    return {
        key: value.chunk(members)[index].clone() if value.dim() else value.clone()
        for key, value in network.state_dict().items()
    }


def _members_are_separate(
    build: Callable[[int], nn.Module], inputs: list[Tensor], *, members: int = 3, twice: bool = True
) -> None:
    """A network of R answers as R networks of one with its weights: values, buffers, first and second derivatives.

    Args:
        build: makes the network of that many members.
        inputs: (R·N, ...) each, member-major; the first is differentiated.
        twice: the second derivative is not zero everywhere.
    """
    torch.manual_seed(0)
    together = _wide(build(members)).train()
    alone = [build(1).double().train() for _ in range(members)]
    for index, network in enumerate(alone):
        network.load_state_dict(_member_state(together, members, index))

    def answer(network: nn.Module, given: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        first = given[0].clone().requires_grad_()
        values = network(first, *given[1:])
        parameters = list(network.parameters())
        # a weight for each value, the same for every member: no two gradients are alike by chance
        weights = torch.linspace(0.5, 1.5, values[0].numel(), dtype=values.dtype).reshape(values.shape[1:])
        scalar = ((values * weights) + (values * weights).square()).sum()
        (slope,) = torch.autograd.grad(scalar, first, create_graph=True, allow_unused=True)
        once = torch.autograd.grad(scalar, parameters, retain_graph=True)
        if slope is None:
            return values, list(once), []
        more = torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if value is None else value for p, value in zip(parameters, more)]
        assert not twice or any(value.abs().max() > 0 for value in filled)
        return values, list(once), [slope, *filled]

    for _ in range(2):  # buffers of the first call are used, or not, by the second
        whole = answer(together, inputs)
        parts = [
            answer(network, [value.chunk(members)[index] for value in inputs]) for index, network in enumerate(alone)
        ]
        torch.testing.assert_close(whole[0], torch.cat([part[0] for part in parts]), rtol=1e-12, atol=1e-12)
        for order in (1, 2):
            for position, value in enumerate(whole[order]):
                pieces = torch.cat([part[order][position] for part in parts])
                torch.testing.assert_close(value, pieces, rtol=1e-11, atol=1e-11)
    for index, network in enumerate(alone):
        expected = _member_state(together, members, index)
        torch.testing.assert_close(network.state_dict(), expected, rtol=1e-12, atol=1e-12)


def _no_member_sees_another(network: nn.Module, inputs: list[Tensor], members: int = 3) -> None:
    """Other rows for member 1 change nothing of the others' answers, and something of its own."""
    network = network.double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.train()  # of the batch's own statistics
    changed = [value.clone() for value in inputs]
    count = len(inputs[0]) // members
    changed[0][count : 2 * count] += 1
    before, after = (network(*values).unflatten(0, (members, count)) for values in (inputs, changed))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2:], after[2:])
    assert not torch.equal(before[1], after[1])


@pytest.fixture
def members_are_separate() -> Callable[..., None]:
    return _members_are_separate


@pytest.fixture
def no_member_sees_another() -> Callable[..., None]:
    return _no_member_sees_another
