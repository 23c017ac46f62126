"""Model files and training state: safetensors and JSON, checksummed, never code.

A model file is one `.safetensors` whose header carries everything inference needs, as one JSON text under the key
`img2img`. A training state is a folder `step-NNNNNNNNN` whose manifest, written last, holds the sha256 of every file in
it; a folder whose manifest does not verify is passed over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import shutil
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from img2img.atomic import sync_folder, temporary_beside, write_bytes, write_fault, write_new
from img2img.errors import Fault, UsageFault
from img2img.networks import ROLES
from img2img.networks.arguments import MAX_COPIES, check_whole
from img2img.networks.mixture import GeneratorMixture

METADATA_KEY = "img2img"
MODEL_FORMAT = 1
_LARGEST_HEADER = 16 << 20  # bytes; ten thousand tensors need about one megabyte


@dataclass(frozen=True)
class NetworkSpec:
    """A network's registered name and all its constructor arguments; of several copies, they share the work.

    `role`: the key of networks.ROLES whose registry has the name.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    copies: int = 1
    role: str = "generator"


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself; enough to build its networks and use them.

    Attributes:
        translator: the method that trained it ("cyclegan").
        task: "translate" (images in, images out), "sample" (noise in, images out) or "points" (noise in, points out).
        networks: module name in the file -> how to build it; what inference needs, so no discriminators.
        directions: "a2b", "b2a" -> module name; empty when the task is "sample".
        domains: "a", "b" or "image" -> what a person calls it.
        channels: domain -> 1 (grey), 3 (RGB) or 4 (RGBA).
        classes: class names in the order of the labels; empty without classes.
        resolution: (height, width) it was trained at.
        fit: how pictures were brought to that resolution, "crop" or "stretch".
        recipe, images_seen, fingerprint, licence, metrics: where it comes from and what is known of it.
    """

    translator: str
    task: str
    networks: dict[str, NetworkSpec]
    directions: dict[str, str]
    domains: dict[str, str]
    channels: dict[str, int]
    resolution: tuple[int, int]
    classes: tuple[str, ...] = ()
    fit: str = "crop"
    value_range: tuple[float, float] = (-1.0, 1.0)
    recipe: str = ""
    images_seen: int = 0
    fingerprint: str = ""
    licence: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    format: int = MODEL_FORMAT


# --- model files -----------------------------------------------------------------------------------------------------


def write_model(path: str | Path, modules: Mapping[str, nn.Module], info: ModelInfo) -> None:
    """Write `modules` and `info` as one model file, atomically; equal content gives equal bytes.

    Raises:
        Fault: the file cannot be written; an older file of that name is left as it was.
    """
    assert set(modules) == set(info.networks), "every network of the file needs its specification"
    tensors = {
        f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()
    }
    path = Path(path)
    write_bytes(path, _serialise(tensors, dataclasses.asdict(info)))


def read_info(path: str | Path) -> ModelInfo:
    """Read and validate a model file's description; its weights are not read.

    Raises:
        UsageFault: not a model file of ours, damaged, or written by a newer version.
    """
    path = Path(path)
    return _parse_info(path, _read_metadata(path))


def model_digest(path: str | Path) -> str:
    """sha256 over a model file's weights (by their recorded hash) and description, but for licence and measures.

    Raises:
        UsageFault: as read_info.
    """
    metadata = _read_metadata(Path(path))
    lasting = {key: value for key, value in metadata.items() if key not in ("licence", "metrics")}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def load_networks(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ModelInfo, dict[str, nn.Module]]:
    """Build the networks of a model file and fill in its weights, in eval mode.

    Memory is taken only for what the file really holds: networks are first built without storage and compared.

    Raises:
        UsageFault: as read_info; also a checksum that does not match and weights that do not fit the description.
    """
    path = Path(path)
    metadata = _read_metadata(path)
    info = _parse_info(path, metadata)
    content = path.read_bytes()
    if hashlib.sha256(_tensor_bytes(content)).hexdigest() != metadata.get("sha256"):
        raise UsageFault(path, "the weights do not match their checksum, so the file is damaged", "Copy it again")
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise UsageFault(path, f"not a readable safetensors file ({error})", "Copy it again") from error
    modules = {name: build_network(spec, path) for name, spec in info.networks.items()}
    expected = {
        f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()
    }
    _compare(path, expected, tensors)
    for name, module in modules.items():
        weights = {key: tensors[f"{name}.{key}"] for key in module.state_dict()}
        module.load_state_dict(weights, assign=True)
        module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return info, modules


def export_model(
    source: str | Path, target: str | Path, *, half: bool = False, licence: str = "", metrics: Mapping[str, Any] = {}
) -> ModelInfo:
    """Copy a model file for others: weights in half precision if wanted, licence and metrics added to its description.

    Raises:
        UsageFault: as load_networks; a weight that half precision cannot hold. Fault: `target` cannot be written.
    """
    source = Path(source)
    info, modules = load_networks(source)
    if half:
        largest = torch.finfo(torch.float16).max
        for name, module in modules.items():
            for key, tensor in module.state_dict().items():
                if tensor.is_floating_point() and not (tensor.abs() <= largest).all():
                    raise UsageFault(
                        source, f"weight {name}.{key} does not fit into half precision", "Leave out --half"
                    )
            module.half()
    info = dataclasses.replace(info, licence=licence or info.licence, metrics={**info.metrics, **metrics})
    write_model(target, modules, info)
    return info


def add_metrics(path: str | Path, metrics: Mapping[str, Any], drop: Collection[str] = ()) -> None:
    """Add measures to a model file's description, without those called `drop`; its weights keep their bytes.

    Raises:
        UsageFault: as read_info. Fault: it cannot be written, and is then as it was.
    """
    path = Path(path)
    read_info(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = json.loads(header["__metadata__"][METADATA_KEY])
    kept = {name: value for name, value in metadata["metrics"].items() if name not in drop}
    metadata["metrics"] = {**kept, **metrics}
    header["__metadata__"][METADATA_KEY] = json.dumps(metadata, sort_keys=True, ensure_ascii=True)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the weights stay aligned
    write_bytes(path, b"".join((struct.pack("<Q", len(text)), text, _tensor_bytes(content))))


def build_network(spec: NetworkSpec, path: str | Path) -> nn.Module:
    """Build a registered network on the meta device, where sizes are known and nothing is allocated.

    Raises:
        UsageFault: unknown network, unknown or missing arguments, or values that the network refuses.
    """
    network = ROLES.get(spec.role, {}).get(spec.name)
    if network is None:
        raise UsageFault(path, f"its network {spec.name!r} is unknown here", "Use the version of img2img that wrote it")
    try:
        inspect.signature(network).bind(**spec.arguments)
        with torch.device("meta"):
            if spec.copies == 1:
                return network(**spec.arguments)
            check_whole("copies", spec.copies, 1, MAX_COPIES)
            return GeneratorMixture([network(**spec.arguments) for _ in range(spec.copies)])
    except (TypeError, ValueError, RuntimeError, Fault) as error:
        raise UsageFault(
            path, f"its network {spec.name!r} cannot be built ({error})", "Use the version of img2img that wrote it"
        ) from error


def _serialise(tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> bytes:
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = hashlib.sha256(_tensor_bytes(safetensors.torch.save(flat))).hexdigest()
    text = json.dumps({**metadata, "sha256": digest}, sort_keys=True, ensure_ascii=True)
    return safetensors.torch.save(flat, {METADATA_KEY: text})


def _tensor_bytes(content: bytes) -> memoryview:
    """The part of a safetensors file behind its header."""
    (length,) = struct.unpack("<Q", content[:8])
    return memoryview(content)[8 + length :]


def read_header(path: Path, foreign: str, pickled: str = "Ask for a .safetensors file") -> dict[str, Any]:
    """The header of a safetensors file: its tensors' names and shapes, and `__metadata__`. Its weights are not read.

    Args:
        foreign: how to mend a file that is none.
        pickled: how to mend one that is a pickle.

    Raises:
        UsageFault: no such file, not a safetensors file, or damaged.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would block
            raise UsageFault(path, "is no regular file", foreign)
        with open(path, "rb") as file:
            prefix = file.read(9)
            length = struct.unpack("<Q", prefix[:8])[0] if len(prefix) == 9 else 0
            size = os.fstat(file.fileno()).st_size
            if prefix[8:] != b"{" or not 0 < length <= min(size - 8, _LARGEST_HEADER):
                if prefix[:2] == b"PK" or prefix[:1] == b"\x80":
                    raise UsageFault(path, "a pickle, which can run code when read", pickled)
                raise UsageFault(path, "not a safetensors file (its header is impossible)", foreign)
            file.seek(8)
            header: dict[str, Any] = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise UsageFault(path, "there is no such file", "Check the path") from error
    except OSError as error:
        raise UsageFault(path, f"cannot be read ({error.strerror})", "Check the path and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise UsageFault(path, "its header is damaged", "Copy it again") from error
    return header


def _read_metadata(path: Path) -> dict[str, Any]:
    foreign = "Give a model.safetensors written by img2img train"
    try:
        metadata = json.loads(read_header(path, foreign)["__metadata__"][METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise UsageFault(path, "its header is damaged", "Copy it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageFault(path, "a safetensors file, but not a model of img2img", foreign) from error
    if not isinstance(metadata, dict):
        raise UsageFault(path, "its description is not a table", "Copy it again")
    return metadata


def _parse_info(path: Path, metadata: dict[str, Any]) -> ModelInfo:
    if metadata.get("format") != MODEL_FORMAT:
        raise UsageFault(
            path,
            f"written in format {metadata.get('format')!r}, this version reads {MODEL_FORMAT}",
            "Update img2img-toolkit",
        )
    try:
        json.dumps(metadata, allow_nan=False)  # infinite numbers could be shown to nobody
        values = {key.name: metadata[key.name] for key in dataclasses.fields(ModelInfo)}
        values["networks"] = {
            str(name): NetworkSpec(
                str(spec["name"]),
                {key: tuple(value) if isinstance(value, list) else value for key, value in spec["arguments"].items()},
                int(spec.get("copies", 1)),
                str(spec.get("role", "generator")),
            )
            for name, spec in values["networks"].items()
        }
        values["resolution"] = tuple(int(side) for side in values["resolution"])
        values["value_range"] = tuple(float(bound) for bound in values["value_range"])
        values["classes"] = tuple(str(name) for name in values["classes"])
        values["channels"] = {str(domain): int(count) for domain, count in values["channels"].items()}
        for table in ("directions", "domains"):
            values[table] = {str(key): str(name) for key, name in values[table].items()}
        for text in ("translator", "task", "fit", "recipe", "fingerprint", "licence"):
            values[text] = str(values[text])
        values["images_seen"] = int(values["images_seen"])
        values["metrics"] = dict(values["metrics"])
        info = ModelInfo(**values)
        well_formed = (
            len(info.resolution) == 2
            and all(0 < side <= 1 << 16 for side in info.resolution)
            and all(count in ((1, 2) if info.task == "points" else (1, 3, 4)) for count in info.channels.values())
            and set(info.directions.values()) <= set(info.networks)
            and info.task in ("translate", "sample", "points")
            and info.fit in ("crop", "stretch")
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UsageFault(path, f"its description is incomplete or malformed ({error!r})", "Copy it again") from error
    if not well_formed:
        raise UsageFault(path, "its description contradicts itself", "Use the version of img2img that wrote it")
    return info


def _compare(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse weights whose names, shapes or types are not those of the networks."""
    mend = "Use the version of img2img that wrote it"
    for key in sorted(set(expected) ^ set(found)):
        raise UsageFault(path, f"weight {key} is {'missing' if key in expected else 'not part of its networks'}", mend)
    for key, tensor in expected.items():
        if tensor.shape != found[key].shape:
            raise UsageFault(path, f"weight {key} has shape {tuple(found[key].shape)}, not {tuple(tensor.shape)}", mend)
        if tensor.is_floating_point() != found[key].is_floating_point():
            raise UsageFault(path, f"weight {key} has type {found[key].dtype}, not {tensor.dtype}", mend)


# --- training state --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedState:
    """A verified training state: `tree` is what was given to save_state, `manifest` describes how it was made."""

    path: Path
    tree: dict[str, Any]
    manifest: dict[str, Any]


def save_state(
    folder: Path,
    step: int,
    tree: Mapping[str, Any],
    facts: Mapping[str, Any],
    keep_last: int,
    keep_every: int = 0,
    *,
    attempt: int = 0,
    spare: Collection[int] = (),
) -> Path:
    """Publish `tree` as `folder/step-NNNNNNNNN`, then remove older states.

    Args:
        tree: part name -> nested dicts and lists of tensors and JSON values; each part becomes one file pair.
        facts: what resuming compares and reports (versions, threads, configuration), kept in the manifest.
        keep_last: how many of the newest states remain.
        keep_every: the first state at or after every so many images remains too, by `facts["images_seen"]`; 0: none.
        attempt: how often the run has gone back, where it does now: the state stands beside the one that it began with.
        spare: for each of these numbers the newest state of at most so many steps remains too.

    Raises:
        Fault: the disk refused; older states are untouched.
    """
    target = folder / (f"step-{step:09d}" + (f"-{attempt}" if attempt else ""))
    if not _is_complete(target):
        _publish(target, step, tree, facts, keep_last)
    states = state_folders(folder)
    try:
        spared = {max((state for state in states if step_of(state) <= limit), default=None) for limit in spare}
        for old in sorted({*states[:-keep_last]} - _lasting(states, keep_every) - spared):
            remove_state(old)
    except OSError as error:
        raise Fault(
            old, f"cannot be removed ({error.strerror})", "Remove it by hand, or mend its permissions"
        ) from error
    return target


def _is_complete(state: Path) -> bool:
    """Whether a state is there already: a run stopped in the step that it was resumed at has its own, byte for byte."""
    if not state.exists():
        return False
    try:
        load_state(state)
    except Fault:
        return False
    return True


def _publish(target: Path, step: int, tree: Mapping[str, Any], facts: Mapping[str, Any], keep_last: int) -> None:
    folder, staging = target.parent, temporary_beside(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.mkdir(staging)
        checksums: dict[str, dict[str, Any]] = {}
        for part, value in tree.items():
            tensors: dict[str, Tensor] = {}
            plain = _detach_tensors(value, part, tensors)
            for name, data in (
                (f"{part}.safetensors", safetensors.torch.save(tensors)),
                (f"{part}.json", json.dumps(plain, sort_keys=True).encode()),
            ):
                write_new(staging / name, data)
                checksums[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        manifest = {"step": step, "files": checksums, **facts}
        manifest["sha256"] = manifest_digest(manifest)
        write_new(staging / "manifest.json", json.dumps(manifest, sort_keys=True, indent=1).encode())
        sync_folder(staging)
        if target.exists():
            # only a damaged state can stand here (see below), so nothing is lost by removing it
            remove_state(target)
        os.replace(staging, target)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        fewer = "set train.keep_last=1" if keep_last > 1 else "choose another disk"
        raise write_fault(target, error, _count_bytes(tree), f"Free some space or {fewer}") from error


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of what a manifest says, but for this."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _count_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_count_bytes, value.values()))
    return sum(map(_count_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _lasting(states: Sequence[Path], keep_every: int) -> set[Path]:
    """Of these states, oldest first, the first one at or after each multiple of `keep_every` images."""
    if keep_every == 0:
        return set()
    lasting: dict[int, Path] = {}
    for state in states:
        try:
            period = json.loads((state / "manifest.json").read_bytes())["images_seen"] // keep_every
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged, or written before the manifest said so
        if period > 0:
            lasting.setdefault(period, state)
    return set(lasting.values())


def remove_state(state: Path) -> None:
    """Remove a state; renamed first, since one that is half removed must not look like a state."""
    doomed = temporary_beside(state)
    os.replace(state, doomed)
    shutil.rmtree(doomed)


def state_folders(folder: Path) -> list[Path]:
    """The published states, oldest first."""
    return sorted(folder.glob("step-[0-9]*")) if folder.is_dir() else []


def step_of(state: Path) -> int:
    """The step of a published state, from its name."""
    return int(state.name.split("-")[1])


def load_state(path: Path) -> SavedState:
    """Read one state after checking every file against its manifest.

    Raises:
        Fault: something is missing or damaged.
    """
    mend = "Resume from an older state"
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        files = manifest["files"]
        # states from before there was one are taken without
        digest = manifest_digest(manifest)
        if manifest.get("sha256", digest) != digest:
            raise Fault(path / "manifest.json", "checksum mismatch", mend)
        content: dict[str, bytes] = {}
        for name, facts in files.items():
            content[name] = (path / name).read_bytes()
            if hashlib.sha256(content[name]).hexdigest() != facts["sha256"]:
                raise Fault(path / name, "checksum mismatch", mend)
        tree = {
            name.removesuffix(".json"): _attach_tensors(
                json.loads(data), safetensors.torch.load(content[name.removesuffix(".json") + ".safetensors"])
            )
            for name, data in content.items()
            if name.endswith(".json")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise Fault(path, f"not a complete training state ({error})", mend) from error
    return SavedState(path, tree, manifest)


def latest_state(folder: Path) -> tuple[SavedState | None, list[str]]:
    """The newest state that verifies, and a line for each newer one that was passed over.

    Raises:
        Fault: there are states, but none verifies.
    """
    skipped: list[str] = []
    for path in reversed(state_folders(folder)):
        try:
            state = load_state(path)
        except Fault as fault:
            skipped.append(f"skipped state {path.name}: {fault.problem}")
            continue
        return state, [f"{line}; using {state.path.name}" for line in skipped]
    if skipped:
        raise Fault(
            folder,
            "no state verifies (" + "; ".join(skipped) + ")",
            "Copy the run folder again, or begin a new run from its model with --init",
        )
    return None, []


def _detach_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with its tensors moved into `tensors` and JSON-safe references left in their place."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"$tensor": path}
    if isinstance(value, Mapping):
        # a list of pairs keeps keys that are not strings, such as an optimiser's parameter numbers
        return {"$items": [[key, _detach_tensors(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_detach_tensors(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _attach_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        return {key: _attach_tensors(item, tensors) for key, item in value["$items"]}
    if isinstance(value, list):
        return [_attach_tensors(item, tensors) for item in value]
    return value
