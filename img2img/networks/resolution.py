"""Which sizes a network that doubles or halves can make: [h, w] = base × 2^k, for any rectangle."""

from __future__ import annotations

from img2img.errors import UsageFault
from img2img.networks.arguments import MAX_SIDE, check_resolution

SMALLEST_BASES = range(4, 8)  # of the shorter side: one octave, so that every size has one number of doublings


def split_resolution(resolution: object) -> tuple[tuple[int, int], int]:
    """(base height, base width) and k with resolution = base × 2^k, k ≥ 1 and the shorter base side in 4..7.

    Raises UsageFault naming data.resolution and the nearest sizes that work.
    """
    height, width = check_resolution(resolution)
    doublings = (min(height, width) // SMALLEST_BASES.start).bit_length() - 1
    factor = 2 ** max(doublings, 0)
    if doublings < 1 or height % factor or width % factor:
        raise UsageFault(
            "data.resolution",
            f"[{height}, {width}] is not [base height, base width] × 2^k with the shorter base side from 4 to 7",
            "Use " + " or ".join(f"[{h}, {w}]" for h, w in _nearest_resolutions(height, width)),
        )
    return (height // factor, width // factor), doublings


def _nearest_resolutions(height: int, width: int) -> list[tuple[int, int]]:
    """The two sizes nearest to (height, width) in pixels that split_resolution accepts, squares for a square."""
    short, long = sorted((height, width))
    sizes = set()
    for base in SMALLEST_BASES:
        for doublings in range(1, (MAX_SIDE // base).bit_length()):
            factor = 2**doublings
            side = base * factor
            below = max(long // factor * factor, side)
            sizes |= {(side, side)} if height == width else {(side, below), (side, min(below + factor, MAX_SIDE))}
    nearest = sorted(sizes, key=lambda size: (abs(size[0] - short) + abs(size[1] - long), abs(size[0] - short), size))
    return sorted(size if height <= width else size[::-1] for size in nearest[:2])


def level_widths(width: int, max_width: int, levels: int) -> list[int]:
    """Channels of each level from the image inwards: doubled at each, at most max_width."""
    return [min(width * 2**level, max_width) for level in range(levels)]


def attention_level(attention: int, sides: list[int]) -> int | None:
    """The index of the longest of `sides`, the shorter sides of a network's planes, that is at most `attention`.

    None for attention 0. Raises UsageFault where all sides are longer.
    """
    if attention == 0:
        return None
    fitting = [side for side in sides if side <= attention]
    if not fitting:
        raise UsageFault(
            "attention", f"no plane's shorter side is at most {attention}", f"Use 0, or {min(sides)} or more"
        )
    return sides.index(max(fitting))
