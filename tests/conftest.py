"""Fixtures that every test may use, and one that watches all of them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures beside the project; tests that want it are skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real pictures, ../shared/data, is not here")
    return SHARED_DATA


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
