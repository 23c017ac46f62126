"""The demo: a translator and a class-conditional model trained in minutes, and one that ships with img2img.

The pictures to train on are scikit-image's and scikit-learn's photographs and scikit-learn's handwritten digits, read
from the installed packages; nothing is downloaded. Everything is done through the public interface, `img2img.train` and
`img2img.load`, and ends as one page.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import img2img
from img2img.atomic import write_text
from img2img.checkpoint import read_info
from img2img.data.decode import open_image
from img2img.data.encode import save_image
from img2img.errors import Interrupted, UsageFault
from img2img.inference.sampling import write_samples
from img2img.shipped import find_model, shipped_models
from img2img.training.charts import line_chart
from img2img.training.page import Picture, command, embed, escape, facts, film, page, section, side_by_side
from img2img.training.report import log_series, read_log, read_rows, read_snapshots

TRAINING_PHOTOGRAPHS = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "rocket.jpg"),
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
)
HELD_OUT_PHOTOGRAPHS = (("skimage.data", "chelsea.png"), ("skimage.data", "coffee.png"))

TILE = 72  # pixels; training cuts a random window of 64 from it
NUM_TILES = 800
PHOTO_KIMG = 10.0
DIGIT_KIMG = 30.0
NUM_DIGIT_SAMPLES = 50  # of each class, for the measurement
DIGIT_SIZE = 32
SHIPPED = "sign-digits"
NUM_SHIPPED_SAMPLES = 10  # of each class

_SIDES = ("aged", "fresh")
_MARKER = "demo.txt"
_FOLDERS = ("data", "runs", "restored", "digits", "signs")


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        page: the page with everything.
        seconds: wall time of the whole demo.
        print_error, correction_error, restored_error: mean absolute difference from the held-out originals in steps
            of 255: of the aged prints, after the best colour correction that is the same for every pixel, and of the
            translator's outputs.
        digit_accuracy: share of generated digits that a nearest-neighbour reader of real ones takes for the class
            asked for; `real_accuracy` the same for real digits that it had not seen.
        digit_variety: how much generated digits of a class differ among each other, relative to real ones (1).
    """

    page: Path
    seconds: float
    print_error: float
    correction_error: float
    restored_error: float
    digit_accuracy: float
    real_accuracy: float
    digit_variety: float


def run_demo(
    out: str | Path = "demo", *, length: float = 1.0, device: str = "auto", say: Callable[[str], None] = print
) -> DemoResult:
    """Make the data, train both models, use them on what they have not seen, and write `out`/index.html.

    Args:
        out: folder for everything the demo makes; a folder of an earlier demo is made anew.
        length: training lasts this many times as long as it would.
        device: as in img2img.train.
        say: told what begins.

    Raises:
        UsageFault: the extra `demo` is not installed, or `out` holds something else.
        Fault: as img2img.train.
    """
    require_pictures()
    out = Path(out)
    prepare_folder(out)
    began = time.perf_counter()

    say("Ageing photographs that scikit-image and scikit-learn ship")
    make_print_pairs(out / "data" / "photographs")
    say(f"Training a translator from aged prints to fresh ones, {PHOTO_KIMG * length:g} kimg")
    photographs = train_translator(out, length, device)
    say("Translating two photographs that it has not seen")
    restored = restore_held_out(out, photographs, device)

    say("Writing out scikit-learn's handwritten digits")
    make_digit_folders(out / "data" / "digits")
    say(f"Training a class-conditional model of them, {DIGIT_KIMG * length:g} kimg")
    digits = train_digits(out, length, device)
    say("Sampling each class")
    sampled = sample_digits(out, digits, device)

    if SHIPPED in shipped_models():
        say("Sampling hand signs from a model that ships with img2img")
        sample_signs(out, device)

    result = DemoResult(out / "index.html", time.perf_counter() - began, *restored, *sampled)
    write_text(result.page, make_page(out, result))
    return result


# --- pictures --------------------------------------------------------------------------------------------------------


def require_pictures() -> None:
    """Raises UsageFault where a package whose pictures the demo uses is not installed."""
    missing = [
        name for name, module in (("scikit-image", "skimage"), ("scikit-learn", "sklearn")) if not find_spec(module)
    ]
    if missing:
        raise UsageFault(
            " and ".join(missing),
            "not installed, and the demo uses the pictures in it",
            "From the clone's root: pip install -e '.[demo]'",
        )


