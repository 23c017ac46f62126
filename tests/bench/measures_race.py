"""Time our evaluation beside torch-fidelity's and pytorch-fid's: two folders to scores, whole processes, in turn.

    python tests/bench/measures_race.py PICTURES [--count 1000] [--size 128] [--rounds 3] [--peer torch-fidelity ...]

PICTURES is a folder; its pictures are cut to `size` and split into two folders of `count`. Every side runs as its users
run it, from the command line with its own defaults, on the same Inception network with the same random weights, which
cost the same time as trained ones:

    ours            img2img evaluate A B --extractor inception-2015          FID, KID, precision to coverage, intervals
    ours again      the same with --measure kid: what a second measure costs
    torch-fidelity  fidelity --input1 A --input2 B --fid --kid --prc --cpu, all three over Inception, its cache empty
    pytorch-fid     python -m pytorch_fid A B                                (FID alone)

Each round runs all sides once, beginning with another one; what counts is the median over the rounds of the ratio
within a round. Peak memory is the largest resident size of the process; decoding processes of a peer do not count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from img2img.data.decode import open_image
from img2img.data.encode import save_image
from img2img.data.files import list_images
from img2img.data.resize import fit_to, to_tensor
from img2img.networks.inception import Inception

PEERS = ("torch-fidelity", "pytorch-fid")
# where torch keeps what it has downloaded, and what pytorch-fid looks for there
_HUB_FILE = Path("hub") / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"


def prepare(pictures: Path, folder: Path, count: int, size: int) -> None:
    """Two folders, a and b, of `count` PNG files each."""
    files = list_images(pictures)
    if len(files) < 2 * count:
        sys.exit(f"{pictures}: {len(files)} pictures are fewer than {2 * count}. Give more, or a smaller --count")
    for name, chosen in (("a", files[: 2 * count : 2]), ("b", files[1 : 2 * count : 2])):
        (folder / name).mkdir()
        for path in chosen:
            pixels = to_tensor(open_image(path).as_channels(3))
            cut = fit_to(pixels, (size, size)).permute(1, 2, 0)
            save_image(folder / name / f"{path.stem}-{path.parent.name}.png", cut.numpy())


def write_weights(folder: Path) -> None:
    """Random weights of the Inception network, for all sides."""
    torch.manual_seed(0)
    network = Inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = folder / _HUB_FILE
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    environment = {**os.environ, "IMG2IMG_WEIGHTS": str(folder / "weights")}
    command = ["-m", "img2img_cli", "weights", "import", str(path), "--as", "inception-2015"]
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)


def commands(folder: Path, peers: list[str], count: int) -> dict[str, list[str]]:
    a, b = str(folder / "a"), str(folder / "b")
    ours = [sys.executable, "-m", "img2img_cli", "evaluate", a, b, "--device", "cpu", "--no-card"]
    fidelity = Path(sys.executable).with_name("fidelity")
    of_peers = {
        "torch-fidelity": [
            *(str(fidelity), "--input1", a, "--input2", b, "--fid", "--kid", "--prc", "--cpu", "--silent"),
            *("--feature-extractor", "inception-v3-compat", "--feature-layer-prc", "2048"),
            *("--kid-subset-size", str(min(1000, count))),
            *("--feature-extractor-weights-path", str(folder / _HUB_FILE), "--cache-root", str(folder / "cache")),
        ],
        "pytorch-fid": [sys.executable, "-m", "pytorch_fid", a, b, "--device", "cpu"],
    }
    return {"ours": ours, "ours again": [*ours, "--measure", "kid"], **{peer: of_peers[peer] for peer in peers}}


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in GB of one process."""
    environment = {
        **os.environ,
        "IMG2IMG_WEIGHTS": str(folder / "weights"),
        "IMG2IMG_CACHE": str(folder / "ours-cache"),
        "TORCH_HOME": str(folder),
    }
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read().decode()[-2000:]}")
    return seconds, usage.ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="append", choices=PEERS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(arguments.pictures, folder, arguments.count, arguments.size)
        write_weights(folder)
        sides = commands(folder, arguments.peer or list(PEERS), arguments.count)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(arguments.rounds):
            order = [side for side in sides if side != "ours again"]
            order = order[number % len(order) :] + order[: number % len(order)]
            order.insert(order.index("ours") + 1, "ours again")
            for side in order:
                if side == "ours":
                    shutil.rmtree(folder / "ours-cache", ignore_errors=True)
                shutil.rmtree(folder / "cache", ignore_errors=True)
                taken, memory = run(sides[side], folder)
                seconds[side].append(taken)
                print(f"round {number + 1}  {side:<15} {taken:7.1f} s, {memory:.2f} GB", flush=True)
        for side, times in seconds.items():
            ratio = statistics.median(other / own for other, own in zip(times, seconds["ours"]))
            print(f"{side:<15} median {statistics.median(times):7.1f} s, {ratio:.2f} times ours")


if __name__ == "__main__":
    main()
