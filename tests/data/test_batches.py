from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from img2img.data.batches import Batch, Loader
from img2img.data.lanes import ArrayLane
from img2img.data.sources import Source, array_source, open_source
from img2img.draws import Draws, permutation
from img2img.errors import Fault

SIZE = (12, 10)


@dataclass(frozen=True)
class Augmentation:
    flip: bool = True
    zoom: tuple[float, float] = (1.0, 1.0)


def arrays(count: int, channels: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, channels, *size)).astype(np.uint8)


def unpaired(size: tuple[int, int] = SIZE) -> Source:
    return array_source({"a": arrays(7, size=size), "b": arrays(5, size=size)})


def equal(first: Batch, second: Batch) -> bool:
    return (
        first.images.keys() == second.images.keys()
        and all(torch.equal(first[domain], second[domain]) for domain in first.images)
        and torch.equal(first.numbers, second.numbers)
        and (first.labels is None) == (second.labels is None)
        and (first.labels is None or torch.equal(first.labels, second.labels))  # type: ignore[arg-type]
    )


def test_numbers_map_to_items_by_permutation() -> None:
    images = arrays(5)
    labels = np.array([3, 1, 4, 1, 5])
    source = array_source({"image": images}, labels=labels, classes=tuple("abcdef"))
    numbers = np.array([0, 4, 5, 9, 12, 3])
    with Loader(source, seed=7, resolution=SIZE) as loader:
        batch = loader.batch(numbers)
    items = [permutation(7, "order/image", n // 5, 5)[n % 5] for n in numbers]
    assert torch.equal(batch["image"], torch.from_numpy(images[items]).float() / 127.5 - 1)
    assert batch.labels is not None
    assert batch.labels.tolist() == labels[items].tolist()
    assert batch.numbers.tolist() == numbers.tolist()
    assert len(batch) == 6
    assert batch["image"].min() >= -1
    assert batch["image"].max() <= 1


def test_every_item_once_an_epoch() -> None:
    with Loader(unpaired(), seed=0, resolution=SIZE) as loader:
        for lane, count in (("a", 7), ("b", 5)):
            for epoch in range(3):
                items = loader.items(lane, np.arange(epoch * count, (epoch + 1) * count))
                assert sorted(items.tolist()) == list(range(count))


def test_pairs_stay_together() -> None:
    a = arrays(9)
    source = array_source({"a": a, "b": 255 - a}, aligned=True)
    with Loader(source, seed=0, resolution=(8, 8), augmentation=Augmentation()) as loader:
        for start in (0, 4, 8):
            batch = loader.batch(np.arange(start, start + 4))
            assert torch.allclose(batch["a"], -batch["b"], atol=1e-6)


def test_unpaired_are_drawn_apart() -> None:
    a = arrays(9)
    source = array_source({"a": a, "b": a})
    with Loader(source, seed=0, resolution=SIZE) as loader:
        batch = loader.batch(np.arange(9))
    assert not torch.equal(batch["a"], batch["b"])


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (1.0, 1.2)])
def test_threads_prefetch_and_division_change_nothing(zoom: tuple[float, float]) -> None:
    """PROMISES A13, and what ranks and micro-batches rely on."""
    augmentation = Augmentation(zoom=zoom)
    numbers = np.arange(3, 19)
    with Loader(unpaired(), seed=1, resolution=(8, 8), augmentation=augmentation, workers=1, prefetch=0) as loader:
        whole = loader.batch(numbers)
    for workers in (1, 4):
        with Loader(unpaired(), seed=1, resolution=(8, 8), augmentation=augmentation, workers=workers) as loader:
            parts = [loader.batch(part) for part in np.array_split(numbers, 4)]
            for domain in ("a", "b"):
                assert torch.equal(torch.cat([part[domain] for part in parts]), whole[domain])
            assert equal(loader.batch(numbers), whole)


def test_seed_matters() -> None:
    with Loader(unpaired(), seed=1, resolution=SIZE) as one, Loader(unpaired(), seed=2, resolution=SIZE) as other:
        assert not torch.equal(one.batch(np.arange(7))["a"], other.batch(np.arange(7))["a"])


