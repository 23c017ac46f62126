"""train.auto_batch: what does not fit into memory is done again in halves, and nothing of the failed pass stays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import test_engine
from test_engine import assert_same, make_engine, run, weights
from tiny import arguments, make_data

import img2img
from img2img.checkpoint import load_state, state_folders
from img2img.data.batches import Batch, References
from img2img.errors import Fault, UsageFault
from img2img.penalties import R1, LeCam, Penalty
from img2img.training.engine import Engine
from img2img.training.prepare import choose_hardware
from img2img.translators.cyclegan import CycleGAN
from img2img.translators.unconditional import Unconditional

ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
}


def limit(network: nn.Module, most: int, error: Exception = ERRORS["cuda"]) -> None:
    """From now on `network` runs out of memory in the middle of batches of more than `most` images."""

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if len(output) > most and torch.is_grad_enabled():
            raise error

    network.register_forward_hook(look)


def penalties() -> dict[str, Penalty]:
    return {"r1": R1(weight=0.5, every=2)}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("kind", [Unconditional, CycleGAN])
@pytest.mark.parametrize(("player", "most", "parts"), [("generator", 4, 2), ("discriminator", 4, 4)])
def test_halves_learn_what_the_whole_does(
    player: str, most: int, parts: int, kind: type[Any], error: Exception
) -> None:
    """A discriminator sees real and generated images at once; with identities a generator of CycleGAN does too."""
    settings = {"auto_batch": True, "image_pool": 12, "kimg": 0.1}
    whole, limited = (make_engine(kind, penalties(), **settings) for _ in range(2))
    run(whole, 1)
    run(limited, 1)
    for network in limited.players[player].networks.values():
        limit(network, most, error)
    run(whole, 4)
    run(limited, 4)
    assert (whole.parts, limited.parts) == (1, parts if kind is Unconditional else 4)
    assert_same(whole, limited, 1e-11)
    for name, pool in whole.pools.items():
        for mine, theirs in zip(pool.entries, limited.pools[name].entries, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    for engine in (whole, limited):
        engine.terms.take(engine.world)  # a mean over a change counts each micro-batch as one
        run(engine, 1)
    terms, halved = (engine.terms.take(engine.world) for engine in (whole, limited))
    assert halved == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize("when", range(6))
def test_whichever_pass_fails_nothing_of_it_stays(when: int) -> None:
    """D's objective, its lazy penalty, G's turn: the n-th call of the discriminator with a graph fails once."""
    settings = {"auto_batch": True, "image_pool": 12, "kimg": 0.1}
    whole, failing = (make_engine(Unconditional, penalties(), **settings) for _ in range(2))
    calls = 0

    def fail(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal calls
        calls += 1
        if calls == when + 1:
            raise ERRORS["cuda"]

    failing.translator.discriminator.register_forward_pre_hook(fail)
    run(whole, 3)
    run(failing, 3)
    assert failing.parts == 2
    assert_same(whole, failing, 1e-11)


def test_a_pass_that_failed_is_as_if_it_had_never_been(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sees the batch, running statistics and means, differs between whole and halves, but has seen halves only."""

    class Normed(test_engine.TinyDiscriminator):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.BatchNorm1d(16), self.hidden)

    monkeypatch.setattr(test_engine, "TinyDiscriminator", Normed)
    settings = {"auto_batch": True, "image_pool": 12, "kimg": 0.1}
    told, failing = (make_engine(CycleGAN, {"lecam": LeCam(weight=0.1)}, **settings) for _ in range(2))
    run(told, 2)
    run(failing, 2)
    told.parts = 2
    limit(failing.translator.discriminator_b, 4)  # after discriminator_a has been judged
    run(told, 2)
    run(failing, 2)
    assert failing.parts == 2
    for name, value in told.translator.state_dict().items():
        assert torch.equal(value, failing.translator.state_dict()[name]), name
    for name, value in told.variables.items():
        assert torch.equal(value, failing.variables[name]), name
    assert told.terms.take(told.world) == failing.terms.take(failing.world)
    assert told.monitors.take(told.world) == failing.monitors.take(failing.world)


