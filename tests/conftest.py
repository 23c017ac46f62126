"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures beside the project; tests that want it are skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real pictures, ../shared/data, is not here")
    return SHARED_DATA
