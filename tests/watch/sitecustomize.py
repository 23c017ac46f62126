"""Refuses every connection that would leave this machine, in whatever Python process finds this module first.

Python imports a module of this name as it starts, from PYTHONPATH before anywhere else: so tests/conftest.py brings it
into the commands that tests start. Forked processes have it anyway. What a C library opens by itself goes past it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

REPORT = "IMG2IMG_OUTSIDE_CALLS"  # names the file that refused hosts are written into


def stays_here(host: object) -> bool:
    """Whether a host is this machine, by its loopback or its own name; None and "" are this machine too."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(name).partition("%")[0]).is_loopback
    except ValueError:
        return False


def watch(report: str) -> None:
    """Let Python's sockets and name lookups raise for any other host, and add it to the file `report`."""

    def refuse(host: object) -> None:
        if not stays_here(host):
            with open(report, "a", encoding="utf-8") as file:
                file.write(f"{host}\n")
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

    for name, position in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
        setattr(socket.socket, name, watch_socket(getattr(socket.socket, name), position))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, watch_name(getattr(socket, name)))


if REPORT in os.environ:
    watch(os.environ[REPORT])
