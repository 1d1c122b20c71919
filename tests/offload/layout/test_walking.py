"""Walking a part: every chunk file once, nothing else, and what was passed over is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvatlas.offload.layout.space import Space, open_space
from kvatlas.offload.layout.walking import Walk
from tests.offload.layout.spaces import fields, put


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return open_space(tmp_path, fields(), store="fast")


def walked(walk: Walk) -> dict[bytes, tuple[int, float]]:
    found: dict[bytes, tuple[int, float]] = {}
    for batch in walk:
        keys = [batch.keys[at : at + 36] for at in range(0, len(batch.keys), 36)]
        for key, size, last_use_s in zip(keys, batch.sizes, batch.last_use_s, strict=True):
            assert key not in found
            found[key] = (int(size), float(last_use_s))
    return found


def test_every_file_is_seen_once_with_its_size_and_last_use(space: Space) -> None:
    keys = [os.urandom(32) + number.to_bytes(4, "big") for number in range(300)]
    for number, key in enumerate(keys):
        path = put(space, key, b"x" * number)
        os.utime(path, (number, number))
    walk = Walk(space.part_folder, 36)
    assert walked(walk) == {key: (number, float(number)) for number, key in enumerate(keys)}
    assert (walk.statistics().files, walk.statistics().n_bytes) == (300, sum(range(300)))
    assert len(walked(walk)) == 300 == walk.statistics().files  # anew


def test_batches_have_a_bound(space: Space) -> None:
    for number in range(25):
        put(space, b"\xab\xcd" + bytes(30) + number.to_bytes(4, "big"), b"x")
    assert [len(batch.sizes) for batch in Walk(space.part_folder, 36, batch_files=10)] == [10, 10, 5]


def test_what_is_no_chunk_file_is_passed_over_and_counted(space: Space, tmp_path: Path) -> None:
    kept = put(space)
    folder = kept.parent
    key = b"\0" * 34 + b"\0\1"
    (folder / f".{kept.name}.00.1.tmp").write_bytes(b"x")  # being written
    (folder / "notes.txt").write_bytes(b"x")
    (folder / "ünïcode_g0.kv").write_bytes(b"x")
    (folder / "0102_g0.kv").write_bytes(b"x")  # another length
    (folder / f"{'11' * 32}_g0.kv").write_bytes(b"x")  # another folder's
    (folder / f"{key[:32].hex()}_g1.kv").mkdir()
    (folder / f"{key[:32].hex()}_g2.kv").symlink_to(kept)
    (space.part_folder / "fff").symlink_to(folder)
    (space.part_folder / "lost+found").mkdir()
    walk = Walk(space.part_folder, 36)
    assert list(walked(walk)) == [bytes(range(32)) + bytes(4)]
    said = walk.statistics()
    assert (said.files, said.temporary, said.foreign, said.unreadable) == (1, 1, 8, 0)


def test_a_part_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    walk = Walk(tmp_path / "absent", 36)
    assert not list(walk) and walk.statistics().unreadable == 0


def test_a_folder_that_cannot_be_listed_is_counted(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a mount that answers with errors; permissions would not stop root."""
    put(space)
    real = os.scandir

    def failing(path: Path) -> object:
        if path != space.part_folder:
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    walk = Walk(space.part_folder, 36)
    assert not list(walk) and walk.statistics().unreadable == 1
