"""An atlas that is saved, dies and is loaded: its servers' past is not asked for again."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas import Atlas, AtlasConfig, CheckpointError, ModelConfig, SourceConfig, Subscriber
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.ingest.plain_batches import batch, stored

WAIT_S = 60.0
MODEL = "some/model"
TOKENS = list(range(64))


def new_atlas(hash_seed: str = "seed", block_size: int = 16) -> Atlas:
    models = {MODEL: ModelConfig(block_size_tokens=block_size)}
    return Atlas(AtlasConfig(hash_seed=hash_seed, models=models, shards=2))


def told_atlas(hash_seed: str = "seed") -> Atlas:
    atlas = new_atlas(hash_seed)
    atlas.ingest(b"kv@a@some/model", 0, batch(stored([1, 2, 3, 4], TOKENS)))
    atlas.ingest(b"kv@a@some/model", 1, batch({"type": "BlockStored", "block_hashes": [1], "medium": "CPU"}))
    spilled = {"type": "BlockStored", "block_hashes": [1, 2], "medium": "STORAGE"}
    atlas.ingest(b"kv@a@some/model", 2, batch(spilled))
    atlas.ingest(b"kv@b@some/model", 9, batch(stored([1, 2], TOKENS[:32])))
    return atlas


def state(atlas: Atlas, pod: str) -> str:
    return next((w.truth.state for w in atlas.statistics().workers if w.pod == pod), "unknown")


def follow(subscriber: Subscriber, atlas: Atlas, published: int) -> None:
    """Returns when the atlas has applied so many batches and says EXACT."""

    def has_followed(_: object) -> bool:
        workers = atlas.statistics().workers
        return any(w.sequence == published - 1 and w.truth.state == "EXACT" for w in workers)

    assert subscriber.wait_until(has_followed, WAIT_S), [
        (w.sequence, w.truth) for w in atlas.statistics().workers
    ]


def reasons(atlas: Atlas, pod: str) -> set[str]:
    worker = next(w for w in atlas.statistics().workers if w.pod == pod)
    return {reason.name for reason in worker.truth.reasons}


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    with_all = told_atlas()
    report = with_all.save(tmp_path)
    assert (report.files, report.errors) == (3, ())
    loaded = new_atlas()
    assert loaded.load(tmp_path).files == 3
    assert loaded.residency(MODEL) == with_all.residency(MODEL)
    scores = loaded.score([*TOKENS, 1], model=MODEL)
    assert dict(scores) == dict(with_all.score([*TOKENS, 1], model=MODEL)) != {}
    assert reasons(loaded, "a") == {"reconnected"}
    assert reasons(loaded, "b") == {"reconnected", "missed"}
    with_all.close()
    loaded.close()


def test_a_worker_goes_on_behind_its_checkpoint_though_its_server_keeps_less(tmp_path: Path) -> None:
    with SimulatedServer("a", MODEL, blocks=64) as server:
        publisher = server.listen(buffer_steps=4)
        source = SourceConfig(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint)
        first = new_atlas()
        with Subscriber(first, [source]) as subscriber:
            publisher.wait_for_subscribers()
            for number in range(10):
                server.serve(list(range(number * 100, number * 100 + 64)))
                follow(subscriber, first, publisher.statistics().next_sequence)
            first.save(tmp_path)
        server.serve(list(range(5000, 5064)))  # while nobody listens
        second = new_atlas()
        second.load(tmp_path)
        with Subscriber(second, [source]) as subscriber:
            assert subscriber.wait_until(lambda _: state(second, "a") == "EXACT", WAIT_S)
        assert second.score([*range(64), 1], model=MODEL)["a"] == 4.0
        assert second.score([*range(5000, 5064), 1], model=MODEL)["a"] == 4.0
        assert second.statistics().workers[0].blocks["gpu"] == len(server.held())
        first.close()
        second.close()


def test_groups_from_before_a_restart_are_not_saved(tmp_path: Path) -> None:
    """The new engine may have others: nothing that it holds would match while an old one is asked for."""
    saved, loaded = new_atlas(), new_atlas()
    saved.ingest(b"kv@a@some/model", 0, batch(stored([1, 2, 3, 4], TOKENS)))
    saved.ingest(b"kv@a@some/model", 1, batch(stored([1, 2, 3, 4], TOKENS, group_idx=1)))
    saved.ingest(b"kv@a@some/model", 0, batch({"type": "AllBlocksCleared"}))
    saved.save(tmp_path)
    assert loaded.load(tmp_path).errors == ()
    for atlas in (saved, loaded):
        atlas.ingest(b"kv@a@some/model", 1, batch(stored([1, 2, 3, 4], TOKENS)))
        assert dict(atlas.score([*TOKENS, 1], model=MODEL)) == {"a": 4.0}
        atlas.close()


def test_a_server_that_has_restarted_meanwhile_is_not_believed_to_be_the_saved_one(tmp_path: Path) -> None:
    with SimulatedServer("a", MODEL, blocks=64) as server:
        publisher = server.listen()
        source = SourceConfig(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint)
        first = new_atlas()
        with Subscriber(first, [source]) as subscriber:
            publisher.wait_for_subscribers()
            server.serve(list(range(64)))
            assert subscriber.wait_until(lambda _: state(first, "a") == "EXACT", WAIT_S)
        first.save(tmp_path)
        server.restart()
        for number in (5, 6, 7):  # beyond the saved position
            server.serve(list(range(number * 1000, number * 1000 + 64)))
        second = new_atlas()
        second.load(tmp_path)
        with Subscriber(second, [source]) as subscriber:
            assert subscriber.wait_until(lambda _: state(second, "a") == "EXACT", WAIT_S)
        assert "a" not in second.score([*range(64), 1], model=MODEL)
        assert second.statistics().workers[0].blocks["gpu"] == len(server.held())
        first.close()
        second.close()


def test_files_that_are_not_as_they_should_be_are_left_out_one_by_one(tmp_path: Path) -> None:
    told = told_atlas()
    told.save(tmp_path)
    workers = sorted(tmp_path.glob("worker-*"))
    torn, other = workers
    torn.write_bytes(torn.read_bytes()[:-9])
    (tmp_path / "worker-00.kvatlas").write_bytes(b"something else")
    (tmp_path / f"worker-{'0' * 32}.kvatlas").write_bytes(other.read_bytes())
    loaded = new_atlas()
    report = loaded.load(tmp_path)
    assert report.files == 2
    assert len(report.errors) == 3
    assert {"torn", "begins", "another"} <= {word for error in report.errors for word in error.split()}
    assert len(loaded.statistics().workers) == 1
    told.close()
    loaded.close()


@pytest.mark.parametrize(
    ("seed", "block_size", "says"), [("other", 16, "hash_seed"), ("seed", 32, "block size")]
)
def test_another_seed_or_block_size_is_refused(tmp_path: Path, seed: str, block_size: int, says: str) -> None:
    told = told_atlas()
    told.save(tmp_path)
    loaded = new_atlas(seed, block_size)
    report = loaded.load(tmp_path)
    assert report.files == 0
    assert all(says in error for error in report.errors)
    assert loaded.statistics().workers == ()
    told.close()
    loaded.close()


def test_files_of_what_is_held_no_more_are_removed(tmp_path: Path) -> None:
    atlas = told_atlas()
    assert atlas.save(tmp_path).files == 3
    atlas.remove_pod("b")
    assert atlas.save(tmp_path).files == 2
    assert len(list(tmp_path.glob("*.kvatlas"))) == 2
    atlas.close()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    atlas = new_atlas()
    with pytest.raises(CheckpointError, match="expected a folder"):
        atlas.save(tmp_path / "file" / "below")
    atlas.close()
