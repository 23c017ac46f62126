"""Weights of the networks that measure: a folder of safetensors files, filled by hand, never by a silent download.

A file comes into the folder by `import_weights`, from a file that is here, or by `fetch_weights`, from a known one.
Its header says which network it is for, what its first convolution takes, and where it is from: one JSON text under the
key `img2img`, the fields of WeightsInfo.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img2img.atomic import write_bytes, write_fault
from img2img.errors import Fault, UsageFault, suggestion, unknown_name
from img2img.evaluation.folders import user_cache
from img2img.evaluation.known_weights import INPUTS, KNOWN, KnownWeights, nearest, published_name, recognise
from img2img.foreign_files import check_regular, read_content

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
METADATA_KEY = "img2img"
FOLDER_VARIABLE = "IMG2IMG_WEIGHTS"
_LARGEST_HEADER = 16 << 20
_MOST_TENSORS = 10_000
_NO_HEADER = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error)


@dataclass(frozen=True)
class WeightsInfo:
    """What a file of the folder says of itself: `network` and `input` as in KnownWeights, and the file it is from."""

    network: str
    input: str
    source: str
    source_sha256: str

    @property
    def is_published(self) -> bool:
        """Whether it is from the very file whose checksum is known."""
        return self.network in KNOWN and self.source_sha256 == KNOWN[self.network].sha256 != ""


# --- the folder ------------------------------------------------------------------------------------------------------


def weights_folder() -> Path:
    """Where weights lie: $IMG2IMG_WEIGHTS, else img2img/weights in the user's cache folder; it need not exist.

    Raises:
        UsageFault: there is no home folder.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else user_cache("weights", FOLDER_VARIABLE) / "weights"


def weights_path(name: str) -> Path:
    """Where the weights called `name` lie or would lie.

    Raises:
        UsageFault: the name is unknown.
    """
    if name not in KNOWN:
        raise unknown_name("weights", name, KNOWN)
    return weights_folder() / f"{name}.safetensors"


def find_weights(name: str) -> Path:
    """The file of the weights called `name`. Nothing is downloaded.

    Raises:
        UsageFault: the name is unknown, or the weights are not here; the mend says how to bring them.
    """
    path = weights_path(name)
    if not os.path.isfile(path):
        raise UsageFault(name, f"its weights are not here, and nothing is downloaded by itself ({path})", _how(name))
    return path


def _how(name: str) -> str:
    """How weights that are not here are brought."""
    known = KNOWN[name]
    if not known.url:
        return "Run `img2img weights import FILE` with a copy of them"
    return (
        f"Run `img2img weights fetch {name}`, or `img2img weights import FILE` with a copy of {published_name(known)}"
    )


def read_info(path: str | os.PathLike[str]) -> WeightsInfo | None:
    """What a file of weights says of itself; None where it does not. Its weights are not read."""
    try:
        return _info(_read_header(path).get("__metadata__"))
    except (OSError, *_NO_HEADER):
        return None


def network_of(file: str | os.PathLike[str]) -> str:
    """Which of the known weights a .safetensors file holds: what it says, else by its tensors' names and shapes.

    Raises:
        UsageFault: no safetensors file, or of no known network.
    """
    path = Path(file)
    try:
        check_regular(path)
        header = _read_header(path)
        info = _info(header.pop("__metadata__", None))
        shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
    except FileNotFoundError as error:
        raise UsageFault(path, "there is no such file", "Check the path") from error
    except OSError as error:
        raise UsageFault(path, f"cannot be read ({error.strerror})", "Check the path and its permissions") from error
    except _NO_HEADER as error:
        raise UsageFault(path, "is no safetensors file", "Bring it in with `img2img weights import FILE`") from error
    return info.network if info is not None and info.network in KNOWN else nearest(shapes, path)


def _read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, _LARGEST_HEADER)))
    if not isinstance(header, dict):
        raise TypeError("no table")
    return header


def _info(metadata: Any) -> WeightsInfo | None:
    try:
        values = json.loads(metadata[METADATA_KEY])
        info = WeightsInfo(**{field.name: values[field.name] for field in dataclasses.fields(WeightsInfo)})
    except _NO_HEADER:
        return None
    return info if all(isinstance(value, str) for value in dataclasses.astuple(info)) else None


# --- bringing files in -----------------------------------------------------------------------------------------------


def import_weights(file: str | os.PathLike[str], name: str | None = None, input: str | None = None) -> Path:
    """Bring a .pth, .pt or .safetensors file into the folder; what holds code is refused, never run.

    Args:
        name: which weights these are; None finds it out by the names and shapes of the tensors.
        input: what the first convolution takes, "imagenet" or "unit", where the file does not say it: without `input` a
            .pth is taken as torchvision publishes it, and a .safetensors is refused.

    Returns:
        The new file of the folder; an older one of that name is replaced.

    Raises:
        UsageFault: no file of weights, one that holds code or is damaged, weights of an unknown network or not of
            `name`, or an `input` that cannot be. Fault: the folder cannot be written.
    """
    path = Path(file)
    if name is not None:
        weights_path(name)
    return _store(_load(read_content(path), path), name, input)


