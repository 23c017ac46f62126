"""Models that translate into classes: styles by class and seed, by reference, in folders, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import img2img
from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.data.values import to_float
from img2img.draws import Draws
from img2img.errors import Fault, UsageFault
from img2img.inference.explore import restyle
from img2img.inference.folder import translate_file, translate_folder
from img2img.inference.model import Model
from img2img.networks import ROLES
from img2img.networks.layers import draw_latents

CLASSES = ("cat", "dog", "red fox")


def write(path: Path, **changes: Any) -> Path:
    """A tiny untrained model of three classes at 16×24."""
    torch.manual_seed(0)
    size = {"resolution": (16, 24), "width": 4, "max_width": 8}
    arguments: dict[str, tuple[str, dict[str, Any]]] = {
        "generator": ("generator", {**size, "style_dim": 6, "downsamplings": 1}),
        "generator_mapping": ("mapping", {"num_classes": 3, "style_dim": 6, "latent_dim": 4, "width": 8}),
        "generator_style_encoder": ("style_encoder", {**size, "num_classes": 3, "style_dim": 6}),
    }
    specs = {name: NetworkSpec("starganv2", values, role=role) for name, (role, values) in arguments.items()}
    modules = {name: ROLES[role]["starganv2"](**values) for name, (role, values) in arguments.items()}
    modules["generator"].to_image.weight.data.mul_(0.3)  # else most values would lie outside [-1, 1]
    info = ModelInfo(
        translator="starganv2",
        task="translate",
        networks=specs,
        directions={"a2b": "generator"},
        domains={"a": "animals", "b": "animals"},
        channels={"a": 3, "b": 3},
        classes=CLASSES,
        resolution=(16, 24),
    )
    write_model(path, modules, replace(info, **changes))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(write(tmp_path_factory.mktemp("model") / "animals.safetensors"), "cpu")


def pixels(height: int = 16, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A picture in the folder of its class, three times as large as the model sees it."""
    path = tmp_path / "pictures" / "red fox" / "one.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels(48, 72, 5)).save(path)
    return path


# --- what the style is


def test_a_class_s_style_is_the_mapping_network_s_of_the_seed_s_latent(model: Model) -> None:
    networks = model._networks
    z = draw_latents(networks["generator_mapping"], Draws(7, "style", torch.zeros(1, dtype=torch.int64)))
    style = networks["generator_mapping"](z, torch.tensor([1]))
    values = to_float(torch.from_numpy(pixels()).permute(2, 0, 1)[None])
    expected = networks["generator"](values, style).clamp(-1, 1)
    torch.testing.assert_close(model.translate(values, style="dog", seed=7), expected)
    torch.testing.assert_close(model.translate(values, style=1, seed=7), expected)


def test_a_reference_s_style_is_the_encoder_s_of_the_picture_as_training_saw_it(model: Model, reference: Path) -> None:
    small = Image.fromarray(pixels(seed=5))
    small.save(reference)
    seen = to_float(torch.from_numpy(pixels(seed=5)).permute(2, 0, 1)[None])
    values = to_float(torch.from_numpy(pixels()).permute(2, 0, 1)[None])
    networks = model._networks
    expected = networks["generator"](values, networks["generator_style_encoder"](seen, torch.tensor([2]))).clamp(-1, 1)
    torch.testing.assert_close(model.translate(values, reference=reference), expected)
    torch.testing.assert_close(model.translate(values, reference=small, style="red fox"), expected)
    other = model.translate(values, reference=reference, style="cat")
    assert not torch.allclose(other, expected)


def test_class_seed_and_reference_each_matter(model: Model, reference: Path) -> None:
    results = [
        model.translate(pixels(), **choice)
        for choice in (
            {"style": "cat"},
            {"style": "dog"},
            {"style": "cat", "seed": 1},
            {"reference": reference},
            {"reference": reference, "style": "cat"},
        )
    ]
    for index, one in enumerate(results):
        assert one.shape == (16, 24, 3)
        assert not any(np.array_equal(one, other) for other in results[:index])
    assert np.array_equal(results[0], model.translate(pixels(), style="cat", seed=0))
    assert np.array_equal(results[3], model.translate(pixels(), reference=reference, seed=9))


def test_any_size_comes_back_at_its_size(model: Model) -> None:
    for height, width in ((1, 1), (5, 40), (33, 31)):
        assert model.translate(pixels(height, width), style="dog").shape == (height, width, 3)


def test_a_model_with_a_style_takes_another(model: Model) -> None:
    again = model.with_style("dog", seed=3).with_style("cat")
    assert again.digest == model.with_style("cat").digest
    assert np.array_equal(again.translate(pixels()), model.translate(pixels(), style="cat"))


# --- folders


def fill(folder: Path) -> Path:
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(pixels(20, 30, seed)).save(folder / name)
    return folder


