"""The manifest survives a crash in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from img2img.atomic import remove_leftovers
from img2img.errors import Fault
from img2img.inference.manifest import MANIFEST_NAME, Entry, Manifest, content_digest


def test_round_trip_with_any_name(tmp_path: Path) -> None:
    first, second = Entry("1", "r", "2"), Entry("3", "r", "4")
    with Manifest(tmp_path) as manifest:
        manifest.append("x/\udcff é\n.jpg", first)
        manifest.append("b", first)
        manifest.append("b", second)
    with Manifest(tmp_path) as manifest:
        assert manifest.entries == {"x/\udcff é\n.jpg": {first}, "b": {first, second}}


def test_a_line_cut_off_is_left_out_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    entry = Entry("1", "r", "2")
    with Manifest(tmp_path) as manifest:
        manifest.append("a", entry)
        manifest.append("b", entry)
    path = tmp_path / MANIFEST_NAME
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Manifest(tmp_path) as manifest:
            manifest.append("c", entry)
        with Manifest(tmp_path) as manifest:
            complete = {line.rstrip() for line in whole[:cut].splitlines() if line.endswith(b"}")}
            assert set(manifest.entries) == {"c"} | {"ab"[index] for index in range(len(complete))}


def test_foreign_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text('[]\n{"name": 1}\nnull\n\n3\n"x"\n')
    with Manifest(tmp_path) as manifest:
        assert manifest.entries == {}


def test_only_the_first_tidies(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    tidied: list[str] = []
    with Manifest(tmp_path) as first, Manifest(tmp_path, shard=(2, 3)) as second:
        first.join(lambda: tidied.append("first"))
        second.join(lambda: tidied.append("second"))
    with Manifest(tmp_path, shard=(3, 3)) as third:
        third.join(lambda: tidied.append("third"))
    assert tidied == ["first", "third"]


def test_shards_have_files_of_their_own_and_read_all(tmp_path: Path) -> None:
    entries = [Entry(str(number), "r", "o") for number in range(3)]
    for number, shard in enumerate([(1, 1), (1, 2), (2, 2)]):
        with Manifest(tmp_path, shard=shard) as manifest:
            manifest.append("a", entries[number])
    assert len(list(tmp_path.iterdir())) == 3
    with Manifest(tmp_path, shard=(1, 4)) as manifest:
        assert manifest.entries == {"a": set(entries)}


def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(Fault, match="cannot be written"):
        Manifest(tmp_path)


def test_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".img2img-1-ab.tmp").touch()
    (tmp_path / "a.tmp").touch()
    remove_leftovers([tmp_path, tmp_path / "missing"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tmp"]


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert content_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
