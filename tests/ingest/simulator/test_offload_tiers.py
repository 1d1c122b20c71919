"""Copies on the CPU and in shared storage: what is announced when, and what can be loaded."""

from __future__ import annotations

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.engine import SimulatedEngine
from kvatlas.ingest.simulator.event_encoder import (
    WireAllBlocksCleared,
    WireBlockRemoved,
    WireBlockStored,
    WireEvent,
)
from kvatlas.ingest.simulator.offload_chunks import SharedStorage
from kvatlas.ingest.simulator.options import EngineOptions

SIZE = 4
PROMPT = list(range(100, 116))


def engine(
    *,
    blocks: int = 64,
    cpu_blocks: int = 32,
    chunk_blocks: int = 1,
    self_describing: bool = True,
    storage: SharedStorage | None = None,
) -> SimulatedEngine:
    options = EngineOptions(
        block_size=SIZE,
        blocks=blocks,
        cpu_blocks=cpu_blocks,
        chunk_blocks=chunk_blocks,
        self_describing=self_describing,
    )
    return SimulatedEngine(options, storage)


def finished(server: SimulatedEngine, token_ids: list[int]) -> list[list[WireEvent]]:
    """One request without output; the events of its step and of each idle one that follows."""
    server.finish(server.prefill(token_ids))
    steps = [server.end_step()]
    while server.has_pending_work:
        steps.append(server.end_step())
    return steps


def of(events: list[WireEvent], medium: str) -> list[WireBlockStored | WireBlockRemoved]:
    return [e for e in events if not isinstance(e, WireAllBlocksCleared) and e.medium == medium]


def names_of(events: list[WireBlockStored | WireBlockRemoved]) -> list[int | bytes]:
    return [name for event in events for name in event.block_hashes]


def test_filled_blocks_are_announced_on_the_cpu_one_step_later_each_with_tokens_and_parent() -> None:
    server = engine()
    names = server.engine_hashes(PROMPT)
    first, second = finished(server, PROMPT)
    assert of(first, "CPU") == []
    copies = of(second, "CPU")
    assert sorted(names_of(copies)) == sorted(names)
    by_name = {event.block_hashes[0]: event for event in copies}
    assert by_name[names[1]] == WireBlockStored(
        block_hashes=[names[1]],
        parent_block_hash=names[0],
        token_ids=PROMPT[4:8],
        block_size=SIZE,
        lora_id=None,
        medium="CPU",
        lora_name=None,
        group_idx=0,
        kv_cache_spec_kind="full_attention",
    )
    assert server.held()[names[1]] == {("gpu", 0): 1, ("cpu", 0): 1}


def test_copies_on_the_cpu_are_announced_without_extra_keys() -> None:
    server = engine()
    server.finish(server.prefill(PROMPT, lora="sql", cache_salt="s"))
    server.end_step()
    copies = server.end_step()
    assert copies
    for event in copies:
        assert isinstance(event, WireBlockStored)
        assert event.extra_keys is None
        assert event.lora_name == "sql"


def test_chunk_names_all_its_blocks_and_moves_only_when_it_is_full() -> None:
    server = engine(chunk_blocks=2)
    names = server.engine_hashes(PROMPT)
    _, second = finished(server, PROMPT[:12])
    (chunk,) = of(second, "CPU")
    assert chunk.block_hashes == names[:2]
    assert isinstance(chunk, WireBlockStored)
    assert chunk.token_ids == PROMPT[:8]
    assert chunk.block_size == SIZE


def test_block_before_a_branch_inside_a_chunk_is_held_and_removed_once_for_each_chunk() -> None:
    server = engine(cpu_blocks=4, chunk_blocks=2)
    branches = [[*PROMPT[:4], 1, 2, 3, 4], [*PROMPT[:4], 5, 6, 7, 8]]
    shared = server.engine_hashes(PROMPT[:4])[0]
    for branch in branches:
        finished(server, branch)
    assert server.held()[shared]["cpu", 0] == 2
    first, _ = finished(server, list(range(8)))
    assert of(first, "CPU") == [
        WireBlockRemoved(block_hashes=[*server.engine_hashes(branches[0])], medium="CPU", group_idx=0)
    ]
    assert server.held()[shared]["cpu", 0] == 1


