"""Figures of docs/results/generators.md, from finished runs and models.

    python tests/bench/generators.py table RUN... --out docs/results/generators
    python tests/bench/generators.py compare RUN RUN... --out FILE.png
    python tests/bench/generators.py singular RUN --out FILE.png
    python tests/bench/generators.py heldout RUN RUN... --train DIR --test DIR --weights FILE --out FILE.png
    python tests/bench/generators.py truncation MODEL --train DIR --test DIR --weights FILE --out FILE.png

RUN is a run folder whose training measured itself (`train.eval_kimg`). `table` prints a row of Markdown for each run and
writes its last sample grid, the averaged generator's, as OUT/RECIPE.jpg. `compare` draws the distance of several runs
over their training, and ADA's p where one had it. `singular` draws the largest singular value among each player's weights
before spectral normalisation divides them. `truncation` samples a class-conditional model at several thresholds:
distance, spread within a class beside that of the pictures, and the share that a classifier trained on --train takes for
the class asked for.

`heldout` goes through the states that runs on --train kept (`train.keep_last`, a few minutes each) and draws, beside p:
what the discriminator says of pictures it learned from, of as many it never saw (--test) and of samples, as the mean sign,
and the kernel distance of samples to the pictures never seen. Its tables also have the share of samples whose nearest
picture, over SqueezeNet's features, is one learned from: one half where the generator learns nothing by heart.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from first_runs import features_of, read_all, read_classes, share_correct, train_classifier
from PIL import Image
from theory import BLUE, GREEN, ORANGE, RED, Axis, Curve, plot, print_table

import img2img
from img2img.checkpoint import load_state, state_folders
from img2img.config import DataPaths, read_toml
from img2img.data.encode import save_image
from img2img.data.sources import open_configured
from img2img.data.values import to_float
from img2img.distributed import World
from img2img.draws import Draws
from img2img.errors import Fault, UsageFault
from img2img.evaluation.extractors import Extractor, load_extractor
from img2img.metrics.frechet import frechet_distance_of
from img2img.metrics.kernel_distance import kernel_distance
from img2img.networks.layers import draw_latents
from img2img.training.precision import choose_precision
from img2img.training.prepare import prepare

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
    curves = []
    for run, colour in zip(runs, _COLOURS):
        name, points = next((name, points) for name, points in measured(run).items() if name.startswith("FD"))
        x, y = np.array(points).T
        curves.append((name, Curve(x, y / 1000, colour, run.name)))
    probabilities = _probabilities(runs)
    longest = max(curve.x[-1] for _, curve in curves)
    highest = max(max(curve.y) for _, curve in curves)
    ticks = tuple(np.linspace(0, longest, 5).round(1))
    across = Axis((0, longest), ticks, "thousands of images")
    panels = [plot(f"{curves[0][0]} / 1000", across, _axis(highest, ""), [c for _, c in curves], 420, 320, (0.5, 0.06))]
    if probabilities:
        panels.append(plot("ADA", across, Axis((0, 1), (0, 0.25, 0.5, 0.75, 1), "p"), probabilities, 420, 320))
    save_image(out, np.concatenate(panels, axis=1))


def _probabilities(runs: list[Path]) -> list[Curve]:
    """ADA's p of the runs that had it."""
    curves = []
    for run, colour in zip(runs, _COLOURS):
        p = [
            (line["images"] / 1000, value)
            for line in read_log(run)
            for key, value in line.get("monitors", {}).items()
            if key.endswith("augment_p")
        ]
        if p:
            curves.append(Curve(*np.array(p).T, colour, f"p of {run.name}"))
    return curves


class Heldout(NamedTuple):
    """A training state, looked at from the side of pictures never seen."""

    kimg: float
    sign_on_learned: float
    sign_on_unseen: float
    sign_on_samples: float
    kid_to_unseen: float
    nearest_to_learned: float


def compare_heldout(runs: list[Path], options: argparse.Namespace) -> None:
    extractor = load_extractor("squeezenet1_0", options.weights)
    states = [_look_at_states(run, options, extractor) for run in runs]
    head = (
        "kimg",
        "sign: learned from",
        "never seen",
        "samples",
        "KID / 1000 to the never seen",
        "nearest learned from",
    )
    for run, rows in zip(runs, states):
        print(f"\n{run.name}\n")
        print_table(
            head,
            [
                [f"{row.kimg:.0f}", *(f"{sign:.2f}" for sign in row[1:4]), f"{row[4] / 1000:.0f}", f"{row[5]:.0%}"]
                for row in rows
            ],
        )
    draw_heldout(runs, states, options.out)


