"""The report of a training run: one HTML file that needs nothing beside it.

It is made anew from what lies in the run folder (config.toml, log.jsonl, samples/), as often as one likes.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from img2img.atomic import write_text
from img2img.training.charts import Series, line_chart, number
from img2img.training.diagnosis import episodes, faults_watched
from img2img.training.page import Picture, command, embed, escape, facts, film, page, section
from img2img.translators import TRANSLATORS

NUM_SNAPSHOTS = 24
"""Sample grids shown, evenly chosen over the run."""

PICTURE_BYTES = 7_000_000
"""Bytes of all data URIs of the grids; a page of ten megabytes still opens at once."""

_SOURCE_OPTIONS = {
    "images": "--images FOLDER",
    "classes": "--classes FOLDER",
    "pairs": "--pairs FOLDER",
    "unpaired": "--a FOLDER --b FOLDER",
    "points": "--world NAME",
}

# how a monitor's name ends -> its chart; the longest ending counts
_MONITORS = {
    " on real": "Discriminator outputs",
    " on fake": "Discriminator outputs",
    " logit": "Discriminator outputs",
    " sign on real": "Signs of the discriminator outputs",
    " sign on fake": "Signs of the discriminator outputs",
    " critic distance": "The critic's distance",
    " convergence": "Convergence measure",
    " control": "Control variable",
    " augment p": "Probability of augmentation",
    " augment sign": "Signs on real images that move it",
    " gradient norm": "Gradient norms",
    " spectral norm": "Largest singular values",
    " undecided": "Discriminators' losses, of one that cannot tell",
    " colour correlation": "Correlation of outputs with inputs",
    " change": "Outputs' distance from inputs, of the targets'",
    " diversity": "How different outputs are, of real images",
    " checkerboard": "Energy at the generator's stride, of real images'",
    " grid": "Grid at the generator's stride, in steps of 255",
    " hidden": "The way back's error by faint noise, of the noise",
    "": "Monitors",
}


# scores between about 0 and 1 that are read side by side
_TOGETHER = ("precision", "recall", "density", "coverage")


def write_report(run_dir: str | Path) -> Path:
    """Write `run_dir`/report.html, in one step, and return its path.

    The same folder gives the same bytes. What is missing or unreadable (no log yet, a line cut short) is left out.

    Raises:
        Fault: the file cannot be written.
    """
    run_dir = Path(run_dir)
    config = read_config(run_dir / "config.toml")
    records = read_log(run_dir / "log.jsonl")
    recipe = config.get("recipe", {})
    name = run_dir.resolve().name
    title = f"{recipe['name']} · {name}" if recipe.get("name") else name
    body = (
        _header(name, recipe, config)
        + _status(config, records, run_dir / "model.safetensors")
        + section("Faults", _faults(config, records))
        + section("Samples", _samples(run_dir / "samples"))
        + section("Measures", _measures(records))
        + section("Curves", _curves(records))
        + section("Use it, or train on", _commands(run_dir, config))
        + section("Configuration", _settings(config))
    )
    path = run_dir / "report.html"
    write_text(path, page(title, body))
    return path


# --- reading the run folder ------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """The resolved configuration as nested tables; empty where the file is missing or unreadable."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl in the order of the images seen.

    Lines that are cut short are passed over. Where a run went back to its last saved state, the records after that
    state are replaced by those that came instead.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("images"), int):
            continue
        # a line of a return to an earlier state stands beside that of the state
        newest = record["images"] - ("rollback" not in record)
        while records and records[-1]["images"] > newest:
            records.pop()
        records.append(record)
    return records


def read_rows(path: Path) -> list[str]:
    """Names of the rows of a sample grid; empty where they are not known."""
    try:
        rows = json.loads(path.read_bytes())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(row) for row in rows] if isinstance(rows, list) else []


def list_snapshots(folder: Path) -> list[Path]:
    """The sample grids of a run, in the order of the images seen."""
    return sorted((path for path in folder.glob("*.png") if path.stem.isdecimal()), key=lambda path: int(path.stem))


