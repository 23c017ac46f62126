"""Makes losses NaN at chosen steps of a training, as long as its learning rates are not halved often enough."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from img2img.training.engine import Step


def poison(player: str, steps: Collection[int], until_rate: float = 1.0) -> Callable[[], None]:
    """From now on `player`'s losses at these steps are NaN while the rates are at least so much of what they were.

    Returns what undoes it.
    """
    plain = Step.main_terms

    def main_terms(step: Step) -> dict[str, Tensor]:
        terms = plain(step)
        engine = step.engine
        bad = step.player == player and engine.step in steps and engine.rate_factor >= until_rate
        return {name: term * float("nan") for name, term in terms.items()} if bad else terms

    Step.main_terms = main_terms  # type: ignore[method-assign]

    def undo() -> None:
        Step.main_terms = plain  # type: ignore[method-assign]

    return undo


def main(request: dict[str, Any]) -> None:
    """A training in this process, one of several that torchrun starts; leaves a digest of its weights and averages."""
    import hashlib
    import logging
    import os

    import safetensors.torch

    import img2img
    from img2img.errors import Fault
    from img2img.training.engine import Engine

    engines: list[Engine] = []
    train_step = Engine.train_step

    def watched_step(engine: Engine, *arguments: Any) -> Any:
        engines[:] = [engine]
        return train_step(engine, *arguments)

    Engine.train_step = watched_step  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    poison(**request["poison"])
    try:
        img2img.train(**request["arguments"])
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)
    (engine,) = engines
    state = {f"now.{key}": value.contiguous() for key, value in engine.translator.state_dict().items()}
    for name, average in engine.ema.state_dict().items():
        state |= {f"ema.{name}.{key}": value.contiguous() for key, value in average.items()}
    place = Path(request["arguments"]["out"]).with_name(f"rank-{os.environ['RANK']}.sha256")
    place.write_text(hashlib.sha256(safetensors.torch.save(state)).hexdigest())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
