"""The tensors of a file that torch.save wrote, read without unpickling it.

A pickle is a program. Only the few instructions that describe a table of tensors are followed here, by a small
interpreter that imports and calls nothing: it notes which bytes are which tensor. Whatever else a file asks for is
named and refused.
"""

from __future__ import annotations

import io
import itertools
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from img2img.errors import UsageFault

_LARGEST_PICKLE = 1 << 20  # bytes; a table of a thousand tensors takes about 150,000
_MOST_MEMBERS = 10_000  # of a zip
_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of a file written before torch 1.6
_LEGACY_VERSION = 1001
_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_TABLE = "collections.OrderedDict"
_PARAMETER = "torch._utils._rebuild_parameter"
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_LITERALS = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "LONG4",
        "INT",
        "LONG",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINSTRING",
        "SHORT_BINSTRING",
    ]
)
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
_ASK = "Ask for a .safetensors"


@dataclass(frozen=True)
class _Global:
    """A name of a module that the pickle mentions; it is never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """`count` numbers that lie in the file under `key`."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor: which numbers of a storage, in which order."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The state dict of a .pth or .pt file, in either layout of torch.save; nothing of the file is run.

    Args:
        content: the whole file.
        path: what messages call it.

    Raises:
        UsageFault: the file holds code (its name is given), is compressed, damaged, or no table of tensors.
    """
    try:
        if content.startswith(b"PK"):
            return _read_zip(content, path)
        return _read_legacy(content, path)
    except (*_DAMAGE, struct.error, zipfile.BadZipFile, EOFError, OSError) as error:
        mend = "Copy it again, or give a .pth, .pt or .safetensors"
        raise UsageFault(path, "is damaged, cut short, or no file of weights", mend) from error


def _read_zip(content: bytes, path: Path) -> dict[str, Tensor]:
    entries = itertools.islice(re.finditer(b"PK\x01\x02", content), _MOST_MEMBERS + 1)
    if sum(1 for _ in entries) > _MOST_MEMBERS:
        raise UsageFault(path, f"is a zip of more than {_MOST_MEMBERS:,} parts", _ASK)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise UsageFault(path, "is a compressed zip, not a file of weights", "Unpack it and give the file inside")
        if sum(sizes.values()) > len(content):
            raise UsageFault(path, "is a zip whose parts overlap", _ASK)
        tables = [name for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
        if not tables:
            raise UsageFault(path, "is a zip without a table of tensors", "Unpack it and give the file inside")
        folder = tables[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in sizes:
            raise UsageFault(path, "holds code (a TorchScript program)", _ASK)
        if f"{folder}byteorder" in sizes and archive.read(f"{folder}byteorder") != b"little":
            raise UsageFault(path, "was written on a machine of another byte order", _ASK)
        if sizes[tables[0]] > _LARGEST_PICKLE:
            raise UsageFault(path, "has a table of tensors that is larger than any network's", _ASK)
        table, _ = _follow(io.BytesIO(archive.read(tables[0])), path)
        return _gather(table, path, lambda storage: archive.read(f"{folder}data/{storage.key}"))


def _read_legacy(content: bytes, path: Path) -> dict[str, Tensor]:
    head = io.BytesIO(content[:_LARGEST_PICKLE])
    magic, _ = _follow(head, path)
    if magic != _MAGIC:
        raise ValueError("another pickle")
    version, _ = _follow(head, path)
    system, _ = _follow(head, path)
    if version != _LEGACY_VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UsageFault(path, "was written by an unknown version of torch or in another byte order", _ASK)
    table, storages = _follow(head, path)
    keys, _ = _follow(head, path)
    position = head.tell()
    places = {}
    for key in keys:
        storage = storages[key]
        if struct.unpack_from("<q", content, position) != (storage.count,):
            raise ValueError("a storage of another length")
        position += 8
        places[key] = slice(position, position + storage.count * storage.dtype.itemsize)
        position = places[key].stop
    return _gather(table, path, lambda storage: content[places[storage.key]])


def _gather(table: Any, path: Path, read: Callable[[_Storage], bytes]) -> dict[str, Tensor]:
    """The tensors that the views of `table` mean, each storage read once."""
    if not isinstance(table, dict) or not table:
        raise UsageFault(path, "holds no table of tensors", "Save the network's state_dict() alone")
    tensors: dict[str, Tensor] = {}
    seen: set[str] = set()
    for name, view in table.items():
        if not isinstance(view, _View):
            raise UsageFault(path, f"entry {name} is no tensor", "Save the network's state_dict() alone")
        if view.storage.key in seen:
            raise UsageFault(path, f"tensor {name} shares its memory with another", "Save copies of the tensors")
        seen.add(view.storage.key)
        tensors[name] = _tensor(view, bytearray(read(view.storage)))
    return tensors


def _tensor(view: _View, data: bytearray) -> Tensor:
    dtype = view.storage.dtype
    numbers = (view.offset, *view.size, *view.stride)
    if len(view.size) > 8 or len(view.size) != len(view.stride) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("an impossible shape")
    # a stride of 0 would make much of little
    if len(data) != view.storage.count * dtype.itemsize or math.prod(view.size) > view.storage.count:
        raise ValueError("a tensor larger than its storage")
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.as_strided(view.size, view.stride, view.offset).contiguous()


# --- the interpreter -------------------------------------------------------------------------------------------------


def _follow(pickle: BinaryIO, path: Path) -> tuple[Any, dict[str, _Storage]]:
    """What one pickle describes, and the storages it mentions; `pickle` is left behind its end.

    Values are None, numbers, texts, tuples, lists, tables with texts for keys, _Global, _Storage and _View.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, _Storage] = {}
    argument: Any

    def above_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "APPEND":
                item = stack.pop()
                _typed(stack[-1], list).append(item)
            case "APPENDS":
                items = above_mark()
                _typed(stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _typed(stack[-1], dict)[_typed(key, str)] = value
            case "SETITEMS":
                items = above_mark()
                _typed(stack[-1], dict).update(_table(zip(items[::2], items[1::2], strict=True)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(argument.replace(" ", "."), path))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(f"{_typed(module, str)}.{_typed(name, str)}", path))
            case "INST":
                _name(argument.replace(" ", "."), path)
                raise ValueError("an instance of a type that has none in tables of tensors")
            case "BINPERSID":
                storage = _storage(stack.pop())
                storages[storage.key] = storage
                stack.append(storage)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(_typed(function, _Global), _typed(arguments, tuple)))
            case "BUILD":  # the attribute _metadata of a state dict, which only load_state_dict reads
                stack.pop()
                _typed(stack[-1], dict)
            case literal if literal in _LITERALS:
                stack.append(argument)
            case other:
                raise ValueError(f"the instruction {other}")
    return stack.pop(), storages


