"""Every random number of training, keyed by (seed, stream, number of the image in the run).

A draw is a pure function of its key, so ranks and micro-batches take slices of one stream, a resumed run goes on
where it stopped, and no generator state needs saving. The generator is SplitMix64 (Steele, Lea & Flood 2014,
"Fast splittable pseudorandom number generators"): output i of a stream is the finaliser of start + i·gamma.
It is computed with 64-bit integer tensor operations, so that every device gives the same bits.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The two's complement int64 with the bits of an unsigned 64-bit `value`."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift_right(bits: Tensor, count: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes the shift logical
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser, elementwise on int64."""
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_MULTIPLIER_1)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_MULTIPLIER_2)
    return bits ^ _shift_right(bits, 31)


def _stream_key(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")


def permutation(seed: int, stream: str, epoch: int, count: int) -> np.ndarray:
    """A permutation of range(count) as int64, a function of (seed, stream, epoch) alone."""
    key = _stream_key(seed, f"{stream}/epoch{epoch}")
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


class Draws:
    """Random tensors whose row i depends only on (seed, stream, numbers[i]).

    Args:
        seed: seed of the run.
        stream: name of what is drawn; different names give independent numbers.
        numbers: (N,) int64, the images' numbers in the run, on the device where the draws are wanted.
    """

    def __init__(self, seed: int, stream: str, numbers: Tensor) -> None:
        self.seed = seed
        self.name = stream
        self.numbers = numbers
        self._starts = _mix(_mix(numbers + _signed(_stream_key(seed, stream))))

    def stream(self, name: str) -> Draws:
        """The draws of a sub-stream, independent of this one."""
        return Draws(self.seed, f"{self.name}/{name}", self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def _bits(self, count: int) -> Tensor:
        """(N, count) int64 with 64 random bits each."""
        counters = torch.arange(1, count + 1, device=self.numbers.device, dtype=torch.int64) * _signed(_GAMMA)
        return _mix(self._starts[:, None] + counters)

    def uniform(self, *shape: int) -> Tensor:
        """(N, *shape) float32, uniform on the multiples of 2⁻²⁴ in [0, 1)."""
        bits = self._bits(math.prod(shape))
        return (_shift_right(bits, 40).to(torch.float32) * 2.0**-24).reshape(len(self), *shape)

    def integers(self, bound: int, *shape: int) -> Tensor:
        """(N, *shape) int64, uniform in [0, bound) up to a bias of bound / 2⁶³."""
        return (_shift_right(self._bits(math.prod(shape)), 1) % bound).reshape(len(self), *shape)

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) float32, standard normal by Box and Muller (1958), two values from each 64 bits."""
        count = math.prod(shape)
        bits = self._bits((count + 1) // 2)
        # +0.5 keeps the logarithm's argument off zero: the largest value is sqrt(2·33·ln 2) = 6.76
        radius = ((_shift_right(bits, 32).to(torch.float32) + 0.5) * 2.0**-32).log().mul(-2.0).sqrt()
        angle = (bits & 0xFFFFFFFF).to(torch.float32) * (2.0 * math.pi * 2.0**-32)
        pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
        return pairs.reshape(len(self), -1)[:, :count].reshape(len(self), *shape)
