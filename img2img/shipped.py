"""The models that ship in the folder checkpoints/ of a source checkout, and how a model is found by name."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from img2img.errors import UsageFault

SUFFIX = ".safetensors"


def shipped_folder() -> Path:
    """The folder checkpoints/ of the source checkout that this runs from."""
    return Path(__file__).resolve().parents[1] / "checkpoints"


def shipped_models() -> dict[str, Path]:
    """Name -> model file, sorted by name; empty in an installation without the checkout."""
    return {path.stem: path for path in sorted(shipped_folder().glob(f"*{SUFFIX}"))}


def find_model(model: str | os.PathLike[str]) -> Path:
    """The file that `model` means: itself where it exists, else the shipped model of that name.

    Raises:
        UsageFault: neither; the nearest names are suggested.
    """
    path = Path(model)
    if path.exists() or path.is_symlink() or path.suffix == SUFFIX or path.name != str(model):
        return path  # reading it says what is wrong with it
    names = shipped_models()
    if path.name in names:
        return names[path.name]
    near = get_close_matches(path.name.lower().replace("_", "-"), names, cutoff=0.5)
    mend = "img2img models list shows the names" if names else "No models ship with this installation"
    raise UsageFault(
        path,
        "there is no such file, and no model of that name ships with img2img",
        f"Did you mean {' or '.join(near)}?" if near else f"Check the path; {mend}",
    )
