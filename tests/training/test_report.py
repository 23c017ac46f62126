"""The training report: self-contained, escaped, complete, and the same for the same folder."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.training.page import embed
from img2img.training.report import read_log, read_snapshots, write_report

CONFIG = """translator = "conditional"
[data]
resolution = [32, 32]
[loss.penalties.r1]
weight = 0.1
[train]
kimg = 10.0
[recipe]
name = "cgan-small"
title = "Small"
"""
VOID = {"meta", "link", "img", "input", "path", "br"}


class Page(HTMLParser):
    """Elements, text outside of script and style, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def make_run(folder: Path, *, num_snapshots: int = 5, rows: tuple[str, ...] = ("input", "output")) -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG, "utf-8")
    (folder / "samples" / "rows.json").write_text(json.dumps({"rows": rows}), "utf-8")
    rng = np.random.default_rng(0)
    for index in range(num_snapshots):
        pixels = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "samples" / f"{index * 500:09d}.png")
    lines = [
        json.dumps(
            {
                "images": 100 * step,
                "step": step,
                "seconds": 2.0 * step,
                "terms": {"discriminator": 1.0 / step, "generator": 1.0},
                "monitors": {"discriminator_on_real": 0.5, "generator_gradient_norm": float(step)},
                "learning_rate": 2e-4,
                "images_per_second": 50.0,
                "waiting": 0.15,
            }
        )
        for step in range(1, 41)
    ]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "model.safetensors").write_bytes(b"0" * 1_500_000)
    return folder


def assert_self_contained(text: str) -> None:
    for tag, attributes in Page(text).elements:
        for name in ("src", "href", "srcset", "poster", "action", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest|WebSocket|import\(", text)


def test_report_is_self_contained_and_well_formed(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path / "run"))
    assert path == tmp_path / "run" / "report.html"
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert_self_contained(text)
    policy = next(value for tag, value in page.elements if value.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")
    assert page.count("figure") == 7


def test_report_states_the_figures(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path / "run")).read_text("utf-8")).text
    for expected in ("4,000", "80 s", "15.0 %", "1.5 MB", "40.0 % of 10,000 images", "penalties.r1.weight", "32, 32"):
        assert expected in text
    assert "img2img sample" in text
    assert "img2img train --classes FOLDER --out" in text
    assert "--resume --set train.kimg=20" in text


