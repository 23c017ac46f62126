"""Time ours beside a peer's checkout, in turn on the same machine: a training step, or the translation of a folder.

    python tests/bench/race.py PEER [--method cyclegan|pix2pix|cut] [--resolution 256] [--precision float32|auto] ...
    python tests/bench/race.py PEER --translate PHOTOS [--count 40] ...

PEER is a checkout of junyanz/pytorch-CycleGAN-and-pix2pix, of a fork of it, or (CycleGAN and CUT) of
taesungp/contrastive-unpaired-translation. Nothing of it is copied: its own options build its own model, its own
`optimize_parameters` is timed. Both sides run in a process of their own with the same number of threads, one at a time,
and which begins changes from round to round; what counts is the median over the rounds of the ratio within a round.

The networks, objectives and batch are the same on both sides (those of our recipe of the method's name), and so are the
images, which are noise. Our step also averages weights and watches gradient norms, as it does in training.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img2img.errors import Fault, UsageFault

if TYPE_CHECKING:
    from img2img.config import Config
    from img2img.training.engine import Engine
    from img2img.translators.base import DataShape

# one step, or the translation of one folder
Work = Callable[[], None]

# our recipe -> (the peer's model file, its name for that model, its options for our recipe's arithmetic); our pix2pix has
# instance normalisation for the peer's batch normalisation on a batch of one
METHODS = {
    "cyclegan": ("cycle_gan_model.py", "cycle_gan", "--lambda_identity 0.5 --netG resnet_9blocks"),
    "pix2pix": ("pix2pix_model.py", "pix2pix", "--netG unet_{resolution} --norm instance"),
    "cut": ("cut_model.py", "cut", "--CUT_mode CUT"),
}
_CUT_REPOSITORY = "contrastive-unpaired-translation"
# which of these know the method
_PEERS = {
    "cyclegan": f"pytorch-CycleGAN-and-pix2pix or {_CUT_REPOSITORY}",
    "pix2pix": "pytorch-CycleGAN-and-pix2pix",
    "cut": _CUT_REPOSITORY,
}


@dataclass(frozen=True)
class Race:
    """What both sides run."""

    peer: Path
    method: str
    resolution: int
    batch: int
    precision: str
    device: str
    photos: Path | None


# --- the peer's side --------------------------------------------------------------------------------------------------


def check_peer(peer: Path, method: str) -> None:
    """Raise UsageFault unless `peer` has the files of a checkout that knows `method`."""
    if not peer.is_dir():
        raise UsageFault(peer, "no such folder", "Give the root of a checkout of the peer")
    needed = ("options/train_options.py", "models/__init__.py", f"models/{METHODS[method][0]}", "util/util.py")
    for name in needed:
        if not (peer / name).is_file():
            raise UsageFault(
                peer,
                f"{name} is not there, so this is no checkout of {_PEERS[method]} that knows {method}",
                "Give the root of such a checkout",
            )


def plain_networks(peer: Path) -> list[str]:
    """Flags for networks as in CycleGAN's paper: the CUT repository's filter halvings and doublings unless told not to."""
    known = _known_options(peer)
    return [flag for flag in ("--no_antialias", "--no_antialias_up") if f"'{flag}'" in known]


def _known_options(peer: Path) -> str:
    return "".join(path.read_text() for path in (peer / "options").glob("*.py"))


def _peer_options(race: Race, arguments: list[str]) -> Any:
    """The peer's own parsed options: its defaults, and `arguments` where it knows them."""
    import torch
    from options.train_options import TrainOptions  # type: ignore[import-not-found]

    if race.method != "cut":  # whose own networks are those of our recipe
        arguments = arguments + plain_networks(race.peer)
    with tempfile.TemporaryDirectory() as scratch:  # it writes its options down
        sys.argv = ["train.py", "--dataroot", str(race.photos or scratch), "--checkpoints_dir", scratch, *arguments]
        if "--gpu_ids" in _known_options(race.peer):
            sys.argv += ["--gpu_ids", "0" if race.device == "cuda" else "-1"]
        options = TrainOptions().parse()
    # newer checkouts take the device from their launcher; the CUT repository's CycleGAN asks for an option it dropped
    for name, value in (("device", torch.device(race.device)), ("amp", False)):
        if not hasattr(options, name):
            setattr(options, name, value)
    return options