def test_placeholder_names_only_the_last_block_of_a_chunk_and_nothing_else() -> None:
    server = engine(chunk_blocks=2, self_describing=False)
    names = server.engine_hashes(PROMPT)
    _, second = finished(server, PROMPT)
    copies = of(second, "CPU")
    assert sorted(names_of(copies)) == sorted([names[1], names[3]])
    assert copies[0] == WireBlockStored(
        block_hashes=copies[0].block_hashes,
        parent_block_hash=None,
        token_ids=[],
        block_size=0,
        lora_id=None,
        medium="CPU",
        lora_name=None,
        group_idx=0,
    )
    assert all(("cpu", 0) in server.held()[name] for name in names)


def test_decoded_blocks_are_offered_with_the_step_that_fills_them_and_after_the_end() -> None:
    server = engine()
    request = server.prefill(PROMPT[:4])
    server.end_step()
    server.decode(request, [1, 2, 3, 4])
    server.end_step()
    assert server.end_step() == [], "three of the four are computed: the block is not full"
    server.decode(request, [5])
    server.finish(request)
    server.end_step()
    (copy,) = of(server.end_step(), "CPU")
    assert isinstance(copy, WireBlockStored)
    assert copy.token_ids == [1, 2, 3, 4]


def test_least_recently_used_copies_go_first_tail_before_head_in_one_event() -> None:
    server = engine(cpu_blocks=6)
    names = server.engine_hashes(PROMPT)
    finished(server, PROMPT)
    first, second = finished(server, list(range(16)))
    assert of(first, "CPU") == [
        WireBlockRemoved(block_hashes=[names[3], names[2]], medium="CPU", group_idx=0)
    ]
    assert len(of(second, "CPU")) == 4
    assert isinstance(first[0], WireBlockStored), "the device's events come first"


def test_copy_that_is_used_again_is_not_the_first_to_go() -> None:
    server = engine(cpu_blocks=8)
    finished(server, PROMPT)
    finished(server, list(range(16)))
    finished(server, [*PROMPT, 1])
    finished(server, list(range(200, 216)))
    cpu = {name for name, copies in server.held().items() if ("cpu", 0) in copies}
    assert cpu.issuperset(server.engine_hashes(PROMPT))
    assert cpu.isdisjoint(server.engine_hashes(list(range(16))))


def test_prompt_larger_than_the_cpu_tier_is_refused_there_and_nothing_else_goes() -> None:
    server = engine(cpu_blocks=5)
    finished(server, PROMPT)
    finished(server, list(range(24)))
    cpu = {name for name, copies in server.held().items() if ("cpu", 0) in copies}
    assert cpu == set(server.engine_hashes(PROMPT))
    statistics = server.statistics().offload
    assert statistics is not None
    assert (statistics.refused, statistics.held, statistics.capacity) == (1, 4, 5)


def test_what_the_device_lost_is_loaded_from_the_cpu_and_announced_on_the_device() -> None:
    server = engine(blocks=9)
    names = server.engine_hashes(PROMPT)
    finished(server, PROMPT)
    finished(server, list(range(32)))
    assert ("gpu", 0) not in server.held()[names[0]]
    assert server.cached_tokens([*PROMPT, 1]) == 16
    request = server.prefill([*PROMPT, 1])
    assert request.cached_tokens == 16
    event = next(e for e in server.end_step() if isinstance(e, WireBlockStored))
    assert (event.medium, event.block_hashes) == ("GPU", names)


def test_last_block_of_a_prompt_that_is_held_whole_is_loaded_rather_than_computed() -> None:
    server = engine()
    finished(server, PROMPT)
    assert server.cached_tokens(PROMPT) == 16
    assert server.prefill(PROMPT).cached_tokens == 16
    assert server.held()[server.engine_hashes(PROMPT)[-1]] == {("gpu", 0): 2, ("cpu", 0): 1}


def test_less_than_a_chunk_behind_the_device_is_not_loaded() -> None:
    server = engine(chunk_blocks=2)
    finished(server, PROMPT)
    # The device serves 12 of the 16; the chunk that holds the rest begins at 8.
    assert server.cached_tokens(PROMPT) == 12


