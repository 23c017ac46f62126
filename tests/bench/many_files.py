"""What a folder of 100,000 files costs: seconds and memory of listing, naming outputs, training's scan and `data check`.

    python tests/bench/many_files.py [--counts 10000 100000] [--repeats 3] [--only NAME ...] [--keep FOLDER]

Every measure runs in a process of its own, which first does the same for a handful of files. What the peak of memory
rises by from the smaller to the larger folder, by the files that there are more, is the memory that a file takes.
Listing and naming are of files without content, scan and check of pictures of 8 × 8 pixels, no two alike, a thousand
to a folder. Prints rows of markdown: the median of the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from folder_zoo import png

from img2img.data.check import check
from img2img.data.files import list_images
from img2img.data.sources import open_source
from img2img.devices import peak_memory
from img2img.inference.names import output_names

_PER_FOLDER = 1000
_FEW = 10


def make_tree(root: Path, count: int, *, with_content: bool) -> Path:
    """`count` files, a thousand to a folder; what is there already stays."""
    if root.exists():
        return root
    random = np.random.default_rng(count)
    for index in range(count):
        folder = root / f"{index // _PER_FOLDER:04d}"
        if index % _PER_FOLDER == 0:
            folder.mkdir(parents=True)
        content = b""
        if with_content:
            rows = random.integers(0, 256, (8, 25), np.uint8)
            rows[:, 0] = 0  # no filter
            content = png(8, 8, 8, 2, rows.tobytes())
        (folder / f"picture-{index:06d}.png").write_bytes(content)
    return root


def name_outputs(root: Path) -> int:
    """As `translate --format jpeg` does before its first picture."""
    names = [str(path.relative_to(root)) for path in list_images(root)]
    return len(output_names(names, "JPEG"))


# name -> (needs pictures, what is done)
MEASURES: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "list_images": (False, list_images),
    "names of outputs": (False, name_outputs),
    "scan of training": (True, lambda root: open_source(images=root, resolution=(8, 8), workers=1)),
    "data check": (True, lambda root: check(images=root, workers=1)),
}


def run_one(name: str, few: Path, many: Path) -> None:
    """Do it in this process; print seconds, those of the processor, and bytes as JSON."""
    torch.set_num_threads(1)
    _, measure = MEASURES[name]
    measure(few)
    began, busy = time.perf_counter(), time.process_time()
    result = measure(many)
    cost = {"seconds": time.perf_counter() - began, "processor": time.process_time() - busy}
    assert result
    print(json.dumps(cost | {"bytes": peak_memory(torch.device("cpu"))}))


def measure_all(folder: Path, counts: list[int], repeats: int, names: list[str]) -> None:
    few = {pictures: make_tree(folder / f"few-{pictures}", _FEW, with_content=pictures) for pictures in (False, True)}
    needed = {MEASURES[name][0] for name in names}
    trees = {
        (pictures, count): make_tree(folder / f"{count}-{pictures}", count, with_content=pictures)
        for pictures in needed
        for count in counts
    }
    print("| what | files | seconds | of the processor | peak memory, MB | bytes a file |")
    print("|---|---|---|---|---|---|")
    for name in names:
        before: tuple[int, float] | None = None
        for count in counts:
            pictures = MEASURES[name][0]
            command = [sys.executable, __file__, "--run", name, str(few[pictures]), str(trees[pictures, count])]
            costs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(repeats)]
            seconds, busy, peak = (
                statistics.median(cost[key] for cost in costs) for key in ("seconds", "processor", "bytes")
            )
            each = "" if before is None else f"{(peak - before[1]) / (count - before[0]):,.0f}"
            print(f"| {name} | {count:,} | {seconds:.2f} | {busy:.2f} | {peak / 1e6:.0f} | {each} |", flush=True)
            before = count, peak


def main() -> None:
    parser = argparse.ArgumentParser(description="What a folder of 100,000 files costs.")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--keep", type=Path, help="make the folders here and leave them for the next time")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, few, many = options.run
        run_one(name, Path(few), Path(many))
    elif options.keep:
        measure_all(options.keep, options.counts, options.repeats, options.only)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure_all(Path(folder), options.counts, options.repeats, options.only)


if __name__ == "__main__":
    main()
