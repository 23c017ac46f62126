"""A history of generated images for the discriminator (Shrivastava et al. 2016, arXiv:1612.07828; used by CycleGAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from img2img.draws import Draws


class ImagePool:
    """Keeps up to `capacity` entries; once full, each new one is swapped for a kept one with probability ½.

    An entry is an image with what belongs to it (its condition). Entries are handled in the order of the run, and all
    ranks hold the same pool, so the result does not depend on how a batch is divided.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: list[tuple[Tensor, ...]] = []

    def exchange(self, tensors: tuple[Tensor, ...], draws: Draws) -> tuple[Tensor, ...]:
        """Give tensors of one batch (N, ...), get as many: each sample is itself or an older one, which it replaces."""
        swaps = (draws.uniform(1)[:, 0] < 0.5).tolist()
        places = draws.stream("place").integers(self.capacity, 1)[:, 0].tolist()
        results = []
        for index, (swap, place) in enumerate(zip(swaps, places)):
            entry = tuple(tensor[index].clone() for tensor in tensors)
            if len(self.entries) < self.capacity:
                self.entries.append(entry)
            elif swap:
                entry, self.entries[place] = self.entries[place], entry
            results.append(entry)
        return tuple(torch.stack(parts) for parts in zip(*results))

    def forget_bad(self) -> None:
        """Drop entries that are not finite; they would spoil every step in which they come back."""
        self.entries = [entry for entry in self.entries if all(bool(part.isfinite().all()) for part in entry)]

    def state_dict(self) -> dict[str, list[list[Tensor]]]:
        return {"entries": [list(entry) for entry in self.entries]}

    def load_state_dict(self, state: dict[str, list[list[Tensor]]], device: torch.device) -> None:
        self.entries = [tuple(tensor.to(device) for tensor in entry) for entry in state["entries"]]
