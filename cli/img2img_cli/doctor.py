"""`img2img doctor`: what is installed, which devices are here, which pictures can be read, and what is missing."""

from __future__ import annotations

import importlib
import os
import platform
from importlib import metadata
from typing import Any

import click

from img2img_cli.options import json_option, print_json

_REQUIRED = ("torch", "torchvision", "kornia", "pillow", "numpy", "safetensors", "click", "tqdm")
# optional package -> what it is for
_OPTIONAL = {
    "scikit-image": "`img2img demo`",
    "scikit-learn": "`img2img demo`",
    "pillow-heif": "reading HEIC and HEIF pictures",
    "onnx": "`img2img models export MODEL OUT.onnx`",
    "onnxruntime": "`img2img models export MODEL OUT.onnx`",
    "onnxscript": "`img2img models export MODEL OUT.onnx`",
}


@click.command("doctor", short_help="Show versions, devices and what is missing.")
@json_option
def command(as_json: bool) -> int:
    """Show versions, devices, bfloat16 support and accepted picture formats; name what is missing and how to mend it.

    The exit code is 1 when something that every command needs is missing.

    \b
    Examples:
      img2img doctor
      img2img doctor --json
    """
    report = examine()
    if as_json:
        print_json(report)
    else:
        show(report)
    return 1 if report["broken"] else 0


def examine() -> dict[str, Any]:
    """Everything doctor says, as one JSON object."""
    from img2img.version import __version__

    versions = {name: _version(name) for name in (*_REQUIRED, *_OPTIONAL)}
    broken = [
        {"what": f"package {name}", "mend": f"Install it: pip install {name}"}
        for name in _REQUIRED
        if versions[name] is None
    ]
    missing = [
        {"what": f"package {name}, for {use}", "mend": f"If you want that: pip install {name}"}
        for name, use in _OPTIONAL.items()
        if versions[name] is None
    ]
    devices: list[dict[str, Any]] = []
    formats: list[str] = []
    # A package may be there and still not load: that is what a doctor is asked about
    try:
        devices = _devices()
    except Exception as error:
        broken.append({"what": f"torch does not work ({error})", "mend": "pip install --force-reinstall torch"})
    try:
        formats = list(importlib.import_module("img2img.data.decode").accepted_formats())
    except Exception as error:
        broken.append({"what": f"pictures cannot be read ({error})", "mend": "pip install --force-reinstall pillow"})
    missing += _missing_of_devices(devices)
    return {
        "img2img": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "devices": devices,
        "formats": formats,
        "broken": broken,
        "missing": missing,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    """Each device with its name, memory in GB, and whether it multiplies bfloat16 in hardware."""
    import torch

    from img2img.training.precision import has_native_bfloat16

    cpu = torch.device("cpu")
    devices: list[dict[str, Any]] = [
        {
            "device": "cpu",
            "name": _cpu_name(),
            "memory_gb": _memory_gb(),
            "bfloat16": has_native_bfloat16(cpu),
            "cores": _cores(),
            "threads": torch.get_num_threads(),
        }
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory_gb": round(properties.total_memory / 1e9, 1),
                "bfloat16": has_native_bfloat16(torch.device("cuda", index)),
            }
        )
    if torch.backends.mps.is_available():
        mps = torch.device("mps")
        devices.append({"device": "mps", "name": "Apple GPU", "memory_gb": None, "bfloat16": has_native_bfloat16(mps)})
    return devices


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _missing_of_devices(devices: list[dict[str, Any]]) -> list[dict[str, str]]:
    names = {device["device"].partition(":")[0] for device in devices}
    missing = []
    if devices and names == {"cpu"}:
        missing.append(
            {
                "what": "a GPU that torch can use",
                "mend": "Use the -small recipes; or, where there is a GPU, install its driver and the torch for it",
            }
        )
    if devices and not any(device["bfloat16"] for device in devices):
        missing.append({"what": "bfloat16 in hardware", "mend": "Nothing to do: training runs in float32"})
    return missing


def show(report: dict[str, Any]) -> None:
    """The report for people."""
    click.echo(f"img2img {report['img2img']}, Python {report['python']}, {report['system']}")
    click.echo("\nPackages")
    for name, version in report["versions"].items():
        click.echo(f"  {name:<13} {version or 'not installed'}")
    click.echo("\nDevices")
    for device in report["devices"]:
        memory = f", {device['memory_gb']} GB" if device["memory_gb"] is not None else ""
        cores = f", {device['cores']} cores, {device['threads']} threads" if "cores" in device else ""
        bfloat16 = "bfloat16" if device["bfloat16"] else "no bfloat16: float32"
        click.echo(f"  {device['device']:<13} {device['name']}{cores}{memory}, {bfloat16}")
    click.echo("\nPicture formats")
    click.echo(f"  {', '.join(report['formats']) or 'none'}")
    for heading, entries in (("Broken", report["broken"]), ("Missing", report["missing"])):
        if entries:
            click.echo(f"\n{heading}")
        for entry in entries:
            click.echo(f"  {entry['what']}. {entry['mend']}")
    if not report["broken"]:
        click.echo("\nEverything that img2img needs is here.")
