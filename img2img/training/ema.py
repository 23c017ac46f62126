"""Exponential moving average of the generators, whose weights are the ones that are kept and shown."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from img2img.distributed import is_running_statistic


def ema_decay(half_life_images: float, ramp_up: float, images_seen: int, batch: int) -> float:
    """Decay for one step of `batch` images: 0.5^(batch / half-life).

    During warm-up the half-life is at most `ramp_up` · images_seen, so that early averages forget the random start
    (Karras et al. 2020, arXiv:2006.06676, use a ramp of 0.05).
    """
    half_life = min(half_life_images, ramp_up * images_seen) if ramp_up > 0 else half_life_images
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


class Ema:
    """Averaged copies of networks, in eval mode, in the networks' own type.

    Parameters and running statistics are averaged; other buffers (counters, the vectors of spectral normalisation,
    which must stay unit vectors) are copied.

    With `shared` there is nothing to average: the copies hold the networks' own memory, in eval mode.
    """

    def __init__(self, networks: Mapping[str, nn.Module], shared: bool = False) -> None:
        self.shared = shared
        self.networks = {
            name: copy.deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()
        }
        if shared:
            for name, network in networks.items():
                for mine, theirs in zip(_tensors(self.networks[name]), _tensors(network), strict=True):
                    mine.data = theirs.data
        self._copied = {name: _copied_buffers(network) for name, network in networks.items()}

    @torch.no_grad()
    def update(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        """average ← decay · average + (1 − decay) · network."""
        assert networks.keys() == self.networks.keys(), "the average is of these networks"
        if self.shared:
            return
        averaged, current = [], []
        for name, network in networks.items():
            target = self.networks[name].state_dict()
            for key, value in network.state_dict().items():
                if key in self._copied[name]:
                    target[key].copy_(value)
                else:
                    averaged.append(target[key])
                    current.append(value)
        torch._foreach_lerp_(averaged, current, 1.0 - decay)

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        return {name: network.state_dict() for name, network in self.networks.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        for name, network in self.networks.items():
            network.load_state_dict(state[name])


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def _copied_buffers(network: nn.Module) -> set[str]:
    """The names of the buffers that are not running statistics."""
    return {name for name, _ in network.named_buffers() if not is_running_statistic(name)}
