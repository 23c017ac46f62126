"""Model files and training states: round trips, equal bytes, and everything damaged or foreign refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pickle
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from img2img import atomic
from img2img.checkpoint import (
    ModelInfo,
    NetworkSpec,
    add_metrics,
    latest_state,
    load_networks,
    load_state,
    manifest_digest,
    model_digest,
    read_info,
    save_state,
    state_folders,
    write_model,
)
from img2img.errors import Fault
from img2img.networks import GENERATORS, ROLES

ARGUMENTS = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}


def make_info(**changes: Any) -> ModelInfo:
    values: dict[str, Any] = {
        "translator": "cyclegan",
        "task": "translate",
        "networks": {"generator_ab": NetworkSpec("resnet", ARGUMENTS)},
        "directions": {"a2b": "generator_ab"},
        "domains": {"a": "photos", "b": "<script>"},
        "channels": {"a": 3, "b": 3},
        "resolution": (64, 96),
        "classes": (),
    }
    return ModelInfo(**{**values, **changes})


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return GENERATORS["resnet"](**ARGUMENTS).eval()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_model(path, {"generator_ab": make_network()}, make_info())
    return path


def rewrite(path: Path, change: Any) -> None:
    """Apply `change` to the metadata of a model file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["img2img"])
    change(metadata)
    header["__metadata__"]["img2img"] = json.dumps(metadata)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


# --- model files


def test_round_trip(model: Path) -> None:
    info, networks = load_networks(model)
    assert info == make_info()
    assert read_info(model) == info
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    assert torch.equal(networks["generator_ab"](image), make_network()(image))
    assert not networks["generator_ab"].training


@pytest.mark.parametrize("num_classes", [0, 3])
def test_round_trip_of_a_generator_whose_name_a_discriminator_shares(num_classes: int, tmp_path: Path) -> None:
    arguments = {"resolution": (16, 24), "out_channels": 1, "latent_dim": 8, "width": 4, "num_classes": num_classes}
    spec = NetworkSpec("dcgan", arguments)
    info = make_info(task="sample", networks={"generator": spec}, directions={}, channels={"image": 1})
    write_model(tmp_path / "model.safetensors", {"generator": GENERATORS["dcgan"](**arguments)}, info)
    found, networks = load_networks(tmp_path / "model.safetensors")
    assert found.networks == {"generator": spec}
    assert isinstance(networks["generator"], GENERATORS["dcgan"])


def test_round_trip_of_networks_of_several_roles(tmp_path: Path) -> None:
    heads = {"channels": (3, 8), "layers": (1,), "width": 4}
    specs = {
        "generator_ab": NetworkSpec("resnet", ARGUMENTS),
        "generator_projection": NetworkSpec("patches", heads, role="projection"),
    }
    modules = {"generator_ab": make_network(), "generator_projection": ROLES["projection"]["patches"](**heads)}
    write_model(tmp_path / "model.safetensors", modules, make_info(networks=specs))
    info, found = load_networks(tmp_path / "model.safetensors")
    assert info.networks == specs
    for key, weight in modules["generator_projection"].state_dict().items():
        assert torch.equal(found["generator_projection"].state_dict()[key], weight)


def test_files_from_before_there_were_roles_hold_generators(model: Path) -> None:
    rewrite(model, lambda metadata: metadata["networks"]["generator_ab"].pop("role"))
    assert load_networks(model)[0] == make_info()


