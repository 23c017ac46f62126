"""Sets of pictures: one order by content, one identity, whatever files are called and wherever they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.errors import Faults, UsageFault
from img2img.evaluation.image_set import ArraySet, ImageSet, Preparation, SampleSet, TranslatedSet, open_set
from img2img.inference.model import Model
from img2img.networks import GENERATORS


def save(path: Path, seed: int, size: tuple[int, int] = (20, 24), **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        save(tmp_path / "set" / f"{number}.png", number)
    return tmp_path / "set"


def pixels_of(images: ImageSet) -> torch.Tensor:
    return torch.stack(list(images.read(range(len(images)))))


def test_names_and_their_order_do_not_matter(folder: Path, tmp_path: Path) -> None:
    for number in range(5):
        shutil.copy(folder / f"{number}.png", tmp_path.joinpath(f"other-{4 - number}.png"))
    other = tmp_path / "renamed"
    other.mkdir()
    for path in tmp_path.glob("other-*.png"):
        path.rename(other / path.name)
    one, two = open_set(folder), open_set(other)
    assert one.identity == two.identity
    assert one.names != two.names
    assert torch.equal(pixels_of(one), pixels_of(two))


@pytest.mark.parametrize("change", ["another picture", "a picture less", "a preparation"])
def test_what_is_compared_changes_the_identity(change: str, folder: Path) -> None:
    before = open_set(folder).identity
    if change == "another picture":
        save(folder / "0.png", 100)
    elif change == "a picture less":
        (folder / "0.png").unlink()
    preparation = Preparation((16, 16)) if change == "a preparation" else Preparation()
    assert open_set(folder, preparation).identity != before


def test_label_maps_keep_their_colours(folder: Path) -> None:
    smooth, exact = (pixels_of(open_set(folder, Preparation((13, 17), labels=labels))) for labels in (False, True))
    original = {tuple(pixel) for pixels in open_set(folder).read(range(5)) for pixel in pixels.flatten(1).T.tolist()}
    for images, keeps in ((smooth, False), (exact, True)):
        found = {tuple(pixel) for pixel in images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()}
        assert (found <= original) == keeps


def test_sizes_are_known_before_anything_is_decoded(folder: Path) -> None:
    save(folder / "turned.jpg", 7, (30, 40), exif=_orientation(6))
    images = open_set(folder)
    assert dict(images.sizes) == {(20, 24): 5, (40, 30): 1}
    found = {tuple(picture.shape[1:]) for picture in images.read(range(6))}
    assert found == set(images.sizes)


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def test_batches_hold_one_size_each_and_every_picture_once(folder: Path) -> None:
    for number in range(3):
        save(folder / f"large-{number}.png", number + 10, (32, 32))
    images = open_set(folder)
    seen: list[int] = []
    for indices, pictures in images.batches(range(8), 2):
        assert len(indices) == len(pictures) <= 2
        seen += indices
        for index, picture in zip(indices, pictures):
            assert torch.equal(picture, next(iter(images.read([index]))))
    assert sorted(seen) == list(range(8))


def test_of_many_sizes_only_a_few_pictures_wait(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / f"{number}.png", number, (8, 8 + number))
    images = open_set(tmp_path)
    read = 0
    original = images.read

    def counted(indices: object) -> object:
        nonlocal read
        for picture in original(indices):  # type: ignore[arg-type]
            read += 1
            yield picture

    images.read = counted  # type: ignore[assignment,method-assign]
    given: list[int] = []
    for indices, _ in images.batches(range(30), 2):
        given += indices
        assert read - len(given) <= 8
    assert sorted(given) == list(range(30))


def test_a_file_that_changes_meanwhile_is_not_taken_for_what_it_was(folder: Path) -> None:
    images = open_set(folder)
    save(folder / "0.png", 50)
    with pytest.raises(Faults, match="changed while it was measured"):
        list(images.read(range(5)))


def test_class_folders_give_labels(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    images = open_set(tmp_path)
    assert images.labels is not None
    assert [name.partition("/")[0] for name in images.names] == list(images.labels)
    assert open_set(tmp_path, classes=False).labels is None
    with pytest.raises(UsageFault, match="lie loose and there are no class folders"):
        open_set(tmp_path / "cat", classes=True)


def test_a_limit_takes_the_same_pictures_whatever_they_are_called(folder: Path) -> None:
    few = open_set(folder, limit=2)
    assert torch.equal(pixels_of(few), pixels_of(open_set(folder))[:2])
    assert few.identity != open_set(folder).identity


@pytest.mark.parametrize("resolution", [None, (16, 16)])
def test_bad_files_are_named_together_or_left_out(resolution: tuple[int, int] | None, folder: Path) -> None:
    (folder / "empty.png").touch()
    content = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    preparation = Preparation(resolution)
    with pytest.raises(Faults, match=r"(cut|empty)\.png") as caught:
        list(open_set(folder, preparation).read(range(7)))
    assert "--skip-bad" in str(caught.value)
    images = open_set(folder, preparation, skip_bad=True)
    assert len(list(images.read(range(len(images))))) == 5
    assert images.source["left_out"] == 2


def test_arrays_are_a_set_like_files(tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (6, 9, 7), np.uint8)
    np.savez(tmp_path / "set.npz", images=arrays, labels=np.arange(6) % 2)
    images = open_set(tmp_path / "set.npz")
    assert open_set(tmp_path / "set.npz", classes=False).labels is None
    assert (len(images), dict(images.sizes)) == (6, {(9, 7): 6})
    assert set(images.labels or ()) == {"0", "1"}
    read = {tuple(picture[0].flatten().tolist()) for picture in images.read(range(6))}
    assert read == {tuple(array.flatten().tolist()) for array in arrays}
    shuffled = ArraySet(arrays[::-1, None])
    assert shuffled.identity == ArraySet(arrays[:, None]).identity


def _model(tmp_path: Path, task: str) -> Model:
    torch.manual_seed(0)
    path = tmp_path / f"{task}.safetensors"
    if task == "sample":
        arguments = {"resolution": (16, 16), "out_channels": 3, "num_classes": 2, "width": 4, "max_width": 8}
        spec, name, directions = NetworkSpec("dcgan", arguments), "generator", {}
        channels, classes = {"image": 3}, ("cat", "dog")
    else:
        spec = NetworkSpec("resnet", {"in_channels": 3, "out_channels": 1, "width": 4, "blocks": 1})
        name, directions, channels, classes = "generator_ab", {"a2b": "generator_ab"}, {"a": 3, "b": 1}, ()
    network = GENERATORS[spec.name](**spec.arguments).eval()
    info = ModelInfo(task, task, {name: spec}, directions, {}, channels, (16, 16), classes)
    write_model(path, {name: network}, info)
    return Model.load(path, "cpu")


def test_samples_are_those_of_the_model_from_any_number_on(tmp_path: Path) -> None:
    model = _model(tmp_path, "sample")
    images = SampleSet(model, 40, 3, Preparation())
    whole = pixels_of(images)
    assert torch.equal(torch.stack(list(images.read(range(20, 37)))), whole[20:37])
    expected = np.stack([pixels for _, pixels in model.samples(40, seed=3)])
    assert np.array_equal(whole.permute(0, 2, 3, 1).numpy(), expected)
    assert images.labels == ["cat", "dog"] * 20
    assert images.identity != SampleSet(model, 40, 4, Preparation()).identity


def test_samples_have_classes_as_often_as_the_real_pictures(tmp_path: Path) -> None:
    model = _model(tmp_path, "sample")
    images = SampleSet(model, 8, 0, Preparation(), like=["dog", "dog", "dog", "cat"])
    assert images.labels == ["dog", "dog", "dog", "cat"] * 2
    assert SampleSet(model, 3, 0, Preparation(), like=["dog"]).labels == ["dog"] * 3
    with pytest.raises(UsageFault, match="classes differ"):
        SampleSet(model, 8, 0, Preparation(), like=["cat", "cow"])


def test_translations_keep_names_and_order(folder: Path, tmp_path: Path) -> None:
    model = _model(tmp_path, "translate")
    inputs = open_set(folder, Preparation((16, 16)))
    images = TranslatedSet(model, inputs, None, 0, 3)
    assert images.names == inputs.names
    first = next(iter(inputs.read([1]))).permute(1, 2, 0).numpy()
    expected = torch.from_numpy(model.translate(first)[..., 0])
    assert torch.equal(next(iter(images.read([1]))), expected.expand(3, -1, -1))
