"""Score trained models on pictures they did not see, and draw grids: the figures of docs/results/first-runs.md.

    python tests/bench/first_runs.py pairs MODEL --train facades/train --test facades/test --grid pairs.png
    python tests/bench/first_runs.py unpaired MODEL --a photos/test --b drawings --grid unpaired.png
    python tests/bench/first_runs.py classes MODEL --train signs/train --test signs/test --grid samples.png

`pairs` gives the mean absolute error in steps of 255 beside that of the mean of all training targets and of the input
itself. `classes` trains a small classifier on the training pictures and says how many held-out pictures and how many
samples it takes for their class; its grid shows, for each class, samples and below each the nearest training picture.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import img2img
from img2img.data.batches import Loader
from img2img.data.encode import save_image
from img2img.data.sources import Source, open_source
from img2img.data.values import to_float, to_uint8
from img2img.errors import Fault
from img2img.evaluation.extractors import Extractor
from img2img.inference.model import Model
from img2img.inference.sheets import make_grid

_BATCH = 32


def read_all(source: Source, resolution: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor | None]:
    """Every picture of each domain, (N, C, H, W) in [-1, 1], and the labels (N,) of class folders."""
    with Loader(source, seed=0, resolution=resolution) as loader:
        count = max(source.count(domain) for domain in source.domains)
        batch = loader.batch(np.arange(count))
    return {domain: images[: source.count(domain)] for domain, images in batch.images.items()}, batch.labels


def read_classes(model: Model, folder: Path) -> tuple[Tensor, Tensor]:
    """Every picture (N, C, H, W) in [-1, 1] and its class (N,), as the model was trained on them."""
    info = model.info
    source = open_source(
        classes=folder,
        resolution=info.resolution,
        channels=info.channels["image"],
        fit=info.fit,
        class_names=info.classes,
    )
    images, labels = read_all(source, info.resolution)
    assert labels is not None, "class folders have labels"
    return images["image"], labels


def read_pairs(model: Model, folder: Path) -> dict[str, Tensor]:
    # a model b2a was trained with its data swapped: its own a is the picture on the right
    swapped = model.info.domains["a"].startswith("right of ")
    info = model.info
    source = open_source(
        pairs=(folder,), resolution=info.resolution, fit=info.fit, direction="b2a" if swapped else "a2b"
    )
    return read_all(source, info.resolution)[0]


def translate(model: Model, images: Tensor, direction: str | None = None) -> Tensor:
    parts = [model.translate(part, direction=direction) for part in images.split(_BATCH)]
    return torch.cat([torch.as_tensor(part) for part in parts])


def features_of(extractor: Extractor, images: Tensor) -> Tensor:
    """What the extractor sees in images (N, C, H, W) in [-1, 1], as files of 8 bits would show them: (N, features)."""
    pixels = torch.stack([torch.from_numpy(to_uint8(image)) for image in images]).permute(0, 3, 1, 2)
    return extractor(pixels).features


def draw(path: Path, columns: list[Tensor], rows: int) -> None:
    """The first `rows` of each (N, C, H, W), as the columns of a grid."""
    save_image(path, make_grid([[to_uint8(column[row]) for column in columns] for row in range(rows)]))


def score_pairs(model: Model, options: argparse.Namespace) -> None:
    train, test = (read_pairs(model, folder) for folder in (options.train, options.test))
    translated = translate(model, test["a"])
    guesses = {"model": translated, "mean of the training targets": train["b"].mean(dim=0), "input": test["a"]}
    print(f"{len(test['a'])} pairs of {model.info.resolution}, mean absolute error of 255:")
    for name, guess in guesses.items():
        print(f"  {name}: {127.5 * float((guess - test['b']).abs().mean()):.1f}")
    draw(options.grid, [test["a"], translated, test["b"]], options.rows)


def draw_unpaired(model: Model, options: argparse.Namespace) -> None:
    """Both directions and back again, and how far the way back misses."""
    resolution = model.info.resolution
    source = open_source(a=options.a, b=options.b, resolution=resolution, fit=model.info.fit)
    images = read_all(source, resolution)[0]
    for here, there in (("a", "b"), ("b", "a")):
        there_and = translate(model, images[here], f"{here}2{there}")
        back = translate(model, there_and, f"{there}2{here}")
        error = 127.5 * float((back - images[here]).abs().mean())
        print(f"{here} to {there} and back: {error:.1f} of 255 off, {len(back)} pictures")
        path = options.grid.with_name(f"{options.grid.stem}-{here}2{there}{options.grid.suffix}")
        draw(path, [images[here], there_and, back], options.rows)


def train_classifier(images: Tensor, labels: Tensor, classes: int, epochs: int = 30) -> nn.Module:
    """A plain convolutional network, on pictures shifted at random by up to an eighth of their side."""
    torch.manual_seed(0)
    widths = [images.shape[1], 32, 64, 128, 128]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    classifier = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, classes))
    steps = epochs * (len(images) // _BATCH)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    margin = images.shape[-1] // 8
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    for _ in range(steps):
        chosen = torch.randint(len(images), (_BATCH,))
        top, left = (int(torch.randint(2 * margin, ())) for _ in range(2))
        shifted = padded[chosen, :, top : top + images.shape[-2], left : left + images.shape[-1]]
        optimizer.zero_grad()
        F.cross_entropy(classifier(shifted), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def share_correct(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        logits = torch.cat([classifier(part) for part in images.split(_BATCH)])
    return float((logits.argmax(dim=1) == labels).float().mean())


def nearest(images: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the nearest of `known` by the root mean square difference: (distance of 255, index)."""
    distances = 127.5 * torch.cdist(images.flatten(1), known.flatten(1)) / images[0].numel() ** 0.5
    return distances.min(dim=1)