def test_equal_content_gives_equal_bytes(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_model(other, {"generator_ab": make_network()}, make_info())
    assert other.read_bytes() == model.read_bytes()


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_model(tmp_path / "model.safetensors", {"generator_ab": make_network()}, make_info())
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_full_disk_leaves_the_old_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.read_bytes()

    def refuse(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "write", refuse)
    with pytest.raises(Fault, match=r"no space .* Free some space"):
        write_model(model, {"generator_ab": make_network()}, make_info(images_seen=1))
    monkeypatch.undo()
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_one_flipped_bit_in_the_weights_is_noticed(model: Path) -> None:
    content = bytearray(model.read_bytes())
    content[-5] ^= 0x10
    model.write_bytes(content)
    with pytest.raises(Fault, match=r"model\.safetensors: the weights do not match their checksum"):
        load_networks(model)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    plain, zipped = tmp_path / "model.pth", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps(Payload()))
    torch.save({"weights": torch.zeros(1)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(Fault, match=r"a pickle, which can run code .* Ask for a \.safetensors"):
            load_networks(path)
    assert not marker.exists()


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(Fault, match="not a model of img2img"):
        read_info(path)


@pytest.mark.parametrize(
    "content", [b"", b"abc", struct.pack("<Q", 1 << 62), struct.pack("<Q", 5) + b"nojsn", b"\0" * 64]
)
def test_an_impossible_header_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(Fault, match=r"model\.safetensors: "):
        load_networks(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_damage_to_the_header_escapes_as_anything_but_a_fault(data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    write_model(path, {"generator_ab": make_network()}, make_info())
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    position = data.draw(st.integers(0, 7 + length))
    if data.draw(st.booleans()):
        content = content[:position]
    else:
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(Fault):
        load_networks(path)


def forget(key: str) -> Any:
    return lambda metadata: metadata.pop(key)


def argument(**values: Any) -> Any:
    return lambda metadata: metadata["networks"]["generator_ab"]["arguments"].update(values)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda metadata: metadata.update(format=99), "format 99"),
        (forget("networks"), "incomplete"),
        (forget("classes"), "incomplete"),
        (lambda metadata: metadata.update(resolution=[10**9, 1]), "contradicts"),
        (lambda metadata: metadata.update(resolution="big"), "incomplete"),
        (lambda metadata: metadata.update(resolution=[1e999, 1]), "malformed"),
        (lambda metadata: metadata.update(fit=["crop"]), "contradicts"),
        (lambda metadata: metadata.update(domains=["a", "b"]), "malformed"),
        (lambda metadata: metadata.update(images_seen="many"), "malformed"),
        (lambda metadata: metadata.update(metrics=[1]), "malformed"),
        (lambda metadata: metadata.update(metrics={"fid": float("nan")}), "malformed"),
        (lambda metadata: metadata.update(directions={"a2b": "nobody"}), "contradicts"),
        (lambda metadata: metadata["networks"]["generator_ab"].update(name="os.system"), "unknown here"),
        (lambda metadata: metadata["networks"]["generator_ab"].update(role="discriminator"), "unknown here"),
        (lambda metadata: metadata["networks"]["generator_ab"].update(role="nobody"), "unknown here"),
        (argument(width=10**9), "cannot be built"),
        (argument(width=-4), "cannot be built"),
        (argument(blocks=10**6), "cannot be built"),
        (argument(extra=1), "cannot be built"),
        (argument(width=8), "has shape"),
        (argument(blocks=2), "is missing"),
    ],
)
def test_a_description_that_lies_is_refused_before_memory_is_taken(model: Path, change: Any, expected: str) -> None:
    rewrite(model, change)
    with pytest.raises(Fault, match=expected) as caught:
        load_networks(model)
    assert str(model) in str(caught.value)


def test_a_pipe_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(Fault, match=r"model\.safetensors: is no regular file"):
        read_info(tmp_path / "model.safetensors")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="there is no such file"):
        read_info(tmp_path / "absent.safetensors")


# --- training state


def make_tree(value: float = 1.0) -> dict[str, Any]:
    return {
        "model": {"weight": torch.full((2, 3), value), "scalar": torch.tensor(value, dtype=torch.float64)},
        "engine": {
            "step": 7,
            "optimizer": {
                "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
                "groups": [{"lr": 0.1, "betas": (0.5, 0.9)}],
            },
            "none": None,
        },
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(*pair) for pair in zip(first, second))
    return bool(first == second)


def test_state_round_trip(tmp_path: Path) -> None:
    path = save_state(tmp_path, 120, make_tree(), {"threads": 2}, keep_last=2)
    state = load_state(path)
    assert path.name == "step-000000120"
    assert same(state.tree, make_tree())
    assert state.manifest["threads"] == 2


def test_only_the_last_states_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save_state(tmp_path, step, make_tree(step), {}, keep_last=2)
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in state_folders(tmp_path)]
    assert [int(path.name[5:]) for path in state_folders(tmp_path)] == [3, 4]


def test_states_kept_for_good_are_the_first_of_each_period(tmp_path: Path) -> None:
    """Whatever the number of the last ones, and after each save: what a later run finds decides nothing else."""
    seen = {1: 8, 2: 16, 3: 24, 4: 32, 5: 36, 6: 40, 7: 44}  # images by step
    there: list[list[int]] = []
    for step, images in seen.items():
        save_state(tmp_path, step, make_tree(step), {"images_seen": images}, keep_last=1, keep_every=15)
        there.append([int(path.name[5:]) for path in state_folders(tmp_path)])
    # 16 is the first from 15 on, 32 from 30 on
    assert there == [[1], [2], [2, 3], [2, 4], [2, 4, 5], [2, 4, 6], [2, 4, 7]]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [path.name for path in state_folders(tmp_path)]


def test_what_a_kill_left_to_remove_is_removed_when_the_step_comes_again(tmp_path: Path) -> None:
    """Killed between publishing a state and removing the oldest, and resumed from that very state."""
    for step in range(3):
        save_state(tmp_path, step, make_tree(step), {}, keep_last=9)
    save_state(tmp_path, 2, make_tree(2), {}, keep_last=2)
    assert [int(path.name[5:]) for path in state_folders(tmp_path)] == [1, 2]


@pytest.mark.parametrize(("keep_last", "mend"), [(2, "set train.keep_last=1"), (1, "choose another disk")])
def test_a_full_disk_says_what_a_state_needs_and_leaves_the_old_one(
    keep_last: int, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"model": {"weight": torch.zeros(1_000_000)}, "ema": [{"weight": torch.zeros(500_000)}]}
    save_state(tmp_path, 1, make_tree(), {}, keep_last)

    def refuse(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "write", refuse)
    words = (
        rf"step-000000002: cannot be written: no space \(needs 6\.0 MB, [0-9.]+ MB free\)\. Free some space or {mend}"
    )
    with pytest.raises(Fault, match=words):
        save_state(tmp_path, 2, big, {}, keep_last)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert same(load_state(tmp_path / "step-000000001").tree, make_tree())


