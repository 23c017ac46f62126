"""A picture that no memory holds at once: translated in seamless tiles, beside the seams that plain tiles give.

    python tests/bench/tiling.py [--size 12000x9000] [--width 32] [--blocks 6] [--side 1024] [--photo FILE] [--compare]

The network is an untrained CycleGAN generator. A child process translates one PNG and says its time and the most memory
it held (ru_maxrss). --compare also runs the network on each plain tile (`--side` pixels and an overlap of 64, of which
half is cut off on each side) and, where memory allows, on the whole picture, and prints how they differ.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from translate_speed import write_resnet

from img2img.data.decode import open_image
from img2img.data.encode import save_image
from img2img.inference.folder import translate_file
from img2img.inference.memory import activation_bytes
from img2img.inference.model import Model
from img2img_cli.logs import show_logs

_OVERLAP = 64


def picture(width: int, height: int) -> np.ndarray:
    """Colours that change over the whole picture, with grain and edges: a plain tile has other means than the rest."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (max(2, height // 500), max(2, width // 500), 3), np.uint8)
    smooth = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for top in range(0, height, 64):
        rows = smooth[top : top + 64]
        grain = rng.integers(-24, 25, rows.shape, np.int16)
        rows[:] = np.clip(rows + grain, 0, 255).astype(np.uint8)
    smooth[:: max(2, height // 40)] = 255
    return smooth


def plain_tiles(model: Model, pixels: np.ndarray, side: int) -> np.ndarray:
    """Each tile by itself, with an overlap that is cut off, as tiling is usually done."""
    height, width = pixels.shape[:2]
    result = np.empty_like(pixels)
    for top in range(0, height, side):
        for left in range(0, width, side):
            bottom, right = min(top + side, height), min(left + side, width)
            first_row, first_column = max(0, top - _OVERLAP // 2), max(0, left - _OVERLAP // 2)
            seen = pixels[first_row : bottom + _OVERLAP // 2, first_column : right + _OVERLAP // 2]
            tile = model.translate(np.ascontiguousarray(seen), tile="off")
            result[top:bottom, left:right] = tile[
                top - first_row : bottom - first_row, left - first_column : right - first_column
            ]
    return result


def child(model_file: Path, source: Path, target: Path, tile: str) -> None:
    show_logs()
    model = Model.load(model_file, "cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    translate_file(model, source, target, tile=tile if tile in ("auto", "off") else int(tile))
    seconds = time.perf_counter() - started
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{seconds:.1f} s, {most / 1024**2:.2f} GiB resident at most ({before / 1024**2:.2f} before it)", flush=True)


def differences(name: str, one: np.ndarray, other: np.ndarray) -> None:
    apart = [np.abs(a.astype(np.int16) - b) for a, b in zip(np.array_split(one, 64), np.array_split(other, 64))]
    mean = sum(float(part.sum(dtype=np.int64)) for part in apart) / one.size
    print(f"{name}: mean {mean:.4f} of 255, at most {max(int(part.max()) for part in apart)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seamless tiles beside plain ones.")
    parser.add_argument("--size", default="12000x9000")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--side", type=int, default=1024, help="of plain tiles")
    parser.add_argument("--tile", default="auto", help="of seamless tiles")
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--child", nargs=3, type=Path)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.tile)
        return
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_resnet(folder / "model.safetensors", width=options.width, blocks=options.blocks)
        pixels = picture(width, height)
        if options.photo:
            pixels = np.asarray(Image.fromarray(open_image(options.photo).as_channels(3)).resize((width, height)))
        save_image(folder / "picture.png", pixels)
        model = Model.load(folder / "model.safetensors", "cpu")
        network = model._networks["generator"]
        needed = activation_bytes(network, torch.empty(1, 3, height, width, device="meta"))
        print(
            f"{width} × {height} pixels, {torch.get_num_threads()} threads, at once {needed / 2**30:.1f} GiB",
            flush=True,
        )
        files = [folder / part for part in ("model.safetensors", "picture.png", "result.png")]
        subprocess.run([sys.executable, __file__, "--tile", options.tile, "--child", *map(str, files)], check=True)
        if options.compare:
            seamless = open_image(folder / "result.png").pixels
            started = time.perf_counter()
            plain = plain_tiles(model, pixels, options.side)
            print(f"plain tiles of {options.side}: {time.perf_counter() - started:.1f} s", flush=True)
            differences("plain tiles from seamless ones", plain, seamless)
            if width * height <= 4_000_000:
                started = time.perf_counter()
                whole = model.translate(pixels, tile="off")
                print(f"whole: {time.perf_counter() - started:.1f} s", flush=True)
                differences("seamless tiles from the whole", seamless, whole)


if __name__ == "__main__":
    main()
