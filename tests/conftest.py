"""Fixtures that every test may use, and one that watches all of them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from img2img.networks.inception import Inception

WATCH = Path(__file__).parent / "watch"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
if "PYTEST_XDIST_WORKER" in os.environ:
    # as many workers as cores: threads of their own would only wait for those of the others, here and in children
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
NUM_THREADS = torch.get_num_threads()


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


@pytest.fixture
def peak_growth() -> Callable[[], int]:
    """By how many bytes this process's memory at its highest has grown above that of the call before."""
    status, switch = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(switch, os.W_OK):
        pytest.skip("the highest use of memory can be reset on Linux only")
    before = 0

    def growth() -> int:
        nonlocal before
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        high, now = (int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
        grown, before = high - before, now
        switch.write_text("5")
        return grown

    return growth


def load_file(path: Path, name: str) -> ModuleType:
    """A Python file as a module of this name."""
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # its dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """A script of tests/bench as a module, by its name."""
    return lambda name: load_file(Path(__file__).parent / "bench" / f"{name}.py", name)


@pytest.fixture(scope="session", autouse=True)
def _outside_calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Refuses every connection that would leave this machine, here and in the Python processes that tests start.

    Yields the file that lists them.
    """
    report = tmp_path_factory.mktemp("network") / "outside.txt"
    report.touch()
    known = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(WATCH), *known]))
        patch.setenv("IMG2IMG_OUTSIDE_CALLS", str(report))
        load_file(WATCH / "sitecustomize.py", "watch")
        yield report


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(_outside_calls: Path) -> Iterator[Path]:
    """Fails a test that opened a connection to anywhere but this machine, even where the caller hid the refusal."""
    yield _outside_calls
    calls = _outside_calls.read_text("utf-8").split()
    if calls:
        _outside_calls.write_text("")
    assert calls == []


@pytest.fixture(autouse=True)
def as_many_threads_as_at_first() -> None:
    """What a run with train.threads sets stays for the process, and other threads round otherwise."""
    if torch.get_num_threads() != NUM_THREADS:
        torch.set_num_threads(NUM_THREADS)