def test_expected_batches_are_the_same() -> None:
    with Loader(unpaired(), seed=1, resolution=SIZE) as plain, Loader(unpaired(), seed=1, resolution=SIZE) as told:
        plan = [np.arange(20, 24), np.arange(0, 4), np.arange(8, 12)]
        told.expect(plan)
        assert len(told._pending) == 3
        for numbers in plan:
            assert equal(told.batch(numbers), plain.batch(numbers))
        told.expect([np.arange(4)])
        told.expect([np.arange(4, 8)])
        assert len(told._pending) == 1


def test_the_guess_follows_ranks_and_micro_batches() -> None:
    # this rank's half of global batches of 8
    with Loader(unpaired(), seed=1, resolution=SIZE, prefetch=2) as loader:
        for step in range(5):
            numbers = np.arange(8 * step + 4, 8 * step + 8)
            if step >= 2:
                assert np.ascontiguousarray(numbers).tobytes() in loader._pending
            loader.batch(numbers)
            assert len(loader._pending) == 2


def test_draws_are_keyed_by_the_numbers() -> None:
    with Loader(unpaired(), seed=5, resolution=SIZE) as loader:
        batch = loader.batch(np.array([3, 9]))
    assert torch.equal(batch.draws("z").normal(4), Draws(5, "z", torch.tensor([3, 9])).normal(4))


def test_without_augmentation_larger_pictures_are_cropped() -> None:
    with Loader(unpaired((16, 16)), seed=1, resolution=SIZE) as loader:
        assert loader.batch(np.arange(4))["a"].shape == (4, 3, 12, 10)


def test_float64() -> None:
    with Loader(unpaired(), seed=1, resolution=SIZE, dtype=torch.float64) as loader:
        assert loader.batch(np.arange(4))["a"].dtype == torch.float64


class SlowLane(ArrayLane):
    """Waits for a gate at one item."""

    def __init__(self, gate: threading.Event, slow_item: int) -> None:
        super().__init__((arrays(6),), [()] * 6)
        self.gate = gate
        self.slow_item = slow_item

    def subject(self, index: int) -> str:
        return f"item-{index}.png"

    def load(self, index: int) -> tuple[torch.Tensor, ...]:
        if index == self.slow_item:
            self.gate.wait(10)
        return super().load(index)


def test_a_file_that_never_answers_is_named() -> None:
    """PROMISES A14."""
    gate = threading.Event()
    source = Source("images", {"image": SlowLane(gate, 3)}, {"image": ("image",)}, names={"image": "x"})
    loader = Loader(source, seed=0, resolution=SIZE, timeout=0.1)
    with pytest.raises(Fault, match=r"item-3\.png: no answer for 0\.1 seconds"):
        loader.batch(np.arange(6))
    gate.set()
    loader.close()


def test_waiting_is_measured() -> None:
    gate = threading.Event()
    source = Source("images", {"image": SlowLane(gate, 3)}, {"image": ("image",)}, names={"image": "x"})
    with Loader(source, seed=0, resolution=SIZE, prefetch=0) as loader:
        threading.Timer(0.2, gate.set).start()
        loader.batch(np.arange(6))
        assert 0.1 < loader.waited < 2
        before = loader.waited
        loader.expect([np.arange(6)])
        time.sleep(0.1)
        loader.batch(np.arange(6))
        assert loader.waited - before < 0.05


def test_threads_end_with_the_loader() -> None:
    before = threading.active_count()
    loader = Loader(unpaired(), seed=0, resolution=SIZE, workers=3)
    loader.batch(np.arange(4))
    loader.close()
    assert threading.active_count() == before
    loader = Loader(unpaired(), seed=0, resolution=SIZE, workers=3)
    loader.batch(np.arange(4))
    del loader
    assert threading.active_count() == before


def test_real_pictures(shared_data: Path) -> None:
    source = open_source(a=shared_data / "drawings", b=shared_data / "photos", resolution=(32, 48), cache_gb=0.001)
    with Loader(source, seed=0, resolution=(32, 48), augmentation=Augmentation()) as loader:
        batch = loader.batch(np.arange(8))
    assert batch["a"].shape == batch["b"].shape == (8, 3, 32, 48)
    # drawings lie on light paper
    assert batch["a"].mean() > batch["b"].mean()