def prepare_folder(out: Path) -> None:
    """Make `out` empty but for a marker; only what an earlier demo made is ever removed."""
    marker = out / _MARKER
    if out.exists() and not marker.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageFault(out, "exists, and was not made by the demo", "Choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(marker, "Made by `img2img demo`; running it again makes everything here anew.\n")
    for name in _FOLDERS:
        if (out / name).exists():
            shutil.rmtree(out / name)
    (out / "index.html").unlink(missing_ok=True)


def read_photograph(package: str, name: str) -> Image.Image:
    """A photograph out of an installed package's folder, as RGB."""
    # read as a file, since skimage.data's functions may fetch
    with resources.as_file(resources.files(package) / name) as path:
        return Image.fromarray(open_image(path).as_channels(3))


def age(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """What decades in a drawer do to a print: soft, pale, yellow, grainy, dusty and scratched."""
    width, height = photograph.size
    pixels: np.ndarray = np.asarray(photograph.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels = grey[..., None] + 0.6 * (pixels - grey[..., None])
    black, white = np.array([78.0, 58.0, 40.0], np.float32), np.array([236.0, 220.0, 176.0], np.float32)
    pixels = black + (white - black) * pixels / 255
    pixels += rng.normal(0, 9, (height, width, 1)).astype(np.float32)
    damage = np.asarray(_draw_damage(width, height, rng), np.float32)[..., None] / 255
    pixels += damage * (np.array([250.0, 246.0, 232.0], np.float32) - pixels)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _draw_damage(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Scratches and dust, about half a scratch and one grain in every 64 × 64 pixels; white is damage."""
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    area = width * height / 64**2
    for _ in range(rng.poisson(0.5 * area)):
        x, y, length, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(10, 40), rng.normal(1.57, 0.5)
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        draw.line((x, y, *end), fill=int(rng.integers(120, 256)))
    for _ in range(rng.poisson(1.2 * area)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.4, 1.4)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(120, 256)))
    return mask.filter(ImageFilter.GaussianBlur(0.4))


def make_print_pairs(folder: Path) -> None:
    """Fill train/{aged,fresh} with tiles of the training photographs, held-out/{aged,fresh} with the others, whole."""
    rng = np.random.default_rng(0)
    photographs = [read_photograph(*where) for where in TRAINING_PHOTOGRAPHS]
    for side in ("train/aged", "train/fresh", "held-out/aged", "held-out/fresh"):
        (folder / side).mkdir(parents=True)
    for index in range(NUM_TILES):
        photograph = photographs[index % len(photographs)]
        # from half size to full size, so that tiles hold whole things as well as textures
        width = TILE / rng.uniform(0.5, 1.0)
        left, top = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - width)
        box = (left, top, left + width, top + width)
        tile = photograph.resize((TILE, TILE), Image.Resampling.LANCZOS, box=box)
        _save_pair(folder / "train", f"{index:04d}.png", tile, rng)
    for package, name in HELD_OUT_PHOTOGRAPHS:
        _save_pair(folder / "held-out", name, read_photograph(package, name), rng)


def _save_pair(folder: Path, name: str, photograph: Image.Image, rng: np.random.Generator) -> None:
    save_image(folder / "fresh" / name, np.asarray(photograph))
    save_image(folder / "aged" / name, np.asarray(age(photograph, rng)))


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1797 handwritten digits: (1797, 8, 8) float in [0, 1], and which digit each is."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return digits.images / 16.0, digits.target


def make_digit_folders(folder: Path) -> None:
    """Fill 0/ … 9/ with the digits, enlarged to 32 × 32."""
    images, labels = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for index, (image, label) in enumerate(zip(images, labels)):
        save_image(folder / str(label) / f"{index:04d}.png", _enlarge(image)[..., None])


def _enlarge(digit: np.ndarray) -> np.ndarray:
    small = Image.fromarray((digit * 255).round().astype(np.uint8))
    return np.asarray(small.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BICUBIC))


# --- training --------------------------------------------------------------------------------------------------------


def train_translator(out: Path, length: float, device: str) -> Path:
    """Train from aged tiles to fresh ones; returns the model file."""
    pairs = out / "data" / "photographs" / "train"
    kimg = PHOTO_KIMG * length
    settings = {
        "data.resolution": 64,
        "augment.enlarge": TILE / 64,
        "augment.flip": True,
        # a shallow U-Net looks at neighbourhoods only, so it can be used on whole photographs of any size;
        # batch normalisation lets it keep a tile's own brightness, which instance normalisation would take away
        "generator.depth": 3,
        "generator.norm": "batch",
        "generator.dropout": 0.0,
        "discriminator.layers": 2,
        "optim.lr": 1e-3,
        "optim.decay_share": 0.5,
        "train.kimg": kimg,
        **_often(kimg),
    }
    return _train(
        "pix2pix-small", out / "runs" / "photographs", settings, device, pairs=[pairs / "aged", pairs / "fresh"]
    )


def train_digits(out: Path, length: float, device: str) -> Path:
    """Train the class-conditional model of the digits; returns the model file."""
    kimg = DIGIT_KIMG * length
    settings = {
        "data.resolution": DIGIT_SIZE,
        "data.channels": 1,
        # far above the recipe's rate: small pictures and a spectral norm bear it, and the time is short
        "optim.lr": 2e-3,
        "train.kimg": kimg,
        **_often(kimg),
    }
    return _train("cgan-projection-small", out / "runs" / "digits", settings, device, classes=out / "data" / "digits")


def _often(kimg: float) -> dict[str, float]:
    """A run of `kimg` with twelve sample grids, a hundred lines of log and one state."""
    return {"train.sample_kimg": kimg / 12, "train.log_kimg": kimg / 100, "train.state_kimg": 0}


def _train(recipe: str, run: Path, settings: dict[str, Any], device: str, **data: Any) -> Path:
    try:
        result = img2img.train(recipe, out=run, set=settings, device=device, **data)
    except Interrupted as stop:
        raise Interrupted(stop.exit_code - 128, run, "Run the demo again: it begins anew") from stop
    assert result.model_path is not None, "only a dry run makes no model"
    return result.model_path


# --- using and measuring ---------------------------------------------------------------------------------------------


def restore_held_out(out: Path, model_path: Path, device: str) -> tuple[float, float, float]:
    """Translate the held-out prints into `out`/restored; returns the three errors of DemoResult."""
    model = img2img.load(model_path, device=device)
    folder = out / "data" / "photographs"
    correction = fit_colour_correction(folder / "train")
    (out / "restored").mkdir()
    errors = []
    for _, name in HELD_OUT_PHOTOGRAPHS:
        aged, fresh = (Image.fromarray(open_image(folder / "held-out" / side / name).as_channels(3)) for side in _SIDES)
        restored = model.translate(aged, scale=1.0)
        save_image(out / "restored" / name, np.asarray(restored))
        truth = np.asarray(fresh, np.float64)
        corrected = _with_one(np.asarray(aged, np.float64)) @ correction
        guesses = (np.asarray(aged), corrected.clip(0, 255), np.asarray(restored))
        errors.append([float(np.abs(guess - truth).mean()) for guess in guesses])
    print_error, correction_error, restored_error = np.mean(errors, axis=0)
    return float(print_error), float(correction_error), float(restored_error)


def fit_colour_correction(folder: Path) -> np.ndarray:
    """(4, 3): the affine map of RGB from aged to fresh with the least squares over all training tiles.

    It is what a slider in a picture editor could do at best, and so what a network has to beat.
    """
    aged, fresh = (
        np.concatenate([open_image(path).as_channels(3).reshape(-1, 3) for path in sorted((folder / side).iterdir())])
        for side in _SIDES
    )
    return np.linalg.lstsq(_with_one(aged.astype(np.float64)), fresh.astype(np.float64), rcond=None)[0]


def _with_one(colours: np.ndarray) -> np.ndarray:
    return np.concatenate([colours, np.ones_like(colours[..., :1])], axis=-1)


def sample_digits(out: Path, model_path: Path, device: str) -> tuple[float, float, float]:
    """Draw samples and real digits, one row a class, into `out`/digits; returns the last three values of DemoResult."""
    model = img2img.load(model_path, device=device)
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    known, unseen = order[len(order) // 5 :], order[: len(order) // 5]
    wanted = np.repeat(np.arange(10), NUM_DIGIT_SAMPLES)
    samples = [
        np.asarray(sample.convert("L"))
        for label in range(10)
        for sample in model.sample(NUM_DIGIT_SAMPLES, label=str(label))
    ]
    # the reader sees what it knows, 8 x 8 pixels: each the mean of 4 x 4
    small = np.array(samples).reshape(-1, 8, DIGIT_SIZE // 8, 8, DIGIT_SIZE // 8).mean(axis=(2, 4)) / 255
    (out / "digits").mkdir()
    _draw_digits(out / "digits" / "generated.png", np.array(samples), wanted)
    _draw_digits(out / "digits" / "real.png", np.array([_enlarge(image) for image in images]), labels)
    accuracy = (nearest_label(small, images[known], labels[known]) == wanted).mean()
    real_accuracy = (nearest_label(images[unseen], images[known], labels[known]) == labels[unseen]).mean()
    return float(accuracy), float(real_accuracy), spread(small, wanted) / spread(images, labels)


def _draw_digits(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The first ten of each class, a row a class, as a picture with a little space between them."""
    rows = [np.pad(images[labels == label][:10], ((0, 0), (2, 2), (2, 2))) for label in range(10)]
    save_image(path, np.concatenate([np.concatenate(list(row), axis=1) for row in rows])[..., None])


def sample_signs(out: Path, device: str) -> None:
    """Draw samples of the shipped model into `out`/signs/generated.png, a row a class."""
    model = img2img.load(SHIPPED, device=device)
    (out / "signs").mkdir()
    write_samples(model, out / "signs" / "generated.png", NUM_SHIPPED_SAMPLES * len(model.info.classes))


def spread(images: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of (N, H, W) images from the mean of their class, averaged over the classes."""
    classes = [images[labels == label] for label in range(10)]
    return float(
        np.mean([np.linalg.norm((of - of.mean(axis=0)).reshape(len(of), -1), axis=1).mean() for of in classes])
    )


def nearest_label(images: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label of the nearest of the `known` images, for each of (N, H, W) images of the same size."""
    flat, known_flat = images.reshape(len(images), -1), known.reshape(len(known), -1)
    distances = (flat**2).sum(1)[:, None] - 2 * flat @ known_flat.T + (known_flat**2).sum(1)[None]
    return labels[distances.argmin(axis=1)]


# --- the page --------------------------------------------------------------------------------------------------------


def make_page(out: Path, result: DemoResult) -> str:
    """The page, as HTML."""
    body = (
        _header(out, result)
        + section("Old prints, restored", _prints(out, result))
        + section("Digits by class", _digits(out, result))
        + (section("A model that ships: hand signs", _signs(out)) if (out / "signs").exists() else "")
        + section("Curves", _curves(out))
        + section("What such short training gives", _worth())
        + section("Your own pictures", _next(out))
    )
    return page("img2img demo", body)


def _header(out: Path, result: DemoResult) -> str:
    logs = {name: read_log(out / "runs" / name / "log.jsonl")[-1] for name in ("photographs", "digits")}
    figures = [
        ("in all", duration(result.seconds)),
        ("training on prints", duration(logs["photographs"]["seconds"])),
        ("training on digits", duration(logs["digits"]["seconds"])),
        ("error of restored prints", f"{result.restored_error:.1f} / 255"),
        ("digits read as asked for", _percent(result.digit_accuracy)),
    ]
    return (
        '<header><h1>img2img demo</h1><p class="lead">Two models, trained from nothing on this computer a moment ago, '
        f"and what they make of what they have not seen; and one that ships.</p></header>\n{facts(figures)}"
    )


def _prints(out: Path, result: DemoResult) -> str:
    held_out = out / "data" / "photographs" / "held-out"
    captions = ("input: the aged print", "output: restored", "original")
    compared = ""
    for _, name in HELD_OUT_PHOTOGRAPHS:
        files = (held_out / "aged" / name, out / "restored" / name, held_out / "fresh" / name)
        compared += side_by_side([(caption, _embed(path)) for caption, path in zip(captions, files)])
    return f"""<p>A small pix2pix learned from {NUM_TILES} tiles of five photographs what a print looked like before it
was bleached, yellowed, blurred, scratched and covered in dust. These two photographs were not among the five.</p>
{compared}<p>Mean absolute difference from the originals, in steps of 255: {result.print_error:.1f} for the prints,
{result.correction_error:.1f} after the best colour correction that is the same for every pixel,
<strong>{result.restored_error:.1f}</strong> for the translator.</p>
<h3>While it learned</h3>
{_film(out / "runs" / "photographs")}"""


def _digits(out: Path, result: DemoResult) -> str:
    pictures = [
        ("real digits", _embed(out / "digits" / "real.png")),
        ("generated digits", _embed(out / "digits" / "generated.png")),
    ]
    return f"""<p>A class-conditional model learned from scikit-learn\u2019s 1797 handwritten digits, of
8\u00a0\u00d7\u00a08 pixels. Each row is a class.</p>
{side_by_side(pictures)}<p>A nearest-neighbour reader of real digits takes
<strong>{_percent(result.digit_accuracy)}</strong> of {10 * NUM_DIGIT_SAMPLES} generated ones for the class that was
asked for; of real digits that it does not know it reads {_percent(result.real_accuracy)} correctly. Within a class the
generated ones vary {_percent(result.digit_variety)} as much as real ones.</p>
<h3>While it learned</h3>
{_film(out / "runs" / "digits")}"""


def _signs(out: Path) -> str:
    info = read_info(find_model(SHIPPED))
    pictures = [("generated hand signs, a row for each of the digits 0 to 9", _embed(out / "signs" / "generated.png"))]
    measured = "".join(
        f"<li>{escape(name)}: {escape(f'{value:g}' if isinstance(value, float) else str(value))}</li>"
        for name, value in info.metrics.items()
    )
    return f"""<p>This model was not trained just now: it comes with img2img and is used by its name,
<code>{SHIPPED}</code>. It learned from {info.images_seen:,} looks at photographs of hands, with the recipe
<code>{escape(info.recipe)}</code>. Measured when it was made:</p><ul>{measured}</ul>
{side_by_side(pictures)}"""


def _film(run: Path) -> str:
    frames = [(f"{seen / 1000:.3g} kimg", picture) for seen, picture in read_snapshots(run / "samples")]
    return film(frames, read_rows(run / "samples" / "rows.json"))


def _curves(out: Path) -> str:
    charts = [
        line_chart(log_series(read_log(out / "runs" / name / "log.jsonl"), "terms"), title=f"{title}: loss terms")
        for name, title in (("photographs", "Prints"), ("digits", "Digits"))
    ]
    return f"""<div class="charts">
{"".join(charts)}</div>
<p class="note under">More of them, and all settings: <a href="runs/photographs/report.html">report on the prints</a>,
<a href="runs/digits/report.html">report on the digits</a>.</p>
"""


def _worth() -> str:
    return """<p>This is what a minute or two of training gives. The prints were aged by one formula, so the translator
undoes that formula and knows nothing of real old photographs; detail that the grain had covered is guessed or lost, and
some scratches and specks stay. The digits are tiny, vary less than real ones, and a few are none. Both models get
better with time: <code>img2img demo --length 5</code> trains five times as long.</p>
"""


def _next(out: Path) -> str:
    model, digits = (shlex.quote(str(out / "runs" / run / "model.safetensors")) for run in ("photographs", "digits"))
    own = "FOLDER --b FOLDER"
    commands = (
        ("These models, from the command line:", f"img2img translate {model} SOURCE TARGET --scale 1"),
        ("", f"img2img sample {digits} --class 7 --count 16"),
        ("Two folders of yours, where one shall look like the other:", f"img2img train cyclegan-small --a {own}"),
        (
            "Pairs of pictures with the same names, before and after:",
            "img2img train pix2pix-small --pairs BEFORE AFTER",
        ),
        ("The model that ships, by its name:", f"img2img sample {SHIPPED} --class 3 --count 16"),
        ("A folder of class folders, to make more of each class:", "img2img train cgan-small --classes FOLDER"),
    )
    return "".join((f'<p class="note">{escape(what)}</p>' if what else "") + command(how) for what, how in commands)


def _embed(path: Path) -> Picture:
    with Image.open(path, formats=["PNG", "JPEG"]) as image:
        return embed(image, max_width=640)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """A length of time to the second: "45 s", "2 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
