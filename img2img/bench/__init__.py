"""Comparisons of choices against each other, each made of ordinary trainings in ordinary run folders.

modes.py   tables of objectives, penalties and remedies against mode collapse on toy worlds
search.py  the same budget of random settings for every objective
page.py    what they found as JSON, Markdown and one HTML page
"""

from img2img.bench.run import run_comparison

__all__ = ["run_comparison"]
