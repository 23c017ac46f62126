"""Sheets: where pictures and words land."""

from __future__ import annotations

import numpy as np

from img2img.inference.sheets import captioned, make_grid, make_square


def test_grid_places_pictures() -> None:
    black, grey = np.zeros((2, 3, 1), np.uint8), np.full((2, 3, 1), 7, np.uint8)
    sheet = make_grid([[black, grey], [grey]])
    assert sheet.shape == (6, 8, 1)
    assert np.array_equal(sheet[:2, 5:], grey)
    assert np.array_equal(sheet[4:, :3], grey)
    assert (sheet[2:4] == 255).all()
    assert (sheet[4:, 3:] == 255).all()


def test_a_square_is_nearly_one_and_a_single_picture_stays() -> None:
    pictures = [np.full((4, 4, 3), index, np.uint8) for index in range(5)]
    assert make_square(pictures).shape == (10, 16, 3)
    assert make_square(pictures[:1]) is pictures[0]


def test_a_caption_stands_below_the_enlarged_picture() -> None:
    for channels in (1, 3, 4):
        picture = np.arange(8 * 8 * channels, dtype=np.uint8).reshape(8, 8, channels)
        plain, worded = captioned(picture), captioned(picture, "0.5")
        assert np.array_equal(worded[:64:8, ::8], picture)
        assert np.array_equal(plain[:64], worded[:64])
        assert (plain[64:] == 255).all()
        assert worded[64:, :, 0].min() < 128
        if channels == 4:
            assert (worded[64:, :, 3] == 255).all()
    assert captioned(np.zeros((100, 80, 3), np.uint8)).shape[1] == 80
