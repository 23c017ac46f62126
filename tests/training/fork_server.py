"""Runs trainings in forked children, so that each need not import torch; reads one JSON request a line, answers likewise.

A request is {"arguments": of img2img.train} and what shall happen to the run, each by itself or left out:

- "kill_after": seconds until SIGKILL
- "kill_at_call": number of the writing system call that it does not survive
- "signal", "signal_after": a signal for its process group, once stderr holds this text
- "signals_at_call": a number of a call, and then signals that it raises there
- "largest_file": bytes, above which the kernel refuses to write (RLIMIT_FSIZE)
- "poison": arguments of poison.poison
- "rival", "rival_after": arguments of another run, made while this one goes on once stderr holds the text; then this
  one is killed, and the answer has the other's as "rival"

The answer: {"code": exit code, or minus the signal, "seconds": float, "stderr": text, "calls": how many writing system
calls were made}.

It must fork before any OpenMP work and with one thread, or children hang.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

DEADLINE = float(os.environ.get("CRASH_DEADLINE", 60))  # seconds after which a child is given up


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
            os.setpgid(0, 0)
            os.dup2(errors.fileno(), 2)
            os._exit(run(request, fault_type, calls.fileno()))
        rivals: list[dict[str, Any]] = []

        def let_rival_run() -> None:
            rivals.append(serve({"arguments": request["rival"]}, fault_type))
            os.kill(child, signal.SIGKILL)

        status = watch(child, request, errors, began, let_rival_run)
        errors.seek(0)
        calls.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - began,
            "stderr": errors.read(),
            "calls": len(calls.read()),
            **({"rival": rivals[0]} if rivals else {}),
        }


def watch(child: int, request: dict[str, Any], errors: Any, began: float, let_rival_run: Callable[[], None]) -> int:
    pending, rival = request.get("signal"), request.get("rival")
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
                os.killpg(child, pending)
                pending = None
        if rival is not None:
            errors.seek(0)
            if request["rival_after"] in errors.read():
                let_rival_run()
                rival = None
        time.sleep(0.002)


def run(request: dict[str, Any], fault_type: type[Exception], calls: int) -> int:
    from poison import poison

    import img2img

    if "largest_file" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    count_calls(calls, request.get("kill_at_call"), *request.get("signals_at_call", ()))
    if "poison" in request:
        poison(**request["poison"])
    try:
        img2img.train(**request["arguments"])
    except fault_type as fault:
        print(f"error: {fault}", file=sys.stderr, flush=True)
        return int(getattr(fault, "exit_code", 1))
    except BaseException as error:
        print(f"internal: {error!r}", file=sys.stderr, flush=True)
        return 99
    return 0


def count_calls(calls: int, kill_at: int | None, signal_at: int | None = None, *signals: int) -> None:
    """Count every call that changes files; at number `kill_at` die before it, or in the middle of a write.

    At number `signal_at` these signals come, one after the other.
    """
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
            for number in signals if signal_at == made else ():
                os.kill(os.getpid(), number)
            return real(*args, **options)

        setattr(os, name, counted)

    for name in ("write", "fsync", "replace", "unlink", "mkdir", "rmdir"):
        wrap(name)


if __name__ == "__main__":
    main()
