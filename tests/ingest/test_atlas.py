"""The embedded atlas by its behaviour: what it learns, what it answers, what it refuses."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kvatlas import (
    Atlas,
    AtlasConfig,
    ConfigError,
    DecodeError,
    InputError,
    ModelConfig,
    PodConfig,
    block_keys,
)
from kvatlas.index.shards import Strategy
from tests.ingest.plain_batches import batch, stored

TOKENS = list(range(1, 65))


@pytest.fixture
def atlas() -> Iterator[Atlas]:
    made = Atlas()
    yield made
    made.close()


def test_a_prompt_scores_by_its_leading_blocks_and_tiers(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2, 3, 4], TOKENS)))
    atlas.ingest(b"kv@b@m", 0, batch(stored([1, 2], TOKENS[:32])))
    atlas.ingest(b"kv@b@m", 1, batch({"type": "BlockStored", "block_hashes": [1], "medium": "CPU"}))
    atlas.ingest(b"kv@b@m", 2, batch({"type": "BlockRemoved", "block_hashes": [1]}))
    scores = atlas.score(TOKENS, model="m", strategy="longest_prefix")
    assert dict(scores) == {"a": 4.0, "b": 1.8}
    assert scores["a"] == 4.0 and "c" not in scores and scores.get("c", 0.0) == 0.0
    assert [(m.pod, m.blocks, m.tier_blocks) for m in scores.matches] == [
        ("a", 4, {"gpu": 4}),
        ("b", 2, {"gpu": 1, "cpu": 1}),
    ]
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix", pods=["b", "nobody"])) == {"b": 1.8}
    assert dict(atlas.score(TOKENS[:15], model="m", strategy="longest_prefix")) == {}
    assert dict(atlas.score(TOKENS, model="unheard", strategy="longest_prefix")) == {}
    assert dict(atlas.score([7, *TOKENS[1:]], model="m")) == {}


def test_scores_take_lists_arrays_and_bytes(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2, 3, 4], TOKENS)))
    array = np.array(TOKENS, np.uint32)
    raw = array.tobytes()
    for tokens in (TOKENS, tuple(TOKENS), array, array.astype(np.int64), raw, memoryview(raw)):
        assert dict(atlas.score(tokens, model="m", strategy="longest_prefix")) == {"a": 4.0}


def test_explain_says_where_and_why_a_match_ends(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2, 3, 4], TOKENS)))
    atlas.ingest(b"kv@b@m", 0, batch(stored([1, 2], TOKENS[:32])))
    told = atlas.explain(TOKENS + [5] * 16, model="m")
    assert (told.prompt_tokens, told.prompt_blocks, told.block_size_tokens, told.note) == (80, 5, 16, "")
    a, b = told.workers
    assert (a.pod, a.blocks, a.ends_at_block, a.tier_blocks) == ("a", 4, 4, {"gpu": 4})
    assert a.reason == "block 4 is held nowhere"
    assert (b.pod, b.blocks, b.reason) == ("b", 2, "block 2 is not held here, but by a")
    assert "no server has announced" in atlas.explain(TOKENS, model="x").note
    assert "no full block" in atlas.explain([1], model="m").note
    assert atlas.explain(TOKENS, model="m").workers[0].reason == "the prompt's full blocks end here"


def test_data_parallel_ranks_are_workers_and_a_pod_has_its_best_ones_score(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([1], TOKENS[:16]), rank=0))
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2], TOKENS[:32]), rank=1))
    scores = atlas.score(TOKENS, model="m", strategy="longest_prefix")
    assert dict(scores) == {"a": 2.0}
    assert [(m.rank, m.blocks) for m in scores.matches] == [(1, 2), (0, 1)]


def test_a_smaller_block_size_rebuilds_the_model_and_empties_its_workers(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2], TOKENS, block_size=32)))
    assert atlas.statistics().models == {"m": 32}
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"a": 2.0}
    atlas.ingest(b"kv@b@m", 0, batch(stored([11, 12], TOKENS[:32])))
    assert atlas.statistics().models == {"m": 16}
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"b": 2.0}
    assert atlas.statistics().skips["block_size_changed"] == 1
    atlas.ingest(b"kv@a@m", 1, batch(stored([1, 2], TOKENS, block_size=32)))
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"a": 4.0, "b": 2.0}


def test_a_configured_block_size_stays() -> None:
    atlas = Atlas(AtlasConfig(models={"m": ModelConfig(block_size_tokens=16)}))
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2], TOKENS, block_size=32)))
    atlas.ingest(b"kv@b@m", 0, batch(stored(list(range(10, 18)), TOKENS, block_size=8)))
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"a": 4.0, "b": 4.0}
    assert atlas.statistics().models == {"m": 16}
    atlas.close()


def test_pod_and_model_come_from_the_topic_then_the_configuration() -> None:
    config = AtlasConfig(default_pod="p", default_model="m", pods={"q": PodConfig(model="n")})
    atlas = Atlas(config)
    for topic in (b"", b"kv@q", b"kv@10.0.0.1:80@org/m@v2", b"something else"):
        atlas.ingest(topic, 0, batch(stored([1], TOKENS[:16])))
    workers = {(w.pod, w.model) for w in atlas.statistics().workers}
    assert workers == {("p", "m"), ("q", "n"), ("10.0.0.1:80", "org/m@v2")}
    atlas.close()


def test_a_topic_that_names_nobody_is_refused_and_counted(atlas: Atlas) -> None:
    with pytest.raises(InputError, match=r"kv@<pod>@<model>"):
        atlas.ingest(b"no-names", 0, batch(stored([1], TOKENS[:16])))
    with pytest.raises(InputError, match="1024 bytes"):
        atlas.ingest(b"kv@" + b"x" * 2_000_000, 0, batch())
    with pytest.raises(DecodeError, match="expected"):
        atlas.ingest(b"kv@a@m", 0, b"\xc1")
    assert atlas.statistics().events["refused_payloads"] == 3
    assert atlas.statistics().workers == ()


@pytest.mark.parametrize("topic", [b"kv@\xff@m", b"kv@a@m\xff", b"kv@\xed\xa0\x80@m"])
def test_names_that_are_no_text_are_refused_and_their_neighbours_are_told(atlas: Atlas, topic: bytes) -> None:
    """No message, no dump and no page could name such a pod, nor any other beside it."""
    atlas.ingest(b"kv@a@m", 0, batch(stored([1], TOKENS[:16])))
    with pytest.raises(InputError, match="expected names that are UTF-8"):
        atlas.ingest(topic, 0, batch(stored([1], TOKENS[:16])))
    assert atlas.statistics().events["refused_payloads"] == 1
    assert atlas.dump(io.BytesIO()).entries == 1


def test_good_events_around_bad_ones_are_applied(atlas: Atlas) -> None:
    good = stored([1, 2], TOKENS[:32])
    bad = stored([3], [2**40])
    atlas.ingest(b"kv@a@m", 0, batch(bad, {"type": "Later"}, good, [], stored([3, 4], TOKENS[32:], 2)))
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"a": 4.0}
    whole = batch(stored([5], TOKENS[:16], 4), stored([6], TOKENS[:16], 5))
    atlas.ingest(b"kv@a@m", 1, whole[:-20])
    skips = atlas.statistics().skips
    assert (skips["bad_event"], skips["unknown_events"], skips["broken_payload"]) == (2, 1, 1)
    assert dict(atlas.score([*TOKENS, *TOKENS[:16], 0], model="m")) == {"a": 5.0}


def test_a_jump_in_the_sequence_is_counted_and_one_backwards_empties_the_worker(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 5, batch(stored([1, 2, 3, 4], TOKENS)))
    last = batch(stored([9], TOKENS[:16], 4))
    atlas.ingest(b"kv@a@m", 8, last)
    atlas.ingest(b"kv@a@m", 8, last)
    (worker,) = atlas.statistics().workers
    assert (worker.gaps, worker.missed_batches, worker.repeated_batches, worker.restarts) == (1, 2, 1, 0)
    atlas.ingest(b"kv@a@m", 0, batch(stored([21], TOKENS[:16])))
    (worker,) = atlas.statistics().workers
    assert (worker.restarts, worker.sequence, worker.blocks) == (1, 0, {"gpu": 1, "cpu": 0})
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"a": 1.0}


@pytest.mark.parametrize("strategy", ["longest_prefix", "reusable"])
@pytest.mark.parametrize(
    "first_words",
    [
        [{"type": "AllBlocksCleared"}],
        [{"type": "BlockRemoved", "block_hashes": [4]}],
        [{"type": "BlockRemoved", "block_hashes": [4], "medium": "DISK"}],
        [],
    ],
)
def test_files_count_for_a_restarted_engine_only_once_it_has_named_its_groups(
    atlas: Atlas, first_words: list[object], strategy: Strategy
) -> None:
    """Files do not tell their group, and the new engine may have others than the one before."""

    def matched() -> dict[str, int]:
        found = atlas.score([*TOKENS, 0], model="m", strategy=strategy)
        return {match.pod: match.blocks for match in found.matches}

    for pod in (b"a", b"b"):
        atlas.ingest(b"kv@%s@m" % pod, 0, batch(stored([1, 2, 3, 4], TOKENS)))
        atlas.ingest(b"kv@%s@m" % pod, 1, batch(stored([1, 2, 3, 4], TOKENS, medium="STORAGE")))
    atlas.ingest(b"kv@a@m", 0, batch(*first_words))
    assert matched() == {"b": 4}
    assert len(atlas.residency("m")["m/storage"]) == 4, "stores outlive their engines"
    atlas.ingest(b"kv@a@m", 1, batch(stored([1], TOKENS[:16])))
    assert matched() == {"a": 4, "b": 4}


def test_unknown_parents_wait_within_bounds_and_are_counted() -> None:
    atlas = Atlas(AtlasConfig(models={"m": ModelConfig(block_size_tokens=16)}, orphans_max=100))
    for i in range(10_000):
        atlas.ingest(b"kv@a@m", i, batch(stored([i + 10**6], TOKENS[:16], i + 10**9)))
    statistics = atlas.statistics()
    (worker,) = statistics.workers
    assert worker.orphans == 100
    assert statistics.events["orphaned"] == 10_000
    assert statistics.skips["orphans_dropped"] == 9_900
    assert worker.mirror_bytes < 1 << 20
    atlas.close()


def test_children_that_come_before_their_parents_are_stitched(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([4], TOKENS[48:], 3)))
    atlas.ingest(b"kv@a@m", 1, batch(stored([3], TOKENS[32:48], 2)))
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {}
    atlas.ingest(b"kv@a@m", 2, batch(stored([1, 2], TOKENS[:32])))
    assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"a": 4.0}


def test_a_pod_that_is_removed_is_forgotten_and_may_come_back(atlas: Atlas) -> None:
    for i in range(200):
        atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2, 3, 4], TOKENS)))
        assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {"a": 4.0}, i
        atlas.remove_pod("a")
        assert dict(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == {}
    atlas.remove_pod("never heard of")
    assert atlas.statistics().workers == ()
    assert atlas.statistics().events["blocks_stored"] == 800


def test_workers_beyond_the_bound_are_refused_and_the_others_served() -> None:
    atlas = Atlas(AtlasConfig(workers_max=3))
    for i in range(3):
        atlas.ingest(b"kv@%d@m" % i, 0, batch(stored([1], TOKENS[:16])))
    with pytest.raises(InputError, match="at most 3"):
        atlas.ingest(b"kv@3@m", 0, batch(stored([1], TOKENS[:16])))
    assert len(atlas.score(TOKENS, model="m", strategy="longest_prefix")) == 3
    atlas.close()


def test_models_salts_and_adapters_do_not_meet(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([1], TOKENS[:16], extra_keys=[["s"]])))
    atlas.ingest(b"kv@a@m", 1, batch(stored([2], TOKENS[:16], lora_name="s", extra_keys=[["s"]])))
    atlas.ingest(b"kv@a@m", 2, batch(stored([3], TOKENS[:16], extra_keys=[[["img", -2]]])))
    assert dict(atlas.score(TOKENS[:16], model="m", strategy="longest_prefix")) == {}
    assert dict(atlas.score(TOKENS[:16], model="m", strategy="longest_prefix", cache_salt="s")) == {"a": 1.0}
    assert dict(atlas.score(TOKENS[:16], model="m", strategy="longest_prefix", lora="s")) == {"a": 1.0}
    assert (
        dict(atlas.score(TOKENS[:16], model="m", strategy="longest_prefix", cache_salt="s", lora="s")) == {}
    )
    assert (
        dict(atlas.score(TOKENS[:16], model="m", strategy="longest_prefix", features=[("img", 0, 4)])) == {}
    )


def test_an_index_shared_with_llm_d_has_its_keys() -> None:
    atlas = Atlas(AtlasConfig(algorithm="fnv64a_cbor", hash_seed=""))
    atlas.ingest(b"kv@a@test-model", 0, batch(stored([1, 2], list(range(1, 33)))))
    assert set(atlas.residency("test-model")["a", 0, 0]) == {9540012594951042066, 16921089685996993662}
    with pytest.raises(InputError, match="cache_salt"):
        atlas.score(TOKENS, model="test-model", cache_salt="s")
    atlas.close()


def test_the_seed_is_private_unless_it_is_set(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, batch(stored([1], TOKENS[:16])))
    public = {int(key) for key in block_keys(TOKENS[:16], model="m")}
    assert not public & set(atlas.residency("m")["a", 0, 0])


@pytest.mark.slow
def test_readers_see_whole_answers_while_writers_write(atlas: Atlas) -> None:
    """Chains grow and shrink from their tails; a reader may see any state, but only states."""
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            for match in atlas.score(TOKENS, model="m", strategy="longest_prefix").matches:
                if match.tier_blocks != {"gpu": match.blocks} or not 1 <= match.blocks <= 4:
                    wrong.append(match)

    readers = [threading.Thread(target=read) for _ in range(3)]
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2, 3, 4], TOKENS)))
    for reader in readers:
        reader.start()
    for i in range(600):
        removed = {"type": "BlockRemoved", "block_hashes": [4, 3]}
        atlas.ingest(b"kv@a@m", 2 * i + 1, batch(removed))
        atlas.ingest(b"kv@a@m", 2 * i + 2, batch(stored([3, 4], TOKENS[32:], 2)))
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("kwargs", "where"),
    [
        ({"shards": 0}, "shards"),
        ({"table_bytes_max": 1}, "table_bytes_max"),
        ({"algorithm": "md5"}, "algorithm"),
        ({"models": {"m": ModelConfig(block_size_tokens=5000)}}, r"models\['m'\].block_size_tokens"),
        ({"tier_weights": {"tape": 1.0}}, r"tier_weights\['tape'\]"),
        ({"tier_weights": {"gpu": -1.0}}, r"tier_weights\['gpu'\]"),
        ({"tier_weights": {"storage": 2.0}}, "do not rise"),
        ({"ghosts_max": 0}, "ghosts_max"),
    ],
)
def test_bad_configuration_is_refused_with_its_path(kwargs: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        AtlasConfig(**kwargs)  # type: ignore[arg-type]


def test_recorded_payloads_replay_to_what_their_index_says(atlas: Atlas, shared: Path) -> None:
    """A real server of 64 blocks: stores, evictions that make room, a clear, offloaded tiers."""
    folder = shared / "fixtures" / "vllm-0.32"
    held = {0: 3, 1: 4, 2: 6, 3: 9, 4: 11, 5: 39, 6: 62, 7: 62, 8: 3}
    for seq, n_blocks in held.items():
        (file,) = folder.glob(f"*_int64_seq{seq}.msgpack")
        atlas.ingest(b"kv@pod0@tiny", seq, file.read_bytes())
        (worker,) = atlas.statistics().workers
        assert worker.blocks == {"gpu": n_blocks, "cpu": 0}, file.name
        assert len(atlas.residency("tiny").get(("pod0", 0, 0), {})) == n_blocks
    assert atlas.statistics().models == {"tiny": 32}
    allowed = {"duplicates"}
    assert {reason for reason, n in atlas.statistics().skips.items() if n} <= allowed
    for seq in (1, 2, 5, 11):
        (file,) = folder.glob(f"*_tier_seq{seq}.msgpack")
        atlas.ingest(b"kv@tiers@tiny", seq, file.read_bytes())
    skips = atlas.statistics().skips
    assert skips["unresolved"] > 0, "copies of blocks whose stores were not recorded are not guessed"


def test_a_server_that_says_its_blocks_descend_from_themselves_is_survived() -> None:
    """Engine blocks of 3, index blocks of 4: a known block whose parent was forgotten gets a new one."""
    atlas = Atlas(AtlasConfig(models={"m": ModelConfig(block_size_tokens=4)}, ghosts_max=1))

    def chain(hashes: list[int], tokens: list[int], parent: int | None) -> dict[str, object]:
        return stored(hashes, tokens, parent, block_size=3)

    events = [
        chain([1, 2, 3], TOKENS[:9], None),
        {"type": "BlockStored", "block_hashes": [2, 3], "medium": "CPU"},
        chain([9], TOKENS[20:23], None),
        {"type": "BlockRemoved", "block_hashes": [3, 2, 1, 9]},  # 9 pushes 1 out of the ghosts
        chain([2], TOKENS[3:6], 3),  # and 3 descends from 2
        chain([1, 2, 3], TOKENS[:9], None),
    ]
    for seq, event in enumerate(events):
        atlas.ingest(b"kv@a@m", seq, batch(event))
    assert dict(atlas.score(TOKENS[:9], model="m", strategy="longest_prefix")) == {"a": 2.0}
    atlas.close()
