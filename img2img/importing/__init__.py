"""Generators of other projects, as they save them, made into model files of ours.

    layouts.py   from the tensors of a file to one of our networks and its weights

A file is read through the allow-list of img2img.unpickling: nothing in it is run. What it holds follows from the names
and shapes of its tensors; what they leave open is an argument of `import_model`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from img2img.checkpoint import ModelInfo, NetworkSpec, build_network, write_model
from img2img.errors import UsageFault, unknown_name
from img2img.foreign_files import read_content
from img2img.importing.layouts import BATCH_NORMS, Imported, Source, read_generator
from img2img.networks.arguments import check_resolution
from img2img.unpickling import read_pickled_tensors

SOURCES = {
    "junyanz": Source(
        title="junyanz/pytorch-CycleGAN-and-pix2pix",
        kinds=("resnet", "unet"),
        files="latest_net_G.pth of pix2pix, or latest_net_G_A.pth and latest_net_G_B.pth of CycleGAN",
        unet_dropout=True,
    ),
    "cut": Source(
        title="taesungp/contrastive-unpaired-translation",
        kinds=("resnet", "unet", "stylegan2_resnet"),
        files="latest_net_G.pth",
        unet_dropout=False,
    ),
}
_USUAL_SIDE = 256  # the peers' --crop_size
_COLOURS = (1, 3, 4)


@dataclass(frozen=True)
class _File:
    path: Path
    sha256: str
    imported: Imported


def import_model(
    file: str | Path,
    source: str,
    target: str | Path,
    *,
    b2a: str | Path | None = None,
    domains: tuple[str, str] = ("a", "b"),
    resolution: tuple[int, int] | None = None,
    dropout: bool | None = None,
    batch_norm: str = "picture",
    licence: str = "",
) -> ModelInfo:
    """Write the generator in `file` as the model file `target`.

    Args:
        source: a key of SOURCES: whose file it is.
        b2a: the generator of the other direction, for a model that has both.
        domains: what a person calls the pictures that go in and those that come out.
        resolution: (height, width) of training; None is 2^depth for a U-Net and 256 for others, as the peers have it.
        dropout: whether dropout, which stands for noise, is on while translating; None is as in the peers' test script:
            on where there is any. A U-Net's layers do not show whether it has any; None follows the source's default.
        batch_norm: one of BATCH_NORMS. "picture" normalises by each picture's own statistics, as the peers' test script
            does; "stored" by those of training, as that does with --eval, where there is batch normalisation.
        licence: under which licence the weights may be used.

    Raises:
        UsageFault: unknown source; not a generator's file, damaged, or with code in it; an option that it cannot have.
        Fault: `target` cannot be written.
    """
    if source not in SOURCES:
        raise unknown_name("--from", source, SOURCES)
    if batch_norm not in BATCH_NORMS:
        raise unknown_name("--batch-norm", batch_norm, BATCH_NORMS)
    if resolution is not None:
        resolution = check_resolution(resolution)
    if domains[0] == domains[1]:
        raise UsageFault("--domains", f"{domains[0]} twice", "Give two names, such as --domains photo drawing")
    files = {"a2b": _read(Path(file), source, dropout, batch_norm)}
    if b2a is not None:
        files["b2a"] = _read(Path(b2a), source, dropout, batch_norm)
        _check_directions(files["a2b"], files["b2a"])
    modules = {}
    names = {"a2b": "generator_ab", "b2a": "generator_ba"} if b2a is not None else {"a2b": "generator"}
    for direction, one in files.items():
        module = build_network(one.imported.network, one.path)
        module.load_state_dict(one.imported.weights, assign=True)
        modules[names[direction]] = module
    first = files["a2b"].imported.network
    side = 2 ** first.arguments["depth"] if first.name == "unet" else _USUAL_SIDE
    info = ModelInfo(
        translator=f"imported from {SOURCES[source].title}",
        task="translate",
        networks={names[direction]: one.imported.network for direction, one in files.items()},
        directions=names,
        domains={"a": domains[0], "b": domains[1]},
        channels={"a": first.arguments["in_channels"], "b": first.arguments["out_channels"]},
        resolution=resolution or (side, side),
        fit="stretch",  # the peers' --preprocess resize_and_crop knows no proportions
        recipe="; ".join(f"{one.path.name}, sha256 {one.sha256}" for one in files.values()),
        licence=licence,
    )
    write_model(target, modules, info)
    return info


def _read(path: Path, source: str, dropout: bool | None, batch_norm: str) -> _File:
    content = read_content(path)
    imported = read_generator(_tensors(content, path), path, SOURCES[source], dropout, batch_norm)
    for name, domain in (("in_channels", "goes in"), ("out_channels", "comes out")):
        if imported.network.arguments[name] not in _COLOURS:
            raise UsageFault(
                path,
                f"what {domain} has {imported.network.arguments[name]} channels, which are no picture's",
                "Models here are of grey (1), RGB (3) or RGBA (4) pictures",
            )
    return _File(path, hashlib.sha256(content).hexdigest(), imported)


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    if content[8:9] != b"{":
        return read_pickled_tensors(content, path)
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise UsageFault(path, "is a damaged safetensors file", "Copy it again") from error


def _check_directions(a2b: _File, b2a: _File) -> None:
    there, back = (
        (one.imported.network.arguments["in_channels"], one.imported.network.arguments["out_channels"])
        for one in (a2b, b2a)
    )
    if there != back[::-1]:
        raise UsageFault(
            b2a.path,
            f"makes {back[1]} channels of {back[0]}, which is not the way back of {there[1]} from {there[0]}",
            f"Give the generator that belongs to {a2b.path.name}, or leave --b2a out",
        )


__all__ = ["BATCH_NORMS", "SOURCES", "Imported", "NetworkSpec", "import_model"]