def test_reset_of_the_device_leaves_the_cpu_and_external_reset_empties_it_silently() -> None:
    server = engine()
    finished(server, PROMPT)
    assert server.reset()
    assert server.cached_tokens(PROMPT) == 16
    assert server.reset(external=True)
    assert server.end_step() == [WireAllBlocksCleared(), WireAllBlocksCleared()]
    assert server.held() == {}
    assert server.cached_tokens(PROMPT) == 0


def test_running_request_is_offered_from_its_start_after_an_external_reset() -> None:
    server = engine()
    request = server.prefill(PROMPT)
    server.end_step()
    assert not server.reset(external=True), "the device is in use, the CPU is emptied all the same"
    server.end_step()
    server.decode(request, [1, 2])
    server.end_step()
    assert len(of(server.end_step(), "CPU")) == 4


def test_storage_is_written_behind_the_cpu_and_announced_as_remote() -> None:
    storage = SharedStorage()
    server = engine(storage=storage)
    names = server.engine_hashes(PROMPT)
    steps = finished(server, PROMPT)
    assert [len(of(events, "STORAGE")) for events in steps] == [0, 0, 4]
    copies = of(steps[2], "STORAGE")
    assert sorted(names_of(copies)) == sorted(names)
    assert {event.locality for event in copies} == {"REMOTE"}
    assert storage.held() == set(names)
    assert set(server.held()[names[0]]) == {("gpu", 0), ("cpu", 0)}, "a store is no server's copy"


def test_another_server_loads_from_storage_by_way_of_its_cpu() -> None:
    storage = SharedStorage()
    writer, reader = engine(storage=storage), engine(storage=storage)
    finished(writer, PROMPT)
    assert reader.cached_tokens([*PROMPT, 1]) == 16
    assert reader.prefill([*PROMPT, 1]).cached_tokens == 16
    events = reader.end_step()
    assert [event.medium for event in of(events, "CPU")] == ["CPU"] * 4
    assert len(of(events, "GPU")) == 1
    statistics = reader.statistics().offload
    assert statistics is not None
    assert statistics.promoted == 4


def test_both_servers_announce_a_file_that_both_write() -> None:
    storage = SharedStorage()
    first, second = engine(storage=storage), engine(storage=storage)
    for server in (first, second):
        server.prefill(PROMPT)
        server.end_step()
    for server in (first, second):
        server.end_step()
    for server in (first, second):
        assert len(of(server.end_step(), "STORAGE")) == 4


def test_bounded_storage_drops_the_oldest_file_and_its_writer_says_so() -> None:
    storage = SharedStorage(capacity_chunks=5)
    server = engine(storage=storage)
    finished(server, PROMPT)
    old = storage.held()
    events = of(finished(server, list(range(16)))[-1], "STORAGE")
    gone = [event for event in events if isinstance(event, WireBlockRemoved)]
    assert len(gone) == 3
    assert {event.locality for event in gone} == {"REMOTE"}
    assert set(names_of(list(gone))) == old - storage.held()
    assert len(storage.held()) == 5


def test_write_to_storage_that_an_external_reset_interrupts_ends_as_a_placeholder() -> None:
    storage = SharedStorage()
    server = engine(storage=storage)
    server.finish(server.prefill(PROMPT))
    server.end_step()
    server.end_step()
    server.reset(external=True)
    copies = of(server.end_step(), "STORAGE")
    assert [len(event.block_hashes) for event in copies] == [1, 1, 1, 1]
    assert all(isinstance(event, WireBlockStored) and event.token_ids == [] for event in copies)
    assert storage.held() == set(server.engine_hashes(PROMPT))


def test_prompt_is_loaded_only_as_far_as_the_cpu_has_room_for_it() -> None:
    storage = SharedStorage()
    writer, reader = engine(storage=storage), engine(cpu_blocks=3, storage=storage)
    finished(writer, PROMPT)
    assert reader.cached_tokens(PROMPT) == 12
    assert reader.prefill(PROMPT).cached_tokens == 12


def test_storage_without_a_cpu_tier_is_refused() -> None:
    with pytest.raises(ConfigError, match="storage"):
        SimulatedEngine(EngineOptions(), SharedStorage())
    with pytest.raises(ConfigError, match="capacity_chunks"):
        SharedStorage(capacity_chunks=0)
