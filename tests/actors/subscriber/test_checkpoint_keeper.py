"""Checkpoints of a subscriber's sessions, one after another and at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kvatlas import Atlas, AtlasConfig
from kvatlas.actors.subscriber.checkpoint_keeper import CheckpointKeeper
from kvatlas.ingest.simulator.server import SimulatedServer

PROMPT = list(range(64))


@pytest.fixture
def atlas() -> Atlas:
    """With something in it."""
    atlas = Atlas(AtlasConfig(hash_seed="seed"))
    numbers = iter(range(100))
    server = SimulatedServer(
        "a", "m", publish=lambda payload: atlas.ingest(b"kv@a@m", next(numbers), payload)
    )
    server.serve(PROMPT)
    return atlas


def keeper(
    mirror: Atlas, folder: Path, session: int, name: str = "0", period_s: float = 60.0
) -> CheckpointKeeper:
    return CheckpointKeeper(mirror, folder, name, session, period_s)


def test_next_session_loads_what_the_last_one_saved(atlas: Atlas, tmp_path: Path) -> None:
    assert keeper(atlas, tmp_path, 1).load() == 0
    assert keeper(atlas, tmp_path, 1).save()
    fresh = Atlas(AtlasConfig(hash_seed="seed"))
    assert keeper(fresh, tmp_path, 2).load() == 1
    assert fresh.residency("m") == atlas.residency("m") != {}


def test_session_that_was_replaced_writes_no_more(atlas: Atlas, tmp_path: Path) -> None:
    old, new = keeper(atlas, tmp_path, 1), keeper(Atlas(), tmp_path, 2)
    old.load()
    assert old.save()
    new.load()
    before = {path: path.stat().st_mtime_ns for path in old.folder.iterdir()}
    assert not old.save()
    assert old.counts["checkpoints_superseded"] == 1
    assert {path: path.stat().st_mtime_ns for path in old.folder.iterdir()} == before
    assert new.save()


def test_session_that_comes_late_does_not_claim_the_folder(atlas: Atlas, tmp_path: Path) -> None:
    new, old = keeper(atlas, tmp_path, 2), keeper(Atlas(), tmp_path, 1)
    new.load()
    old.load()
    assert not old.save()
    assert new.save()


def test_folders_of_two_subscribers_are_apart_whatever_their_names(atlas: Atlas, tmp_path: Path) -> None:
    names = ["0", "1", "../0", "a/b", "", ".", "x" * 300, "\ud800"]
    folders = {keeper(atlas, tmp_path, 1, name).folder for name in names}
    assert len(folders) == len(names)
    assert all(folder.resolve().parent == tmp_path.resolve() for folder in folders)


def test_folder_that_cannot_be_written_is_counted_and_nothing_is_raised(atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "0").write_text("a file is in the way")
    broken = keeper(atlas, tmp_path, 1)
    assert broken.load() == 0
    assert not broken.save()
    assert broken.counts["checkpoint_errors"] == 2


def test_torn_files_are_counted_and_left_out(atlas: Atlas, tmp_path: Path) -> None:
    first = keeper(atlas, tmp_path, 1)
    first.load()
    first.save()
    (torn,) = first.folder.glob("*.kvatlas")
    torn.write_bytes(torn.read_bytes()[:100])
    fresh = Atlas(AtlasConfig(hash_seed="seed"))
    second = keeper(fresh, tmp_path, 2)
    assert second.load() == 0
    assert second.counts["checkpoint_errors"] == 1
    assert fresh.residency("m") == {}


def test_thread_saves_every_period_and_ends_when_told(atlas: Atlas, tmp_path: Path) -> None:
    saved = threading.Event()
    save, calls = atlas.save, []

    def noting(folder: str | Path) -> object:
        calls.append(folder)
        if len(calls) == 2:
            saved.set()
        return save(folder)

    atlas.save = noting  # type: ignore[method-assign, assignment]
    kept = keeper(atlas, tmp_path, 1, period_s=0.001)
    kept.load()
    kept.start()
    assert saved.wait(30)
    kept.stop()
    kept.stop()
    at_end = len(calls)
    assert kept.counts["checkpoints"] == at_end
