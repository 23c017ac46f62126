"""Files of weights that others wrote, read into memory: what is none, or too large, is refused by name."""

from __future__ import annotations

from pathlib import Path

from img2img.errors import UsageFault

_LARGEST_FILE = 1 << 30  # bytes; VGG-16 has 550 million


def check_regular(path: Path) -> None:
    """Refuse a folder, pipe or device; what is not there at all is left to whoever opens it.

    Raises:
        UsageFault: it is none.
    """
    if path.exists() and not path.is_file():  # a pipe would block
        raise UsageFault(path, "is no regular file", "Give a .pth, .pt or .safetensors file")


def read_content(path: Path) -> bytes:
    """The bytes of `path`, at least one.

    Raises:
        UsageFault: no such file, no regular file, not readable, empty, or larger than any known network's weights.
    """
    try:
        check_regular(path)
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise UsageFault(path, f"is larger than weights of any known network ({size / 1e6:.0f} MB)", "Give another")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageFault(path, "there is no such file", "Check the path") from error
    except OSError as error:
        raise UsageFault(path, f"cannot be read ({error.strerror})", "Check the path and its permissions") from error
    if not content:
        raise UsageFault(path, "is empty (0 bytes)", "Copy it again")
    return content
