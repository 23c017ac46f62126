"""One self-contained HTML page: style and script inside it, pictures as data, and nothing loaded from anywhere.

The training report and the demo's page are made of these parts and of `charts`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from PIL import Image, ImageFile

from img2img.errors import printable

PICTURE_QUALITY = 85

# forbids every request, should anything in the page ever ask for one
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Picture:
    """An encoded picture: its data URI and its size in pixels."""

    uri: str
    width: int
    height: int


def escape(text: object) -> str:
    """`text` for an element or an attribute of a page; control characters and undecodable bytes are spelt out."""
    return html.escape(printable(text), quote=True)


def page(title: str, body: str) -> str:
    """A whole HTML document. `title` is escaped here; `body` is HTML."""
    package = resources.files("img2img.training")
    style = package.joinpath("report.css").read_text("utf-8")
    script = package.joinpath("report.js").read_text("utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
<script>
{script}</script>
</body>
</html>
"""


def embed(image: Image.Image, *, max_width: int | None = None, quality: int = PICTURE_QUALITY) -> Picture:
    """`image` as a data URI: JPEG, or WebP where it has transparency; wider ones are reduced to `max_width`."""
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if transparent else "L" if image.mode in ("1", "L") else "RGB")
    if max_width is not None and image.width > max_width:
        size = (max_width, max(1, round(image.height * max_width / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if transparent:
        image.save(content, "WEBP", quality=quality)
    else:
        # Pillow gives `optimize` a buffer of one byte a pixel, too small for pictures of noise
        ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 4 * image.width * image.height)
        # 4:4:4: small grids show coloured edges, which halved colour planes would smear
        image.save(content, "JPEG", quality=quality, subsampling=0, optimize=True)
    kind = "webp" if transparent else "jpeg"
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{data}", image.width, image.height)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A row of (label, value), the values large."""
    entries = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in pairs)
    return f'<dl class="facts">{entries}</dl>\n'


def section(heading: str, content: str) -> str:
    """`content` (HTML) under a heading, or nothing where there is no content."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}</section>\n" if content else ""


def command(text: str) -> str:
    """A command line to copy."""
    return (
        f'<div class="command"><pre><code>{escape(text)}</code></pre>'
        '<button type="button" class="quiet" data-copy hidden>copy</button></div>\n'
    )


def film(frames: Sequence[tuple[str, Picture]], rows: Sequence[str]) -> str:
    """Pictures of one size seen through a slider, the last one first.

    Args:
        frames: (label, picture) in their order in time.
        rows: names of the picture's rows, all of one height, from the top; may be empty.
    """
    if not frames:
        return ""
    last = len(frames) - 1
    images = "".join(
        f'<img{" class=on" if index == last else ""} src="{picture.uri}" width="{picture.width}" '
        f'height="{picture.height}" alt="{escape(label)}" data-label="{escape(label)}">\n'
        for index, (label, picture) in enumerate(frames)
    )
    slider = (
        '<button type="button" data-play aria-label="Play"></button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="Point in training">'
        if last
        else ""
    )
    names = "".join(f"<span>{escape(row)}</span>" for row in rows)
    size = frames[last][1]
    # small grids are enlarged up to twice, so that 64-pixel pictures can be looked at
    stage = (
        f'<div class="stage"><div class="rows">{names}</div><div class="frames" '
        f'style="max-width:{2 * size.width}px;aspect-ratio:{size.width}/{size.height}">\n{images}</div></div>\n'
    )
    controls = f'<div class="controls">{slider}<output>{escape(frames[last][0])}</output></div>\n'
    return f'<div class="film" data-film>{stage}{controls}</div>\n'


def side_by_side(pictures: Sequence[tuple[str, Picture]]) -> str:
    """Pictures in one line, each above its caption; one below the other where the page is narrow."""
    figures = "".join(
        f'<figure><img src="{picture.uri}" width="{picture.width}" height="{picture.height}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, picture in pictures
    )
    return f'<div class="beside">{figures}</div>\n'
