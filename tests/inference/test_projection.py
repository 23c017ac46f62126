"""Projection: what a generator made is found again, latents stay where the prior has them, files say what they are."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from torchvision import models

from img2img.data.decode import open_image
from img2img.data.resize import to_tensor
from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.inference.latents import Codes, LatentSpace
from img2img.inference.model import Model
from img2img.inference.projection import (
    Projection,
    Projector,
    open_distance,
    picture_of,
    prepare_target,
    rate_at,
    read_latent,
    usual_lengths,
    write_latent,
)


def target_of(model: Model, number: int, label: str | None = None) -> Tensor:
    """A sample without noise as a picture to project."""
    space = LatentSpace(model, seed=8, label=label)
    codes = space.codes([number])
    return to_tensor(next(space.pixels(Codes(codes.values, codes.labels, None))))


def project(model: Model, target: Tensor, steps: int = 1, **options: Any) -> Projection:
    return Projector(model, target, **options).run(steps)


def test_a_sample_is_found_again_in_w(styles: Callable[..., Model]) -> None:
    model = styles(3)
    for number, label in ((0, "owl"), (1, "cat")):
        found = project(model, target_of(model, number, label), steps=150, label=label)
        # the generator's pictures are affine in w, so nothing but rounding to levels is in the way
        assert found.distance < 0.6
        assert found.sample_distance > 4 * found.distance
        assert found.latent.values.shape == (5,)
        assert found.latent.label == ("cat", "dog", "owl").index(label)
        assert np.array_equal(picture_of(model, found.latent), found.pixels)
        assert np.array_equal(found.frames[-1], found.pixels)


def test_values_beyond_the_range_do_not_mislead(styles: Callable[..., Model]) -> None:
    model = styles()
    model.generator().rows.mul_(8)  # type: ignore[attr-defined]
    target = target_of(model, 0)
    clipped = ((target == 0) | (target == 255)).double().mean()
    assert 0.1 < clipped < 0.6
    # where the target is at an end, values beyond it are as good: else they would pull the rest away
    assert project(model, target, steps=150).distance < 1.5


def test_a_sample_of_stylegan2_is_found_again(model_files: dict[str, Path]) -> None:
    model = Model.load(model_files["stylegan2"], "cpu")
    found = project(model, target_of(model, 0, "dog"), steps=250, label="dog")
    assert found.distance < found.sample_distance / 4


def test_w_plus_reaches_what_w_does_not(styles: Callable[..., Model]) -> None:
    model = styles()
    space = LatentSpace(model, seed=8)
    mixed = space.codes([0]).values[:, None].repeat(1, 8, 1)
    mixed[:, 4:] = space.codes([1]).values
    target = to_tensor(next(space.pixels(Codes(mixed, None, None))))
    one, layered = (project(model, target, space=name, steps=200) for name in ("w", "w+"))
    assert layered.distance < 0.6
    assert one.distance > 2 * layered.distance
    assert layered.latent.values.shape == (8, 5)


@pytest.mark.parametrize(("kind", "label"), [("dcgan", None), ("cgan", "dog")])
def test_a_sample_is_found_again_in_z(kind: str, label: str | None, model_files: dict[str, Path]) -> None:
    model = Model.load(model_files[kind], "cpu")
    found = project(model, target_of(model, 3, label), label=label, steps=200)
    assert found.distance < found.sample_distance / 4
    assert found.latent.space == "z"
    low, high = usual_lengths(8)
    assert low * (1 - 1e-6) <= found.latent.values.norm() <= high * (1 + 1e-6)
    again = project(model, target_of(model, 3, label), label=label, steps=200)
    assert torch.equal(again.latent.values, found.latent.values)


def test_lengths_are_those_of_99_latents_in_a_hundred() -> None:
    for dim in (8, 100, 512):
        lengths = Draws(0, "test", torch.arange(20_000)).normal(dim).norm(dim=1)
        low, high = usual_lengths(dim)
        for share in ((lengths < low).double().mean(), (lengths > high).double().mean()):
            # of 20,000, with a standard error of 0.0005, and the approximation is off by little more in 8 dimensions
            assert share.item() == pytest.approx(0.005, abs=0.003)


def test_the_rate_rises_and_falls() -> None:
    assert rate_at(0) == 0
    assert rate_at(0.025) == pytest.approx(0.5)
    assert rate_at(0.05) == rate_at(0.5) == rate_at(0.75) == 1
    assert rate_at(0.875) == pytest.approx(0.5)
    assert rate_at(1) == pytest.approx(0)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = models.squeezenet1_0(weights=None).state_dict()
    safetensors.torch.save_file(state, path, {"input": "RGB in [-1, 1]"})
    return path


def test_a_network_that_looks_pulls_too(squeezenet: Path, styles: Callable[..., Model]) -> None:
    model = styles(num_styles=32)
    eye = open_distance(None, squeezenet, torch.device("cpu"))
    assert eye is not None
    target = target_of(model, 2)
    found = project(model, target, steps=2, perceptual=eye)
    goal = target[None].float() / 127.5 - 1
    (image,) = LatentSpace(model).images(Codes(found.latent.values[None], None, None))
    assert found.perceptual == pytest.approx(eye(image, goal).item(), rel=1e-3)
    images = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(eye.distance(images, goal).sum(), images)
    assert gradient.abs().max() > 0
    with pytest.raises(UsageFault, match="needs sides of 21 pixels"):
        project(styles(), target_of(styles(), 0), perceptual=eye)


def test_networks_by_name(squeezenet: Path, weights_store: Path) -> None:
    cpu = torch.device("cpu")
    assert open_distance(None, None, cpu) is None
    with pytest.raises(UsageFault, match="Did you mean vgg16"):
        open_distance("vgg", None, cpu)
    with pytest.raises(UsageFault, match="weights are not here"):
        open_distance("vgg16", None, cpu)
    with pytest.raises(UsageFault, match="does not fit vgg16"):
        open_distance("vgg16", squeezenet, cpu)


def test_pictures_are_brought_to_size_and_mode(
    model_files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for mode in ("RGB", "L", "RGBA", "P", "CMYK", "I;16"):
        path = tmp_path / f"{mode[:2]}.tif"
        Image.new(mode, (40, 20)).save(path)
        for kind, channels in (("dcgan", 3), ("cgan", 1)):
            model = Model.load(model_files[kind], "cpu")
            assert prepare_target(model, open_image(path), path).shape == (channels, 16, 16)
    assert "40 × 20 is cropped and resized to 16 × 16" in caplog.text
    with pytest.raises(UsageFault, match="translate"):
        prepare_target(Model.load(model_files["pix2pix"], "cpu"), open_image(path), path)


def test_spaces_that_are_not_there(styles: Callable[..., Model], model_files: dict[str, Path]) -> None:
    model = Model.load(model_files["dcgan"], "cpu")
    with pytest.raises(UsageFault, match=r"not projected into w\+\. Use z"):
        project(model, target_of(model, 0), space="w+")
    with pytest.raises(UsageFault, match=r"not projected into z\. Use w or w\+"):
        project(styles(), target_of(styles(), 0), space="z")


def test_latents_as_files(model_files: dict[str, Path], tmp_path: Path) -> None:
    model = Model.load(model_files["cgan"], "cpu")
    found = project(model, target_of(model, 0), steps=3)
    path = tmp_path / "latent.safetensors"
    write_latent(path, found.latent)
    back = read_latent(path, model)
    assert (back.space, back.label, back.model) == (found.latent.space, found.latent.label, found.latent.model)
    assert torch.equal(back.values, found.latent.values)
    assert np.array_equal(picture_of(model, back), found.pixels)
    with pytest.raises(UsageFault, match="latent of another model"):
        read_latent(path, Model.load(model_files["dcgan"], "cpu"))
    with pytest.raises(UsageFault, match="holds no latent"):
        read_latent(model_files["cgan"], model)
    with pytest.raises(UsageFault, match="no such file"):
        read_latent(tmp_path / "none", model)
    changes: list[dict[str, Any]] = [
        {"space": "w"},
        {"label": 3},
        {"label": None},
        {"values": torch.zeros(7)},
        {"values": torch.full((8,), math.nan)},
    ]
    for change in changes:
        write_latent(path, type(found.latent)(**{**vars(found.latent), **change}))
        with pytest.raises(UsageFault, match="does not fit its model"):
            read_latent(path, model)


def test_from_python(model_files: dict[str, Path], tmp_path: Path) -> None:
    model = Model.load(model_files["cgan"], "cpu")
    first, second = (model.sample(2, label=0)[number] for number in (0, 1))
    way = model.interpolate(0, 1, steps=3)
    assert len(way) == 4
    for place, expected in ((0, first), (3, second)):
        assert np.abs(np.asarray(way[place]).astype(int) - np.asarray(expected)).max() <= 1
    second.save(tmp_path / "picture.png")
    results = [model.project(image, label=0, steps=20) for image in (second, tmp_path / "picture.png")]
    assert results[0].image.tobytes() == results[1].image.tobytes()
    assert results[0].image.mode == "L"