def read_snapshots(folder: Path, count: int = NUM_SNAPSHOTS, budget: int = PICTURE_BYTES) -> list[tuple[int, Picture]]:
    """At most `count` of the sample grids, evenly chosen, with the first and the last: (images seen, picture).

    Together their data URIs take at most `budget` bytes: larger grids are made smaller until they do.
    """
    names = list_snapshots(folder)
    if len(names) > count:
        names = [names[index] for index in np.linspace(0, len(names) - 1, count).round().astype(int)]
    images = []
    for path in names:
        try:
            with Image.open(path, formats=["PNG"]) as image:
                images.append((int(path.stem), image.copy()))
        except OSError:
            continue
    if not images:
        return []
    width = max(image.width for _, image in images)
    while True:
        snapshots = [(seen, embed(image, max_width=width)) for seen, image in images]
        size = sum(len(picture.uri) for _, picture in snapshots)
        if size <= budget or width <= 64:
            return snapshots
        # bytes grow about as the area does; the factor makes sure that it ends
        width = max(64, int(width * min(0.9, math.sqrt(budget / size))))


def log_series(records: Sequence[Mapping[str, Any]], group: str) -> list[Series]:
    """One series over thousands of images for each name in the records' table `group` ("terms", "monitors").

    They come in the order in which the names appear, with spaces for underscores.
    """
    points: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        table = record.get(group)
        for name, entry in table.items() if isinstance(table, dict) else ():
            x, y = points.setdefault(name, ([], []))
            x.append(record["images"] / 1000)
            y.append(_value(entry))
    return [Series(name.replace("_", " "), x, y) for name, (x, y) in points.items()]


# --- parts of the page -----------------------------------------------------------------------------------------------


