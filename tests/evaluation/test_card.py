"""Metric cards: the same bytes for the same measurement, and comparisons refused with their reasons."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from img2img.checkpoint import ModelInfo, NetworkSpec, add_metrics, model_digest, read_info, write_model
from img2img.errors import Fault, Faults, UsageFault
from img2img.evaluation.card import Card, read_card, write_card, write_into_model
from img2img.evaluation.compare import compare_cards
from img2img.networks import GENERATORS


def a_card() -> Card:
    interval = {"low": 9.0, "high": 11.0, "level": 0.95, "resamples": 100, "kind": "basic"}
    return Card(
        scores={
            "FID": {"value": 10.0, "better": "lower", "interval": interval, "details": {}},
            "recall": {"value": 0.5, "better": "higher", "interval": None, "details": {"k": 3}},
            "PSNR": {"value": math.inf, "better": "higher", "interval": None, "details": {"pairs": 2}},
        },
        real={"kind": "files", "name": "photos", "sha256": "a" * 64, "count": 100},
        fake={"kind": "samples", "model": "b" * 64, "seed": 0, "count": 50},
        preparation={"resolution": [64, 64], "fit": "crop", "channels": 3},
        extractor={"name": "inception-2015", "weights": "c" * 64, "resize": "clean", "features": 2048},
        seed=0,
        versions={"img2img": "0", "torch": "2"},
    )


def changed(**changes: Any) -> Card:
    return dataclasses.replace(copy.deepcopy(a_card()), **changes)


def test_a_card_comes_back_from_its_file_and_from_a_model(tmp_path: Path) -> None:
    write_card(a_card(), tmp_path / "a.card.json")
    assert read_card(tmp_path / "a.card.json") == a_card()
    arguments = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}
    info = ModelInfo(
        "x", "translate", {"g": NetworkSpec("resnet", arguments)}, {"a2b": "g"}, {}, {"a": 3, "b": 3}, (8, 8)
    )
    write_model(tmp_path / "model.safetensors", {"g": GENERATORS["resnet"](**arguments)}, info)
    with pytest.raises(UsageFault, match="holds no metric card"):
        read_card(tmp_path / "model.safetensors")
    model = tmp_path / "model.safetensors"
    card = changed(fake={**a_card().fake, "model": model_digest(model)})
    write_into_model(card, model)
    assert read_card(model) == card
    other = dataclasses.replace(card, scores={"KID": card.scores["FID"]})
    write_into_model(other, model)
    assert set(read_info(model).metrics) == {"KID", "card"}
    with pytest.raises(Fault, match="has changed since it was measured"):
        write_into_model(a_card(), model)
    add_metrics(model, {"card": json.loads(a_card().to_json())})
    with pytest.raises(UsageFault, match="its metric card is of another model"):
        read_card(model)
    json.loads(a_card().to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_scores_are_put_side_by_side() -> None:
    other = copy.deepcopy(a_card())
    other.scores["FID"] |= {
        "value": 20.0,
        "interval": {**a_card().scores["FID"]["interval"], "low": 18.0, "high": 21.0},
    }
    other.scores["recall"]["value"] = 0.7
    fid, recall, psnr = compare_cards(a_card(), other, ("a", "b"))
    assert (fid.better, fid.apart) == ("first", True)
    assert (recall.better, recall.apart) == ("second", None)
    assert psnr.better == ""
    assert compare_cards(other, a_card(), ("b", "a"))[0].better == "second"
    assert compare_cards(a_card(), a_card(), ("a", "a"))[0].apart is False


DIFFERENCES: dict[str, tuple[Callable[[Card], Any], str]] = {
    "other real pictures": (lambda card: card.real.update(sha256="d" * 64), "real pictures"),
    "other count": (lambda card: card.fake.update(count=60), "--count"),
    "other sizes": (lambda card: card.fake.update(sizes={"32×32": 50}), "sizes of fake pictures"),
    "other network": (lambda card: card.extractor.update(name="vgg16"), "--extractor"),  # type: ignore[union-attr]
    "other weights": (lambda card: card.extractor.update(weights="d" * 64), "weights"),  # type: ignore[union-attr]
    "other resize": (lambda card: card.extractor.update(resize="tf1"), "--resize"),  # type: ignore[union-attr]
    "other size": (lambda card: card.preparation.update(resolution=None), "--resolution"),
    "other k": (lambda card: card.scores["recall"]["details"].update(k=5), "recall: k 3 against k 5"),
    "no measure in common": (lambda card: card.scores.clear(), "measures"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_cannot_be_compared_is_refused_with_the_reason(name: str) -> None:
    change, reason = DIFFERENCES[name]
    other = copy.deepcopy(a_card())
    change(other)
    with pytest.raises(Faults, match=reason):
        compare_cards(a_card(), other, ("a", "b"))


def test_every_reason_is_named() -> None:
    other = copy.deepcopy(a_card())
    for change, _ in list(DIFFERENCES.values())[:7]:
        change(other)
    with pytest.raises(Faults) as caught:
        compare_cards(a_card(), other, ("a", "b"))
    assert len(caught.value.faults) == 8


def test_what_does_not_look_through_the_extractor_does_not_ask_for_the_same() -> None:
    one = other = changed(scores={"PSNR": a_card().scores["PSNR"]})
    assert len(compare_cards(one, dataclasses.replace(other, extractor=None), ("a", "b"))) == 1


def test_results_and_seeds_of_subsets_do_not_forbid_comparison() -> None:
    other = copy.deepcopy(a_card())
    other.scores["FID"]["details"]["std"] = 3.0
    assert len(compare_cards(a_card(), other, ("a", "b"))) == 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no metric card"),
        ('{"format": "img2img-card-9"}', "of the format img2img-card-9"),
        ('{"format": "img2img-card-1"}', "parts missing"),
        (a_card().to_json().replace("10.0", '"ten"'), "parts missing"),
        (a_card().to_json().replace("10.0", "NaN"), "parts missing"),
        (a_card().to_json().replace('"low": 9.0', '"low": "x"'), "parts missing"),
    ],
)
def test_what_is_no_card_is_named(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(content)
    with pytest.raises(UsageFault, match=problem) as caught:
        read_card(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(UsageFault, match="no such file"):
        read_card(tmp_path / "missing.json")
