"""Train, use and measure adversarial image models: `train`, `load`, `evaluate`, and what they return.

    >>> import img2img
    >>> result = img2img.train("cyclegan-small", a="photos", b="drawings", out="runs/drawings")
    >>> img2img.load(result.model_path).translate("photo.jpg").save("drawing.png")
    >>> img2img.evaluate("drawings", model=result.model_path, source="photos").values()

Names are imported when they are first used, so that `import img2img` costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img2img.version import __version__

if TYPE_CHECKING:
    from img2img.evaluation.run import evaluate
    from img2img.inference.model import Model
    from img2img.training import TrainResult

__all__ = ["__version__", "evaluate", "load", "train"]


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> Model:
    """Open a model file; the result translates or samples. See img2img.inference.model.Model."""
    from img2img.inference.model import Model

    return Model.load(path, device=device, precision=precision)


def train(
    recipe: str | None = None,
    *,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    a: str | Path | None = None,
    b: str | Path | None = None,
    pairs: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    device: str = "auto",
    dry_run: bool = False,
) -> TrainResult:
    """Train a recipe on folders; the arguments are those of `img2img train`.

    Args:
        recipe: name of a recipe; None where `config` is complete.
        images, classes, a and b, pairs: exactly one kind of data, as on the command line.
        out: run folder; by default runs/RECIPE.
        config: TOML file laid over the recipe.
        set: configuration keys and values laid over both, such as {"train.kimg": 10}.

    Raises:
        img2img.errors.Fault: what a user can mend; img2img.training.train says when.
    """
    from img2img.config import DataPaths, resolve
    from img2img.training import train as train_config

    def path(value: str | Path | None) -> Path | None:
        return None if value is None else Path(value)

    folders = (pairs,) if isinstance(pairs, (str, Path)) else tuple(pairs)
    data = DataPaths(
        images=path(images),
        classes=path(classes),
        a=path(a),
        b=path(b),
        pairs=tuple(Path(folder) for folder in folders),
    )
    resolved = resolve(recipe, path(config), dict(set or {}))
    target = Path(out) if out is not None else Path("runs") / (resolved.recipe.name or resolved.translator)
    return train_config(resolved, data, target, resume=resume, init=path(init), device=device, dry_run=dry_run)


def __getattr__(name: str) -> Any:
    # its many arguments are written down once, where it is
    if name == "evaluate":
        from img2img.evaluation.run import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
