"""`img2img project`: the latent of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from img2img_cli.options import PATH, device_option, json_option, number, print_json, require_model_first
from img2img_cli.progress import FolderProgress

if TYPE_CHECKING:
    from img2img.inference.projection import ProjectionSpace


@click.command("project", short_help="Find the latent whose picture is nearest to yours.")
@click.argument("model", type=PATH)
@click.argument("image", type=PATH)
@click.option("--out", type=PATH, default=Path("projection"), show_default=True, metavar="DIR",
              help="The folder to write into.")  # fmt: skip
@click.option("--space", type=click.Choice(["z", "w", "w+"]),
              help="Where to look; w+ has a w for each style.  [w where there are styles, else z]")  # fmt: skip
@click.option("--class", "label", metavar="NAME", help="Its class by name or index.  [that of the nearest sample]")
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True, metavar="N", help="Of the descent.")
@click.option("--perceptual", metavar="NAME",
              help="Compare also what this network sees, such as vgg16.  [pixels alone, or that of --weights]",
              )  # fmt: skip
@click.option("--weights", type=PATH, metavar="FILE.safetensors",
              help="Its weights.  [what `img2img weights` brought in]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of where the descent begins.")
@click.option("--animate", is_flag=True, help="Also write DIR/progress.gif.")
@device_option
@json_option
def command(
    model: Path,
    image: Path,
    out: Path,
    space: ProjectionSpace | None,
    label: str | None,
    steps: int,
    perceptual: str | None,
    weights: Path | None,
    seed: int,
    animate: bool,
    device: str,
    as_json: bool,
) -> None:
    """Find the latent of MODEL whose picture is nearest to IMAGE.

    Writes DIR/projection.png, DIR/comparison.png (IMAGE left, its projection right) and DIR/latent.safetensors, from
    which `img2img sample MODEL --latent` makes the picture again. IMAGE is brought to the model's size as its training
    pictures were.

    \b
    Examples:
      img2img project model.safetensors face.jpg
      img2img project stylegan.safetensors face.jpg --space w+ --perceptual vgg16 --steps 1000
      img2img project sign-digits hand.jpg --class 3 --out hand --animate
    """
    from img2img.data.decode import open_whole
    from img2img.data.encode import refuse_strangers, save_animation, save_sample
    from img2img.errors import UsageFault, printable
    from img2img.inference.folder import require_folder
    from img2img.inference.model import Model
    from img2img.inference.projection import NUM_CANDIDATES, Projector, open_distance, prepare_target, write_latent
    from img2img.inference.sheets import make_grid

    require_model_first(model, image)
    if not image.exists():
        raise UsageFault(image, "no such file", "Check the path")
    loaded = Model.load(model, device)
    loaded.class_indices(label)
    eye = open_distance(perceptual, weights, loaded.device)
    target = prepare_target(loaded, open_whole(image), image)
    projector = Projector(loaded, target, space=space, label=label, seed=seed, perceptual=eye)
    files = [out / "projection.png", out / "comparison.png", out / "latent.safetensors"]
    if animate:
        files.append(out / "progress.gif")
    refuse_strangers(path for path in files if path.suffix != ".safetensors")
    require_folder(out)
    with FolderProgress("steps", "step") as bar:
        found = projector.run(steps, bar)
    save_sample(files[0], found.pixels)
    save_sample(files[1], make_grid([[found.target, found.pixels]]))
    write_latent(files[2], found.latent)
    if animate:
        save_animation(files[-1], found.frames, seconds=0.1)
    name = None if found.latent.label is None else loaded.info.classes[found.latent.label]
    if as_json:
        print_json(
            {
                "files": files,
                "space": found.latent.space,
                "class": name,
                "distance": found.distance,
                "sample_distance": found.sample_distance,
                "perceptual": found.perceptual,
                "perceptual_network": None if eye is None else eye.name,
            }
        )
        return
    samples = f"the nearest of {NUM_CANDIDATES} samples is {number(found.sample_distance)}"
    click.echo(f"{number(found.distance)} levels of 255 away; {samples}")
    if found.perceptual is not None and eye is not None:
        click.echo(f"{eye.name}  {number(found.perceptual)}")
    if name is not None:
        click.echo(printable(f"class {name}"))
    click.echo(printable(f"wrote {found.latent.space} and pictures into {out}"))
