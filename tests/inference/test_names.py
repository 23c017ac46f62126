"""Output names: plain where possible, never two for one file."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img2img.inference.names import output_names


@pytest.mark.parametrize(
    ("names", "format", "expected"),
    [
        (["a.jpg", "x/a.jpg", "y/a.jpg", "b.JPEG"], None, ["a.jpg", "x/a.jpg", "y/a.jpg", "b.JPEG"]),
        (["a.jpg", "a.png"], None, ["a.jpg", "a.png"]),
        (["a.jpg", "b.tif"], "PNG", ["a.png", "b.png"]),
        (["a.jpg", "a.png"], "PNG", ["a.jpg.png", "a.png.png"]),
        (["a.jpeg", "b.jpg"], "JPEG", ["a.jpeg", "b.jpg"]),
        (["x/a.jpg", "x/a.webp", "y/a.jpg"], "PNG", ["x/a.jpg.png", "x/a.webp.png", "y/a.png"]),
        (["p.heic"], None, ["p.jpg"]),
        (["p.heic", "p.jpg"], None, ["p.heic.jpg", "p.jpg"]),
        (["-a b\n.jpg"], "PNG", ["-a b\n.png"]),
    ],
)
def test_table(names: list[str], format: str | None, expected: list[str]) -> None:
    assert output_names(names, format) == expected


def test_names_that_differ_in_case_or_composition_only_are_kept_apart() -> None:
    for names in (["A.jpg", "a.jpg"], ["\u00e9.jpg", "e\u0301.jpg"], ["X/a.jpg", "x/a.jpg"]):
        outputs = output_names(names)
        assert len({fold(name) for name in outputs}) == 2
        assert [os.path.dirname(name) for name in outputs] == [os.path.dirname(name) for name in names]
        assert all(name.endswith(".jpg") and "~" in name for name in outputs)


def test_a_name_that_would_be_too_long_is_shortened() -> None:
    names = ["é" * 125 + ".jpg", "é" * 125 + ".png", "x" * 251 + ".jpg"]
    outputs = output_names(names, "WEBP")
    assert len(set(outputs)) == 3
    assert all(len(os.fsencode(name)) <= 255 and name.endswith(".webp") for name in outputs)


def fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


stems = st.one_of(
    st.sampled_from(["a", "A", "\u00e9", "e\u0301", "a.jpg", "a.png", "ß", "ss", "\udcff", "-", " "]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=4).filter(
        lambda stem: stem.strip(".")
    ),
)
paths = st.builds(
    lambda folder, stem, suffix: folder + stem + suffix,
    st.sampled_from(["", "x/", "X/"]),
    stems,
    st.sampled_from([".jpg", ".JPG", ".jpeg", ".png", ".heic", ".webp", ".jpg.png"]),
)


@settings(max_examples=200, deadline=None)
@given(names=st.lists(paths, max_size=8, unique=True), format=st.sampled_from([None, "PNG", "JPEG"]))
def test_no_two_outputs_meet(names: list[str], format: str | None) -> None:
    outputs = output_names(names, format)
    assert len({fold(name) for name in outputs}) == len(names)
    assert output_names(names, format) == outputs
    assert output_names(names[::-1], format) == outputs[::-1]