def _typed(value: Any, kind: type) -> Any:
    # keys are texts, so that no nested tuple is ever hashed or compared, which can take for ever
    if type(value) is not kind:
        raise ValueError(f"no {kind.__name__}")
    return value


def _table(pairs: Iterable[Any]) -> dict[str, Any]:
    return {_typed(key, str): value for key, value in pairs}


def _name(name: str, path: Path) -> _Global:
    if name not in (*_DTYPES, *_TENSORS, _TABLE, _PARAMETER):
        raise UsageFault(path, f"holds code ({name})", _ASK)
    return _Global(name)


def _storage(identity: Any) -> _Storage:
    kind, type_, key, _, count, *view = _typed(identity, tuple)
    if kind != "storage" or view not in ([], [None]) or type(count) is not int or count < 0:
        raise ValueError("an impossible storage")
    return _Storage(_typed(key, str), _DTYPES[_typed(type_, _Global).name], count)


def _call(function: _Global, arguments: tuple[Any, ...]) -> Any:
    """What the call would give, described."""
    if function.name == _TABLE:
        return _table(arguments[0] if arguments else ())
    if function.name == _PARAMETER:
        return arguments[0]
    if function.name in _TENSORS:
        storage, offset, size, stride = arguments[:4]
        return _View(_typed(storage, _Storage), offset, _typed(size, tuple), _typed(stride, tuple))
    raise ValueError(f"a call of {function.name}")