def draw_heldout(runs: list[Path], states: list[list[Heldout]], out: Path) -> None:
    longest = max(rows[-1].kimg for rows in states)
    across = Axis((0, longest), tuple(np.linspace(0, longest, 4).round(1)), "thousands of images")
    said = ((1, GREEN, "learned from"), (2, ORANGE, "never seen"), (3, RED, "samples"))
    panels = []
    for run, rows in zip(runs, states):
        x = [row.kimg for row in rows]
        curves = [Curve(x, [row[place] for row in rows], colour, name) for place, colour, name in said]
        signs = Axis((-1, 1), (-1, -0.5, 0, 0.5, 1), "mean sign")
        panels.append(plot(f"What D says: {run.name}", across, signs, curves, 400, 300, (0.5, 0.25)))
    curves = [
        Curve([row.kimg for row in rows], [row.kid_to_unseen / 1000 for row in rows], colour, run.name)
        for run, rows, colour in zip(runs, states, _COLOURS)
    ]
    distances = _axis(max(max(curve.y) for curve in curves), "")
    panels.append(plot("KID / 1000 to pictures never seen", across, distances, curves, 400, 300, (0.4, 0.05)))
    p = Axis((0, 1), (0, 0.25, 0.5, 0.75, 1), "")
    panels.append(plot("ADA's p", across, p, _probabilities(runs), 400, 300))
    if len(panels) % 2:
        panels.append(np.full_like(panels[0], 255))
    rows = [np.concatenate(panels[first : first + 2], axis=1) for first in range(0, len(panels), 2)]
    save_image(out, np.concatenate(rows))


def _look_at_states(run: Path, options: argparse.Namespace, extractor: Extractor) -> list[Heldout]:
    config = read_toml(run / "config.toml")
    precision = choose_precision(config.train.precision, torch.device("cpu"))
    prepared = prepare(config, DataPaths(images=options.train), precision, World(), None)
    engine, batch = prepared.engine, config.train.batch
    learned, unseen = (
        read_all(open_configured(config, DataPaths(images=folder)), config.data.resolution)[0]["image"]
        for folder in (options.train, options.test)
    )
    count = min(len(learned), len(unseen))
    learned, unseen = learned[:count], unseen[:count]
    learned_features, unseen_features = (features_of(extractor, images) for images in (learned, unseen))
    rows = []
    for path in state_folders(run / "state"):
        state = load_state(path)
        engine.load_state_dict(state.tree)
        generator, discriminator = engine.ema.networks["generator"], engine.translator.discriminator
        with torch.inference_mode():
            z, draws = (Draws(0, what, torch.arange(options.count)) for what in ("z", "noise"))
            samples = generator(draw_latents(generator, z), None, draws)
            said = [
                torch.cat([discriminator(part, None) for part in images.split(batch) if len(part) == batch])
                for images in (learned, unseen, samples)
            ]
        features = features_of(extractor, samples.float())
        kid = kernel_distance(unseen_features, features)
        near = torch.cdist(features, learned_features).amin(1) < torch.cdist(features, unseen_features).amin(1)
        signs = [float(logits.sign().mean()) for logits in said]
        rows.append(Heldout(engine.images_seen / 1000, *signs, kid.value, float(near.float().mean())))
    return rows


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
    real = features_of(extractor, torch.cat((known, unseen)))
    labels = torch.arange(options.count) % len(info.classes)
    real_spread = spread(torch.cat((known, unseen)), torch.cat((known_labels, unseen_labels)))
    rows, curves = [], {"taken for its class": [], "spread within a class, of the real": []}
    for threshold in THRESHOLDS:
        pixels = [p for _, p in model.samples(options.count, seed=0, truncation=threshold)]
        samples = to_float(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        correct = share_correct(classifier, samples, labels)
        distance = frechet_distance_of(real, features_of(extractor, samples))
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
    parser.add_argument("what", choices=("table", "compare", "heldout", "singular", "truncation"))
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN|MODEL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=Path, help="pictures, or class folders, that were learned from")
    parser.add_argument("--test", type=Path, help="the same, never seen")
    parser.add_argument("--weights", type=Path, help="of SqueezeNet")
    parser.add_argument("--count", type=int, default=1000, help="samples for each threshold")
    options = parser.parse_args()
    try:
        if options.what == "table":
            print_runs(options.paths, options.out)
        elif options.what == "compare":
            draw_runs(options.paths, options.out)
        elif options.what == "heldout":
            compare_heldout(options.paths, options)
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
