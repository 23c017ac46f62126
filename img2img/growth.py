"""How far a growing network has come, and how many images a step has, by images seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from img2img.config import Config


@dataclass(frozen=True)
class Stage:
    """Where a growing network stands.

    Attributes:
        halvings: how often the pictures are half as large as in the end.
        alpha: weight of the newest resolution in [0, 1); 1 where none is fading in.
        batch: images per step.
    """

    halvings: int
    alpha: float
    batch: int


@dataclass(frozen=True)
class GrowthSchedule:
    """Progressive growing (Karras et al. 2018, arXiv:1710.10196, section 2) by images seen.

    `stable_images` at the first resolution, then for each doubling `fade_images` while it fades in and `stable_images`
    with it; the last resolution stays to the end. Without doublings there is one stage.
    """

    doublings: int
    stable_images: float
    fade_images: float
    batch: int
    max_batch: int

    @classmethod
    def of(cls, config: Config) -> GrowthSchedule:
        """The schedule of a checked configuration."""
        growth, batch = config.growth, config.train.batch
        if growth.start == 0:
            return cls(0, 0.0, 0.0, batch, 0)
        doublings = max((min(config.data.resolution) // growth.start).bit_length() - 1, 0)
        return cls(doublings, growth.stable_kimg * 1000, growth.fade_kimg * 1000, batch, growth.max_batch)

    @property
    def images_needed(self) -> float:
        """Images until the last resolution has faded in."""
        return self.doublings * (self.stable_images + self.fade_images)

    def starts(self) -> list[int]:
        """The first image at each resolution."""
        each = self.stable_images + self.fade_images
        later = (math.ceil(self.stable_images + index * each) for index in range(self.doublings))
        return [0, *later]

    def at(self, images_seen: int) -> Stage:
        starts = self.starts()
        index = max(index for index, start in enumerate(starts) if images_seen >= start)
        halvings = self.doublings - index
        faded = images_seen - starts[index]
        alpha = 1.0 if index == 0 or faded >= self.fade_images else faded / self.fade_images
        most = max(self.max_batch, self.batch)
        larger = min(halvings, int(math.log2(most / self.batch)))
        return Stage(halvings, alpha, self.batch * 2**larger)