def test_without_the_key_or_with_another_error_nothing_is_tried_again() -> None:
    engine = run(make_engine(), 1)
    before = weights(engine)
    limit(engine.translator.discriminator, 4)
    with pytest.raises(torch.OutOfMemoryError):
        run(engine, 1)
    for mine, theirs in zip(before, weights(engine)):
        assert torch.equal(mine, theirs)
    engine = make_engine(auto_batch=True)
    limit(engine.translator.generator, 4, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        run(engine, 1)


def test_the_batch_that_cannot_be_halved_is_a_fault() -> None:
    engine = make_engine(auto_batch=True)
    limit(engine.translator.discriminator, 0)
    with pytest.raises(torch.OutOfMemoryError):
        run(engine, 1)
    assert engine.parts == 8


def test_a_batch_s_parts_are_its_rows_in_order() -> None:
    numbers = torch.arange(3, 11)
    references = References(
        torch.tensor([0, 2, 4, 6]), (torch.arange(4.0).view(4, 1), torch.arange(4.0).view(4, 1) + 9)
    )
    batch = Batch(
        {"image": numbers.view(8, 1).float()}, numbers % 3, numbers, 5, targets=numbers % 2, references=references
    )
    first, second = batch.split(2)
    assert first.numbers.tolist() == [3, 4, 5, 6]
    assert second["image"][:, 0].tolist() == [7.0, 8.0, 9.0, 10.0]
    assert second.labels is not None
    assert second.labels.tolist() == [1, 2, 0, 1]
    assert second.targets is not None
    assert second.targets.tolist() == [1, 0, 1, 0]
    assert second.references is not None
    assert second.references.rows.tolist() == [0, 2]
    assert [images[:, 0].tolist() for images in second.references.images] == [[2.0, 3.0], [11.0, 12.0]]
    assert batch.split(8)[1].references is None
    assert batch.split(1) == [batch]


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def small_memory() -> Iterator[None]:
    """Four images at once are too many for any generator in training."""
    plain = Engine.generate

    def generate(engine: Engine, batch: Batch, *, for_generator: bool) -> dict[str, Tensor]:
        if len(batch) > 2:
            raise ERRORS["cpu"]
        return plain(engine, batch, for_generator=for_generator)

    Engine.generate = generate  # type: ignore[method-assign]
    yield
    Engine.generate = plain  # type: ignore[method-assign]


SETTINGS = {"train.batch": 4, "generator.norm": "layer"}


def test_a_run_finds_its_micro_batch_says_so_once_and_keeps_it(
    small_memory: None, data: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call = arguments("unconditional", data, **SETTINGS, **{"train.auto_batch": True})
    img2img.train(**call, out=tmp_path / "run")
    assert sum("out of memory: 2 images at once from now on" in text for text in caplog.messages) == 1
    state = load_state(state_folders(tmp_path / "run" / "state")[-1]).tree
    assert state["engine"]["parts"] == 2
    caplog.clear()
    call["set"]["train.kimg"] = 0.032
    img2img.train(**call, out=tmp_path / "run", resume=True)
    assert not any("out of memory" in text for text in caplog.messages)


def test_what_mixes_a_batch_is_named(
    small_memory: None, data: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call = arguments("unconditional", data, **{"train.batch": 4, "train.auto_batch": True})
    img2img.train(**call, out=tmp_path / "run")
    (told,) = (text for text in caplog.messages if "out of memory" in text)
    assert "generator.norm will see as many, so that results are others than before" in told


def test_without_the_key_the_fault_says_what_fits(
    small_memory: None, data: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(Fault) as caught:
        img2img.train(**arguments("unconditional", data, **SETTINGS), out=tmp_path / "run")
    fault = caught.value
    assert (fault.exit_code, fault.subject) == (1, "train.batch")
    assert "4 images at once are too many for the memory of cpu" in fault.problem
    assert "can't allocate memory" in fault.problem
    assert "Set train.accumulate=2, which learns the same from 2 at a time" in fault.mend
    assert "train.auto_batch=true" in fault.mend


def test_several_processes_are_refused() -> None:
    from img2img.config import resolve
    from img2img.distributed import World

    world = World()
    world.size = 2
    with pytest.raises(UsageFault, match="2 processes cannot tell each other"):
        choose_hardware(resolve("dcgan-small", None, ["train.auto_batch=true"]), "cpu", world)
