"""Show that a peer's generators, saved as it saves them and imported, make the same pictures.

    python tests/bench/import_parity.py PEER [--width 64]

PEER is a checkout of junyanz/pytorch-CycleGAN-and-pix2pix, of a fork of it, or of
taesungp/contrastive-unpaired-translation. Nothing of it is copied: its own `define_G` builds every kind of generator that
it has, with every normalisation, with and without dropout, and with every way to halve and double. Every parameter and
statistic is made random, the state dict is written with torch.save and imported, and both networks translate the same
noise, in float32 and in float64. A row is the largest difference of a value; the exit code is 1 where one in float64 is
above 1e-6, or one in float32 above 1e-5, which is its rounding over some twenty layers.

With batch normalisation the peer runs twice: as with --eval, and as its test script does without. Dropout is off on both
sides, since it is random; the noise of CUT's StyleGAN2 is a plane of ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from img2img.checkpoint import load_networks
from img2img.errors import Fault, UsageFault
from img2img.importing import import_model

LIMITS = {torch.float32: 1e-5, torch.float64: 1e-6}
# what CUT's options hold that its StyleGAN2 reads
_OPTIONS = {"load_size": 256, "crop_size": 256, "stylegan2_G_num_downsampling": 1}


@dataclass(frozen=True)
class Kind:
    """A generator as the peer's `define_G` is asked for it, and in which mode it runs."""

    name: str
    norm: str
    dropout: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    mode: str = "eval"

    def __str__(self) -> str:
        parts = [self.name, self.norm, *(["dropout"] if self.dropout else []), *sorted(self.options)]
        return ", ".join([*parts, *(["statistics of the picture"] if self.mode == "train" else [])])


def kinds(cut: bool) -> Iterator[Kind]:
    """Every generator that the peer's options can ask for."""
    resnets = ["resnet_4blocks"] * cut + ["resnet_6blocks", "resnet_9blocks"]
    resamplings: list[dict[str, Any]] = [{}]
    if cut:
        resamplings += [
            {"no_antialias": True},
            {"no_antialias_up": True},
            {"no_antialias": True, "no_antialias_up": True},
        ]
    for norm in ("instance", "batch", "none"):
        for mode in ("eval", "train") if norm == "batch" else ("eval",):
            for dropout in (False, True):
                for name in resnets:
                    yield from (Kind(name, norm, dropout, options, mode) for options in resamplings)
                for name in ("unet_128", "unet_256"):
                    yield Kind(name, norm, dropout, {}, mode)
    if cut:
        yield from (Kind(name, "instance") for name in ("stylegan2", "smallstylegan2", "resnet_cat"))


class Ones:
    """Stands for keyed draws: noise that is one everywhere."""

    def stream(self, _name: str) -> Ones:
        return self

    def normal(self, *shape: int) -> Tensor:
        return torch.ones(1, *shape)


def import_peer(peer: Path) -> ModuleType:
    """The peer's module of networks.

    Raises:
        UsageFault: `peer` is no checkout that has one.
    """
    if not (peer / "models" / "networks.py").is_file():
        raise UsageFault(peer, "models/networks.py is not there", "Give the root of a checkout of the peer")
    sys.path.insert(0, str(peer))
    import models.networks

    return models.networks


def randomise(network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        if name.endswith(("filt", "kernel", "num_batches_tracked")):
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.dim() > 1 and name.endswith("weight"):
            # equalised weights are scaled when used, others here
            equalised = name.startswith(("encoder", "decoder"))
            tensor.normal_(0, 1 if equalised else tensor[0].numel() ** -0.5)
        else:
            tensor.normal_(float(name.endswith("weight") and tensor.numel() > 1), 0.2)


def run_peer(network: nn.Module, kind: Kind, images: Tensor) -> Tensor:
    network.train(kind.mode == "train")
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    normal, cuda = Tensor.normal_, Tensor.cuda
    Tensor.normal_ = lambda self, *_: self.fill_(1)  # type: ignore[method-assign, assignment]
    if not torch.cuda.is_available():  # its StyleGAN2 asks for one
        Tensor.cuda = lambda self, *_: self.to(images.dtype)  # type: ignore[method-assign, assignment]
    try:
        with torch.no_grad():
            return network(images)
    finally:
        Tensor.normal_, Tensor.cuda = normal, cuda  # type: ignore[method-assign]


def compare(
    build: Callable[..., nn.Module], kind: Kind, cut: bool, width: int, folder: Path
) -> dict[torch.dtype, float]:
    """The largest difference of a value, by arithmetic."""
    torch.manual_seed(0)
    more = {"opt": SimpleNamespace(netG=kind.name, **_OPTIONS), **kind.options} if cut else {}
    peer = build(3, 3, width, kind.name, kind.norm, kind.dropout, **more)
    randomise(peer)
    file, target = folder / "latest_net_G.pth", folder / "model.safetensors"
    torch.save(peer.state_dict(), file)
    batch_norm = "stored" if kind.norm == "batch" and kind.mode == "eval" else "picture"
    import_model(file, "cut" if cut else "junyanz", target, batch_norm=batch_norm, dropout=False)
    side = {"unet_128": 128, "unet_256": 256}.get(kind.name, 64)
    images = torch.rand(1, 3, side, side if side > 64 else 96) * 2 - 1
    draws = Ones() if "stylegan2" in kind.name else None
    differences = {}
    for dtype in LIMITS:
        _, networks = load_networks(target, dtype=dtype)
        with torch.no_grad():
            ours = networks["generator"](images.to(dtype), draws)
        theirs = run_peer(peer.to(dtype), kind, images.to(dtype))
        assert theirs.std() > 1e-3, "a picture with something in it"
        differences[dtype] = float((ours - theirs).abs().max())
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description="Import a peer's generators and compare.")
    parser.add_argument("peer", type=Path)
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    try:
        networks = import_peer(arguments.peer)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.exit_code
    cut = (arguments.peer / "models" / "stylegan_networks.py").is_file()
    print(f"{'float32':>9} {'float64':>9}  generator")
    failed = 0
    for kind in kinds(cut):
        with tempfile.TemporaryDirectory() as folder:
            try:
                differences = compare(networks.define_G, kind, cut, arguments.width, Path(folder))
            except AttributeError as error:
                print(f"{'-':>9} {'-':>9}  {kind}: the peer cannot build it ({error})")
                continue
        failed += any(difference > LIMITS[dtype] for dtype, difference in differences.items())
        print(" ".join(f"{differences[dtype]:9.1e}" for dtype in LIMITS), f" {kind}", flush=True)
    print(f"{failed} above the limits" if failed else "all within the limits")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
