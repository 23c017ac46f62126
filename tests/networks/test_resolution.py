"""Sizes that are a base rectangle times a power of two."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2img.errors import UsageFault
from img2img.networks.resolution import split_resolution


@given(st.integers(4, 7), st.integers(4, 12), st.integers(1, 6), st.booleans())
def test_split_is_the_inverse_of_doubling(short: int, long: int, doublings: int, tall: bool) -> None:
    base = tuple(sorted((short, max(short, long)), reverse=tall))
    assert split_resolution((base[0] * 2**doublings, base[1] * 2**doublings)) == (base, doublings)


def accepts(resolution: tuple[int, int]) -> bool:
    try:
        split_resolution(resolution)
    except UsageFault:
        return False
    return True


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_refused_size_names_two_that_work(height: int, width: int) -> None:
    if accepts((height, width)):
        (base_height, base_width), doublings = split_resolution((height, width))
        assert (base_height * 2**doublings, base_width * 2**doublings) == (height, width)
        assert min(base_height, base_width) in range(4, 8)
        return
    with pytest.raises(UsageFault) as caught:
        split_resolution((height, width))
    assert caught.value.subject == "data.resolution"
    assert f"[{height}, {width}]" in caught.value.problem
    suggestions = [json.loads(size) for size in caught.value.mend.removeprefix("Use ").split(" or ")]
    assert len(suggestions) == 2
    assert all(accepts(size) for size in suggestions)
    if height == width:
        assert all(h == w for h, w in suggestions)
