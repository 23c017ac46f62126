"""One process per device, started by torchrun; gradients are averaged once per step.

Without torchrun every function here does nothing, so that the loop is written once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from img2img.errors import Fault


class World:
    """This process's place among all that train together."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    def join(self, device: torch.device, patience: timedelta | None = None) -> None:
        """Meet the other processes: NCCL between GPUs, gloo otherwise.

        Args:
            patience: how long they may let each other wait; None is torch's default, some minutes.
        """
        if self.size == 1 or dist.is_initialized():
            return
        store, rank, size = next(dist.rendezvous("env://"))
        # torchrun keeps the store when it starts all processes again, with the addresses of those that are dead
        store = dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)

    def leave(self) -> None:
        """Part in good order."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @contextlib.contextmanager
    def naming_lost_peers(self) -> Iterator[None]:
        """Let a process whose peers are gone say so.

        Raises:
            Fault: in place of what the transport says.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
                raise
            raise Fault(
                f"process {self.rank} of {self.size}",
                "lost the others",
                "See what they said before; given --resume, torchrun --max-restarts goes on from the last state",
            ) from error

    @property
    def is_first(self) -> bool:
        """This process writes the files and the log."""
        return self.rank == 0

    def slice(self, count: int) -> slice:
        """This rank's share of `count` images, in order; the count divides by the number of ranks."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average all gradients over the ranks in one flat reduction."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        _reduce_flat([gradient for gradient in gradients if gradient is not None], self.size)

    def average_statistics(self, networks: Iterable[nn.Module]) -> None:
        """Average running statistics, so that every rank holds the same buffers."""
        if self.size == 1:
            return
        _reduce_flat(
            [buffer for network in networks for name, buffer in network.named_buffers() if is_running_statistic(name)],
            self.size,
        )

    def gather(self, images: Tensor) -> Tensor:
        """All ranks' images in rank order, (N, ...) -> (N · ranks, ...)."""
        if self.size == 1:
            return images
        parts = [torch.empty_like(images) for _ in range(self.size)]
        dist.all_gather(parts, images.contiguous())
        return torch.cat(parts)

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def average(self, values: Tensor) -> Tensor:
        """The mean of `values` over the ranks."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, flag: int, device: torch.device) -> int:
        """The largest `flag` of all ranks: a signal that reached one stops all in the same step."""
        if self.size == 1:
            return flag
        shared = torch.tensor(flag, device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def wait(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()


def is_running_statistic(buffer: str) -> bool:
    """Whether the buffer of this name is a running mean of what a network saw (batch normalisation, StyleGAN3)."""
    return buffer.rpartition(".")[2].startswith("running_")


def _reduce_flat(tensors: list[Tensor], size: int) -> None:
    if not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= size
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))
