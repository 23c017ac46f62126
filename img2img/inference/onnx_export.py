"""A translator as an ONNX file, for programs without torch: any size, compared with the original before it is kept.

The file takes images (N, C, H, W) float32 in the model's value range, H and W multiples of `size_multiple` and at least
`size_minimum`, and gives as many of the same size. What a caller must know for that stands in its metadata, a text for
each key of `metadata_of`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from img2img.atomic import write_bytes
from img2img.checkpoint import ModelInfo, load_networks
from img2img.errors import Fault, UsageFault
from img2img.inference.model import Model, stride_and_least
from img2img.version import __version__

SUFFIX = ".onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # of values in [-1, 1]
PADDING_RULE = (
    "Pad height and width to the next multiple of size_multiple that is at least size_minimum, half before and the "
    "rest behind: by reflection, or where that rest is not shorter than the side itself by repeating its edge. Crop "
    "the result likewise."
)
_LARGEST_CHECKED = 512  # side, in pixels, of what both are run on
_LARGEST_FILE = 2**31 - 1  # bytes of a protocol buffer


@dataclass(frozen=True)
class Exported:
    """What has been written: its metadata, the sizes (N, height, width) of the comparison, the largest difference."""

    metadata: dict[str, str]
    sizes: tuple[tuple[int, int, int], ...]
    difference: float
    opset: int


def export_onnx(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, direction: str | None = None, licence: str = ""
) -> Exported:
    """Write one direction of a model file as the ONNX file `target`, once both have given the same pictures.

    Args:
        direction: "a2b" or "b2a"; None is the model's first.
        licence: under which licence the file may be used; the model's own where it is left out.

    Raises:
        UsageFault: a package is missing; the model does not translate, or not in this direction.
        Fault: it cannot be written as ONNX, gives other pictures, or the file cannot be written; no file is left.
    """
    source = Path(source)
    info, networks = load_networks(source)
    direction = Model(info, networks, path=source).direction(direction)
    network = networks[info.directions[direction]]
    _check_inputs(network, source)
    require_packages()
    metadata = metadata_of(info, network, direction)
    if licence:
        metadata["licence"] = licence
    content, opset = _convert(network, metadata, source)
    sizes = tuple(_sizes(network, info.resolution))
    difference = max(_difference(network, content, size, source) for size in sizes)
    if not difference <= TOLERANCE:
        raise Fault(
            source,
            f"its ONNX file gives other pictures: values differ by {difference:.1e}, allowed are {TOLERANCE:g}",
            "Nothing was written. Report it with the model, or use another version of torch",
        )
    write_bytes(Path(target), content)
    return Exported(metadata, sizes, difference, opset)


def require_packages() -> None:
    """Refuse where a package of the extra `onnx` is missing.

    Raises:
        UsageFault: one is.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageFault(
            "TARGET",
            f"an ONNX file needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            "From the clone's root: pip install -e '.[onnx]'",
        )


def metadata_of(info: ModelInfo, network: nn.Module, direction: str) -> dict[str, str]:
    """What a program must know to use the file, each a text."""
    low, high = info.value_range
    height, width = info.resolution
    stride, smallest = stride_and_least(network)
    return {
        "producer": f"img2img {__version__}",
        "direction": direction,
        "from": info.domains.get(direction[0], direction[0]),
        "to": info.domains.get(direction[-1], direction[-1]),
        "channels_in": str(info.channels[direction[0]]),
        "channels_out": str(info.channels[direction[-1]]),
        "value_range": f"{low:g} {high:g}",
        "layout": "NCHW float32; 1 channel is grey, 3 are RGB, 4 are RGBA",
        "size_multiple": str(stride),
        "size_minimum": str(smallest),
        "padding": PADDING_RULE,
        "trained_height": str(height),
        "trained_width": str(width),
        "trained_fit": info.fit,
        "scale": "trained" if getattr(network, "fixed_scale", False) else "native",
        "noise": "left out" if getattr(network, "dropout_at_test", False) else "none",
        "licence": info.licence,
    }


class _Translation(nn.Module):
    """The network as a function of the images alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        translated: Tensor = self.network(images)
        return translated


def _check_inputs(network: nn.Module, source: object) -> None:
    parameters = list(inspect.signature(network.forward).parameters.values())
    needed = [one.name for one in parameters[1:] if one.default is inspect.Parameter.empty]
    if needed:
        raise UsageFault(
            source,
            f"its network also needs {' and '.join(needed)}, and an ONNX file here has pictures alone",
            "Export a model that needs none",
        )


def _convert(network: nn.Module, metadata: dict[str, str], source: object) -> tuple[bytes, int]:
    """The file's content and its version of ONNX's operators."""
    example = torch.zeros(1, int(metadata["channels_in"]), *(_multiple(network, times) for times in (2, 3)))
    try:
        with _quiet():
            program = torch.onnx.export(
                _Translation(network).eval(),
                (example,),
                dynamo=True,
                verbose=False,
                dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
                input_names=["images"],
                output_names=["translated"],
            )
        assert program is not None, "without a file it returns the program"
        program.model.metadata_props.update(metadata)
        content = program.model_proto.SerializeToString()
        opset = int(program.model.opset_imports[""])
    except Exception as error:  # of many kinds, from torch, onnxscript and protobuf
        reason = str(error).strip().splitlines()
        raise Fault(
            source,
            f"cannot be written as ONNX ({type(error).__name__}: {reason[0] if reason else 'no reason given'})",
            "Report it with the model, or use another version of torch",
        ) from error
    if len(content) > _LARGEST_FILE:
        raise Fault(source, "is larger than an ONNX file can be (2 GB)", "Use a smaller network")
    return content, opset


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter says on the way is for its own developers."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _multiple(network: nn.Module, times: int) -> int:
    """A side that the network takes: `times` its smallest, up to its stride."""
    stride, smallest = stride_and_least(network)
    return -(-smallest * times // stride) * stride


def _sizes(network: nn.Module, resolution: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """(N, height, width) to compare at: the smallest, rectangles, several pictures, and the trained size."""
    one, two, three = (_multiple(network, times) for times in (1, 2, 3))
    stride, _ = stride_and_least(network)
    trained = [-(-max(side, one) // stride) * stride for side in resolution]
    yield 1, one, one
    yield 1, three, two
    yield 2, two, three + stride
    if max(trained) <= _LARGEST_CHECKED:
        yield 1, trained[0], trained[1]


def _difference(network: nn.Module, content: bytes, size: tuple[int, int, int], source: object) -> float:
    """The largest difference of a value between the file's pictures and the network's, of noise."""
    import onnxruntime

    count, height, width = size
    channels = int(getattr(network, "in_channels"))  # noqa: B009
    noise = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (translated,) = session.run(None, {"images": noise.numpy()})
    except Exception as error:  # onnxruntime has no common kind
        raise Fault(
            source,
            f"its ONNX file does not run at {width} × {height} ({type(error).__name__})",
            "Nothing was written. Report it with the model, or use another version of onnxruntime",
        ) from error
    with torch.inference_mode():
        expected = network(noise)
    if tuple(translated.shape) != tuple(expected.shape):
        return float("inf")
    return float((torch.from_numpy(translated) - expected).abs().max())
