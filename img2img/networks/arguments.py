"""Refusal of constructor arguments that make no sense, before anything is allocated.

Arguments come from a person's configuration or from a stranger's model file, so each has a type and a range. The
fault's subject is the argument's name; the caller knows which network it belongs to and can put that in front.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

from img2img.errors import UsageFault

MAX_CHANNELS = 256  # of images and conditions
MAX_CLASSES = 100_000
MAX_SIDE = 8192
MAX_WIDTH = 1024  # channels of a network's widest-resolution layer
MAX_UNITS = 8192  # of one fully connected layer
MAX_MEMBERS = 1024  # networks trained as one
MAX_COPIES = 64  # generators that share the work
MAX_VALUES = 2**18  # of an image whose every value has a weight to every unit: 295 × 295 pixels in colour


def check_whole(name: str, value: object, lowest: int, highest: int) -> None:
    """`value` is an int (not a bool) in [lowest, highest]."""
    if type(value) is not int:
        raise UsageFault(name, f"{value!r} is not a whole number", f"Use one from {lowest} to {highest}")
    if not lowest <= value <= highest:
        raise UsageFault(name, f"{value} is out of range", f"Use a whole number from {lowest} to {highest}")


def check_number(name: str, value: object, lowest: float, highest: float) -> None:
    """`value` is an int or float (not a bool) in [lowest, highest]."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and lowest <= value <= highest):  # type: ignore[operator]
        raise UsageFault(name, f"{value!r} is not a number in range", f"Use a number from {lowest:g} to {highest:g}")


def check_share(name: str, value: object) -> None:
    """`value` is a number in [0, 1)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < 1):  # type: ignore[operator]
        raise UsageFault(name, f"{value!r} is not a number from 0 to below 1", "Use for example 0.5, or 0 for none")


def check_flag(name: str, value: object) -> None:
    """`value` is a bool."""
    if not isinstance(value, bool):
        raise UsageFault(name, f"{value!r} is neither true nor false", "Use true or false")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """`value` is one of `choices`."""
    if isinstance(value, str) and value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    mend = f"Did you mean {near[0]!r}? " if near else ""
    raise UsageFault(name, f"{value!r} is unknown", f"{mend}Use one of {', '.join(choices)}")


def check_conditioning(value: object, choices: Collection[str], num_classes: int) -> None:
    """`value` is one of `choices`, and "none" just where there are no classes."""
    check_choice("conditioning", value, choices)
    if num_classes and value == "none":
        others = " or ".join(repr(choice) for choice in choices if choice != "none")
        raise UsageFault("conditioning", f"'none' would ignore the {num_classes} classes", f"Use {others}")
    if not num_classes and value != "none":
        raise UsageFault("conditioning", f"{value!r} needs classes, there are none", "Use 'none'")


def check_resolution(value: object) -> tuple[int, int]:
    """`value` is (height, width) in pixels; returns it as a tuple."""
    subject = "data.resolution"
    if not (isinstance(value, list | tuple) and len(value) == 2):
        raise UsageFault(subject, f"{value!r} is not [height, width]", "Use for example [64, 96]")
    for side in value:
        check_whole(subject, side, 1, MAX_SIDE)
    return value[0], value[1]


def check_values(resolution: object, channels: int) -> tuple[int, int]:
    """The resolution as a tuple, where an image of it has at most MAX_VALUES values (of one sample, one member)."""
    height, width = check_resolution(resolution)
    if height * width * channels > MAX_VALUES:
        raise UsageFault(
            "data.resolution",
            f"[{height}, {width}] with {channels} channels is too large for fully connected layers",
            f"Use a convolutional network, or at most {MAX_VALUES // channels} pixels",
        )
    return height, width