def fetch_weights(
    name: str, progress: Callable[[int, int], None] | None = None, *, base_url: str | None = None
) -> Path:
    """Download the published weights called `name`, compare their sha256 with the pinned one, and import them.

    An attempt that was interrupted is taken up again. What is in the folder already is not fetched again.

    Args:
        progress: called with (bytes here, bytes in all).
        base_url: where the file lies instead, for tests; http to 127.0.0.1 is allowed there.

    Raises:
        UsageFault: the name is unknown, has no known address, or other weights lie under it.
        Fault: as download; another sha256 than the pinned one; the folder cannot be written.
    """
    path = weights_path(name)
    known = KNOWN[name]
    if not known.url:
        raise UsageFault(name, "no address with a confirmed checksum is known for it", _how(name))
    if os.path.exists(path):
        info = read_info(path)
        if info is None or not info.is_published:
            raise UsageFault(path, "other weights than the published ones are here", "Remove the file first")
        return path
    url = known.url if base_url is None else f"{base_url}/{published_name(known)}"
    _make_folder(path.parent)
    part = path.with_suffix(".part")
    try:
        _store(_fetch(known, url, part, progress, loopback=base_url is not None), name)
        part.unlink()
    except OSError as error:
        raise write_fault(part, error, known.bytes) from error
    return path


def _fetch(
    known: KnownWeights, url: str, part: Path, progress: Callable[[int, int], None] | None, *, loopback: bool
) -> _Loaded:
    """The published file by way of `part`, which keeps what an interrupted attempt got, and goes if it is another."""
    from img2img.evaluation.download import download

    with open(part, "a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageFault(part, "is being fetched by another process", "Wait for it, or stop it") from error
        try:
            download(url, file, known.bytes, progress, loopback=loopback)
            file.seek(0)
            content = file.read()
            if hashlib.sha256(content).hexdigest() != known.sha256:
                file.truncate(0)
                problem = f"what came has another sha256 than {known.sha256} and was thrown away"
                raise Fault(url, problem, "Run the command again; if it stays so, the file was changed there")
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)
    return _load(content, Path(published_name(known)))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        mend = f"Set {FOLDER_VARIABLE} to a folder that can be written"
        raise UsageFault(folder, f"cannot be made ({error.strerror})", mend) from error


@dataclass(frozen=True)
class _Loaded:
    """Content of the file `source`: its tensors, the texts of its header if it is a .safetensors, and its sha256."""

    source: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] | None
    digest: str


def _store(loaded: _Loaded, name: str | None, input: str | None = None) -> Path:
    """Recognise, check and write weights."""
    import safetensors.torch

    name, tensors = recognise(loaded.tensors, name, loaded.source)
    info = _describe(KNOWN[name], loaded, input)
    floats = _as_floats(tensors, loaded.source)
    path = weights_path(name)
    _make_folder(path.parent)
    text = json.dumps(dataclasses.asdict(info), sort_keys=True)
    write_bytes(path, safetensors.torch.save(floats, {METADATA_KEY: text}))
    return path


def _describe(known: KnownWeights, loaded: _Loaded, input: str | None) -> WeightsInfo:
    """What the new file will say of itself."""
    source, metadata = loaded.source, loaded.metadata
    choices = INPUTS if known.input in INPUTS else (known.input,)
    if input is not None and input not in choices:
        mend = suggestion(input, INPUTS) if len(choices) > 1 else "Leave it out"
        raise UsageFault("--input", f"{input!r} is no input of {known.name}", mend)
    own = _info(metadata)
    if own is not None and (own.network != known.name or own.input not in choices):
        own = None
    if own is None and input is None and metadata is not None and len(choices) > 1:
        if "[-1" not in metadata.get("input", ""):
            raise UsageFault(
                source,
                "does not say what its first convolution takes",
                "Add --input imagenet for torchvision's own weights, or --input unit if it takes RGB in [-1, 1]",
            )
        input = "unit"
    info = own or WeightsInfo(known.name, known.input, source.name, loaded.digest)
    if input is not None:
        info = dataclasses.replace(info, input=input)
    if info.is_published and info.input != known.input:
        raise UsageFault("--input", f"the published weights take {known.input!r}", "Leave it out")
    if known.url and not info.is_published:
        _log.warning("%s: is not the published file, so what is measured with it compares only with itself", source)
    return info


def _as_floats(tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Single precision, all of it finite."""
    floats = {}
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UsageFault(source, f"tensor {key} has type {tensor.dtype}", "Give the weights in floating point")
        floats[key] = tensor.float()
        if not floats[key].isfinite().all():
            raise UsageFault(source, f"tensor {key} is not finite", "Give other weights")
    return floats


# --- reading files ---------------------------------------------------------------------------------------------------


def _load(content: bytes, source: Path) -> _Loaded:
    """Read the file, of whichever kind it is; half a gigabyte of `content` need not outlive this."""
    digest = hashlib.sha256(content).hexdigest()
    (length,) = struct.unpack("<Q", content[:8]) if len(content) > 8 else (0,)
    if content[8:9] == b"{" and 0 < length <= min(len(content) - 8, _LARGEST_HEADER):
        return _Loaded(source, *_read_safetensors(content, length, source), digest)
    from img2img.unpickling import read_pickled_tensors

    return _Loaded(source, read_pickled_tensors(content, source), None, digest)


def _read_safetensors(content: bytes, length: int, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    import safetensors.torch

    try:
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        if len(header) > _MOST_TENSORS:
            raise UsageFault(path, f"holds {len(header):,} tensors, more than any known network", "Give another file")
        return safetensors.torch.load(content), {str(key): str(text) for key, text in metadata.items()}
    except (*_NO_HEADER, RuntimeError, safetensors.SafetensorError) as error:
        raise UsageFault(path, "is a damaged safetensors file", "Copy it again") from error