def score_classes(model: Model, options: argparse.Namespace) -> None:
    info = model.info

    (known, known_labels), (unseen, unseen_labels) = (
        read_classes(model, part) for part in (options.train, options.test)
    )
    classes = len(info.classes)
    labels = torch.arange(classes).repeat_interleave(options.per_class)
    pixels = [pixels for _, pixels in model.samples(len(labels), label=list(range(classes)), seed=options.seed)]
    # samples come with the classes in turn
    samples = to_float(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
    samples = samples.reshape(options.per_class, classes, *samples.shape[1:]).transpose(0, 1).flatten(0, 1)
    classifier = train_classifier(known, known_labels, classes)
    print(f"taken for their class: {share_correct(classifier, unseen, unseen_labels):.1%} of {len(unseen)} held out,")
    print(f"  {share_correct(classifier, samples, labels):.1%} of {len(samples)} samples")
    for name, images, their in (("held out", unseen, unseen_labels), ("samples", samples, labels)):
        spread = [images[their == label].std(dim=0).square().mean().sqrt() for label in range(classes)]
        distance = nearest(images, known)[0].median()
        print(
            f"{name}: nearest training picture {distance:.1f} of 255 away (median), "
            f"spread within a class {127.5 * float(torch.stack(spread).mean()):.1f} of 255"
        )
    rows: list[list[np.ndarray]] = []
    for label in range(classes):
        shown = samples[labels == label][: options.rows]
        rows.append([to_uint8(sample) for sample in shown])
        rows.append([to_uint8(known[index]) for index in nearest(shown, known)[1]])
    save_image(options.grid, make_grid(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Score trained models on pictures they did not see.")
    parser.add_argument("what", choices=("pairs", "unpaired", "classes"))
    parser.add_argument("model", type=Path)
    for folder in ("train", "test", "a", "b"):
        parser.add_argument(f"--{folder}", type=Path)
    parser.add_argument("--grid", type=Path, required=True, help="picture to write")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--per-class", type=int, default=100, help="samples of each class")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    options = parser.parse_args()
    score, folders = {
        "pairs": (score_pairs, ("train", "test")),
        "unpaired": (draw_unpaired, ("a", "b")),
        "classes": (score_classes, ("train", "test")),
    }[options.what]
    missing = [f"--{folder}" for folder in folders if getattr(options, folder) is None]
    if missing:
        parser.error(f"{options.what} needs {' and '.join(missing)}")
    try:
        score(img2img.load(options.model), options)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main()