def peer_step(race: Race) -> Work:
    """The peer's `optimize_parameters` on noise."""
    import torch
    from models import create_model  # type: ignore[import-not-found]

    _, name, options = METHODS[race.method]
    side = race.resolution
    arguments = f"--model {name} --batch_size {race.batch} --crop_size {side} --load_size {side} {options}"
    model = create_model(_peer_options(race, arguments.format(resolution=side).split()))
    torch.manual_seed(0)
    a, b = (torch.rand(race.batch, 3, race.resolution, race.resolution) * 2 - 1 for _ in range(2))
    batch = {"A": a, "B": b, "A_paths": [], "B_paths": []}
    if race.method == "cut":  # its heads are made in the first pass
        model.data_dependent_initialize(batch)

    def step() -> None:
        model.set_input(batch)
        model.optimize_parameters()

    return step


def peer_translation(race: Race) -> Work:
    """The peer's reader, generator and writer on a folder, pictures at their own size; its web page is left out."""
    import torch
    from data import create_dataset  # type: ignore[import-not-found]
    from models import create_model
    from util import util  # type: ignore[import-not-found]

    arguments = ["--model", "cycle_gan", "--dataset_mode", "single", "--preprocess", "none", "--no_flip"]
    options = _peer_options(race, [*arguments, "--serial_batches", "--num_threads", "0", "--netG", "resnet_9blocks"])
    model = create_model(options)
    generator = model.netG_A.eval()
    # the CUT repository looks for the folder's pictures in a folder below it
    options.dataroot = str(race.photos)
    options.phase = "."
    dataset = create_dataset(options)

    def translate() -> None:
        with tempfile.TemporaryDirectory() as out, torch.no_grad():
            for number, item in enumerate(dataset):
                image = util.tensor2im(generator(item["A"].to(next(generator.parameters()).device)))
                util.save_image(image, os.path.join(out, f"{number}.png"))

    return translate


# --- our side ---------------------------------------------------------------------------------------------------------


def make_engine(settings: Config, shape: DataShape, device: str) -> Engine:
    """An engine with the networks of a configuration, weights from seed 0."""
    import torch

    from img2img import translators
    from img2img.distributed import World
    from img2img.training.engine import Engine, EngineSettings
    from img2img.training.precision import choose_precision

    torch.manual_seed(0)
    translator, _ = translators.build(settings, shape)
    precision = choose_precision(settings.train.precision, torch.device(device))
    penalties = translators.make_penalties(settings)
    return Engine(translator, penalties, EngineSettings.of(settings), precision, World())


def our_step(race: Race) -> Work:
    """One `Engine.train_step` of our recipe on noise."""
    import torch

    from img2img import config
    from img2img.data.batches import Batch
    from img2img.translators.base import DataShape

    settings = config.resolve(
        race.method,
        None,
        {"data.resolution": race.resolution, "train.batch": race.batch, "train.precision": race.precision},
    )
    engine = make_engine(settings, DataShape(settings.data.resolution, {"a": 3, "b": 3}, ()), race.device)
    a, b = ((torch.rand(race.batch, 3, race.resolution, race.resolution) * 2 - 1).to(race.device) for _ in range(2))

    def step() -> None:
        first = engine.step * race.batch
        engine.train_step([[Batch({"a": a, "b": b}, None, torch.arange(first, first + race.batch), seed=0)]])

    return step


def our_translation(race: Race) -> Work:
    """`translate_folder` on the same pictures with the same network, PNG out as the peer's."""
    from translate_speed import write_resnet

    from img2img.inference.folder import translate_folder
    from img2img.inference.model import Model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_resnet(path, width=64, blocks=9)
        model = Model.load(path, race.device, race.precision)
    photos = race.photos
    assert photos is not None, "only called where there are photos"

    def translate() -> None:
        with tempfile.TemporaryDirectory() as out:
            translate_folder(model, photos, Path(out) / "out", format="png")

    return translate


# --- in turn ----------------------------------------------------------------------------------------------------------


