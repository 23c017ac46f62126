"""How each measure answers to pictures made worse, and to variety lost: tables, and curves as a page.

    python tests/bench/measures_answer.py --pictures CLOTHING --classes CIFAR.zip --weights SQUEEZENET.safetensors --out DIR

Worse pictures: `--count` real ones of a folder at 128 × 128 against as many others of it that are blurred, noisy,
compressed, or have patches exchanged, in four degrees. Lost variety: real pictures of ten classes against as many others
of 10, 8, 5, 2 and 1 of these classes, and against fewer and fewer different pictures repeated.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from img2img.data.decode import open_image
from img2img.data.files import list_images
from img2img.data.resize import fit_to, to_tensor
from img2img.draws import permutation
from img2img.evaluation.extractors import load_extractor
from img2img.evaluation.features import Features, extract
from img2img.evaluation.image_set import ArraySet
from img2img.evaluation.measures import Comparison, measure
from img2img.training.charts import Series, line_chart
from img2img.training.page import page

SIZE = 128
PATCH = 32
Damage = Callable[[np.ndarray, int], np.ndarray]


def blur(pixels: np.ndarray, degree: int) -> np.ndarray:
    """A Gaussian of standard deviation 0.5, 1, 2, 4 pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2.0 ** (degree - 2))))


def noise(pixels: np.ndarray, degree: int) -> np.ndarray:
    """Gaussian noise of standard deviation 8, 16, 32, 64 of 255."""
    added = np.random.default_rng(int(pixels.sum())).normal(0, 4 * 2**degree, pixels.shape)
    return (pixels + added).round().clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, degree: int) -> np.ndarray:
    """JPEG of quality 75, 50, 25, 10."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=(75, 50, 25, 10)[degree - 1])
    return np.asarray(Image.open(stream).convert("RGB"))


def exchange(pixels: np.ndarray, degree: int) -> np.ndarray:
    """1, 2, 4, 8 pairs of the sixteen patches of 32 × 32 change places."""
    side = SIZE // PATCH
    order = permutation(0, "patches", int(pixels.sum()) % 1000, side * side)
    changed = pixels.copy()
    for one, other in zip(order[0 : 2 ** (degree - 1)], order[::-1]):
        (y, x), (v, u) = divmod(int(one), side), divmod(int(other), side)
        first, second = (np.s_[PATCH * r : PATCH * (r + 1), PATCH * c : PATCH * (c + 1)] for r, c in ((y, x), (v, u)))
        changed[first], changed[second] = pixels[second], pixels[first]
    return changed


DAMAGES: dict[str, Damage] = {"blur": blur, "noise": noise, "JPEG": jpeg, "exchanged patches": exchange}


def read_folder(folder: Path, count: int) -> np.ndarray:
    """(count, SIZE, SIZE, 3) uint8, chosen at random."""
    files = list_images(folder)
    chosen = permutation(0, "answer", 0, len(files))[:count]
    pictures = (to_tensor(open_image(files[index]).as_channels(3)) for index in chosen)
    return np.stack([fit_to(picture, (SIZE, SIZE)).permute(1, 2, 0).numpy() for picture in pictures])


def read_classes(archive: Path, count: int) -> dict[str, np.ndarray]:
    """class -> (count, h, w, 3) uint8, from train/CLASS/* of a zip."""
    found: dict[str, list[np.ndarray]] = {}
    with zipfile.ZipFile(archive) as file:
        for name in sorted(file.namelist()):
            parts = name.split("/")
            if parts[0] == "train" and len(parts) == 3 and parts[2] and len(found.setdefault(parts[1], [])) < count:
                found[parts[1]].append(open_image(io.BytesIO(file.read(name))).as_channels(3))
    return {name: np.stack(pictures) for name, pictures in found.items()}


def worse(pictures: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    for name, damage in DAMAGES.items():
        for degree in range(1, 5):
            yield name, degree, np.stack([damage(pixels, degree) for pixels in pictures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    extractor = load_extractor("squeezenet1_0", arguments.weights)
    results: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def see(pictures: np.ndarray) -> Features:
        return extract(ArraySet(pictures.transpose(0, 3, 1, 2)), extractor)

    def note(curve: str, x: float, real: Features, fake: Features) -> None:
        for score in measure(("fd", "kid", "prdc", "is"), Comparison(real, fake, extractor.spec)):
            results.setdefault(score.name, {}).setdefault(curve, []).append((x, score.value))
        row = ", ".join(f"{name} {curves[curve][-1][1]:.4g}" for name, curves in results.items() if curve in curves)
        print(f"{curve} {x:g}: {row}", flush=True)

    pictures = read_folder(arguments.pictures, 2 * arguments.count)
    real, others = see(pictures[: arguments.count]), pictures[arguments.count :]
    untouched = see(others)
    for name in DAMAGES:
        note(name, 0, real, untouched)
    for name, degree, damaged in worse(others):
        note(name, degree, real, see(damaged))
    variety(arguments.classes, arguments.count, see, note)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "answers.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "answers.html").write_text(page("What the measures answer to", draw(results)), "utf-8")


def variety(
    archive: Path,
    count: int,
    see: Callable[[np.ndarray], Features],
    note: Callable[[str, float, Features, Features], None],
) -> None:
    """Fewer classes, and fewer different pictures."""
    classes = read_classes(archive, count + count // 10)
    names = sorted(classes)
    real = see(np.concatenate([classes[name][: count // 10] for name in names]))
    rest = {name: classes[name][count // 10 :] for name in names}
    for kept in (10, 8, 5, 2, 1):
        fake = np.concatenate([rest[name][: count // kept] for name in names[:kept]])
        note("classes kept", kept, real, see(fake))
    whole = np.concatenate([rest[name][: count // 10] for name in names])
    order = permutation(0, "repeat", 0, len(whole))
    for share in (1, 2, 4, 10, 100):
        seen = see(whole[order[: count // share]])
        assert seen.values is not None, "so few have all"
        repeated = Features(
            count, seen.values.repeat(share, 1), seen.logits.repeat(share, 1) if seen.logits is not None else None
        )
        note("times repeated", share, real, repeated)


def draw(results: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """The charts: worse pictures together, lost variety apart."""
    sections = {
        "Worse pictures": ("degree", tuple(DAMAGES)),
        "Fewer classes": ("classes kept", ("classes kept",)),
        "Fewer different pictures": ("times repeated", ("times repeated",)),
    }
    drawn = []
    for heading, (unit, wanted) in sections.items():
        drawn.append(f'<h2>{heading}</h2>\n<div class="charts">\n')
        for name, curves in results.items():
            chosen = {curve: sorted(points) for curve, points in curves.items() if curve in wanted}
            series = [Series(curve, *zip(*points)) for curve, points in chosen.items()]
            drawn.append(line_chart(series, title=name, x_unit=unit, smooth=False, from_zero="KID" not in name))
        drawn.append("</div>\n")
    return "".join(drawn)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
