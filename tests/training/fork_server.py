"""Runs trainings in forked children, so that each need not import torch; reads one JSON request a line, answers likewise.

A request: {"arguments": of img2img.train, "kill_after": seconds or null, "kill_at_call": number or null, "signal":
number or null, "signal_after": text of stderr to wait for}. The answer: {"code": exit code, or minus the signal,
"seconds": float, "stderr": text, "calls": how many writing system calls were made}.

It must fork before any OpenMP work and with one thread, or children hang.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from typing import Any

DEADLINE = 60.0  # seconds after which a child is given up


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from img2img.errors import Fault

    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # imports a second's worth of modules
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line), Fault)), flush=True)


def serve(request: dict[str, Any], fault_type: type[Exception]) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as calls:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            os._exit(run(request, fault_type, calls.fileno()))
        status = watch(child, request, errors, began)
        errors.seek(0)
        calls.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - began,
            "stderr": errors.read(),
            "calls": len(calls.read()),
        }


def watch(child: int, request: dict[str, Any], errors: Any, began: float) -> int:
    pending = request.get("signal")
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        elapsed = time.monotonic() - began
        kill_after = request.get("kill_after")
        if elapsed > DEADLINE or (kill_after is not None and elapsed >= kill_after):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        if pending is not None:
            errors.seek(0)
            if request["signal_after"] in errors.read():
                os.kill(child, pending)
                pending = None
        time.sleep(0.002)


def run(request: dict[str, Any], fault_type: type[Exception], calls: int) -> int:
    import img2img

    count_calls(calls, request.get("kill_at_call"))
    try:
        img2img.train(**request["arguments"])
    except fault_type as fault:
        print(f"error: {fault}", file=sys.stderr, flush=True)
        return int(getattr(fault, "exit_code", 1))
    except BaseException as error:
        print(f"internal: {error!r}", file=sys.stderr, flush=True)
        return 99
    return 0


def count_calls(calls: int, kill_at: int | None) -> None:
    """Count every call that changes files; at number `kill_at` die before it, or in the middle of a write."""
    made = 0
    real_write = os.write

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            real_write(calls, b".")
            if kill_at == made:
                if name == "write":
                    real_write(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(os, name, counted)

    for name in ("write", "fsync", "replace", "unlink", "mkdir", "rmdir"):
        wrap(name)


if __name__ == "__main__":
    main()
