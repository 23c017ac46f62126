"""What changes with progress. Progress is counted in images seen, so no schedule depends on the batch size."""

from __future__ import annotations

from collections.abc import Sequence


def learning_rate_factor(images_seen: int, total_images: float, decay_images: float) -> float:
    """1, then a linear fall to 0 over the last `decay_images` of `total_images`."""
    if decay_images <= 0:
        return 1.0
    return min(1.0, max(0.0, (total_images - images_seen) / decay_images))


def lazy_correction(intervals: Sequence[int]) -> float:
    """c = 1 / (1 + Σ 1/N) over the lazy penalties' intervals N: main steps as a share of all optimiser steps.

    With one penalty it is N/(N+1) of Karras et al. 2020, arXiv:1912.04958, appendix B: Adam runs with lr·c and β^c.
    """
    return 1.0 / (1.0 + sum(1.0 / interval for interval in intervals))


def due(interval_kimg: float, images_before: int, images_after: int) -> bool:
    """A multiple of the interval lies in (before, after]; never when the interval is 0."""
    if interval_kimg <= 0:
        return False
    interval = interval_kimg * 1000
    return int(images_after / interval) > int(images_before / interval)
