"""docs/promises.md: every promise of the project is on the page, and every test that it names exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "promises.md").read_text("utf-8")
LAST = {"A": 16, "B": 8, "C": 16, "D": 12, "E": 14, "F": 10}
NO_PROMISE = {"A8", "A9"}
NAMES = sorted(set(re.findall(r"`(tests/[^`]+::[^`]+)`", PAGE)))


@functools.cache
def found_in(file: str) -> frozenset[str]:
    """Names of the tests of a file, those of classes as Class::name."""
    body = ast.parse((ROOT / file).read_text("utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    methods = [(f"{node.name}::", inner) for node in classes for inner in node.body]
    return frozenset(
        prefix + node.name
        for prefix, node in [*(("", node) for node in body), *methods]
        if isinstance(node, ast.FunctionDef)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_named_test_exists(name: str) -> None:
    file, _, test = name.partition("::")
    test, _, row = test.removesuffix("]").partition("[")
    assert test in found_in(file)
    # a row of the table, by how it begins
    assert not row or re.search(rf'"{row}[ :]', (ROOT / file).read_text("utf-8"))


@pytest.mark.parametrize("section", LAST)
def test_every_promise_is_on_the_page(section: str) -> None:
    expected = [f"{section}{number}" for number in range(1, LAST[section] + 1)]
    in_tables = re.findall(rf"^\| ({section}\d+) \|", PAGE, re.MULTILINE)
    exceptions = set(re.findall(rf"\b({section}\d+)\b", PAGE.partition("## What is not promised")[2]))
    assert in_tables == sorted(in_tables, key=lambda name: int(name[1:]))
    assert set(in_tables) | exceptions | NO_PROMISE >= set(expected)
    assert set(in_tables) <= set(expected)


def test_every_line_of_a_table_names_its_proof() -> None:
    lines = re.findall(r"^\| [A-F]\d* \|.*$", PAGE, re.MULTILINE)
    assert len(lines) > 50
    assert [line for line in lines if "`tests/" not in line.rpartition(" | ")[2]] == []