DAMAGE = {
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "random": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "engine.json", "manifest.json"])
def test_a_damaged_state_is_passed_over_by_name(tmp_path: Path, kind: str, name: str) -> None:
    save_state(tmp_path, 1, make_tree(1), {}, keep_last=2)
    newest = save_state(tmp_path, 2, make_tree(2), {}, keep_last=2)
    DAMAGE[kind](newest / name)
    state, notes = latest_state(tmp_path)
    assert state is not None
    assert same(state.tree, make_tree(1))
    assert len(notes) == 1
    assert notes[0].startswith("skipped state step-000000002: ")
    assert notes[0].endswith("; using step-000000001")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_damage_anywhere_in_a_state_is_loaded(data: st.DataObject, tmp_path_factory: Any) -> None:
    """One byte changed, or the file cut, at any place of any file: passed over, or it says what it said."""
    folder = tmp_path_factory.mktemp("states")
    save_state(folder, 1, make_tree(1), {}, keep_last=2)
    newest = save_state(folder, 2, make_tree(2), {}, keep_last=2)
    victim = data.draw(st.sampled_from(sorted(newest.iterdir())))
    before = (newest / "manifest.json").read_bytes()
    content = bytearray(victim.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:position]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    victim.write_bytes(content)
    state, notes = latest_state(folder)
    assert state is not None
    if notes:
        assert same(state.tree, make_tree(1))
    else:
        assert victim.name == "manifest.json"
        assert same(state.tree, make_tree(2))
        said = {key: value for key, value in state.manifest.items() if key != "sha256"}
        assert manifest_digest(said) == json.loads(before)["sha256"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("../../../etc/passwd"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("files"), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_manifest_and_no_tree_of_a_state_escape_as_anything_but_a_fault(
    data: st.DataObject, tmp_path_factory: Any
) -> None:
    """PROMISES E13: other JSON in the manifest, or in a tree with a manifest that is right for it, or any bytes."""
    path = save_state(tmp_path_factory.mktemp("fuzz"), 1, make_tree(), {"threads": 1}, keep_last=1)
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]  # as in states from before there was one: what is in them is looked at
    kind = data.draw(st.sampled_from(["bytes", "manifest", "entry", "tree", "deep"]))
    if kind == "bytes":
        (path / "manifest.json").write_bytes(data.draw(st.binary(max_size=50)))
    elif kind == "manifest":
        (path / "manifest.json").write_text(json.dumps(data.draw(_JSON)))
    elif kind == "entry":
        name = data.draw(st.sampled_from(sorted(manifest["files"])))
        manifest["files"][name] = data.draw(_JSON)
        (path / "manifest.json").write_text(json.dumps(manifest))
    else:
        text = "[" * 100_000 if kind == "deep" else json.dumps(data.draw(_JSON))
        (path / "engine.json").write_text(text)
        manifest["files"]["engine.json"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))
    with contextlib.suppress(Fault):
        load_state(path)


def test_only_damaged_states_are_a_fault_that_names_them(tmp_path: Path) -> None:
    DAMAGE["empty"](save_state(tmp_path, 1, make_tree(), {}, keep_last=2) / "manifest.json")
    with pytest.raises(Fault, match="step-000000001"):
        latest_state(tmp_path)


def test_a_damaged_state_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    path = save_state(tmp_path, 5, make_tree(), {}, keep_last=2)
    DAMAGE["half"](path / "model.safetensors")
    save_state(tmp_path, 5, make_tree(3), {}, keep_last=2)
    assert same(load_state(path).tree, make_tree(3))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_no_state_is_no_fault(tmp_path: Path) -> None:
    assert latest_state(tmp_path / "state") == (None, [])


def test_every_field_of_the_description_is_written(model: Path) -> None:
    assert {field.name for field in dataclasses.fields(ModelInfo)} <= set(dataclasses.asdict(read_info(model)))


def test_measures_change_neither_weights_nor_what_a_model_is(model: Path) -> None:
    before, digest = load_networks(model)[1]["generator_ab"].state_dict(), model_digest(model)
    add_metrics(model, {"FID": 3.5})
    add_metrics(model, {"card": {"scores": {}}})
    assert read_info(model).metrics == {"FID": 3.5, "card": {"scores": {}}}
    assert model_digest(model) == digest
    after = load_networks(model)[1]["generator_ab"].state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_other_weights_and_another_description_are_another_model(model: Path) -> None:
    digest = model_digest(model)
    rewrite(model, lambda metadata: metadata.update(fit="stretch"))
    changed = model_digest(model)
    network = make_network()
    with torch.no_grad():
        next(iter(network.parameters())).add_(1)
    write_model(model, {"generator_ab": network}, make_info())
    assert len({digest, changed, model_digest(model)}) == 3
