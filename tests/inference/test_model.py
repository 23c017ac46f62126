"""Model: pixels in and out, sizes, scales, directions, memory, samples."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.data.values import to_uint8, to_uint16
from img2img.errors import Fault, ImageFault, UsageFault
from img2img.inference import model as model_module
from img2img.inference.memory import OutOfMemory
from img2img.inference.model import Model, pad_to, parse_scale
from img2img.networks import GENERATORS

Build = Callable[..., Model]


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


# --- pixels ---


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 3), (8, 8), (13, 30), (3, 200)])
def test_identity_network_gives_back_every_pixel(pointwise: Build, height: int, width: int) -> None:
    pixels = noise(height, width, 3)
    assert np.array_equal(pointwise().translate(pixels), pixels)


def test_negation(pointwise: Build) -> None:
    pixels = noise(5, 6, 3)
    assert np.array_equal(pointwise(factor=-1.0).translate(pixels), 255 - pixels)


def test_grey_of_16_bits_stays_so_where_the_model_makes_grey(pointwise: Build) -> None:
    pixels = noise(9, 11, dtype=np.uint16)
    assert np.array_equal(pointwise(1, 1).translate(pixels), pixels)
    colour = pointwise(3, 3).translate(pixels)
    assert colour.dtype == np.uint8
    assert colour.shape == (9, 11, 3)
    assert np.abs(colour[..., 0] * 257.0 - pixels).max() <= 128.5


def test_opacity_is_kept_and_colour_composited(pointwise: Build) -> None:
    pixels = noise(10, 12, 4)
    pixels[..., 3] = np.where(noise(10, 12) < 100, 0, 255)
    result = pointwise().translate(pixels)
    assert np.array_equal(result[..., 3], pixels[..., 3])
    opaque = pixels[..., 3] == 255
    assert np.array_equal(result[opaque], pixels[opaque])


def test_a_model_of_four_channels_makes_opacity_itself(pointwise: Build) -> None:
    pixels = noise(10, 12, 4)
    assert np.array_equal(pointwise(4, 4, factor=-1.0).translate(pixels), 255 - pixels)
    assert np.array_equal(pointwise(3, 4).translate(noise(4, 4, 3))[..., 3], noise(4, 4, 3)[..., 0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "RGBa"])
def test_pil_image_of_any_mode(pointwise: Build, mode: str) -> None:
    base = Image.fromarray(noise(9, 7, 3))
    image = Image.fromarray(noise(9, 7, dtype=np.uint16)) if mode == "I;16" else base.convert("RGBA").convert(mode)
    result = pointwise().translate(image)
    assert result.size == image.size
    if mode in ("RGB", "L"):
        assert np.array_equal(np.asarray(result), np.asarray(image.convert("RGB")))


def test_pil_orientation_is_applied(pointwise: Build) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(9, 7, 3)).save(file, "PNG", exif=exif)
    assert pointwise().translate(Image.open(file)).size == (9, 7)


def test_path_and_pil_and_array_agree(pointwise: Build, tmp_path: Path) -> None:
    pixels = noise(12, 10, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = pointwise(factor=-0.5)
    expected = model.translate(pixels)
    assert np.array_equal(np.asarray(model.translate(tmp_path / "a.png")), expected)
    assert np.array_equal(np.asarray(model.translate(Image.fromarray(pixels))), expected)


def test_float_tensor_stays_float(pointwise: Build) -> None:
    images = torch.rand(2, 3, 9, 5) * 2 - 1
    model = pointwise(factor=0.3)
    assert torch.allclose(model.translate(images), 0.3 * images)
    assert torch.allclose(model.translate(images[0]), 0.3 * images[0])
    with pytest.raises(UsageFault, match=r"Give floats in \[-1, 1\] of shape \(3, H, W\)"):
        model.translate(torch.rand(1, 9, 5))


def test_arrays_of_other_kinds_are_refused(pointwise: Build) -> None:
    for array in (np.zeros((4, 4), np.float32), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint16)):
        with pytest.raises(UsageFault, match="Give"):
            pointwise().translate(array)


def test_quantisation_rounds_half_to_even_and_clamps() -> None:
    # 0 is 127.5 levels, which halves to the even 128
    values = torch.tensor([-2.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 0.0, 1.0, 3.0])
    assert to_uint8(values.reshape(1, 1, -1)).ravel().tolist() == [0, 0, 0, 1, 128, 255, 255]
    deep = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 1, -1)
    assert to_uint16(deep).ravel().tolist() == [0, 0, 32768, 65535, 65535]


def test_a_result_that_is_not_a_number_is_an_error(pointwise: Build) -> None:
    with pytest.raises(ImageFault, match="not a number"):
        pointwise(factor=float("nan")).translate(noise(8, 8, 3))


# --- sizes and scales ---


def test_padding_reflects_where_it_can_and_repeats_the_edge_elsewhere() -> None:
    images = torch.arange(6.0).reshape(1, 1, 2, 3)
    padded, top, left = pad_to(images, stride=4, smallest=4)
    assert padded.shape == (1, 1, 4, 4)
    assert (top, left) == (1, 0)
    assert torch.equal(padded, functional.pad(images, (0, 1, 1, 1), mode="reflect"))
    tiny, top, left = pad_to(images[..., :1, :1], stride=4, smallest=8)
    assert torch.equal(tiny, torch.zeros(1, 1, 8, 8))
    assert (top, left) == (3, 3)


@pytest.mark.parametrize(
    ("size", "scale", "fit", "expected"),
    [
        ((64, 96), "native", "crop", (64, 96)),
        ((64, 96), "trained", "crop", (32, 48)),
        ((96, 64), "trained", "crop", (48, 32)),
        ((16, 8), "trained", "crop", (64, 32)),
        ((64, 96), "trained", "stretch", (32, 32)),
        ((64, 96), 0.25, "crop", (16, 24)),
        ((3, 3), 0.01, "crop", (1, 1)),
        ((64, 96), "auto", "crop", (64, 96)),
    ],
)
def test_working_size(
    pointwise: Build, size: tuple[int, int], scale: model_module.Scale, fit: str, expected: tuple[int, int]
) -> None:
    assert pointwise(fit=fit).working_size(size, "a2b", scale) == expected


def test_networks_bound_to_their_size_default_to_the_trained_scale(pointwise: Build) -> None:
    assert pointwise(fixed_scale=True).working_size((64, 96), "a2b") == (32, 48)


def test_a_strip_does_not_explode_at_the_trained_scale(pointwise: Build) -> None:
    height, width = pointwise(resolution=(256, 256)).working_size((3, 4000), "a2b", "trained")
    assert height * width < 10 * 256 * 256
    assert width / height == pytest.approx(4000 / 3, rel=0.05)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "big", ""])
def test_parse_scale_refuses(text: str) -> None:
    with pytest.raises(UsageFault, match="auto, trained, native or a factor"):
        parse_scale(text)


def test_warning_above_twice_the_trained_scale(pointwise: Build, caplog: pytest.LogCaptureFixture) -> None:
    pointwise().translate(noise(64, 64, 3))
    pointwise().translate(noise(200, 200, 3), scale=1.0)
    assert not caplog.records
    pointwise().translate(noise(65, 65, 3))
    assert "2.0 times the scale" in caplog.text


# starganv2, whose translations have a style, is in test_styling.py
NARROW: dict[str, dict[str, Any]] = {
    "coarse_to_fine": {"width": 4, "blocks": 1, "local_blocks": 1, "downsamplings": 2},
    "resnet": {"width": 4, "blocks": 1},
    "spade": {"width": 4, "hidden": 4, "downsamplings": 2, "palette": ("#000000", "#ff0000", "#0000ff")},
    "stylegan2_resnet": {"widths": (4, 4, 4), "blocks": 1},
    "unet": {"width": 4, "depth": 4},
}


def test_every_generator_of_pictures_from_pictures_is_here() -> None:
    of_pictures = {name for name, kind in GENERATORS.items() if "in_channels" in inspect.signature(kind).parameters}
    assert set(NARROW) | {"starganv2"} == of_pictures


@pytest.fixture(scope="module", params=NARROW)
def narrow(request: pytest.FixtureRequest) -> Model:
    """A model of every architecture that translates."""
    info = ModelInfo(
        translator="pix2pix",
        task="translate",
        networks={"generator": NetworkSpec(request.param, NARROW[request.param])},
        directions={"a2b": "generator"},
        domains={"a": "photos", "b": "drawings"},
        channels={"a": 3, "b": 3},
        resolution=(32, 32),
    )
    return Model(info, {"generator": GENERATORS[request.param](**NARROW[request.param]).eval()}, digest=request.param)


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
@example(height=1, width=1)
@example(height=1, width=70)
@example(height=70, width=1)
def test_any_size_comes_back_at_its_size(narrow: Model, height: int, width: int) -> None:
    """PROMISES C11, C12."""
    for scale in ("auto", "native"):
        assert narrow.translate(noise(height, width, 3), scale=scale).shape == (height, width, 3)


# --- batches, memory ---


@pytest.mark.parametrize("kind", ["cyclegan", "pix2pix"])
def test_a_result_does_not_depend_on_its_batch(model_files: dict[str, Path], kind: str) -> None:
    model = Model.load(model_files[kind], "cpu")
    values = torch.rand(5, 3, 20, 28) * 2 - 1
    together = model.run_each(values, "a2b", seed=3)
    for index, result in enumerate(together):
        (alone,) = model.run_each(values[index : index + 1], "a2b", seed=3)
        assert torch.allclose(result, alone, atol=1e-5)


def test_dropout_at_test_depends_on_the_seed_alone(model_files: dict[str, Path]) -> None:
    model = Model.load(model_files["pix2pix"], "cpu")
    pixels = noise(32, 32, 3)
    first = model.translate(pixels, seed=1)
    assert np.array_equal(model.translate(pixels, seed=1), first)
    assert not np.array_equal(model.translate(pixels, seed=2), first)


def test_out_of_memory_halves_the_batch(pointwise: Build) -> None:
    model = pointwise(factor=0.5, pixel_limit=2 * 8 * 8)
    values = torch.rand(5, 3, 8, 8)
    results = model.run_each(values, "a2b")
    assert all(torch.equal(result, 0.5 * value) for result, value in zip(results, values))
    results = model.run_each(torch.rand(2, 3, 16, 16), "a2b")
    assert all(isinstance(result, OutOfMemory) for result in results)
    with pytest.raises(ImageFault, match=r"16 × 16 pixels need more memory.*--scale trained"):
        model.translate(noise(16, 16, 3))


def test_a_picture_that_would_not_fit_is_not_tried(pointwise: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "_VALUES_WORTH_ASKING", 0)
    monkeypatch.setattr(model_module, "available_bytes", lambda device: 3 * 8 * 8 * 4)
    monkeypatch.setattr(model_module, "activation_bytes", lambda network, images: images.numel() * 4)
    model = pointwise()
    (result,) = model.run_each(torch.rand(1, 3, 16, 16), "a2b")
    assert isinstance(result, OutOfMemory)
    assert isinstance(model.run_each(torch.rand(1, 3, 8, 8), "a2b")[0], torch.Tensor)


# --- directions, files ---


def test_directions(model_files: dict[str, Path]) -> None:
    both = Model.load(model_files["cyclegan"], "cpu")
    assert both.direction() == "a2b"
    assert both.direction("b2a") == "b2a"
    pixels = noise(16, 16, 3)
    assert not np.array_equal(both.translate(pixels), both.translate(pixels, direction="b2a"))
    with pytest.raises(UsageFault, match=r"has no b2a, only a2b \(photos → drawings\)"):
        Model.load(model_files["pix2pix"], "cpu").direction("b2a")


def test_task_is_checked_both_ways(model_files: dict[str, Path]) -> None:
    with pytest.raises(UsageFault, match="Use img2img sample"):
        Model.load(model_files["dcgan"], "cpu").translate(noise(8, 8, 3))
    with pytest.raises(UsageFault, match="Use img2img translate"):
        Model.load(model_files["pix2pix"], "cpu").sample(1)


def test_bfloat16_is_near_float32(model_files: dict[str, Path]) -> None:
    pixels = noise(32, 32, 3)
    exact = Model.load(model_files["cyclegan"], "cpu").translate(pixels)
    rough = Model.load(model_files["cyclegan"], "cpu", "bfloat16").translate(pixels)
    assert 0 < np.abs(exact.astype(int) - rough).mean() < 8


@pytest.mark.parametrize(
    ("device", "precision", "word"), [("abacus", "auto", "abacus"), ("meta", "auto", "meta"), ("cpu", "half", "half")]
)
def test_load_refuses(model_files: dict[str, Path], device: str, precision: str, word: str) -> None:
    with pytest.raises(UsageFault, match=word):
        Model.load(model_files["dcgan"], device, precision)


def test_a_made_up_description_is_refused(model_files: dict[str, Path], tmp_path: Path) -> None:
    from dataclasses import replace

    model = Model.load(model_files["pix2pix"], "cpu")
    for changes in (
        {"channels": {"a": 1, "b": 3}},
        {"channels": {"image": 3}},
        {"directions": {"sideways": "generator"}},
        {"directions": {}},
        {"task": "sample"},
    ):
        path = tmp_path / "model.safetensors"
        write_model(path, model._networks, replace(model.info, **changes))
        with pytest.raises(Fault, match="does not fit its networks"):
            Model.load(path, "cpu")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_picture(model_files: dict[str, Path]) -> None:
    pixels = noise(41, 30, 3)
    for kind in ("cyclegan", "pix2pix"):
        on_cpu, on_gpu = (Model.load(model_files[kind], device).translate(pixels) for device in ("cpu", "cuda"))
        # convolutions in TF32 keep 10 bits of the mantissa
        assert np.abs(on_cpu.astype(int) - on_gpu).mean() < 1
    for kind in ("dcgan", "cgan"):
        on_cpu, on_gpu = (Model.load(model_files[kind], device).sample(3) for device in ("cpu", "cuda"))
        for one, other in zip(on_cpu, on_gpu):
            assert np.abs(np.asarray(one, int) - np.asarray(other)).mean() < 1


# --- samples ---


def test_a_sample_is_the_same_whatever_the_count(model_files: dict[str, Path]) -> None:
    model = Model.load(model_files["dcgan"], "cpu")
    many = model.sample(19, seed=4)
    few = model.sample(3, seed=4)
    assert [image.tobytes() for image in few] == [image.tobytes() for image in many[:3]]
    assert len({image.tobytes() for image in many}) == 19
    assert model.sample(1, seed=5)[0].tobytes() != few[0].tobytes()
    assert many[0].size == (16, 16)


def test_labels_are_taken_in_turn(model_files: dict[str, Path]) -> None:
    model = Model.load(model_files["cgan"], "cpu")
    assert [index for index, _ in model.samples(5)] == [0, 1, 2, 0, 1]
    assert [index for index, _ in model.samples(3, label=["dog", 0])] == [1, 0, 1]
    dogs = model.sample(2, label="dog")
    assert [image.tobytes() for image in model.sample(2, label=1)] == [image.tobytes() for image in dogs]
    assert model.sample(1, label="1")[0].tobytes() == dogs[0].tobytes()
    assert dogs[0].mode == "L"


@pytest.mark.parametrize(
    ("kind", "label", "words"),
    [
        ("cgan", "dgo", "Did you mean dog?"),
        ("cgan", "zebra", "Its classes: cat, dog"),
        ("cgan", 3, "classes 0 to 2, not 3"),
        ("cgan", -1, "classes 0 to 2, not -1"),
        ("dcgan", "cat", "knows no classes"),
    ],
)
def test_unknown_class(model_files: dict[str, Path], kind: str, label: str | int, words: str) -> None:
    with pytest.raises(UsageFault) as caught:
        Model.load(model_files[kind], "cpu").sample(1, label=label)
    assert words in str(caught.value)


def test_count_below_one(model_files: dict[str, Path]) -> None:
    with pytest.raises(UsageFault, match="at least one"):
        Model.load(model_files["dcgan"], "cpu").sample(0)