def run_side(make_work: Callable[[], Work], shares: Sequence[float], device_name: str) -> None:
    """Do a piece of work for each share, for each line on stdin; print the mean seconds and peak memory as JSON lines.

    The mean weighs the pieces by `shares`, which sum to 1: pieces that differ count as often as they happen.
    """
    import torch

    from img2img.devices import peak_memory

    device = torch.device(device_name)
    # the peers print much; what the parent reads goes out through a descriptor of its own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            work = make_work()
            for _ in shares:  # chooses kernels, fills caches
                work()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        raise
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        seconds = 0.0
        for share in shares:
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds += share * (time.perf_counter() - began)
        print(json.dumps({"seconds": seconds, "bytes": peak_memory(device)}), file=answers, flush=True)


class Side:
    """One side's process."""

    def __init__(self, script: str, name: str, arguments: list[str]) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        command = [sys.executable, script, *arguments, "--side", name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "ended without a word"}
        if "error" in answer:
            self.process.wait()
            self.log.seek(0)
            print(self.log.read().decode(errors="replace")[-2000:], file=sys.stderr)
            raise UsageFault(f"{self.name} does not run", answer["error"], "What it printed last is above")
        return dict(answer)

    def turn(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def race_in_turn(script: str, arguments: list[str], rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What each side of `script` answered in each round, ours first."""
    sides: list[Side] = []
    try:
        for name in ("ours", "peer"):  # one after the other: the start is work too
            sides.append(Side(script, name, arguments))
            sides[-1].answer()
        answers: list[list[dict[str, Any]]] = [[], []]
        for number in range(rounds):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                answers[index].append(sides[index].turn())
        return answers[0], answers[1]
    finally:
        for side in sides:
            side.end()


def tell(ours: list[dict[str, Any]], peers: list[dict[str, Any]], precision: str, count: int = 1) -> None:
    """Print both sides' medians per piece of `count`, and the median of the ratios within a round."""
    for name, answers in (("ours", ours), ("peer", peers)):
        seconds = statistics.median(answer["seconds"] for answer in answers) / count
        which = precision if name == "ours" else "float32"
        print(f"{name} ({which}): {seconds:.3f} s, peak memory {answers[-1]['bytes'] / 1e9:.2f} GB")
    ratios = [peer["seconds"] / our["seconds"] for our, peer in zip(ours, peers)]
    print(f"ours is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def make_work(side: str, race: Race) -> Work:
    """What a side does, ready to be timed."""
    if side == "peer":
        sys.path.insert(0, str(race.peer))
        return peer_step(race) if race.photos is None else peer_translation(race)
    return our_step(race) if race.photos is None else our_translation(race)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Time ours beside a peer's checkout, in turn.")
    parser.add_argument("peer", type=Path, metavar="PEER", help="root of the peer's checkout")
    parser.add_argument("--method", choices=tuple(METHODS), default="cyclegan")
    parser.add_argument("--translate", type=Path, metavar="PHOTOS", help="translate this folder instead of training")
    parser.add_argument("--count", type=int, default=20, help="take so many pictures of the folder")
    parser.add_argument("--resolution", type=int, default=256, help="of training")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="float32", help="ours; auto is the default of training")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="training steps in a row in each round")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    race = Race(
        peer=options.peer.resolve(),
        method=options.method,
        resolution=options.resolution,
        batch=options.batch,
        precision=options.precision,
        device=options.device,
        photos=options.translate,
    )
    steps = options.steps if race.photos is None else 1
    if options.side:
        run_side(partial(make_work, options.side, race), [1 / steps] * steps, race.device)
        return 0
    try:
        check_peer(race.peer, race.method)
        with tempfile.TemporaryDirectory() as scratch:
            count = 1
            if race.photos is not None:
                from img2img.data.files import list_images, no_images

                photos = list_images(race.photos)[: options.count]
                if not photos:
                    raise no_images(race.photos)
                count = len(photos)
                for photo in photos:
                    (Path(scratch) / photo.name).symlink_to(photo.resolve())
                arguments = [*arguments, "--translate", scratch]
            ours, peers = race_in_turn(__file__, arguments, options.rounds)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    import torch

    what = "a training step" if race.photos is None else f"a picture of {count}"
    size = f"{race.resolution} x {race.resolution}, batch {race.batch}" if race.photos is None else "ResNet-9/64"
    print(f"{race.method}, {what}, {size}; {race.device}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    tell(ours, peers, race.precision, count)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
