"""Those that announce the files of a store: what they say counts for the store, and they are no workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from kvatlas import Atlas, AtlasConfig, PodConfig
from kvatlas.index.errors import InputError
from kvatlas.ingest.announcers import announced_store, announcer_name
from tests.ingest.plain_batches import stored

TOKENS = list(range(64))
BLOCKS = [1, 2, 3, 4]
EVICTOR = b"kv@store:nfs#evictor-0@m"
CONFIG = AtlasConfig(hash_seed="s", pods={pod: PodConfig(stores=("nfs",)) for pod in "ab"})


@pytest.fixture
def atlas() -> Iterator[Atlas]:
    with_pods = Atlas(CONFIG)
    yield with_pods
    with_pods.close()


def at(time_s: float, *events: object) -> bytes:
    payload = msgpack.packb([time_s, list(events), 0])
    assert isinstance(payload, bytes)
    return payload


def files(hashes: list[int], **more: object) -> dict[str, object]:
    event = {"type": "BlockStored", "block_hashes": hashes, "token_ids": [], "block_size": 0}
    return event | {"medium": "STORAGE", "group_idx": 0} | more


def gone(hashes: list[int], **more: object) -> dict[str, object]:
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "STORAGE", "group_idx": 0} | more


def inventory(phase: str) -> dict[str, object]:
    return {"type": "AllBlocksCleared", "inventory": phase}


def blocks_in(atlas: Atlas, store: str = "nfs") -> int:
    return len(atlas.residency("m").get(store, {}))


def score(atlas: Atlas, pod: str) -> dict[str, Any]:
    match = next((m for m in atlas.score(TOKENS, model="m", pods=[pod]).matches), None)
    return match.tier_blocks if match is not None else {}


def test_a_name_says_whose_files_it_announces() -> None:
    assert announcer_name("nfs", "e:1") == "store:nfs#e:1"
    assert announced_store("store:nfs#e:1") == "nfs"
    assert announced_store("store:#e") == ""
    assert announced_store("storefront") is None
    assert announced_store("store:nfs") is None
    assert announced_store("any", PodConfig(announces=True, stores=("x", "y"))) == "x"
    assert announced_store("any", PodConfig(stores=("x",))) is None
    for store, announcer in [("a@b", "e"), ("a", "e#1"), ("a", "e@1"), ("a", ""), ("a\n", "e")]:
        with pytest.raises(InputError):
            announcer_name(store, announcer)


def test_files_count_for_the_pods_of_the_store_and_their_announcer_is_no_worker(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS)))
    atlas.ingest(EVICTOR, 0, at(2, files([1, 2, 3])))
    atlas.ingest(b"kv@b@m", 0, at(2, stored([9], list(range(500, 516)))))
    assert blocks_in(atlas) == 3
    assert score(atlas, "b") == {"storage": 3}
    statistics = atlas.statistics()
    assert {worker.pod for worker in statistics.workers} == {"a", "b"}
    assert [worker.pod for worker in statistics.announcers] == ["store:nfs#evictor-0"]
    assert set(atlas.serving_pods()) == {"a", "b"}
    assert {match.pod for match in atlas.score(TOKENS, model="m").matches} == {"a", "b"}
    assert not atlas.score(TOKENS, model="m", pods=["store:nfs#evictor-0"]).matches
    assert {worker.pod for worker in atlas.explain(TOKENS, model="m").workers} == {"a", "b"}
    atlas.ingest(EVICTOR, 1, at(100, gone([1, 2, 3])))
    assert blocks_in(atlas) == 0


def test_what_is_not_of_a_store_is_left_out_and_counted(atlas: Atlas) -> None:
    atlas.ingest(EVICTOR, 0, at(1, stored(BLOCKS, TOKENS), stored([7], TOKENS[:16], medium="CPU")))
    atlas.ingest(
        EVICTOR, 1, at(1, {"type": "BlockRemoved", "block_hashes": [1]}, files([1], locality="LOCAL"))
    )
    assert atlas.statistics().skips["not_a_store"] == 7
    assert atlas.residency("m").get("nfs", {}) == {}
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS)))
    assert {lane for lane, blocks in atlas.residency("m").items() if blocks} == {("a", 0, 0)}


def test_files_wait_for_somebody_who_knows_what_they_mean(atlas: Atlas) -> None:
    atlas.ingest(EVICTOR, 0, at(1, inventory("begin"), files(BLOCKS), inventory("end")))
    atlas.ingest(b"kv@a@m", 0, at(1, stored([9], list(range(500, 516)))))
    assert (blocks_in(atlas), atlas.statistics().files["nfs"].waiting) == (0, 4)
    assert atlas.statistics().skips["store_waiting"] == 4, "and before any block size was known"


def test_yesterdays_files_are_found_by_todays_prompts(atlas: Atlas) -> None:
    atlas.ingest(b"kv@b@m", 0, at(1, stored([9], list(range(500, 516)))))
    atlas.ingest(EVICTOR, 0, at(1, inventory("begin"), files(BLOCKS), inventory("end")))
    assert atlas.statistics().files["nfs"].waiting == 4
    atlas.ingest(b"kv@a@m", 0, at(2, stored(BLOCKS[:2], TOKENS[:32])))
    assert (blocks_in(atlas), score(atlas, "b")) == (2, {"storage": 2})
    told = atlas.statistics().files["nfs"]
    assert (told.waiting, told.placed_late) == (2, 2)
    atlas.ingest(b"kv@a@m", 1, at(3, {"type": "AllBlocksCleared"}))
    atlas.remove_pod("a")
    assert score(atlas, "b") == {"storage": 2}


def test_the_last_block_of_a_chunk_brings_and_takes_all_of_it(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS)))
    atlas.ingest(EVICTOR, 0, at(2, files([4], chunk_blocks=2)))
    assert blocks_in(atlas) == 2
    atlas.ingest(EVICTOR, 1, at(3, files([2], chunk_blocks=2)))
    assert blocks_in(atlas) == 4
    atlas.ingest(EVICTOR, 2, at(200, gone([4])))
    assert blocks_in(atlas) == 2


def test_a_chunk_that_its_pod_describes_is_removed_by_its_name_alone(atlas: Atlas) -> None:
    chunk = stored(BLOCKS[2:], TOKENS[32:], 2, medium="STORAGE", extra_keys=None)
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), chunk))
    assert blocks_in(atlas) == 2
    atlas.ingest(EVICTOR, 0, at(50, gone([4])))
    assert blocks_in(atlas) == 0


def test_chunks_that_share_blocks_go_one_by_one(atlas: Atlas) -> None:
    fork = stored([5], list(range(900, 916)), 3)
    described = {"medium": "STORAGE", "extra_keys": None}
    one = stored([3, 4], TOKENS[32:], 2, **described)
    other = stored([3, 5], TOKENS[32:48] + list(range(900, 916)), 2, **described)
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), fork, one, other))
    assert blocks_in(atlas) == 3
    atlas.ingest(b"kv@a@m", 1, at(1, gone([3, 5])))
    assert blocks_in(atlas) == 2, "block 3 lies in the other file too"
    atlas.ingest(EVICTOR, 0, at(1, gone([4])))
    assert blocks_in(atlas) == 0


def test_a_placeholder_is_as_long_as_its_pods_settings_say(atlas: Atlas) -> None:
    atlas.close()
    pods = {"a": PodConfig(stores=("nfs",), offload_chunk_blocks=4)}
    with_chunks = Atlas(AtlasConfig(hash_seed="s", pods=pods))
    with_chunks.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), files([4])))
    assert blocks_in(with_chunks) == 4
    with_chunks.ingest(b"kv@a@m", 1, at(1, gone([4])))
    assert blocks_in(with_chunks) == 0
    with_chunks.close()


@pytest.mark.parametrize("late", ["store", "removal"])
def test_the_order_in_which_streams_are_heard_does_not_matter(atlas: Atlas, late: str) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS)))
    tell_store = (b"kv@a@m", 1, at(100, files([1])))
    tell_removal = (EVICTOR, 0, at(200, gone([1])))
    for topic, seq, payload in (tell_removal, tell_store) if late == "store" else (tell_store, tell_removal):
        atlas.ingest(topic, seq, payload)
    assert blocks_in(atlas) == 0
    assert atlas.statistics().skips["store_stale"] == (late == "store")


def test_a_file_that_is_written_again_outlives_its_removals_that_are_heard_again(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), files([1])))
    atlas.ingest(EVICTOR, 0, at(100, gone([1])))
    atlas.ingest(b"kv@a@m", 1, at(101, files([1])))
    atlas.ingest(b"kv@store:nfs#evictor-1@m", 0, at(90, gone([1])))
    assert blocks_in(atlas) == 1
    atlas.ingest(b"kv@store:nfs#evictor-1@m", 1, at(190, gone([1])))
    assert blocks_in(atlas) == 0


def test_what_an_inventory_does_not_name_is_gone_and_is_not_heard_again(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), files(BLOCKS)))
    atlas.ingest(EVICTOR, 0, at(100, inventory("begin")))
    atlas.ingest(EVICTOR, 1, at(101, files([1])))
    atlas.ingest(b"kv@a@m", 1, at(102, files([2])))
    assert blocks_in(atlas) == 4, "not before its end"
    atlas.ingest(EVICTOR, 2, at(103, inventory("end")))
    assert blocks_in(atlas) == 2
    told = atlas.statistics()
    assert (told.files["nfs"].swept, told.events["inventories"]) == (2, 1)
    atlas.ingest(b"kv@store:nfs#late@m", 0, at(50, files([3, 4])))
    assert blocks_in(atlas) == 2, "old news: the inventory would have named them"
    atlas.ingest(b"kv@a@m", 2, at(104, files([3])))
    assert blocks_in(atlas) == 3


@pytest.mark.parametrize("how", ["lost batches", "a restart", "another inventory"])
def test_an_inventory_that_is_not_heard_whole_takes_nothing(atlas: Atlas, how: str) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), files(BLOCKS)))
    atlas.ingest(EVICTOR, 0, at(100, inventory("begin")))
    if how == "lost batches":
        atlas.ingest(EVICTOR, 5, at(101, inventory("end")))
    elif how == "a restart":
        atlas.ingest(EVICTOR, 0, at(101, files([1])))
        atlas.ingest(EVICTOR, 1, at(102, inventory("end")))
    else:
        atlas.ingest(b"kv@store:nfs#other@m", 0, at(100, inventory("begin")))
        atlas.ingest(EVICTOR, 1, at(101, inventory("end")))
    assert blocks_in(atlas) == 4


def test_a_restart_of_the_announcer_takes_nothing_from_the_store(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS)))
    atlas.ingest(EVICTOR, 0, at(2, files(BLOCKS)))
    atlas.ingest(EVICTOR, 0, at(3, files([1])))
    atlas.remove_pod("store:nfs#evictor-0")
    assert blocks_in(atlas) == 4


def test_what_names_mean_and_what_was_removed_outlives_the_atlas(atlas: Atlas, tmp_path: Path) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), files([1, 2])))
    atlas.ingest(EVICTOR, 0, at(100, gone([2]), files([77])))
    atlas.save(tmp_path)
    again = Atlas(CONFIG)
    assert again.load(tmp_path).errors == ()
    assert blocks_in(again) == 1
    assert again.statistics().files["nfs"].waiting == 1
    again.ingest(EVICTOR, 1, at(101, files([3, 4])))
    assert blocks_in(again) == 3, "the mirror's knowledge was saved with the store"
    again.ingest(b"kv@store:nfs#late@m", 0, at(50, files([2])))
    assert blocks_in(again) == 3, "removed later than that"
    assert [worker.pod for worker in again.statistics().announcers][:1] == ["store:nfs#evictor-0"]
    again.close()


def test_a_smaller_block_size_keeps_files_for_when_they_are_understood_again(atlas: Atlas) -> None:
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), files(BLOCKS)))
    small = stored([101, 102], TOKENS[:16], block_size=8)
    atlas.ingest(b"kv@b@m", 0, at(2, small))
    assert (blocks_in(atlas), atlas.statistics().files["nfs"].waiting) == (0, 4)
    atlas.ingest(b"kv@a@m", 1, at(3, stored(BLOCKS, TOKENS)))
    assert blocks_in(atlas) == 8, "each is two index blocks now"


def test_a_file_counts_once_it_is_there_for_all_full_groups(atlas: Atlas) -> None:
    windows = stored([2], TOKENS[16:32], 1, group_idx=1, kv_cache_spec_kind="sliding_window")
    atlas.ingest(b"kv@a@m", 0, at(1, stored(BLOCKS, TOKENS), windows))
    atlas.ingest(EVICTOR, 0, at(2, files([2], group_idx=1)))
    assert blocks_in(atlas) == 0, "its window alone is no block"
    atlas.ingest(EVICTOR, 1, at(2, files([2])))
    assert blocks_in(atlas) == 1
    atlas.ingest(EVICTOR, 2, at(50, gone([2], group_idx=1)))
    assert blocks_in(atlas) == 1
    atlas.ingest(EVICTOR, 3, at(50, gone([2])))
    assert blocks_in(atlas) == 0


def test_an_engine_may_name_its_stores_files_before_it_has_computed_anything(atlas: Atlas) -> None:
    chunk = stored(BLOCKS[:2], TOKENS[:32], medium="STORAGE", extra_keys=None)
    atlas.ingest(b"kv@a@m", 0, at(1, files([3, 4, 9]), chunk, gone([9, 10])))
    skips = atlas.statistics().skips
    assert (skips["no_block_size"], skips["store_waiting"], skips["removed_unknown"]) == (0, 5, 1)
    atlas.ingest(b"kv@a@m", 1, at(2, stored(BLOCKS[:3], TOKENS[:48])))
    assert (blocks_in(atlas), atlas.statistics().files["nfs"].waiting) == (3, 1)
    assert not any(reason.name == "missed" for reason in atlas.statistics().workers[0].truth.reasons)
