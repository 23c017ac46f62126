"""Train translators for the same time and score them side by side: the figures of docs/results/translators.md.

    python tests/bench/translators.py train RECIPE --minutes 15 --out RUN -- --pairs facades/train --set ...
    python tests/bench/translators.py peer CHECKOUT --minutes 15 --out RUN --sources DIR --targets DIR --side 64
    python tests/bench/translators.py table RUN... --sources DIR --targets DIR --weights FILE --grid FILE.png
    python tests/bench/translators.py table RUN... --pairs DIR --weights FILE --grid FILE.png

`train` measures the speed of a short run, then makes a run of as many images as fit the minutes. `peer` does the same with
the train.py of a checkout of junyanz/pytorch-CycleGAN-and-pix2pix, of a fork of it or of taesungp/contrastive-unpaired-
translation: a CycleGAN with the networks of our cyclegan-small, whose generator is then imported. Packages that it needs
and we do not lie where PEER_PACKAGES says. `table` translates the same pictures with every model and prints a row of
Markdown for each, in the order given: FD and KID over SqueezeNet's features between the translations and the targets, how
well the edges of the input are where they were (the correlation of the gradients' lengths of input and output, 1 where
they are the same) and, for pairs, the mean absolute error. The grid has a picture a row, the input and what each model
makes of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from first_runs import draw, features_of, read_all, read_pairs, translate
from race import plain_networks
from theory import print_table
from torch import Tensor

import img2img
from img2img.config import read_toml
from img2img.data.sources import open_source
from img2img.errors import Fault, UsageFault
from img2img.evaluation.extractors import load_extractor
from img2img.inference.model import Model
from img2img.metrics.frechet import frechet_distance_of
from img2img.metrics.kernel_distance import kernel_distance

_PROBE_KIMG = 0.4
_PROBE_IMAGES = 100
# the CUT repository's CycleGAN asks for an option that it dropped, and has not followed its own train.py
_PEER = """
import argparse, runpy, sys
sys.path.insert(0, "")
from models.cycle_gan_model import CycleGANModel
argparse.Namespace.amp = False
CycleGANModel.data_dependent_initialize = lambda self, data: None
runpy.run_path("train.py", run_name="__main__")
"""
# a CycleGAN with the networks of our cyclegan-small at 64 × 64
_PEER_OPTIONS = (
    "--netG resnet_6blocks --ngf 32 --ndf 32 --netD n_layers --n_layers_D 2 --crop_size {side} --load_size {load} "
    "--gpu_ids -1 --num_threads 0 --display_id -1 --no_html"
)
_LUMA = (0.299, 0.587, 0.114)


def train(options: argparse.Namespace) -> None:
    """A run of so many images as, at the speed of a first short one, take the minutes."""
    command = [sys.executable, "-m", "img2img_cli", "train", options.names[0], *options.arguments]
    with tempfile.TemporaryDirectory() as scratch:
        log = _run([*command, "--set", f"train.kimg={_PROBE_KIMG}"], Path(scratch) / "probe")
    # the first lines hold what happens once: kernels chosen, the first grid
    lines = [(line["images"], line["seconds"]) for line in log if "terms" in line]
    speeds = [(after[0] - before[0]) / (after[1] - before[1]) for before, after in pairwise(lines[1:])]
    kimg = statistics.median(speeds) * options.minutes * 60 / 1000
    print(f"{statistics.median(speeds):.1f} images/s: {kimg:.2f} kimg", flush=True)
    _run([*command, "--set", f"train.kimg={kimg:.2f}"], options.out)


def train_peer(options: argparse.Namespace) -> None:
    """The peer's own training program, for so many epochs as, at the speed of a first short run, take the minutes."""
    checkout, images = Path(options.names[0]), max(len(list(folder.iterdir())) for folder in _domains(options))
    if options.out.exists():
        raise UsageFault(options.out, "is there already", "Give another --out, or remove it")
    side, name = options.side, "peer"
    with tempfile.TemporaryDirectory() as scratch:
        for domain, folder in zip("AB", _domains(options), strict=True):
            (Path(scratch) / f"train{domain}").symlink_to(folder.resolve())
        command = [sys.executable, "-c", _PEER, "--dataroot", scratch, "--name", name, "--model", "cycle_gan"]
        command += _PEER_OPTIONS.format(side=side, load=side * 9 // 8).split()
        command += plain_networks(checkout)

        def run(out: Path, epochs: int, decaying: int, *more: str) -> list[int]:
            lengths = ["--n_epochs", str(epochs), "--n_epochs_decay", str(decaying), "--save_epoch_freq", "1"]
            arguments = [*command, *lengths, "--checkpoints_dir", str(out), "--save_latest_freq", str(10**9), *more]
            environment = {**os.environ, "PYTHONPATH": os.environ.get("PEER_PACKAGES", "")}
            done = subprocess.run(arguments, cwd=checkout, env=environment, check=True, capture_output=True, text=True)
            return [int(seconds) for seconds in re.findall(r"Time Taken: (\d+) sec", done.stdout)]

        _, seconds = run(Path(scratch) / "probe", 2, 0, "--max_dataset_size", str(_PROBE_IMAGES))
        epochs = max(2, round(options.minutes * 60 / seconds * _PROBE_IMAGES / images))
        print(f"{_PROBE_IMAGES / seconds:.1f} images/s: {epochs} epochs of {images}", flush=True)
        out = options.out.resolve()
        times = run(out, (epochs + 1) // 2, epochs // 2)
    line = {"images": epochs * images, "seconds": sum(times), "terms": {}}
    (out / "log.jsonl").write_text(json.dumps(line) + "\n")
    generator = out / name / "latest_net_G_A.pth"
    command = [sys.executable, "-m", "img2img_cli", "models", "import", "--from", options.project, str(generator)]
    command += ["--resolution", str(side), "--out", str(out / "model.safetensors")]
    subprocess.run(command, check=True)


def _domains(options: argparse.Namespace) -> tuple[Path, Path]:
    if options.sources is None or options.targets is None:
        raise UsageFault("peer", "needs pictures of both domains", "Give --sources and --targets")
    return options.sources, options.targets


def _run(command: list[str], out: Path) -> list[dict[str, float]]:
    if out.exists():
        raise UsageFault(out, "is there already", "Give another --out, or remove it")
    subprocess.run([*command, "--out", str(out)], check=True)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def edge_correlation(first: Tensor, second: Tensor) -> float:
    """Mean over pictures (N, C, H, W) of the correlation between the lengths of their grey gradients, from -1 to 1."""
    lengths = []
    for images in (first, second):
        grey = images
        if images.shape[1] == 3:
            grey = (images * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
        across = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1, 0, 0))
        down = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
        length = torch.hypot(across, down).flatten(1)
        lengths.append(F.normalize(length - length.mean(dim=1, keepdim=True), dim=1))
    return float((lengths[0] * lengths[1]).sum(dim=1).mean())


def table(options: argparse.Namespace) -> None:
    paths = [Path(name) / "model.safetensors" for name in options.names]
    models = [img2img.load(path) for path in paths]
    resolution = models[0].info.resolution
    sources, targets = _pictures(options, models[0])
    extractor = load_extractor("squeezenet1_0", options.weights)
    real = features_of(extractor, targets)
    columns, rows = [sources], []
    for path, model in zip(paths, models):
        translated = translate(model, sources)
        columns.append(translated)
        features = features_of(extractor, translated)
        kid = kernel_distance(real, features)
        rows.append(
            [
                path.parent.name,
                *_effort(path.parent),
                f"{frechet_distance_of(real, features) / 1000:.1f}",
                f"{kid.value / 1000:.0f}",
                f"{edge_correlation(sources, translated):.2f}",
                *([f"{127.5 * float((translated - targets).abs().mean()):.1f}"] if options.pairs else []),
            ]
        )
    print(f"{len(sources)} pictures of {resolution}, {len(targets)} targets")
    head = ("model", "steps", "kimg", "minutes", "FD-SqueezeNet / 1000", "KID / 1000", "edges kept")
    print_table((*head, "off, of 255") if options.pairs else head, rows)
    if options.pairs:
        columns.append(targets)
    draw(options.grid, columns, options.rows)


def _effort(run: Path) -> tuple[str, str, str]:
    """Steps, thousands of images and minutes of a run, from its folder."""
    last = [line for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "terms" in line][-1]
    config = run / "config.toml"
    batch = read_toml(config).train.batch if config.is_file() else 1
    return f"{last['images'] // batch:,}", f"{last['images'] / 1000:.1f}", f"{last['seconds'] / 60:.1f}"


def _pictures(options: argparse.Namespace, model: Model) -> tuple[Tensor, Tensor]:
    """What is translated, and real pictures of the domain it is translated to."""
    if options.pairs:
        images = read_pairs(model, options.pairs)
    else:
        resolution = model.info.resolution
        source = open_source(a=options.sources, b=options.targets, resolution=resolution, fit=model.info.fit)
        images = read_all(source, resolution)[0]
    return images["a"], images["b"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Train translators for the same time and score them side by side.")
    parser.add_argument("what", choices=("train", "peer", "table"))
    parser.add_argument("names", nargs="+", metavar="RECIPE|CHECKOUT|RUN")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--out", type=Path, help="run folder that train and peer make")
    parser.add_argument("--project", choices=("junyanz", "cut"), default="junyanz", help="whose files the peer writes")
    parser.add_argument("--side", type=int, default=64, help="pixels that the peer trains at")
    parser.add_argument("--sources", type=Path)
    parser.add_argument("--targets", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--weights", type=Path, help="of SqueezeNet")
    parser.add_argument("--grid", type=Path, help="picture to write")
    parser.add_argument("--rows", type=int, default=6)
    arguments = sys.argv[1:]
    place = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:place])
    options.arguments = arguments[place + 1 :]
    try:
        {"train": train, "peer": train_peer, "table": table}[options.what](options)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.exit_code
    except subprocess.CalledProcessError as error:
        print(error.stderr or "", file=sys.stderr)
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
