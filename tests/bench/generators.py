"""Figures of docs/results/generators.md, from finished runs and models.

    python tests/bench/generators.py table RUN... --out docs/results/generators
    python tests/bench/generators.py compare RUN RUN... --out FILE.png
    python tests/bench/generators.py singular RUN --out FILE.png
    python tests/bench/generators.py truncation MODEL --train DIR --test DIR --weights FILE --out FILE.png

RUN is a run folder whose training measured itself (`train.eval_kimg`). `table` prints a row of Markdown for each run and
writes its last sample grid, the averaged generator's, as OUT/RECIPE.jpg. `compare` draws the distance of several runs
over their training, and ADA's p where one had it. `singular` draws the largest singular value among each player's weights
before spectral normalisation divides them. `truncation` samples a class-conditional model at several thresholds:
distance, spread within a class beside that of the pictures, and the share that a classifier trained on --train takes for
the class asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from first_runs import read_classes, share_correct, train_classifier
from PIL import Image
from theory import BLUE, GREEN, ORANGE, RED, Axis, Curve, plot, print_table

import img2img
from img2img.config import read_toml
from img2img.data.encode import save_image
from img2img.data.values import to_float
from img2img.errors import Fault, UsageFault
from img2img.evaluation.extractors import load_extractor
from img2img.metrics.frechet import frechet_distance_of

THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, None)
_QUALITY = 88  # of the grids in docs
_COLOURS = (BLUE, RED, ORANGE, GREEN)


def read_log(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    if not path.is_file():
        raise UsageFault(run, "is no run folder", "Give one that `img2img train` wrote")
    return [json.loads(line) for line in path.read_text().splitlines()]


def measured(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Score -> (kimg, value) of each evaluation."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for line in read_log(run):
        for name, value in line.get("measures", {}).items():
            scores.setdefault(name, []).append((line["images"] / 1000, value))
    if not scores:
        raise UsageFault(run, "measured nothing", "Train with --set train.eval_kimg=N")
    return scores


def print_runs(runs: list[Path], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for run in runs:
        config, scores = read_toml(run / "config.toml"), measured(run)
        last = [line for line in read_log(run) if "terms" in line][-1]
        (_, distance), (_, kernel) = sorted((name, values) for name, values in scores.items())[:2]
        height, width = config.data.resolution
        rows.append(
            [
                config.recipe.name,
                f"{width} × {height}",
                f"{last['images'] / 1000:g}",
                f"{last['seconds'] / 60:.1f}",
                " → ".join(f"{value / 1000:.1f}" for _, value in distance),
                f"{kernel[0][1] / 1000:.0f} → {kernel[-1][1] / 1000:.0f}",
            ]
        )
        grid = max((run / "samples").glob("*.png"))
        Image.open(grid).convert("RGB").save(out / f"{config.recipe.name}.jpg", quality=_QUALITY)
    print_table(("recipe", "size", "kimg", "minutes", "FD / 1000 over training", "KID / 1000, first and last"), rows)


def draw_runs(runs: list[Path], out: Path) -> None:
    """Distances side by side, and beside them p where it was adapted."""
    curves, probabilities = [], []
    for run, colour in zip(runs, _COLOURS):
        name, points = next((name, points) for name, points in measured(run).items() if name.startswith("FD"))
        x, y = np.array(points).T
        curves.append((name, Curve(x, y / 1000, colour, run.name)))
        p = [
            (line["images"] / 1000, value)
            for line in read_log(run)
            for key, value in line.get("monitors", {}).items()
            if key.endswith("augment_p")
        ]
        if p:
            probabilities.append(Curve(*np.array(p).T, colour, f"p of {run.name}"))
    longest = max(curve.x[-1] for _, curve in curves)
    highest = max(max(curve.y) for _, curve in curves)
    ticks = tuple(np.linspace(0, longest, 5).round(1))
    across = Axis((0, longest), ticks, "thousands of images")
    panels = [plot(f"{curves[0][0]} / 1000", across, _axis(highest, ""), [c for _, c in curves], 420, 320, (0.5, 0.06))]
    if probabilities:
        panels.append(plot("ADA", across, Axis((0, 1), (0, 0.25, 0.5, 0.75, 1), "p"), probabilities, 420, 320))
    save_image(out, np.concatenate(panels, axis=1))


def draw_singular_values(run: Path, out: Path) -> None:
    curves = []
    for player, colour in (("generator", BLUE), ("discriminator", RED)):
        points = [
            (line["images"] / 1000, line["monitors"][f"{player}_raw_spectral_norm"])
            for line in read_log(run)
            if f"{player}_raw_spectral_norm" in line.get("monitors", {})
        ]
        x, y = np.array(points).T
        curves.append(Curve(x, y, colour, player))
    longest, highest = max(curve.x[-1] for curve in curves), max(max(curve.y) for curve in curves)
    across = Axis((0, longest), tuple(np.linspace(0, longest, 5).round(1)), "thousands of images")
    title = f"{read_toml(run / 'config.toml').recipe.name}: largest singular value"
    save_image(out, plot(title, across, _axis(highest, ""), curves, 460, 340, (0.6, 0.1)))


def _axis(highest: float, label: str) -> Axis:
    step = 10 ** np.floor(np.log10(highest))
    step = step if highest / step > 4 else step / 2 if highest / step > 2 else step / 4
    return Axis((0, 1.05 * highest), tuple(np.arange(0, highest + step / 2, step)), label)


def spread(images: torch.Tensor, labels: torch.Tensor) -> float:
    """The standard deviation of a pixel within a class, over all pixels and classes."""
    of_class = [images[labels == label].var(dim=0).mean() for label in labels.unique()]
    return float(torch.stack(of_class).mean().sqrt())


def sweep_truncation(path: Path, options: argparse.Namespace) -> None:
    model = img2img.load(path)
    info = model.info

    (known, known_labels), (unseen, unseen_labels) = (
        read_classes(model, part) for part in (options.train, options.test)
    )
    classifier = train_classifier(known, known_labels, len(info.classes))
    print(f"classifier: {share_correct(classifier, unseen, unseen_labels):.1%} of {len(unseen)} held out")
    extractor = load_extractor("squeezenet1_0", options.weights)

    def look(images: torch.Tensor) -> torch.Tensor:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return extractor(pixels).features

    real = look(torch.cat((known, unseen)))
    labels = torch.arange(options.count) % len(info.classes)
    real_spread = spread(torch.cat((known, unseen)), torch.cat((known_labels, unseen_labels)))
    rows, curves = [], {"taken for its class": [], "spread within a class, of the real": []}
    for threshold in THRESHOLDS:
        pixels = [p for _, p in model.samples(options.count, seed=0, truncation=threshold)]
        samples = to_float(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        correct = share_correct(classifier, samples, labels)
        distance = frechet_distance_of(real, look(samples))
        share = spread(samples, labels) / real_spread
        rows.append(
            [
                "none" if threshold is None else f"{threshold:g}",
                f"{distance / 1000:.2f}",
                f"{correct:.1%}",
                f"{share:.2f}",
            ]
        )
        for values, value in zip(curves.values(), (correct, share)):
            values.append(value)
    print_table(("threshold", "FD / 1000", "taken for its class", "spread within a class, of the real"), rows)
    x = [2.5 if threshold is None else threshold for threshold in THRESHOLDS]
    shares = Axis((0, 1), (0, 0.25, 0.5, 0.75, 1), "")
    lines = [Curve(x, values, colour, name) for (name, values), colour in zip(curves.items(), _COLOURS)]
    across = Axis((0, 2.6), (0, 0.5, 1, 1.5, 2), "truncation threshold of z (right end: none)")
    save_image(options.out, plot(f"{path.parent.name}: truncation", across, shares, lines, 460, 340, (0.3, 0.6)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Figures of finished runs and models.")
    parser.add_argument("what", choices=("table", "compare", "singular", "truncation"))
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN|MODEL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=Path, help="class folders that the classifier learns from")
    parser.add_argument("--test", type=Path, help="class folders that it has not seen")
    parser.add_argument("--weights", type=Path, help="of SqueezeNet")
    parser.add_argument("--count", type=int, default=1000, help="samples for each threshold")
    options = parser.parse_args()
    try:
        if options.what == "table":
            print_runs(options.paths, options.out)
        elif options.what == "compare":
            draw_runs(options.paths, options.out)
        elif options.what == "singular":
            draw_singular_values(options.paths[0], options.out)
        else:
            sweep_truncation(options.paths[0], options)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