def watch_in_vain(run: Path, colour_correlation: float, until: int = 40) -> None:
    """Add to the log what is watched of a translator, wrong in its first `until` lines."""
    path = run / "log.jsonl"
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for number, record in enumerate(records):
        seen = colour_correlation if number < until else 0.5
        record["monitors"] |= {"a2b_diversity": 0.9, "a2b_colour_correlation": seen}
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def test_faults_stand_before_the_samples_with_the_key_to_change(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    watch_in_vain(run, -0.6)
    (run / "config.toml").write_text(CONFIG + "[loss]\nidentity = 5.0\ncycle = 10.0\n", "utf-8")
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert_self_contained(text)
    assert page.text.index("Colour inversion (a2b)") < page.text.index("Samples")
    assert "outputs correlate −0.60 with inputs, from 0.9 kimg on" in page.text
    assert "--set loss.identity=10" in page.text


def test_a_fault_that_went_away_is_told_as_such(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    watch_in_vain(run, -0.9, until=20)
    assert "from 0.9 to 2.2 kimg, not any more" in Page(write_report(run).read_text("utf-8")).text


def test_without_a_fault_what_was_watched_is_named_of_translators_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Faults" not in Page(write_report(run).read_text("utf-8")).text
    watch_in_vain(run, 0.5)
    text = Page(write_report(run).read_text("utf-8")).text
    names = "colour inversion, outputs alike, no gradient, waiting for pictures, non-finite steps"
    assert f"None was seen of those that are watched: {names}." in text


def test_the_size_is_the_run_s_own_not_the_recipe_s(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for title, shown in (
        ("Pairs, 128 x 128, on a laptop CPU", "Pairs, 48 x 32, on a laptop CPU"),
        ("Growing, 8 x 8 to 128 x 128", "Growing, 8 x 8 to 48 x 32"),
        ("Small", "Small"),
    ):
        config = CONFIG.replace("Small", title).replace("[32, 32]", "[32, 48]")
        (run / "config.toml").write_text(config, "utf-8")
        assert f"{shown}." in Page(write_report(run).read_text("utf-8")).text


def test_returns_and_the_end_of_a_run_are_told_and_the_lines_given_up_are_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    back = {
        "images": 1000,
        "step": 10,
        "seconds": 80.0,
        "from_images": 4000,
        "rate_factor": 0.5,
        "rollback": "a <fault>",
    }
    again = [json.dumps(json.loads(line) | {"monitors": {"again": 1.0}}) for line in lines[10:20]]
    end = json.dumps({"images": 2050, "step": 21, "seconds": 90.0, "ended": "diverged"})
    (run / "log.jsonl").write_text("\n".join([*lines, json.dumps(back), *again, end]), "utf-8")
    records = read_log(run / "log.jsonl")
    assert [record["images"] for record in records] == [*range(100, 1100, 100), 1000, *range(1100, 2100, 100), 2050]
    text = Page(write_report(run).read_text("utf-8")).text
    assert "Went back from 4 to 1 kimg, and on at 0.5 of the learning rates: a <fault>." in text
    assert "Ended at 2.05 kimg: diverged." in text


def test_every_monitor_is_in_its_chart(tmp_path: Path) -> None:
    """Signs, whose names end like those of outputs, have a chart of their own, and so have the two kinds of norms."""
    charts = {
        "Discriminator outputs": ("discriminator on real", "discriminator b on fake"),
        "Signs of the discriminator outputs": ("discriminator sign on real", "discriminator b sign on fake"),
        "The critic's distance": ("discriminator critic distance",),
        "Convergence measure": ("discriminator convergence",),
        "Control variable": ("discriminator control",),
        "Probability of augmentation": ("discriminator augment p",),
        "Signs on real images that move it": ("discriminator augment sign",),
        "Gradient norms": ("generator gradient norm", "discriminator gradient norm"),
        "Largest singular values": ("generator ab spectral norm", "discriminator spectral norm"),
        "Monitors": ("something else",),
    }
    run = make_run(tmp_path / "run")
    names = [name.replace(" ", "_") for chart in charts.values() for name in chart]
    lines = [json.dumps({"images": 100 * step, "monitors": dict.fromkeys(names, float(step))}) for step in (1, 2, 3)]
    (run / "log.jsonl").write_text("\n".join(lines), "utf-8")
    text = write_report(run).read_text("utf-8")
    drawn = re.findall(r"<figure.*?</figure>", text[text.index("Curves") :], re.DOTALL)
    assert len(drawn) == len(charts)
    for figure, (title, monitors) in zip(drawn, charts.items()):
        words = Page(figure).text
        assert title in words
        assert [name for chart in charts.values() for name in chart if name in words] == list(monitors)


def add_measures(run: Path, best_at: int) -> None:
    """Evaluations at 1, 2, 3 and 4 kimg in the log of a run."""
    lines = []
    for line in (run / "log.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        if record["images"] % 1000 == 0:
            share = record["images"] / 5000
            record["measures"] = {
                "FD-X a2b": 100 * share,
                "FD-X b2a": 20.0,
                "coverage-X a2b": share,
                "recall-X a2b": 0.5,
            }
            record["better"] = {
                "FD-X a2b": "lower",
                "FD-X b2a": "lower",
                "coverage-X a2b": "higher",
                "recall-X a2b": "higher",
            }
            record |= {"best_images": best_at, "eval_seconds": 5.0}
        lines.append(json.dumps(record, sort_keys=True))
    (run / "log.jsonl").write_text("\n".join(lines), "utf-8")


def test_measures_are_a_table_and_curves_with_the_best_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Measures" not in Page(write_report(run).read_text("utf-8")).text
    add_measures(run, best_at=2000)
    text = write_report(run).read_text("utf-8")
    part = re.findall(r"<section>.*?</section>", text, re.DOTALL)[1]
    assert_self_contained(text)
    figures = re.findall(r"<figure.*?</figure>", part, re.DOTALL)
    titles = ["FD-X lower is better", "Precision, recall, density, coverage higher is better"]
    assert [title in Page(figure).text for figure, title in zip(figures, titles, strict=True)] == [True, True]
    # one ring for each curve in each plot, at 2 of 4 kimg
    rings = [value for tag, value in Page(part).elements if (value.get("class") or "").startswith("ring")]
    assert len(rings) == part.count('class="line')
    assert all((ring["style"] or "").startswith("left:50.00%") for ring in rings)
    rows = re.findall(r"<tr>(.*?)</tr>", part)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["", "best, at 2 kimg", "last, at 4 kimg", "better is"],
        ["FD-X a2b", "40", "80", "lower"],
        ["FD-X b2a", "20", "20", "lower"],
        ["recall-X a2b", "0.5", "0.5", "higher"],
        ["coverage-X a2b", "0.4", "0.8", "higher"],
    ]
    # 4 times 5 s beside 80 s of training
    assert "4 evaluations took 20 s in all, 25.0 % of the training time." in Page(part).text


@pytest.mark.parametrize("best_at", [4000, 0])
def test_measures_without_another_best_have_one_column(tmp_path: Path, best_at: int) -> None:
    run = make_run(tmp_path / "run")
    add_measures(run, best_at)
    text = write_report(run).read_text("utf-8")
    assert ("best and last, at 4 kimg" in text, "last, at 4 kimg" in text) == (best_at == 4000, True)
    assert ("Rings mark" in text) is (best_at == 4000)


def test_odd_measures_do_no_harm(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"images": 5000, "measures": {"<b>": NaN, "x": null}, "better": 3, "best_images": "y"}\n')
    page = Page(write_report(run).read_text("utf-8"))
    assert page.count("b") == 0
    assert "not finite" in page.text


def test_points_are_trained_on_with_their_world(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.toml").write_text('translator = "points"\n', "utf-8")
    text = Page(write_report(run).read_text("utf-8")).text
    assert "img2img train --world NAME --out" in text
    assert "img2img models info" in text
    assert "img2img sample" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = '"><img onerror=alert(1) src=x>'
    run = make_run(tmp_path / f"run {evil.replace('/', '')}", rows=("<script>alert(1)</script>", evil))
    config = CONFIG.replace('"Small"', json.dumps("</title><script>alert(2)</script>"))
    (run / "config.toml").write_text(config + '["<b>"]\n"<i>" = "<u>"\n', "utf-8")
    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"images": 9000, "seconds": 90.0, "terms": {evil: 1.0, "\x1b[31m\ud800": 2.0}}) + "\n")
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    assert_self_contained(text)
    assert page.count("script") == 1
    assert not {"b", "u"} & {tag for tag, _ in page.elements}
    assert page.count("img") == 5
    assert "<script>alert(1)</script>" in page.text
    assert evil in page.text
    assert "\\x1b[31m" in page.text


def test_slider_has_every_frame_and_at_most_24(tmp_path: Path) -> None:
    for num_snapshots, shown in ((1, 1), (5, 5), (24, 24), (60, 24)):
        run = make_run(tmp_path / f"run{num_snapshots}", num_snapshots=num_snapshots)
        elements = Page(write_report(run).read_text("utf-8")).elements
        labels = [value["data-label"] for tag, value in elements if tag == "img"]
        assert len(labels) == len(set(labels)) == shown
        assert labels[0] == "0 kimg"
        assert labels[-1] == f"{(num_snapshots - 1) / 2:g} kimg"
        sliders = [value for tag, value in elements if tag == "input"]
        assert [slider["max"] for slider in sliders] == ([str(shown - 1)] if shown > 1 else [])


def test_grids_stay_within_their_budget(tmp_path: Path) -> None:
    samples = make_run(tmp_path / "run", num_snapshots=6) / "samples"
    full = read_snapshots(samples)
    assert {picture.width for _, picture in full} == {128}
    small = read_snapshots(samples, budget=20_000)
    assert sum(len(picture.uri) for _, picture in small) <= 20_000
    assert len(small) == 6


def test_pictures_of_noise_can_be_shown() -> None:
    """As an untrained network without tanh makes them: clipped at both ends, more bytes than pixels."""
    noise = np.random.default_rng(0).integers(0, 2, (466, 288, 3), np.uint8) * 255
    picture = embed(Image.fromarray(noise))
    assert len(picture.uri) > 466 * 288
    assert (picture.width, picture.height) == (288, 466)


@pytest.mark.parametrize("ending", ['{"images": 41', '{"images": "x"}', "[1]", "\x00\xff", "{}", '{"images": 41e400}'])
def test_bad_last_line_is_passed_over(tmp_path: Path, ending: str) -> None:
    run = make_run(tmp_path / "run")
    before = read_log(run / "log.jsonl")
    with (run / "log.jsonl").open("a", encoding="latin-1") as log:
        log.write(ending)
    assert read_log(run / "log.jsonl") == before
    write_report(run)


def test_records_after_the_last_state_are_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"images": n, "step": s}) + "\n" for s, n in enumerate((10, 20, 30, 20, 25, 30))))
    assert [(record["images"], record["step"]) for record in read_log(log)] == [(10, 0), (20, 3), (25, 4), (30, 5)]


def test_odd_values_and_a_damaged_grid_do_no_harm(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "samples" / "000009999.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    (run / "samples" / "rows.json").write_text("[1", "utf-8")
    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"images": 5000, "seconds": null, "terms": {"generator": NaN, "new": null}, "monitors": 3}\n')
    page = Page(write_report(run).read_text("utf-8"))
    assert page.count("img") == 5


def test_empty_run_folder_has_a_report(tmp_path: Path) -> None:
    text = write_report(tmp_path).read_text("utf-8")
    assert "Nothing has been logged yet" in text
    assert_self_contained(text)


def test_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]
