"""Metric cards: everything a score depends on, as JSON, beside what was measured and in the model file.

A card holds no clock, path or host: the same measurement gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img2img.atomic import write_text
from img2img.checkpoint import add_metrics, model_digest, read_info
from img2img.errors import Fault, UsageFault

FORMAT = "img2img-card-1"
CARD = "card"  # the card's name among the measures of a model file
_LARGEST = 64 << 20  # bytes


@dataclass(frozen=True)
class Card:
    """What was measured, and of what.

    Attributes:
        scores: name -> value, better, interval, details.
        real, fake: each set: kind, name, count, sha256, sizes, and for a model what made it.
        preparation: what was done to every picture first.
        extractor: name, weights' sha256, resize, number of features; None where no features were taken.
        seed: of subsets, splits and resampling.
        versions: of what computed it.
    """

    scores: dict[str, dict[str, Any]]
    real: dict[str, Any]
    fake: dict[str, Any]
    preparation: dict[str, Any]
    extractor: dict[str, Any] | None
    seed: int
    versions: dict[str, str]
    format: str = FORMAT

    def values(self) -> dict[str, float]:
        """name -> value."""
        return {name: score["value"] for name, score in self.scores.items()}

    def to_json(self) -> str:
        return json.dumps(_plain(dataclasses.asdict(self)), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_card(card: Card, path: Path) -> None:
    """Write `card` as a file of its own.

    Raises:
        Fault: the disk refused.
    """
    write_text(path, card.to_json())


def write_into_model(card: Card, model: Path) -> None:
    """Put the card's values, and itself, among the measures of a model file; its weights stay as they are.

    What an earlier card had put there is taken out: scores of two measurements side by side would seem to be of one.

    Raises:
        Fault: the file is another model by now, or cannot be written; it is then as it was.
    """
    if model_digest(model) != card.fake.get("model"):
        raise Fault(model, "has changed since it was measured, so it was given no card", "Measure it again")
    plain = json.loads(card.to_json())
    values = {name: score["value"] for name, score in plain["scores"].items()}
    old = read_info(model).metrics.get(CARD)
    stale = old.get("scores", ()) if isinstance(old, dict) else ()
    add_metrics(model, {**values, CARD: plain}, drop=set(stale))


def read_card(path: str | Path) -> Card:
    """A card from its file, or the one in a model file.

    Raises:
        UsageFault: no such file, no card, or of a newer version.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        found = read_info(path).metrics.get(CARD)
        if found is None:
            raise UsageFault(path, "holds no metric card", "Make one by img2img evaluate REAL --model MODEL")
        card = _parse(path, found)
        if card.fake.get("model") != model_digest(path):
            raise UsageFault(path, "its metric card is of another model", "Measure it again")
        return card
    try:
        if not path.is_file():
            problem = "is no regular file" if path.exists() else "there is no such file"
            raise UsageFault(path, problem, "Give a card that img2img evaluate wrote")
        if path.stat().st_size > _LARGEST:
            raise UsageFault(path, "is too large for a metric card", "Give a card that img2img evaluate wrote")
        text = path.read_text("utf-8")
        return _parse(path, json.loads(text))
    except OSError as error:
        raise UsageFault(path, f"cannot be read ({error.strerror})", "Check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise UsageFault(path, "is not JSON", "Give a card that img2img evaluate wrote") from error


def _parse(path: Path, found: Any) -> Card:
    foreign = UsageFault(path, "is no metric card", "Give a card that img2img evaluate wrote")
    if not isinstance(found, dict):
        raise foreign
    if found.get("format") != FORMAT:
        if str(found.get("format")).startswith("img2img-card-"):
            raise UsageFault(path, f"is of the format {found['format']}, this version reads {FORMAT}", "Update img2img")
        raise foreign
    tables = ("scores", "real", "fake", "preparation", "versions")
    sound = (
        set(found) == {item.name for item in dataclasses.fields(Card)}
        and all(isinstance(found[name], dict) for name in tables)
        and (found["extractor"] is None or isinstance(found["extractor"], dict))
        and all(_is_score(score) for score in found["scores"].values())
        and all(isinstance(found[side].get("count"), int | None) for side in ("real", "fake"))
    )
    if not sound:
        raise UsageFault(path, "is a metric card with parts missing or of another kind", "Measure again")
    scores = {name: {**score, "value": _number(score["value"])} for name, score in found["scores"].items()}
    return Card(**{**found, "scores": scores})


def _is_score(score: object) -> bool:
    if not isinstance(score, dict) or not _is_number(score.get("value")) or not isinstance(score.get("details"), dict):
        return False
    interval = score.get("interval")
    return interval is None or (isinstance(interval, dict) and all(_is_number(interval.get(end)) for end in _ENDS))


_ENDS = ("low", "high", "level")


def _is_number(value: object) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return not math.isnan(value)
    return isinstance(value, str) and value in _WORDS.values()


def _number(value: float | str) -> float:
    return next((number for number, word in _WORDS.items() if word == value), value)  # type: ignore[return-value]


_WORDS = {math.inf: "infinity", -math.inf: "-infinity"}


def _plain(value: Any) -> Any:
    """`value` as JSON that every reader takes: numbers that are not finite become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return _WORDS.get(value, "not a number")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
