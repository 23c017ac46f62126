"""Weights come in by hand only, are read without being run, and are what they are said to be."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import logging
import os
import pickle
import resource
import shlex
import shutil
import socket
import ssl
import stat
import struct
import subprocess
import tarfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from img2img.errors import Fault, UsageFault
from img2img.evaluation.download import download
from img2img.evaluation.known_weights import KNOWN, layout, published_name, recognise
from img2img.evaluation.weights import (
    WeightsInfo,
    fetch_weights,
    find_weights,
    import_weights,
    network_of,
    read_info,
    weights_folder,
)
from img2img.networks.inception import Inception
from img2img.unpickling import read_pickled_tensors

ALEX = "lpips-alex"  # five small tensors


@pytest.fixture(autouse=True)
def folder(weights_store: Path) -> Path:
    return weights_store


def lin(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.rand(shape, generator=generator) for key, shape in layout(ALEX).items()}


def saved(value: object, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


OLD = {"_use_new_zipfile_serialization": False}
SAVERS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip, protocol 4": {"pickle_protocol": 4},
    "old": OLD,
    "old, protocol 4": {**OLD, "pickle_protocol": 4},
}


# --- reading what torch.save wrote -----------------------------------------------------------------------------------


def varied() -> dict[str, Any]:
    """Tensors of every layout that a state dict can have."""
    torch.manual_seed(0)
    numbers = torch.arange(24.0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    return {
        **network.state_dict(),
        "parameter": nn.Parameter(torch.rand(3)),
        "transposed": numbers.reshape(4, 6).clone().T,
        "slice": torch.arange(100)[7:95:11],
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, 3),
        "half": torch.rand(5).half(),
        "brain": torch.rand(5).bfloat16(),
        "double": torch.rand(5).double(),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "yes": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("options", SAVERS.values(), ids=SAVERS)
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_tensors_are_those_that_torch_reads(kind: type, options: dict[str, Any]) -> None:
    found = read_pickled_tensors(saved(kind(varied()), **options), Path("file"))
    # torch itself reads protocol 2 only with weights_only
    expected = torch.load(io.BytesIO(saved(varied())), weights_only=True)
    assert list(found) == list(expected)
    for key, tensor in found.items():
        assert torch.equal(tensor, expected[key]), key
        assert tensor.dtype == expected[key].dtype
        assert tensor.is_contiguous()


@pytest.mark.parametrize("options", SAVERS.values(), ids=SAVERS)
def test_a_state_dict_with_its_versions_is_read(options: dict[str, Any]) -> None:
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    assert hasattr(state, "_metadata")
    found = read_pickled_tensors(saved(state, **options), Path("file"))
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in state.items()}


def test_the_published_files_of_lpips_are_read_and_recognised() -> None:
    lpips = pytest.importorskip("lpips")
    for name in ("alex", "vgg", "squeeze"):
        file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{name}.pth"
        path = import_weights(file)
        assert read_info(path) == WeightsInfo(f"lpips-{name}", "", f"{name}.pth", KNOWN[f"lpips-{name}"].sha256)
        info = read_info(path)
        assert info is not None
        assert info.is_published
        assert file.stat().st_size == KNOWN[f"lpips-{name}"].bytes
        found, expected = safetensors.torch.load_file(path), torch.load(file, "cpu", weights_only=True)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


# --- code and damage -------------------------------------------------------------------------------------------------


class Payload:
    """Makes a file when it is unpickled."""

    marker = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(self.marker)}",)


class Plain:
    """An object of a class, as whole networks were saved once."""


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def put_in(content: bytes, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with some of its members changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return zipped({**members, **changes}, compression)


CODE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip": (lambda: saved({"state": Payload()}), "posix.system"),
    "zip beside tensors": (lambda: saved({**lin(), "more": Payload()}), "posix.system"),
    "zip, protocol 4": (lambda: saved({"state": [Payload()]}, pickle_protocol=4), "posix.system"),
    "old": (lambda: saved({"state": Payload()}, **OLD), "posix.system"),
    "pickle": (lambda: pickle.dumps(Payload()), "posix.system"),
    "old pickle": (lambda: pickle.dumps(Payload(), protocol=2), "posix.system"),
    "text pickle": (lambda: pickle.dumps(Payload(), protocol=0), "posix.system"),
    "instance of a text pickle": (lambda: b"(iposix\nsystem\n.", "posix.system"),
    "zip in a zip": (lambda: zipped({"archive/data.pkl": pickle.dumps(Payload())}), "posix.system"),
    "object": (lambda: saved({"state": Plain()}), f"{Plain.__module__}.Plain"),
    "getattr": (lambda: pickle.dumps(getattr), "builtins.getattr"),
    "TorchScript": (
        lambda: put_in(saved(lin()), {"archive/constants.pkl": b"\x80\x02).", "archive/code/x.py": b"1"}),
        "a TorchScript program",
    ),
}


@pytest.mark.parametrize("name", [None, ALEX])
@pytest.mark.parametrize("case", CODE)
def test_code_is_named_and_not_run(case: str, name: str | None, folder: Path, tmp_path: Path) -> None:
    Payload.marker = str(tmp_path / "ran")
    make, code = CODE[case]
    (tmp_path / "model.pth").write_bytes(make())
    with pytest.raises(UsageFault) as caught:
        import_weights(tmp_path / "model.pth", name)
    assert str(caught.value) == f"{tmp_path / 'model.pth'}: holds code ({code}). Ask for a .safetensors"
    assert not (tmp_path / "ran").exists()
    assert not folder.exists()


def test_the_payloads_would_run(tmp_path: Path) -> None:
    Payload.marker = str(tmp_path / "ran")
    pickle.loads(CODE["pickle"][0]())
    assert (tmp_path / "ran").exists()


def nested_tuples() -> bytes:
    """A table whose key is 2^200 empty tuples, in 1,200 bytes."""
    return b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 200 + b"Ns."


def old_file(table: bytes) -> bytes:
    """An old file of torch.save around the pickle of its table."""
    magic, version = (pickle.dumps(number, 2) for number in (0x1950A86A20F9469CFC6C, 1001))
    return magic + version + pickle.dumps({"little_endian": True}, 2) + table


shared = torch.rand(4)
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", r"is empty \(0 bytes\)"),
    "text": (lambda: b"<!DOCTYPE html><html></html>", "is damaged, cut short, or no file of weights"),
    "tar": (lambda: tarred(pickle.dumps(Payload())), "is damaged, cut short, or no file of weights"),
    "number": (lambda: pickle.dumps(7), "is damaged, cut short, or no file of weights"),
    "arrays": (lambda: zipped({"mu.npy": b"\x93NUMPY"}), "a zip without a table of tensors"),
    "zipped file": (lambda: zipped({"model.pth": saved(lin())}), "a zip without a table of tensors"),
    "bomb": (
        lambda: zipped({"archive/data.pkl": b"\0" * 10**7}, zipfile.ZIP_DEFLATED),
        "is a compressed zip, not a file of weights",
    ),
    "many parts": (lambda: zipped({f"archive/{n}": b"" for n in range(10_001)}), "is a zip of more than 10,000 parts"),
    "long table": (lambda: zipped({"archive/data.pkl": b"N" * (1 << 21)}), "larger than any network's"),
    "long old table": (lambda: old_file(b"\x80\x02" + b"N" * (1 << 21) + b"."), "is damaged"),
    "byte order": (lambda: put_in(saved(lin()), {"archive/byteorder": b"big"}), "another byte order"),
    "whole checkpoint": (lambda: saved({"state_dict": lin(), "epoch": 3}), "entry state_dict is no tensor"),
    "list": (lambda: saved([torch.rand(2)]), "holds no table of tensors"),
    "no tensors": (lambda: saved({}), "holds no table of tensors"),
    "stride 0": (lambda: saved({"much": torch.zeros(1).expand(10**9)}), "is damaged"),
    "shared memory": (lambda: saved({"a": shared, "b": shared[1:]}), "tensor b shares its memory"),
    "missing part": (
        lambda: zipped({"archive/data.pkl": zipfile.ZipFile(io.BytesIO(saved(lin()))).read("archive/data.pkl")}),
        "is damaged",
    ),
    "nested tuples": (lambda: old_file(nested_tuples()), "is damaged"),
    "nested tuples, nowhere": (nested_tuples, "is damaged"),
    "huge text": (lambda: old_file(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x."), "is damaged"),
    "unknown type": (lambda: old_file(b"\x80\x02\x82\x01."), "is damaged"),
    "safetensors, 2^62": (lambda: struct.pack("<Q", 1 << 62) + b'{"a":1}', "is damaged, cut short, or no file"),
    "safetensors, no JSON": (lambda: struct.pack("<Q", 8) + b"{nojson}", "is a damaged safetensors file"),
    "safetensors, deep": (lambda: struct.pack("<Q", 100_006) + b'{"a":' + b"[" * 100_001, "a damaged safetensors file"),
    "safetensors, entries": (
        lambda: safetensors.torch.save({f"{n}": torch.zeros(0) for n in range(20_000)}),
        "holds 20,000 tensors",
    ),
    "safetensors, header": (
        lambda: struct.pack("<Q", 24) + b'{"__metadata__":["a"]}  ',
        "is a damaged safetensors file",
    ),
    "safetensors, shape": (
        lambda: struct.pack("<Q", 64) + b'{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4]}} ' + b"\0" * 4,
        "is a damaged safetensors file",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_file_of_weights_is_refused(case: str, folder: Path, tmp_path: Path) -> None:
    make, problem = BAD[case]
    (tmp_path / "model.pth").write_bytes(make())
    with pytest.raises(UsageFault, match=rf"model\.pth: .*{problem}"):
        import_weights(tmp_path / "model.pth", ALEX)
    assert not folder.exists()


@pytest.mark.parametrize("options", SAVERS.values(), ids=SAVERS)
def test_a_cut_file_is_refused_wherever_it_is_cut(options: dict[str, Any], tmp_path: Path) -> None:
    content = saved({"a": torch.rand(40), "b": torch.rand(3, 4)}, **options)
    for length in range(1, len(content), 17):
        with pytest.raises(UsageFault):
            read_pickled_tensors(content[:length], Path("file"))


def test_a_flipped_bit_in_a_zip_is_noticed() -> None:
    content = bytearray(saved(lin()))
    content[bytes(content).index(lin()["lin0.model.1.weight"].numpy().tobytes()) + 9] ^= 1
    with pytest.raises(UsageFault, match="damaged"):
        read_pickled_tensors(bytes(content), Path("file"))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (Path.mkdir, "is no regular file"),
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: path.symlink_to("nowhere"), "there is no such file"),
        (lambda path: None, "there is no such file"),
        (lambda path: (path.touch(), os.truncate(path, (1 << 30) + 1)), "is larger than weights of any known network"),
    ],
)
def test_what_is_no_file_is_refused(make: Callable[[Path], Any], problem: str, tmp_path: Path) -> None:
    make(tmp_path / "model.pth")
    with pytest.raises(UsageFault, match=rf"model\.pth: {problem}"):
        import_weights(tmp_path / "model.pth", ALEX)


TINY = {"a": torch.rand(2), "b": torch.rand(2, 1).T}
SEEDS = [saved(TINY, **options) for options in SAVERS.values()]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_damage_escapes_as_anything_but_a_fault(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(st.sampled_from(["change", "insert", "remove", "cut"])):
            case "change":
                content[position : position + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "insert":
                content[position:position] = data.draw(st.binary(min_size=1, max_size=9))
            case "remove":
                del content[position : position + data.draw(st.integers(1, 9))]
            case "cut":
                del content[position + 1 :]
    with contextlib.suppress(UsageFault):
        read_pickled_tensors(bytes(content), Path("file"))


WORDS = [
    b"(", b")", b"]", b"}", b"N", b"\x88", b"K\x02", b"U\x01a", b"\x8c\x01b", b"\x85", b"\x86", b"\x87", b"t", b"a",
    b"e", b"s", b"u", b"q\x00", b"h\x00", b"\x94", b"Q", b"R", b"b", b"0", b"2", b"\x93", b"\x81", b"o", b"d", b"l",
    b"U\x07storage", b"U\x05torch", b"U\x0cFloatStorage", b"\x8a\x09" + b"\x01" * 9, b"J\xff\xff\xff\xff",
    b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=30))
@example([b"ctorch._utils\n_rebuild_parameter\n", b")", b"R"])
@example([b"ccollections\nOrderedDict\n", b"K\x02", b"\x85", b"R"])
@example([b"K\x02", b"\x85", b"Q"])
@example([b"}", b"]", b"N", b"s"])
def test_no_program_escapes_as_anything_but_a_fault(words: list[bytes]) -> None:
    with pytest.raises(UsageFault):
        read_pickled_tensors(old_file(b"\x80\x04" + b"".join(words) + b"."), Path("file"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_safetensors_escapes_as_anything_but_a_fault(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(safetensors.torch.save(lin(), {"input": "RGB"}))
    (length,) = struct.unpack("<Q", content[:8])
    content[data.draw(st.integers(0, 7 + length))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "file.safetensors"
    path.write_bytes(content)
    for call in (lambda: import_weights(path, ALEX), lambda: network_of(path)):
        with contextlib.suppress(UsageFault):
            call()


# --- which weights they are ------------------------------------------------------------------------------------------


def described(name: str) -> dict[str, Tensor]:
    """Tensors with no numbers in them."""
    return {key: torch.empty(shape, device="meta") for key, shape in layout(name).items()}


@pytest.mark.parametrize("name", KNOWN)
def test_a_network_is_recognised_by_its_tensors(name: str) -> None:
    tensors = described(name)
    found, kept = recognise(tensors, None, Path("file"))
    assert found == name
    assert {key: id(tensor) for key, tensor in kept.items()} == {key: id(tensor) for key, tensor in tensors.items()}


def test_layouts_are_those_of_the_networks() -> None:
    inception = layout("inception-2015")
    assert inception["fc.weight"] == (1008, 2048)
    assert inception["Mixed_7c.branch_pool.bn.running_var"] == (192,)
    assert not [key for key in inception if "AuxLogits" in key or "num_batches" in key]
    assert layout("squeezenet1_0")["features.0.weight"] == (96, 3, 7, 7)
    assert layout("vgg16")["features.28.weight"] == (512, 512, 3, 3)


def test_our_inception_has_the_layout_that_is_stored() -> None:
    with torch.device("meta"):
        state = Inception().state_dict()
    assert {k: tuple(v.shape) for k, v in state.items() if "num_batches" not in k} == layout("inception-2015")


def test_the_fid_inception_loads_what_is_stored() -> None:
    fid = pytest.importorskip("pytorch_fid.inception")
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fid, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = fid.fid_inception_v3()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items() if "num_batches" not in key}
    assert shapes == layout("inception-2015")


def test_what_measuring_has_no_use_for_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    more = {
        **described("inception_v3"),
        "AuxLogits.fc.weight": torch.empty(1000, 768, device="meta"),
        "Mixed_7c.branch_pool.bn.num_batches_tracked": torch.tensor(0),
    }
    with caplog.at_level(logging.INFO, "img2img"):
        name, kept = recognise(more, None, Path("file.pth"))
    assert (name, kept.keys()) == ("inception_v3", described("inception_v3").keys())
    assert "file.pth: left out 2 tensors" in caplog.text


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (None, lambda t: t.pop("features.28.bias"), r"does not fit vgg16: features\.28\.bias is missing"),
        (None, lambda t: t.update(evil=torch.zeros(1)), "does not fit vgg16: evil is not part of it"),
        (
            None,
            lambda t: t.update({"features.0.weight": torch.zeros(64, 1, 3, 3)}),
            r"does not fit vgg16: features\.0\.weight has shape \(64, 1, 3, 3\), not \(64, 3, 3, 3\)",
        ),
        ("alexnet", lambda t: None, r"does not fit alexnet: .*Give weights for torchvision's AlexNet"),
        (
            None,
            lambda t: (t.clear(), t.update(x=torch.zeros(1), y=torch.zeros(2))),
            r"belong to no known network \(the first are x, y\)\. Known: inception-2015, inception_v3, ",
        ),
        (None, lambda t: t.clear(), r"belong to no known network \(the first are none\)"),
    ],
)
def test_weights_of_another_layout_are_refused(name: str | None, change: Callable[[Any], Any], problem: str) -> None:
    tensors = described("vgg16")
    change(tensors)
    with pytest.raises(UsageFault, match=rf"file: .*{problem}"):
        recognise(tensors, name, Path("file"))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.zeros(1, 64, 1, 1, dtype=torch.int64), r"tensor lin0\.model\.1\.weight has type torch\.int64"),
        (torch.full((1, 64, 1, 1), torch.nan), r"tensor lin0\.model\.1\.weight is not finite"),
        (torch.full((1, 64, 1, 1), 1e300, dtype=torch.float64), r"tensor lin0\.model\.1\.weight is not finite"),
    ],
)
def test_weights_must_be_finite_numbers(value: Tensor, problem: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lin.pth").write_bytes(saved({**lin(), "lin0.model.1.weight": value}))
    with pytest.raises(UsageFault, match=problem):
        import_weights(tmp_path / "lin.pth")
    assert not folder.exists()


def test_the_published_inception_v3_takes_pictures_in_minus_one_to_one() -> None:
    """torchvision normalises x by ImageNet, then undoes it in the network: what reaches the weights is 2x - 1."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        network = models.inception_v3(weights=None, aux_logits=False, init_weights=False, transform_input=True)
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    transform = models.Inception_V3_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (transform.mean, transform.std))
    assert torch.allclose(network._transform_input((x - mean) / std), 2 * x - 1, atol=1e-12)
    assert KNOWN["inception_v3"].input == "unit"


