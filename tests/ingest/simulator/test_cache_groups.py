"""Groups of the simulated engine beside full attention: what they keep, announce and can serve."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.cache_groups import CacheGroup
from kvatlas.ingest.simulator.engine import SimulatedEngine
from kvatlas.ingest.simulator.event_encoder import WireBlockStored
from kvatlas.ingest.simulator.options import EngineOptions

SIZE = 4
PROMPT = list(range(100, 141))  # ten blocks and one token
FULL = CacheGroup()
LOCAL = CacheGroup(kind="chunked_local_attention", window_tokens=16)
STATE = CacheGroup(kind="mamba")
WINDOW = CacheGroup(kind="sliding_window", window_tokens=9)


def engine(*groups: CacheGroup, **options: Any) -> SimulatedEngine:
    return SimulatedEngine(EngineOptions(block_size=SIZE, blocks=100, groups=groups, **options))


def stored(server: SimulatedEngine, group: int) -> WireBlockStored:
    events = [e for e in server.end_step() if isinstance(e, WireBlockStored) and e.group_idx == group]
    assert len(events) == 1
    return events[0]


def test_local_chunks_are_announced_without_their_size() -> None:
    server = engine(FULL, LOCAL)
    server.prefill(PROMPT)
    event = stored(server, 1)
    assert (event.kv_cache_spec_kind, event.kv_cache_spec_sliding_window) == ("chunked_local_attention", None)
    assert event.block_hashes == server.engine_hashes(PROMPT)


def test_a_request_gives_back_the_blocks_of_earlier_chunks_as_it_goes_on() -> None:
    server = engine(FULL, LOCAL)
    request = server.prefill(PROMPT)
    server.decode(request, 2)
    assert [block != 0 for block in request.tables[1]] == [False] * 8 + [True] * 3
    assert server.cached_tokens(PROMPT) == 40, "what was given back is still held"


def test_a_request_keeps_only_the_last_state() -> None:
    server = engine(FULL, STATE)
    request = server.prefill(PROMPT)
    server.decode(request, 2)
    assert [block != 0 for block in request.tables[1]] == [False] * 10 + [True]
    server.finish(request)
    assert server.cached_tokens(PROMPT[:22]) == 20, "every state is held until it is evicted"


def test_sparse_states_serve_only_the_ends_that_they_were_kept_for() -> None:
    server = engine(FULL, STATE, retention_tokens=16)
    server.finish(server.prefill(PROMPT))
    names = server.engine_hashes(PROMPT)
    assert stored(server, 1).block_hashes == [names[3], names[7], names[9]]
    assert [server.cached_tokens(PROMPT[:n]) for n in (41, 40, 36, 20, 17, 16)] == [40, 32, 32, 16, 16, 0]


def test_a_prompt_that_branched_off_leaves_a_state_where_it_did() -> None:
    server = engine(FULL, STATE, retention_tokens=0)
    server.finish(server.prefill(PROMPT))
    branch = [*PROMPT[:24], 1, 2, 3, 4, 5]
    assert server.cached_tokens(branch) == 0
    server.finish(server.prefill(branch))
    assert server.cached_tokens([*PROMPT[:24], 9]) == 24


@pytest.mark.parametrize(("groups", "cached"), [((FULL,), 36), ((FULL, WINDOW), 36), ((FULL, STATE), 36)])
def test_a_speculative_decoder_has_the_last_matched_block_computed_again(
    groups: tuple[CacheGroup, ...], cached: int
) -> None:
    server = engine(*groups, drops_matched_block=True)
    server.finish(server.prefill(PROMPT))
    assert server.cached_tokens(PROMPT) == cached


def test_one_group_drops_behind_the_last_token_and_several_before_it() -> None:
    """Of ten whole blocks: alone, nine may be matched and one is dropped; several look at the tenth."""
    alone, several = engine(FULL, drops_matched_block=True), engine(FULL, WINDOW, drops_matched_block=True)
    for server in (alone, several):
        server.finish(server.prefill(PROMPT[:40]))
    assert (alone.cached_tokens(PROMPT[:40]), several.cached_tokens(PROMPT[:40])) == (32, 36)


def test_a_larger_block_is_named_by_the_last_of_the_small_ones_in_it() -> None:
    server = engine(FULL, CacheGroup(block_size=12))
    server.prefill(PROMPT, lora="lo", features=[("img", 10, 4)])
    event = stored(server, 1)
    names = server.engine_hashes(PROMPT, lora="lo", features=[("img", 10, 4)])
    assert event.block_hashes == [names[2], names[5], names[8]]
    assert (event.block_size, event.token_ids) == (12, PROMPT[:36])
    assert event.extra_keys == [("lo", ("img", 10)), ("lo", ("img", -2)), ("lo",)]


def test_hits_end_at_the_common_block_size() -> None:
    server = engine(CacheGroup(block_size=8), CacheGroup(block_size=12))
    server.finish(server.prefill(PROMPT))
    assert server.cached_tokens(PROMPT) == 24
    assert [event.token_ids for event in server.end_step() if isinstance(event, WireBlockStored)] == [
        PROMPT[:24],
        PROMPT[:24],
    ]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"groups": (CacheGroup(block_size=6), FULL)}, "multiples of 4"),
        ({"groups": (CacheGroup(block_size=8),)}, "of one group equal to it"),
        ({"groups": (FULL, LOCAL), "drops_matched_block": True}, "no speculative decoder"),
        ({"groups": (FULL, LOCAL, CacheGroup(block_size=8))}, "one block size with local chunks"),
        ({"groups": (FULL, CacheGroup(block_size=8), STATE), "retention_tokens": 12}, "got 12"),
        ({"groups": (FULL, LOCAL), "retention_tokens": 8}, "state group"),
        ({"groups": (FULL,), "window_tokens": 8}, "None with groups"),
        ({"groups": (FULL, STATE), "cpu_blocks": 8}, "cpu_blocks"),
    ],
)
def test_groups_that_do_not_fit_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EngineOptions(block_size=SIZE, **options)


@pytest.mark.parametrize("kind", ["full_attention", "mamba"])
def test_only_windows_and_local_chunks_have_a_window(kind: Any) -> None:
    with pytest.raises(ConfigError, match=f"0 for {kind}, got 8"):
        CacheGroup(kind=kind, window_tokens=8)
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        CacheGroup(kind="sliding_window", window_tokens=1)
