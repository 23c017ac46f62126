"""Train for some minutes while things go wrong, restarted as a supervisor would, and see what is left: the figures of
docs/results/reliability.md.

    python tests/bench/faults.py run --pictures ../shared/data/drawings --minutes 10 --out /tmp/faults

`run` copies the pictures, made small, and trains a small DCGAN on the copies by `img2img train --resume`, again and again until the
time is over and the run is finished. The process that trains is `child`: the same command, in which by a seeded chance,
on average at every `--every`th step,

- a picture's file is cut in half, emptied, overwritten or turned into a pipe, and mended some seconds later;
- the disk is full during the next save, or for the next line of the log, after a part of it was written;
- SIGTERM, SIGINT or SIGUSR1 comes, at any moment from start to end; SIGKILL likewise;
- the loss of one step is multiplied by NaN.

The last start is left in peace. Each fault is noted in faults.jsonl before it happens. In the end every one must be found again in what the run itself said
(its log, stderr and exit codes), the model must be finite and nearer to the pictures than an untrained one, every state
must verify, and nothing unfinished may lie about; else the exit code is 1. Pictures are always read from their files.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

KINDS = ("picture", "picture", "save", "save", "nan", "nan", "line", "stop", "kill")  # each as likely as the next
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SETTINGS = {
    "data.resolution": 32,
    "data.cache_gb": 0.0,
    "data.workers": 2,
    "generator.width": 8,
    "discriminator.width": 8,
    "generator.latent_dim": 32,
    "train.batch": 16,
    "train.threads": 1,
    "train.precision": "float32",
    "train.ema_kimg": 0.5,
    "train.state_kimg": 0.32,
    "train.sample_kimg": 1.28,
    "train.log_kimg": 0.16,
    "train.keep_last": 3,
    "train.keep_every": 2.0,
}
KIMG_AT_A_TIME = 3.2
NEVER = 1e9


# --- the child: img2img train, with faults -----------------------------------------------------------------------------


class Injector:
    """Lets faults happen to the training of this process, and notes each in `notes` first."""

    def __init__(self, out: Path, launch: int, seed: int, every: float) -> None:
        self.out, self.launch, self.every = out, launch, every
        self.chance = random.Random(f"{seed}/{launch}")
        self.step = 0
        self.poisoned = False
        self.full = ""

    def note(self, kind: str, **facts: Any) -> None:
        line = json.dumps({"launch": self.launch, "step": self.step, "kind": kind, **facts}) + "\n"
        descriptor = os.open(self.out / "faults.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.write(descriptor, line.encode())
        os.close(descriptor)

    def install(self) -> None:
        """Wrap what the faults happen to."""
        import torch

        from img2img import atomic
        from img2img.data.lanes import FileLane
        from img2img.errors import ImageFault
        from img2img.training import loop
        from img2img.training.engine import Engine
        from img2img.training.run_folder import RunFolder

        self.write = os.write
        train_step, backward, load = Engine.train_step, torch.Tensor.backward, FileLane.load
        publish, append = loop._Run._publish, RunFolder.append_log

        def step(engine: Engine, batches: Any) -> None:
            self.step = engine.step
            if self.chance.random() < 1 / self.every:
                self.happen(self.chance.choice(KINDS))
            train_step(engine, batches)

        def poison(loss: torch.Tensor, *positional: Any, **named: Any) -> None:
            if self.poisoned:
                self.poisoned = False
                self.note("nan")
                loss = loss * float("nan")
            backward(loss, *positional, **named)

        def refuse(descriptor: int, content: Any) -> int:
            if self.full == "now":
                self.write(descriptor, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.write(descriptor, content)

        def during(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def filled(*positional: Any) -> Any:
                if self.full != kind:
                    return real(*positional)
                self.note(kind)
                self.full = "now"
                try:
                    return real(*positional)
                finally:
                    self.full = ""

            return filled

        def look(lane: FileLane, index: int) -> Any:
            try:
                return load(lane, index)
            except ImageFault as fault:
                if index not in lane.lost and self.step:
                    self.note("met", file=str(fault.subject))
                raise

        Engine.train_step, torch.Tensor.backward, FileLane.load = step, poison, look  # type: ignore[method-assign]
        loop._Run._publish = during("save", publish)  # type: ignore[method-assign]
        RunFolder.append_log = during("line", append)  # type: ignore[method-assign]
        atomic.os.write = refuse  # type: ignore[attr-defined]

    def happen(self, kind: str) -> None:
        if kind == "nan":
            self.poisoned = True
        elif kind in ("save", "line"):
            self.full = self.full or kind
        elif kind == "picture":
            self.damage(self.chance.choice(sorted((self.out / "pictures").iterdir())))
        else:
            number = signal.SIGKILL if kind == "kill" else self.chance.choice(SIGNALS)
            self.strike(number, self.chance.uniform(0, 3))

    def strike(self, number: int, after: float) -> None:
        """Send a signal to this process in so many seconds, whatever it does then."""

        def send() -> None:
            self.note("kill" if number == signal.SIGKILL else "stop", signal=int(number))
            os.kill(os.getpid(), number)

        timer = threading.Timer(after, send)
        timer.daemon = True
        timer.start()

    def damage(self, picture: Path) -> None:
        """Spoil a file for some seconds; what it was is beside the folder."""
        how = self.chance.choice(("half", "empty", "noise", "pipe"))
        whole = (self.out / "originals" / picture.name).read_bytes()
        self.note("picture", file=str(picture), how=how)
        picture.unlink(missing_ok=True)
        if how == "pipe":
            os.mkfifo(picture)
        else:
            spoilt = {"half": whole[: len(whole) // 2], "empty": b"", "noise": self.chance.randbytes(len(whole))}[how]
            picture.write_bytes(spoilt)
        mend = threading.Timer(self.chance.uniform(2, 20), restore, (self.out, picture.name))
        mend.daemon = True
        mend.start()


def restore(out: Path, name: str) -> None:
    """Bring a picture back."""
    spare = out / f"{name}.{threading.get_ident()}"  # two may be at it
    shutil.copyfile(out / "originals" / name, spare)
    os.replace(spare, out / "pictures" / name)


def child(options: argparse.Namespace) -> None:
    from img2img_cli import main

    injector = Injector(options.out, options.launch, options.seed, options.every)
    injector.install()
    if options.every < NEVER and injector.chance.random() < 0.2:
        injector.strike(injector.chance.choice(SIGNALS), injector.chance.uniform(0, 4))  # perhaps before it trains
    main(options.words)


# --- the supervisor ----------------------------------------------------------------------------------------------------


@dataclass
class Launch:
    """One start of the training: its exit code, what it said, and how long it ran."""

    code: int
    said: str
    seconds: float


def command(out: Path, kimg: float) -> list[str]:
    settings = {**SETTINGS, "train.kimg": kimg}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words = ["train", "dcgan-small", "--images", str(out / "pictures"), "--out", str(out / "run"), *sets]
    return [*words, "--device", "cpu", "--resume"]


def launch(out: Path, number: int, seed: int, every: float, kimg: float) -> Launch:
    began = time.monotonic()
    words = ["child", "--out", str(out), "--launch", str(number), "--seed", str(seed)]
    words += ["--every", str(every), "--", *command(out, kimg)]
    ended = subprocess.run([sys.executable, __file__, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    said = ended.stderr.decode(errors="backslashreplace")
    (out / f"launch-{number:03d}.stderr").write_text(said)
    return Launch(ended.returncode, said, time.monotonic() - began)


def run(options: argparse.Namespace) -> int:
    out: Path = options.out
    (out / "originals").mkdir(parents=True)
    for path in sorted(options.pictures.iterdir()):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((96, 96))  # each start reads them all
        picture.save(out / "originals" / f"{path.stem}.png")
    shutil.copytree(out / "originals", out / "pictures")
    print(f"seed {options.seed}, {options.minutes:g} minutes, a fault at every {options.every:g}th step on average")
    launches: list[Launch] = []
    kimg, mended = KIMG_AT_A_TIME, 0
    skipped: set[int] = set()
    deadline = time.monotonic() + 60 * options.minutes
    is_late = False
    while not (is_late and launches[-1].code == 0):
        ended = launch(out, len(launches), options.seed, NEVER if is_late else options.every, kimg)
        launches.append(ended)
        skipped |= skipped_steps(out)  # a state keeps the newest only
        last = ended.said.strip().splitlines()[-1:] or [""]
        print(f"launch {len(launches) - 1}: {ended.seconds:.0f} s, exit {ended.code}: {last[0][:150]}", flush=True)
        if is_late and ended.code:
            break  # undisturbed, it should have ended well
        is_late = time.monotonic() > deadline
        if ended.code == 0:
            kimg += KIMG_AT_A_TIME
        if ended.code == 2 or is_late:
            # as whoever is told that a picture cannot be used, or wants the run to end well
            mended += 1
            for picture in sorted((out / "originals").iterdir()):
                restore(out, picture.name)
    return account(out, launches, skipped, mended)


# --- the account -------------------------------------------------------------------------------------------------------


def account(out: Path, launches: list[Launch], skipped: set[int], mended: int) -> int:
    """Print what happened and what was found again; returns the exit code.

    Args:
        skipped: the steps that the states after the launches say were skipped.
    """
    if launches[-1].code:
        print(f"PROBLEM: undisturbed, the run did not end well: {launches[-1].said[-500:]}")
        return 1
    faults = [json.loads(line) for line in (out / "faults.jsonl").read_text().splitlines()]
    killed = {fault["launch"] for fault in faults if fault["kind"] == "kill"}
    problems: list[str] = []
    rows: list[tuple[str, int, str]] = []

    def of(kind: str) -> list[dict[str, Any]]:
        return [fault for fault in faults if fault["kind"] == kind]

    # NaN: steps that a state says were skipped; or the launch was killed before a save, and the step made anew
    undone = 0
    for fault in of("nan"):
        if fault["step"] not in skipped:
            later = [int(step) for ended in launches[fault["launch"] + 1 :] for step in resumed_at(ended)]
            if later and later[0] <= fault["step"]:
                undone += 1
            else:
                problems.append(f"the NaN of step {fault['step']} is nowhere")
    found = len(of("nan")) - undone
    rows.append(("a loss that is NaN", len(of("nan")), f"{found} steps skipped and counted, {undone} made anew"))

    for kind, name, words in (
        ("save", "disk full during a save", r"(?m)^warning: .* Training goes on to the next save|^error: .*no space"),
        ("line", "disk full at a line of the log", "Training goes on without"),
    ):
        told = 0
        for number, ended in enumerate(launches):
            here = sum(fault["launch"] == number for fault in of(kind))
            said = len(re.findall(words, ended.said))
            told += min(said, here)
            if said < here and number not in killed:
                problems.append(f"launch {number}: {here} times {name}, told {said} times")
        rows.append((name, len(of(kind)), f"{told} told, training went on"))

    met, told, refused = {(fault["launch"], fault["file"]) for fault in of("met")}, 0, 0
    for number, file in sorted(met):
        if f"{file}: " in launches[number].said:
            told += 1
        elif number not in killed:
            problems.append(f"launch {number}: {file} was lost and not named")
    for ended in launches:
        if ended.code == 2:
            refused += 1
            if str(out / "pictures") not in ended.said:
                problems.append(f"refused for another reason: {ended.said[-300:]}")
    unread = len(of("picture")) - len(met)
    rows.append(
        (
            "a picture's file spoilt",
            len(of("picture")),
            f"{told} named and replaced, {len(met) - told} met just before a kill, {max(0, unread)} not read meanwhile; "
            f"{refused} starts refused by name",
        )
    )

    codes = Counter(ended.code for ended in launches)
    saved = early = second = late = 0
    for number, ended in enumerate(launches):
        stops = [fault["signal"] for fault in of("stop") if fault["launch"] == number]
        if ended.code in [code for stop in stops for code in (128 + stop, -stop)]:
            if "state saved" in ended.said:
                saved += 1
            elif "before the first step" in ended.said or not resumed_at(ended):
                early += 1
            elif len(stops) > 1:
                second += 1
            else:
                problems.append(f"launch {number}: signal {stops[0]} ended it without a word")
        elif ended.code not in (0, 1, 2, 4) and number not in killed:
            problems.append(f"launch {number}: exit {ended.code} after {stops or 'no'} signals")
        late += len(stops) - (ended.code > 128)
        if "Traceback" in ended.said or "internal:" in ended.said:
            problems.append(f"launch {number}: a traceback or an internal error")
        if ended.code == 1 and not re.search("no space", ended.said):
            problems.append(f"launch {number}: exit 1: {ended.said[-300:]}")
        if ended.code == 4 and "times in a row, so training stopped itself" not in ended.said:
            problems.append(f"launch {number}: it stopped itself: {ended.said[-300:]}")
    words = f"{saved} starts ended with the state saved, {early} before the first step, {second} by a second signal"
    rows.append(("SIGTERM, SIGINT, SIGUSR1", len(of("stop")), f"{words}; {late} signals beside another end"))
    rows.append(("SIGKILL", len(of("kill")), f"{codes[-signal.SIGKILL]} ended so, each taken up again"))

    problems += look_at_run(out)
    print(f"\n| fault | injected | survived |\n|{'---|' * 3}")
    for name, count, text in rows:
        print(f"| {name} | {count} | {text} |")
    listed = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    total = sum(count for _, count, _ in rows)
    print(f"\n{total} faults, {len(launches)} starts (exit codes {listed}), {mended} times mended by hand")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0


def resumed_at(ended: Launch) -> list[str]:
    """The steps that a launch was taken up at: one, or none where it began anew or never came so far."""
    found = re.findall(r"resumed step-(\d+) at", ended.said)
    return found or (["0"] if "starting from zero" in ended.said else [])


def skipped_steps(out: Path) -> set[int]:
    from img2img.checkpoint import latest_state

    state, _ = latest_state(out / "run" / "state")
    return set() if state is None else set(state.tree["engine"]["skipped_steps"])


def look_at_run(out: Path) -> list[str]:
    """What is wrong with the model, the states, the log and the folder in the end."""
    import torch

    from img2img.checkpoint import load_networks, load_state, state_folders
    from img2img.errors import Fault

    problems = []
    folder = out / "run"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    seen = [line["images"] for line in lines]
    if seen != sorted(set(seen)):
        problems.append("the log goes back")
    states = state_folders(folder / "state")
    for path in states:
        try:
            state = load_state(path)
        except Fault as fault:
            problems.append(str(fault))
            continue
        weights = [*leaves(state.tree["model"]), *leaves(state.tree["ema"])]
        if not all(torch.isfinite(weight).all() for weight in weights):
            problems.append(f"{path.name}: weights are not finite")
    strays = [path.name for path in folder.rglob(".img2img-*")]
    if strays:
        problems.append(f"left behind: {strays}")
    info, networks = load_networks(folder / "model.safetensors")
    if not all(torch.isfinite(value).all() for value in networks["generator"].state_dict().values()):
        problems.append("the model is not finite")
    trained, untrained = distances(out)
    if not trained < 0.5 * untrained:
        problems.append(f"the model is hardly nearer to the pictures: {trained:.3g} of {untrained:.3g}")
    print(
        f"\n{info.images_seen:,} images seen, {len(lines):,} lines in the log, {len(states)} states kept, all verified"
    )
    print(f"Fréchet distance of 8 × 8 thumbnails to the pictures: {trained:.2f}, of an untrained model {untrained:.2f}")
    return problems


def leaves(tree: Any) -> list[Any]:
    """All tensors of nested dicts."""
    return [leaf for value in tree.values() for leaf in leaves(value)] if isinstance(tree, dict) else [tree]


def distances(out: Path) -> tuple[float, float]:
    """Of the model's samples and of an untrained model's, to the pictures."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from img2img.checkpoint import load_networks
    from img2img.data.batches import Loader
    from img2img.data.sources import open_source
    from img2img.metrics.frechet import frechet_distance_of
    from img2img.networks import GENERATORS

    def features(images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(images, 8).flatten(1).double()

    source = open_source(images=out / "originals", resolution=(32, 32), fit="crop")
    with Loader(source, seed=0, resolution=(32, 32)) as loader:
        real = features(loader.batch(np.arange(source.count("image")))["image"])
    info, networks = load_networks(out / "run" / "model.safetensors")
    torch.manual_seed(0)
    z = torch.randn(len(real), SETTINGS["generator.latent_dim"])
    untrained = GENERATORS[info.networks["generator"].name](**info.networks["generator"].arguments).eval()
    with torch.no_grad():
        made, noise = features(networks["generator"](z)), features(untrained(z))
    return frechet_distance_of(real, made), frechet_distance_of(real, noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("child", child)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--every", type=float, default=30.0, help="steps between faults, on average")
        if name == "run":
            command.add_argument("--pictures", type=Path, required=True)
            command.add_argument("--minutes", type=float, default=10.0)
        else:
            command.add_argument("--launch", type=int, required=True)
            command.add_argument("words", nargs="+")
    options = parser.parse_args()
    sys.exit(options.function(options))


if __name__ == "__main__":
    main()