# --- the folder ------------------------------------------------------------------------------------------------------


def test_an_imported_file_holds_its_tensors_and_where_they_are_from(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lin.pth").write_bytes(saved(lin()))
    old = os.umask(0o027)
    try:
        path = import_weights(tmp_path / "lin.pth")
    finally:
        os.umask(old)
    assert path == folder / f"{ALEX}.safetensors" == find_weights(ALEX)
    assert list(folder.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    found = safetensors.torch.load_file(path)
    assert found.keys() == lin().keys()
    assert all(torch.equal(found[key], value) for key, value in lin().items())
    digest = hashlib.sha256((tmp_path / "lin.pth").read_bytes()).hexdigest()
    with safetensors.safe_open(path, "pt") as file:
        text = json.loads(file.metadata()["img2img"])
    assert text == {"network": ALEX, "input": "", "source": "lin.pth", "source_sha256": digest}
    assert read_info(path) == WeightsInfo(**text)


def test_an_import_replaces_and_repeats_to_the_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in (0, 1):
        (tmp_path / "lin.pth").write_bytes(saved(lin(seed)))
        content = import_weights(tmp_path / "lin.pth", ALEX).read_bytes()
        assert import_weights(tmp_path / "lin.pth").read_bytes() == content
    assert torch.equal(safetensors.torch.load(content)["lin0.model.1.weight"], lin(1)["lin0.model.1.weight"])
    assert "lin.pth: is not the published file" in caplog.text


def test_a_file_of_the_folder_can_be_taken_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: bytes
) -> None:
    (tmp_path / "alex.pth").write_bytes(published)
    first = import_weights(tmp_path / "alex.pth")
    monkeypatch.setenv("IMG2IMG_WEIGHTS", str(tmp_path / "other"))
    second = import_weights(first)
    assert second.read_bytes() == first.read_bytes()
    info = read_info(second)
    assert info is not None
    assert info.is_published


def squeezenet(**metadata: str) -> bytes:
    return safetensors.torch.save({key: torch.ones(shape) for key, shape in layout("squeezenet1_0").items()}, metadata)


@pytest.mark.parametrize(
    ("content", "given", "expected"),
    [
        (lambda: saved(safetensors.torch.load(squeezenet())), None, "imagenet"),
        (lambda: saved(safetensors.torch.load(squeezenet())), "unit", "unit"),
        (lambda: squeezenet(input="RGB in [-1,1]"), None, "unit"),
        (squeezenet, "imagenet", "imagenet"),
        (squeezenet, "unit", "unit"),
    ],
    ids=["pth", "pth given", "stated", "given", "given the other"],
)
def test_the_input_of_the_first_convolution_is_kept(
    content: Callable[[], bytes], given: str | None, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content())
    path = import_weights(tmp_path / "file", "squeezenet1_0", given)
    info = read_info(path)
    assert info is not None
    assert info.input == expected
    again = read_info(import_weights(path, "squeezenet1_0"))
    assert again == info


@pytest.mark.parametrize(
    "metadata",
    [{}, {"input": "RGB in [0,1]"}, {"img2img": "evil"}, {"img2img": json.dumps({"network": ["vgg16"]})}],
    ids=["not stated", "stated otherwise", "nonsense", "more nonsense"],
)
def test_an_input_is_not_guessed(metadata: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(squeezenet(**metadata))
    with pytest.raises(UsageFault, match=r"does not say what its first convolution takes.*--input imagenet"):
        import_weights(tmp_path / "file", "squeezenet1_0")


def test_the_shared_weights_can_be_imported(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = shared_data / "weights" / "squeezenet1_0.safetensors"
    path = import_weights(file)
    info = read_info(path)
    assert info is not None
    assert (info.network, info.input) == ("squeezenet1_0", "unit")
    assert caplog.text == ""
    found, expected = safetensors.torch.load_file(path), safetensors.torch.load_file(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("squeezenet1_0", "units", r"--input: 'units' is no input of squeezenet1_0\. Did you mean unit\?"),
        (ALEX, "unit", rf"--input: 'unit' is no input of {ALEX}\. Leave it out"),
        ("lpips-alx", None, rf"'lpips-alx' is unknown\. Did you mean {ALEX}"),
    ],
)
def test_choices_that_cannot_be_are_refused(name: str, given: str | None, problem: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(saved(lin()) if name == ALEX else squeezenet())
    with pytest.raises(UsageFault, match=problem):
        import_weights(tmp_path / "file", name, given)


def test_published_weights_keep_their_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(safetensors.torch.load(squeezenet()))
    known = dataclasses.replace(KNOWN["squeezenet1_0"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(KNOWN, "squeezenet1_0", known)
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageFault, match=r"--input: the published weights take 'imagenet'\. Leave it out"):
        import_weights(tmp_path / "file", "squeezenet1_0", "unit")


def test_weights_that_are_not_here_say_how_to_bring_them(folder: Path) -> None:
    with pytest.raises(UsageFault) as caught:
        find_weights("inception-2015")
    assert str(caught.value) == (
        "inception-2015: its weights are not here, and nothing is downloaded by itself "
        f"({folder / 'inception-2015.safetensors'}). Run `img2img weights fetch inception-2015`, or "
        "`img2img weights import FILE` with a copy of pt_inception-2015-12-05-6726825d.pth"
    )
    with pytest.raises(UsageFault, match=r"squeezenet1_0: .*\. Run `img2img weights import FILE` with a copy"):
        find_weights("squeezenet1_0")
    with pytest.raises(UsageFault, match=r"weights: 'inception' is unknown\. Did you mean inception"):
        find_weights("inception")
    assert not folder.exists()


def test_the_folder_is_chosen_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMG2IMG_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_folder() == tmp_path / "cache" / "img2img" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert weights_folder() == tmp_path / "home" / ".cache" / "img2img" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder() == tmp_path / "home" / ".cache" / "img2img" / "weights"


def test_a_folder_that_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lin.pth").write_bytes(saved(lin()))
    monkeypatch.setenv("IMG2IMG_WEIGHTS", str(tmp_path / "lin.pth" / "below"))
    for call in (lambda: import_weights(tmp_path / "lin.pth", ALEX), lambda: fetch_weights(ALEX)):
        with pytest.raises(UsageFault, match=r"below: cannot be made \(Not a directory\)\. Set IMG2IMG_WEIGHTS to"):
            call()
    with pytest.raises(UsageFault, match="not here"):
        find_weights(ALEX)
    monkeypatch.delenv("IMG2IMG_WEIGHTS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UsageFault, match=r"HOME: there is no home folder .*\. Set IMG2IMG_WEIGHTS"):
        find_weights(ALEX)


def test_the_network_of_a_file_is_what_it_says_or_shows(tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(lin(), plain)
    assert network_of(plain) == network_of(import_weights(plain)) == ALEX
    assert read_info(plain) is None
    for name, content in (("old.pth", saved(lin(), **OLD)), ("new.pth", saved(lin())), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            UsageFault, match=r"is no safetensors file\. Bring it in with `img2img weights import FILE`"
        ):
            network_of(tmp_path / name)
        assert read_info(tmp_path / name) is None
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UsageFault, match="no known network"):
        network_of(tmp_path / "foreign.safetensors")
    with pytest.raises(UsageFault, match="there is no such file"):
        network_of(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageFault, match="is no regular file"):
        network_of(tmp_path / "pipe")


# --- fetching --------------------------------------------------------------------------------------------------------


def test_known_files_can_be_checked() -> None:
    for name, known in KNOWN.items():
        assert known.name == name
        assert known.licence
        assert known.source
        assert known.network
        if known.url:
            assert known.url.startswith("https://")
            assert len(bytes.fromhex(known.sha256)) == 32
            assert 0 < known.bytes < 1 << 30
            digits = Path(published_name(known)).stem.rpartition("-")[2]
            assert name.startswith("lpips") or known.sha256.startswith(digits)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file that counts as the published one of ALEX."""
    content = saved(lin())
    known = dataclasses.replace(KNOWN[ALEX], sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    monkeypatch.setitem(KNOWN, ALEX, known)
    return content


class Request(BaseHTTPRequestHandler):
    """Answers by the server's `answer`, and notes what was asked for."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            self.server.answer(self)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        """Headers, then the content; without a Content-Length its end is the connection's."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def whole(self, content: bytes) -> None:
        self.send(content, Content_Length=str(len(content)))

    def ranged(self, content: bytes) -> None:
        """As a server does that knows ranges."""
        asked = self.headers.get("Range")
        if asked is None:
            return self.whole(content)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        part = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(content[start:], 206, Content_Length=str(len(content) - start), Content_Range=part)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.requests: list[tuple[str, str | None]] = []
        self.answer: Callable[[Request], None] = lambda request: request.send_error(404)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def require_fetched(path: Path, folder: Path) -> None:
    """The published weights are here, and nothing else."""
    assert list(folder.iterdir()) == [path] == [folder / f"{ALEX}.safetensors"]
    info = read_info(path)
    assert info is not None
    assert info.is_published
    assert info.source == "alex.pth"
    assert torch.equal(safetensors.torch.load_file(path)["lin0.model.1.weight"], lin()["lin0.model.1.weight"])


def test_a_file_is_fetched_once(server: Server, published: bytes, folder: Path) -> None:
    server.answer = lambda request: request.ranged(published)
    progress: list[tuple[int, int]] = []
    path = fetch_weights(ALEX, lambda *counts: progress.append(counts), base_url=server.url)
    require_fetched(path, folder)
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == ((0, len(published)), (len(published), len(published)))
    assert fetch_weights(ALEX, base_url=server.url) == path
    assert server.requests == [("/alex.pth", None)]


def cut(published: bytes, at: int) -> Callable[[Request], None]:
    return lambda request: request.send(published[:at], Content_Length=str(len(published)))


def test_an_interrupted_download_goes_on(server: Server, published: bytes, folder: Path) -> None:
    half = len(published) // 2
    server.answer = cut(published, half)
    with pytest.raises(Fault, match=rf"127\.0\.0\.1: the connection .* after {half:,} of .*Run the command again"):
        fetch_weights(ALEX, base_url=server.url)
    assert [path.name for path in folder.iterdir()] == [f"{ALEX}.part"]
    with pytest.raises(UsageFault, match="not here"):
        find_weights(ALEX)
    server.answer = lambda request: request.ranged(published)
    progress: list[int] = []
    require_fetched(fetch_weights(ALEX, lambda done, _: progress.append(done), base_url=server.url), folder)
    assert server.requests == [("/alex.pth", None), ("/alex.pth", f"bytes={half}-")]
    assert progress[0] == half


@pytest.mark.parametrize(
    "here",
    [lambda p: p[: len(p) // 2], lambda p: b"other" * 100, lambda p: p + b"more"],
    ids=["half", "other", "too long"],
)
def test_a_server_without_ranges_begins_again(
    here: Callable[[bytes], bytes], server: Server, published: bytes, folder: Path
) -> None:
    folder.mkdir()
    (folder / f"{ALEX}.part").write_bytes(here(published))
    server.answer = lambda request: request.whole(published)
    require_fetched(fetch_weights(ALEX, base_url=server.url), folder)


def test_what_is_here_whole_is_not_asked_for_again(server: Server, published: bytes, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{ALEX}.part").write_bytes(published)
    require_fetched(fetch_weights(ALEX, base_url=server.url), folder)
    assert server.requests == []


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_part_of_something_else_is_thrown_away(server: Server, published: bytes, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{ALEX}.part").write_bytes(b"other" * 100)
    server.answer = lambda request: request.ranged(published)
    with pytest.raises(Fault, match="another sha256 than"):
        fetch_weights(ALEX, base_url=server.url)
    assert list(folder.iterdir()) == []
    require_fetched(fetch_weights(ALEX, base_url=server.url), folder)


def endless(request: Request) -> None:
    request.send(b"")
    while True:
        request.wfile.write(b"\0" * 65536)


def redirect(to: str) -> Callable[[Request], None]:
    return lambda request: request.send(b"", 302, Location=to, Content_Length="0")


REFUSED: dict[str, tuple[Callable[[bytes], Callable[[Request], None]], str]] = {
    "other content": (lambda p: lambda request: request.whole(damaged(p)), r"alex\.pth: what came has another sha256"),
    "a payload": (
        lambda p: lambda request: request.whole(saved(Payload()).ljust(len(p), b"\0")[: len(p)]),
        "what came has another sha256",
    ),
    "short, said": (lambda p: lambda request: request.whole(p[:-1]), "offers [0-9]+ bytes, not the published file"),
    "short, not said": (lambda p: lambda request: request.send(p[:-1]), "the connection ended after"),
    "long, said": (lambda p: lambda request: request.whole(p + b"x"), "offers [0-9]+ bytes, not the published file"),
    "long, not said": (lambda p: lambda request: request.send(p + b"x"), "sends more than the"),
    "endless": (lambda p: endless, "sends more than the"),
    "nonsense": (lambda p: lambda request: request.wfile.write(b"hello\n"), "cannot be reached"),
    "silence": (lambda p: lambda request: None, "cannot be reached"),
    "not there": (lambda p: lambda request: request.send_error(404), r"answered 404 \(Not Found\)"),
    "out of order": (lambda p: lambda request: request.send_error(503), "answered 503"),
    "to http": (
        lambda p: redirect("http://example.org/alex.pth"),
        "redirects to http://example.org/alex.pth, which is",
    ),
    "to localhost": (lambda p: redirect("http://localhost:1/alex.pth"), "which is not https"),
    "to a file": (lambda p: redirect("file:///etc/passwd"), "answered 302 .*not allowed"),
    "to ftp": (lambda p: redirect("ftp://127.0.0.1/alex.pth"), "which is not https"),
    "to data": (lambda p: redirect("data:text/plain,x"), "answered 302 .*not allowed"),
    "in circles": (lambda p: redirect("/alex.pth"), "answered 302"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_published_file_is_never_used(
    case: str, server: Server, published: bytes, folder: Path, tmp_path: Path
) -> None:
    Payload.marker = str(tmp_path / "ran")
    make, problem = REFUSED[case]
    server.answer = make(published)
    with pytest.raises(Fault, match=problem) as caught:
        fetch_weights(ALEX, base_url=server.url)
    assert caught.value.exit_code == 1
    kept = [path.name for path in folder.iterdir()]
    assert kept == ([f"{ALEX}.part"] if case == "short, not said" else [])
    assert not (tmp_path / "ran").exists()
    if not kept:
        assert "weights import FILE" in caught.value.mend or "Run the command again" in caught.value.mend


@pytest.mark.parametrize(("hops", "allowed"), [(5, True), (6, False)])
def test_a_few_redirects_are_followed(hops: int, allowed: bool, server: Server, published: bytes, folder: Path) -> None:
    def answer(request: Request) -> None:
        hop = int(request.path.rpartition("?")[2] if "?" in request.path else 0)
        (redirect(f"/alex.pth?{hop + 1}") if hop < hops else lambda r: r.ranged(published))(request)

    server.answer = answer
    if allowed:
        require_fetched(fetch_weights(ALEX, base_url=server.url), folder)
    else:
        with pytest.raises(Fault, match="answered 302"):
            fetch_weights(ALEX, base_url=server.url)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda request: request.send(b"x" * 9, 206, Content_Range="bytes 0-8/9"), "offers bytes 0-8/9, not the"),
        (lambda request: request.send(b"x" * 9, 206), "offers None, not the"),
        (lambda request: request.send_error(416), "answered 416"),
    ],
)
def test_a_file_that_changed_there_is_begun_again(
    answer: Callable[[Request], None], problem: str, server: Server, published: bytes, folder: Path
) -> None:
    folder.mkdir()
    (folder / f"{ALEX}.part").write_bytes(published[:100])
    server.answer = answer
    with pytest.raises(Fault, match=problem):
        fetch_weights(ALEX, base_url=server.url)
    assert list(folder.iterdir()) == []


def test_offline_says_where_to_get_the_file(published: bytes, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    with pytest.raises(Fault) as caught:
        fetch_weights(ALEX, base_url=url)
    assert str(caught.value) == (
        f"127.0.0.1: cannot be reached (Connection refused). Fetch {url}/alex.pth elsewhere and run "
        "`img2img weights import FILE`"
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("url", ["http://example.org/a", "file:///etc/passwd", "ftp://example.org/a", "/etc/passwd"])
@pytest.mark.parametrize("loopback", [False, True])
def test_only_https_is_spoken(url: str, loopback: bool, tmp_path: Path) -> None:
    with open(tmp_path / "part", "a+b", buffering=0) as file, pytest.raises(Fault, match="is not https"):
        download(url, file, 10, loopback=loopback)


def test_loopback_is_not_allowed_by_itself(server: Server, published: bytes, tmp_path: Path) -> None:
    with open(tmp_path / "part", "a+b", buffering=0) as file, pytest.raises(Fault, match="is not https"):
        download(f"{server.url}/alex.pth", file, len(published))
    assert server.requests == []


def test_a_certificate_that_nobody_vouches_for_is_refused(server: Server, published: bytes, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not here")
    key = tmp_path / "key.pem"
    words = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout {key}"
    subprocess.run(["openssl", *words.split(), "-out", key.with_name("cert.pem")], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key.with_name("cert.pem"), key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answer = lambda request: request.whole(published)
    with pytest.raises(Fault, match=r"127\.0\.0\.1: cannot be reached \(.*CERTIFICATE_VERIFY_FAILED"):
        fetch_weights(ALEX, base_url=server.url.replace("http:", "https:"))
    assert server.requests == []


def test_proxies_are_those_of_the_environment(
    server: Server, published: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.answer = lambda request: request.ranged(published)
    require_fetched(fetch_weights(ALEX, base_url="http://127.0.0.1:9"), folder)
    assert server.requests == [("http://127.0.0.1:9/alex.pth", None)]


def test_two_processes_do_not_write_one_file(server: Server, published: bytes, folder: Path) -> None:
    folder.mkdir()
    with open(folder / f"{ALEX}.part", "ab") as other:
        other.write(published[:9])
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageFault, match=r"\.part: is being fetched by another process"):
            fetch_weights(ALEX, base_url=server.url)
    assert server.requests == []


def test_a_full_disk_is_named_and_what_came_is_kept(server: Server, published: bytes, folder: Path) -> None:
    server.answer = lambda request: request.ranged(published)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Fault, match=r"\.part: cannot be written: no space"):
            fetch_weights(ALEX, base_url=server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / f"{ALEX}.part").read_bytes() == published[:1000]
    require_fetched(fetch_weights(ALEX, base_url=server.url), folder)


def test_other_weights_are_not_overwritten_by_a_download(
    server: Server, published: bytes, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "lin.pth").write_bytes(saved(lin(1)))
    path = import_weights(tmp_path / "lin.pth", ALEX)
    with pytest.raises(UsageFault, match=r"other weights than the published ones are here\. Remove the file first"):
        fetch_weights(ALEX, base_url=server.url)
    assert server.requests == []
    assert path.exists()


def test_weights_without_a_confirmed_checksum_are_not_fetched() -> None:
    with pytest.raises(UsageFault, match=r"squeezenet1_0: no address with a confirmed checksum is known"):
        fetch_weights("squeezenet1_0")
    with pytest.raises(UsageFault, match="unknown"):
        fetch_weights("squeezenet")