def test_a_folder_gets_one_style_and_knows_by_which_it_was_made(model: Model, reference: Path, tmp_path: Path) -> None:
    src, dst = fill(tmp_path / "src"), tmp_path / "dst"
    assert translate_folder(model.with_style("dog"), src, dst).translated == 3
    made = np.asarray(Image.open(dst / "b.png"))
    assert np.array_equal(made, model.translate(np.asarray(Image.open(src / "b.png")), style="dog"))
    translate_file(model.with_style("dog"), src / "b.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == (dst / "b.png").read_bytes()

    def again(styled: Model) -> tuple[int, int]:
        summary = translate_folder(styled, src, dst, skip_existing=True)
        return summary.translated, summary.existing

    assert again(model.with_style("dog")) == (0, 3)
    assert again(model.with_style(1, seed=0)) == (0, 3)
    for changed in (
        model.with_style("cat"),
        model.with_style("cat", seed=1),
        model.with_style(reference=reference),
        model.with_style("cat", reference=reference),
    ):
        assert again(changed) == (3, 0)
        assert again(changed) == (0, 3)
    # the reference counts by what is seen in it, not by its name
    moved = reference.with_name("other.png")
    reference.rename(moved)
    assert again(model.with_style("cat", reference=moved)) == (0, 3)
    Image.fromarray(pixels(48, 72, 6)).save(moved)
    assert again(model.with_style("cat", reference=moved)) == (3, 0)


# --- sheets


def test_a_sheet_has_every_source_in_every_style(model: Model, reference: Path, tmp_path: Path) -> None:
    sources = sorted(fill(tmp_path / "src").iterdir())[:2]
    second = reference.parent.with_name("cat") / "two.png"
    second.parent.mkdir()
    Image.fromarray(pixels(16, 24, 8)).save(second)
    table = restyle(model, sources, [reference, second])
    assert [len(row) for row in table] == [3, 3, 3]
    assert (table[0][0] == 255).all()
    assert np.array_equal(table[2][0], pixels(16, 24, 8))
    for row, label, style in ((1, "red fox", reference), (2, "cat", second)):
        for column in (1, 2):
            expected = model.translate(table[0][column], style=label, reference=style)
            assert np.array_equal(table[row][column], expected)
    assert np.array_equal(restyle(model, sources, [second], "dog")[1][1], model.translate(
        table[0][1], style="dog", reference=second
    ))  # fmt: skip


# --- refusals


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            {},
            r"^--style: .*animals\.safetensors translates into one of cat, dog, red fox\. Give --style CLASS, or --ref",
        ),
        ({"style": "dgo"}, r"^--style: .* has no class dgo\. Did you mean dog\?"),
        ({"style": "unicorn"}, r"^--style: .* has no class unicorn\. Its classes: cat, dog, red fox"),
        ({"style": "7"}, r"^--style: .* has classes 0 to 2, not 7"),
        ({"style": "any"}, r"^--style: .* has no class any"),
        ({"reference": "no such.png"}, r"^--reference: no such\.png: there is no such file\. Give the path of a pict"),
        ({"reference": "."}, r"^--reference: \.: is a folder"),
        ({"style": "dog", "direction": "b2a"}, r"^--direction: .* has no b2a"),
    ],
)
def test_refusals(model: Model, choice: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageFault, match=words):
        model.translate(pixels(), **choice)


def test_a_reference_of_no_known_class_is_refused(model: Model, reference: Path, tmp_path: Path) -> None:
    moved = tmp_path / "one.png"
    reference.rename(moved)
    with pytest.raises(
        UsageFault, match=r"one\.png does not say of which class it is\. Give --style, one of cat, dog, "
    ):
        model.translate(pixels(), reference=moved)
    with pytest.raises(UsageFault, match=r"^--reference: .* does not say of which class"):
        model.translate(pixels(), reference=Image.open(moved))


def test_a_reference_that_is_no_picture_is_named(model: Model, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(Fault, match=r"broken\.png"):
        model.translate(pixels(), reference=broken, style="cat")


def test_a_folder_without_a_style_is_refused_before_anything_is_made(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match=r"^--style: "):
        translate_folder(model, fill(tmp_path / "src"), tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_models_without_styles_say_so(model_files: dict[str, Path]) -> None:
    with pytest.raises(UsageFault, match=r"^--style: .*has no styles, it translates photos → drawings\. Leave --style"):
        Model.load(model_files["pix2pix"], "cpu").translate(pixels(), style="cat")
    with pytest.raises(
        UsageFault, match=r"^--reference: .*has no styles, it translates photos → drawings and drawings"
    ):
        Model.load(model_files["cyclegan"], "cpu").translate(pixels(), reference="x.png")
    with pytest.raises(UsageFault, match="Use img2img sample"):
        Model.load(model_files["cgan"], "cpu").translate(pixels(), style="cat")


def test_measuring_a_model_of_styles_says_what_to_do(model: Model, tmp_path: Path) -> None:
    src = fill(tmp_path / "src")
    with pytest.raises(UsageFault, match=r"^--model: .* nobody says which\. Translate with img2img translate --style"):
        img2img.evaluate(src, model=model.path, source=src)


def test_a_made_up_description_is_refused(tmp_path: Path) -> None:
    for changes in ({"classes": ()}, {"classes": ("cat", "dog")}, {"resolution": (32, 48)}):
        with pytest.raises(Fault, match="does not fit its networks"):
            Model.load(write(tmp_path / "model.safetensors", **changes), "cpu")