@pytest.mark.gpu
def test_same_images_on_the_gpu() -> None:
    on_gpu = Loader(unpaired((16, 16)), seed=1, resolution=SIZE, device="cuda", augmentation=Augmentation())
    on_cpu = Loader(unpaired((16, 16)), seed=1, resolution=SIZE, augmentation=Augmentation())
    with on_gpu, on_cpu:
        for start in range(0, 40, 8):
            first, second = (loader.batch(np.arange(start, start + 8)) for loader in (on_gpu, on_cpu))
            assert first["a"].is_cuda
            assert torch.allclose(first["a"].cpu(), second["a"], atol=1e-6)


# --- references


def of_classes(counts: tuple[int, ...] = (1, 5, 3)) -> Source:
    """Pictures whose first value is their class, and whose second their place in it."""
    labels = np.repeat(np.arange(len(counts)), counts)
    places = np.concatenate([np.arange(count) for count in counts])
    shuffled = np.random.default_rng(0).permutation(len(labels))
    images = np.zeros((len(labels), 1, *SIZE), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels[shuffled], places[shuffled]
    return array_source({"image": images}, labels=labels[shuffled], classes=tuple("abcdef"[: len(counts)]))


def pixel(images: torch.Tensor, column: int) -> list[int]:
    return ((images[:, 0, 0, column] + 1) * 127.5).round().int().tolist()


def test_odd_images_come_with_pictures_of_the_class_drawn_for_them() -> None:
    numbers = np.array([4, 7, 8, 3, 1, 10])
    with Loader(of_classes(), seed=3, resolution=SIZE, references=2) as loader:
        batch = loader.batch(numbers)
    assert batch.targets is not None
    assert torch.equal(batch.targets, Draws(3, "target", torch.from_numpy(numbers)).integers(3))
    assert batch.references is not None
    assert batch.references.rows.tolist() == [1, 3, 4]
    assert len(batch.references.images) == 2
    for images in batch.references.images:
        assert images.shape == (3, 1, *SIZE)
        assert pixel(images, 0) == batch.targets[[1, 3, 4]].tolist()


def test_references_are_drawn_evenly_and_by_themselves() -> None:
    with Loader(of_classes(), seed=0, resolution=SIZE, references=2) as loader:
        batch = loader.batch(np.arange(6000))
    assert batch.targets is not None
    assert batch.references is not None
    assert (batch.targets.bincount() / 6000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    first, second = (np.array(pixel(images, 1)) for images in batch.references.images)
    of_b = batch.targets[batch.references.rows].numpy() == 1
    assert (np.bincount(first[of_b]) / of_b.sum()).tolist() == pytest.approx([1 / 5] * 5, abs=0.05)
    assert (first[of_b] == second[of_b]).mean() == pytest.approx(1 / 5, abs=0.05)
    # which picture is shown says nothing of which one is the reference
    own = np.array(pixel(batch["image"], 1))[batch.references.rows.numpy()]
    assert (first[of_b] == own[of_b]).mean() < 0.4


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.9, 1.2)])
def test_references_depend_on_the_number_alone(zoom: tuple[float, float]) -> None:
    with Loader(of_classes(), seed=3, resolution=(8, 10), augmentation=Augmentation(zoom=zoom), references=1) as loader:
        whole = loader.batch(np.arange(8))
        parts = [loader.batch(np.arange(first, first + 1)) for first in range(8)]
    assert whole.references is not None
    assert whole.targets is not None
    assert [part.targets.item() for part in parts if part.targets is not None] == whole.targets.tolist()
    assert [part.references is None for part in parts] == [True, False] * 4
    alone = [part.references.images[0] for part in parts if part.references is not None]
    assert torch.equal(torch.cat(alone), whole.references.images[0])


def test_references_leave_the_images_as_they_are() -> None:
    batches = []
    for references in (0, 2):
        with Loader(
            of_classes(), seed=1, resolution=(8, 10), augmentation=Augmentation(), references=references
        ) as loader:
            batches.append(loader.batch(np.arange(6)))
    assert equal(*batches)
    assert batches[0].targets is None
    assert batches[0].references is None


def test_a_class_without_pictures_is_refused() -> None:
    source = of_classes((2, 2, 2))
    lane = source.lanes["image"]
    assert lane.labels is not None
    lane.labels[lane.labels == 1] = 2
    with pytest.raises(Fault, match=r"^class b: none of its pictures can be used\. Add pictures"):
        Loader(source, seed=0, resolution=SIZE, references=1)
