"""Where things are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from img2img.errors import UsageFault


def user_cache(what: str, variable: str) -> Path:
    """img2img's folder in the user's cache folder; it need not exist.

    Args:
        what: what is to be kept there, for the message.
        variable: the environment variable that names another place for it.

    Raises:
        UsageFault: there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # a relative one is to be ignored, by the XDG base directory specification
        root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    except RuntimeError as error:
        raise UsageFault("HOME", f"there is no home folder to keep {what} in", f"Set {variable}") from error
    return root / "img2img"