def _header(name: str, recipe: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    over = "Training run" + (f" of recipe {recipe['name']}" if recipe.get("name") else "")
    described = {**recipe, "title": _at_own_size(str(recipe.get("title", "")), config)}
    lead = ". ".join(str(described[key]).strip().rstrip(".") for key in ("title", "paper") if described.get(key))
    expected = f'<p class="note">Expected: {escape(recipe["expected"])}</p>' if recipe.get("expected") else ""
    return (
        f'<header><p class="over">{escape(over)}</p><h1>{escape(name)}</h1>'
        + (f'<p class="lead">{escape(lead)}.</p>' if lead else "")
        + f"{expected}</header>\n"
    )


def _at_own_size(title: str, config: Mapping[str, Any]) -> str:
    """A recipe's title with the size of the run's pictures where it names its own, the last one if it grows."""
    match config.get("data"):
        case {"resolution": [int(height), int(width)]}:
            return re.sub(r"\d+ x \d+(?!.* x \d)", f"{width} x {height}", title)
    return title


def _status(config: Mapping[str, Any], records: Sequence[Mapping[str, Any]], model: Path) -> str:
    """The large figures, and how far the run has come."""
    if not records:
        return '<p class="note">Nothing has been logged yet.</p>\n'
    last = records[-1]
    seconds = _value(last.get("seconds"))
    pairs = [("images seen", f"{last['images']:,}"), ("training time", _duration(seconds))]
    if seconds > 0:
        speed = last["images"] / seconds
        pairs.append(("images per second", f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"))
    waiting = _waiting_share(records)
    if math.isfinite(waiting):
        pairs.append(("waiting for data", f"{waiting:.1%}".replace("%", " %")))
    if model.is_file():
        pairs.append((model.name, f"{model.stat().st_size / 1e6:,.1f} MB"))
    planned = _value(config.get("train", {}).get("kimg")) * 1000
    bar = ""
    if planned > last["images"]:
        share = f"{100 * last['images'] / planned:.1f}"
        bar = (
            f'<div class="progress" aria-hidden="true"><div style="width:{share}%"></div></div>'
            f'<p class="note under">{share} % of {planned:,.0f} images</p>\n'
        )
    return facts(pairs) + bar


def _faults(config: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """What went wrong, from when to when, with the key to change; for methods that translate also that nothing did."""
    settings = dict(_flat(config))
    penalties = config.get("loss", {}).get("penalties") if isinstance(config.get("loss"), Mapping) else None
    settings["loss.penalties"] = tuple(penalties) if isinstance(penalties, Mapping) else ()
    found = sorted(episodes(records, settings), key=lambda episode: not episode.lasts)
    returns = "".join(
        f"<p>Went back from {_kimg(record.get('from_images'))} to {_kimg(record['images'])} kimg, and on at "
        f"{_value(record.get('rate_factor')):g} of the learning rates: {escape(record['rollback'])}.</p>\n"
        for record in records
        if isinstance(record.get("rollback"), str)
    )
    ended = records[-1].get("ended") if records else None
    if isinstance(ended, str):
        returns += f"<p>Ended at {_kimg(records[-1]['images'])} kimg: {escape(ended)}.</p>\n"
    if not found:
        if returns:
            return returns
        tables = (record.get("monitors") for record in records)
        monitors = {str(name) for table in tables if isinstance(table, dict) for name in table}
        if not any(name.endswith("_diversity") for name in monitors):
            return ""
        names = ", ".join(faults_watched(monitors, settings))
        return f'<p class="note">None was seen of those that are watched: {escape(names)}.</p>\n'
    parts = []
    for episode in found:
        diagnosis = episode.diagnosis
        when = (
            f"from {episode.first / 1000:,g} kimg on"
            if episode.lasts
            else (f"from {episode.first / 1000:,g} to {episode.last / 1000:,g} kimg, not any more")
        )
        parts.append(
            f"<h3>{escape(diagnosis.fault.capitalize())} ({escape(diagnosis.where)})</h3>\n"
            f"<p>{escape(diagnosis.evidence)}, {escape(when)}. {escape(diagnosis.why.capitalize())}:</p>\n"
            + command(f"--set {diagnosis.key}={diagnosis.value}")
        )
    return returns + "".join(parts)


def _samples(folder: Path) -> str:
    snapshots = read_snapshots(folder)
    note = (
        '<p class="note">The same inputs and the same noise throughout training. Arrow keys move the slider.</p>\n'
        if len(snapshots) > 1
        else ""
    )
    frames = [(f"{seen / 1000:,g} kimg", picture) for seen, picture in snapshots]
    return note + film(frames, read_rows(folder / "rows.json"))


def _measures(records: Sequence[Mapping[str, Any]]) -> str:
    """What evaluations came to: the best and the last as a table, and each score over images."""
    found = [record for record in records if isinstance(record.get("measures"), dict)]
    if not found:
        return ""
    last = found[-1]
    best_at = last.get("best_images")
    best = next((record for record in found if record["images"] == best_at), None)
    better = last["better"] if isinstance(last.get("better"), dict) else {}
    columns = [("best and last", last)] if best is last else [("best", best), ("last", last)]
    shown = [(what, record) for what, record in columns if record is not None]
    heads = "".join(f"<th>{what}, at {record['images'] / 1000:,g} kimg</th>" for what, record in shown)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{number(_value(record['measures'].get(name)))}</td>" for _, record in shown)
        + f"<td>{escape(better.get(name, ''))}</td></tr>"
        for name in sorted(last["measures"], key=_place)
    )
    table = (
        f'<div class="wide"><table class="scores"><thead><tr><th></th>{heads}<th>better is</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
    )
    mark = best["images"] / 1000 if best is not None else None
    charts = "".join(
        line_chart(group, title=title, unit=unit, smooth=False, mark=mark)
        for (title, unit), group in _by_score(log_series(found, "measures"), better).items()
    )
    kept = "" if best is None else "Rings mark the model that scored best, which is best.safetensors. "
    return (
        f'<p class="note">Measured with the averaged weights. {kept}{_cost(found)}</p>\n'
        f'{table}<div class="charts">\n{charts}</div>\n'
    )


def _by_score(curves: Iterable[Series], better: Mapping[str, Any]) -> dict[tuple[str, str], list[Series]]:
    """(title, unit) of a chart -> its curves: both directions of one score, or scores that belong together."""
    charts: dict[tuple[str, str], list[Series]] = {}
    for curve in sorted(curves, key=lambda curve: _place(curve.name)):
        title = curve.name.removesuffix(" a2b").removesuffix(" b2a")
        if title.startswith(_TOGETHER):
            title = "Precision, recall, density, coverage"
        way = better.get(curve.name, "")
        charts.setdefault((title, f"{way} is better" if way in ("lower", "higher") else ""), []).append(curve)
    return charts


def _place(name: str) -> int:
    """Where a score stands among those that belong together; before them for others."""
    return next((place for place, word in enumerate(_TOGETHER) if name.startswith(word)), -1)


def _cost(records: Sequence[Mapping[str, Any]]) -> str:
    """What evaluations took, beside training."""
    each = [_value(record.get("eval_seconds")) for record in records]
    trained = _value(records[-1].get("seconds"))
    if not all(map(math.isfinite, each)) or not trained > 0:
        return ""
    total = sum(each)
    share = f"{total / trained:.1%}".replace("%", " %")
    return f"{len(each)} evaluations took {_duration(total)} in all, {share} of the training time."


def _curves(records: Sequence[Mapping[str, Any]]) -> str:
    terms, monitors = log_series(records, "terms"), log_series(records, "monitors")
    # a discriminator's own objective bears its name, and a penalty's term that of the discriminator it is about
    discriminator = [series for series in terms if "discriminator" in series.name]
    generator = [series for series in terms if series not in discriminator]
    rates = [
        series
        for key, name in (("learning_rate", "learning rate"), ("discriminator_learning_rate", "discriminator"))
        for series in _plain_series(records, key, name)
    ]
    speed = _plain_series(records, "images_per_second", "speed")
    waiting = _plain_series(records, "waiting", "waiting for data", factor=100.0)
    charts = [
        line_chart(generator, title="Generator terms"),
        line_chart(discriminator, title="Discriminator terms"),
        *(line_chart(group, title=title) for title, group in _by_chart(monitors).items()),
        line_chart(rates, title="Learning rate", smooth=False, from_zero=True),
        line_chart(speed, title="Speed", unit="images per second", from_zero=True),
        line_chart(waiting, title="Waiting for data", unit="% of the time", from_zero=True),
    ]
    if not any(charts):
        return ""
    note = (
        '<p class="note">Lines are running means; the pale traces behind them are what was logged, '
        "with every extreme kept.</p>\n"
    )
    return f'{note}<div class="charts">\n{"".join(charts)}</div>\n'


def _by_chart(monitors: Iterable[Series]) -> dict[str, list[Series]]:
    """Title of a chart -> its curves, in the order of _MONITORS."""
    groups: dict[str, list[Series]] = {title: [] for title in _MONITORS.values()}
    for series in monitors:
        ending = max((ending for ending in _MONITORS if series.name.endswith(ending)), key=len)
        groups[_MONITORS[ending]].append(series)
    return groups


def _commands(run_dir: Path, config: Mapping[str, Any]) -> str:
    translator = TRANSLATORS.get(str(config.get("translator")))
    if translator is None:
        return ""
    model = shlex.quote(str(run_dir / "model.safetensors"))
    uses = {
        "sample": ("Make new pictures with the model:", f"img2img sample {model}"),
        "translate": ("Translate a folder of pictures with the model:", f"img2img translate {model} SOURCE TARGET"),
        "points": ("See what the model is:", f"img2img models info {model}"),
    }
    planned = _value(config.get("train", {}).get("kimg"))
    longer = f" --set train.kimg={2 * planned:g}" if math.isfinite(planned) else ""
    resume = f"img2img train {_SOURCE_OPTIONS[translator.source]} --out {shlex.quote(str(run_dir))} --resume"
    go_on = ("Train on from the last saved state, here to twice the length:", resume + longer)
    return "".join(f'<p class="note">{escape(what)}</p>{command(how)}' for what, how in (uses[translator.task], go_on))


def _settings(config: Mapping[str, Any]) -> str:
    """One small table for each section of the configuration, keys as --set takes them."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping) and key != "recipe"}
    parts = [_settings_table("", plain)] if plain else []
    parts += [_settings_table(key, dict(_flat(table))) for key, table in tables.items() if table]
    return f'<div class="settings">\n{"".join(parts)}</div>\n' if parts else ""


def _settings_table(caption: str, values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(_shown(value))}</td></tr>" for key, value in values.items())
    return f"<table>{f'<caption>{escape(caption)}</caption>' if caption else ''}<tbody>{rows}</tbody></table>\n"


# --- values ----------------------------------------------------------------------------------------------------------


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _kimg(images: object) -> str:
    return f"{_value(images) / 1000:,g}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value)


def _value(entry: object) -> float:
    """A logged number, or NaN for anything else."""
    return float(entry) if isinstance(entry, int | float) else math.nan


def _duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min, 1 h 05 min."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _waiting_share(records: Sequence[Mapping[str, Any]]) -> float:
    """Share of the training time spent waiting for data: the records' shares, each weighted with its time."""
    ends = np.array([_value(record.get("seconds")) for record in records])
    shares = np.array([_value(record.get("waiting")) for record in records])
    spans = np.diff(ends, prepend=0.0)
    good = np.isfinite(shares) & np.isfinite(spans) & (spans > 0)
    return float((shares[good] * spans[good]).sum() / spans[good].sum()) if good.any() else math.nan


def _plain_series(records: Sequence[Mapping[str, Any]], key: str, name: str, factor: float = 1.0) -> list[Series]:
    """The series of a number that stands directly in the records, or none."""
    points = [(record["images"] / 1000, factor * _value(record[key])) for record in records if key in record]
    return [Series(name, [x for x, _ in points], [y for _, y in points])] if points else []
