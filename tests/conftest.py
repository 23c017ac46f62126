"""Fixtures that every test may use, and one that watches all of them."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch

from img2img.networks.inception import Inception

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures beside the project; tests that want it are skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real pictures, ../shared/data, is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def inception_state() -> dict[str, torch.Tensor]:
    """Random weights of the FID Inception under which activations neither die nor explode; not to be changed."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Inception().state_dict().items()}
    generator = torch.Generator().manual_seed(0)

    def draw(key: str, shape: torch.Size) -> torch.Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(1)
        if key.endswith(("running_var", "bn.weight")):
            return 0.7 + 0.6 * torch.rand(shape, generator=generator)
        if len(shape) == 1:
            return 0.1 * torch.randn(shape, generator=generator)
        return (2 / shape[1:].numel()) ** 0.5 * torch.randn(shape, generator=generator)

    return {key: draw(key, shape) for key, shape in shapes.items()}


@pytest.fixture(scope="session")
def inception_file(inception_state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file of weights."""
    path = tmp_path_factory.mktemp("inception") / "inception-2015.safetensors"
    safetensors.torch.save_file(inception_state, path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the features and weights of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMG2IMG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("IMG2IMG_WEIGHTS", str(tmp_path_factory.mktemp("weights")))
        yield


@pytest.fixture
def weights_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, and no proxy."""
    monkeypatch.setenv("IMG2IMG_WEIGHTS", str(tmp_path / "store"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "store"


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """A script of tests/bench as a module, by its name."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parent / "bench" / f"{name}.py"
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[specification.name] = module  # its dataclasses look their module up
        specification.loader.exec_module(module)
        return module

    return load


def _stays_here(host: object) -> bool:
    """Whether a host is this machine's loopback; None and "" are this machine too."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name).partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def _outside_calls() -> Iterator[list[str]]:
    """Refuses every connection that would leave this machine, and lists it."""
    calls: list[str] = []

    def refuse(host: object) -> None:
        if not _stays_here(host):
            calls.append(str(host))
            raise ConnectionRefusedError(f"a test may not speak to {host}")

    def watch_socket(function: Callable[..., Any], position: int) -> Callable[..., Any]:
        def watched(this: socket.socket, *arguments: Any) -> Any:
            if this.family in (socket.AF_INET, socket.AF_INET6):
                refuse(arguments[position][0])
            return function(this, *arguments)

        return watched

    def watch_name(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(host: Any, *arguments: Any, **keywords: Any) -> Any:
            refuse(host)
            return function(host, *arguments, **keywords)

        return watched

    with pytest.MonkeyPatch.context() as patch:
        for name, position in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
            patch.setattr(socket.socket, name, watch_socket(getattr(socket.socket, name), position))
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            patch.setattr(socket, name, watch_name(getattr(socket, name)))
        yield calls


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(_outside_calls: list[str]) -> Iterator[list[str]]:
    """Fails a test that opened a connection to anywhere but this machine, even where the caller hid the refusal."""
    _outside_calls.clear()
    yield _outside_calls
    assert _outside_calls == []
