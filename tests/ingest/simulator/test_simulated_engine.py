"""What the simulated engine announces for requests, as vLLM 0.32 was seen to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.engine import SimulatedEngine
from kvatlas.ingest.simulator.event_encoder import (
    WireAllBlocksCleared,
    WireBlockRemoved,
    WireBlockStored,
    WireEvent,
)
from kvatlas.ingest.simulator.options import EngineOptions

SIZE = 4
PROMPT = list(range(100, 116))


def engine(
    blocks: int = 64, *, window_tokens: int | None = None, retention_tokens: int | None = None
) -> SimulatedEngine:
    return SimulatedEngine(
        EngineOptions(
            block_size=SIZE,
            blocks=blocks,
            window_tokens=window_tokens,
            retention_tokens=retention_tokens,
        )
    )


def stored(events: list[WireEvent], group: int = 0) -> list[WireBlockStored]:
    return [e for e in events if isinstance(e, WireBlockStored) and e.group_idx == group]


def served(server: SimulatedEngine, token_ids: list[int]) -> list[WireEvent]:
    """The events of one request without output."""
    server.finish(server.prefill(token_ids))
    return server.end_step()


def test_prefill_announces_all_its_full_blocks_in_one_event() -> None:
    server = engine()
    request = server.prefill([*PROMPT, 1, 2])
    names = server.engine_hashes(PROMPT)
    assert len(names) == 4
    assert server.end_step() == [
        WireBlockStored(
            block_hashes=list(names),
            parent_block_hash=None,
            token_ids=PROMPT,
            block_size=SIZE,
            lora_id=None,
            medium="GPU",
            lora_name=None,
            extra_keys=[None, None, None, None],
            group_idx=0,
            kv_cache_spec_kind="full_attention",
        )
    ]
    assert request.cached_tokens == 0


def test_reused_blocks_are_not_announced_and_new_ones_name_their_parent() -> None:
    server = engine()
    served(server, PROMPT)
    request = server.prefill([*PROMPT, 1, 2, 3, 4, 5])
    (event,) = stored(server.end_step())
    assert request.cached_tokens == 16
    assert event.parent_block_hash == server.engine_hashes(PROMPT)[-1]
    assert event.token_ids == [1, 2, 3, 4]


def test_prompt_shorter_than_a_block_announces_nothing() -> None:
    server = engine()
    assert served(server, [1, 2, 3]) == []
    assert server.held() == {}


def test_last_block_of_a_fully_cached_prompt_is_computed_again_as_a_second_copy() -> None:
    server = engine()
    served(server, PROMPT)
    names = server.engine_hashes(PROMPT)
    assert server.cached_tokens(PROMPT) == 12
    request = server.prefill(PROMPT)
    (event,) = stored(server.end_step())
    assert request.cached_tokens == 12
    assert event.block_hashes == [names[-1]]
    assert event.parent_block_hash == names[-2]
    assert server.held()[names[-1]] == {("gpu", 0): 2}
    assert server.held()[names[0]] == {("gpu", 0): 1}


def test_two_requests_that_compute_one_prompt_at_once_hold_it_twice() -> None:
    server = engine(blocks=9)
    head = PROMPT[:4]
    server.finish(server.prefill(head))
    names = server.engine_hashes(head)
    server.finish(server.prefill(head))
    assert [e.block_hashes for e in stored(server.end_step())] == [names, names]
    assert server.held() == {names[0]: {("gpu", 0): 2}}
    server.prefill(list(range(32)))
    events = server.end_step()
    assert [e.block_hashes for e in events if isinstance(e, WireBlockRemoved)] == [names, names]


def test_decoding_announces_a_block_when_its_last_token_is_computed() -> None:
    server = engine()
    request = server.prefill(PROMPT[:6])
    server.end_step()
    # Tokens 6 and 7 fill block 1; the second is computed only when a third is sampled.
    server.decode(request, [1, 2])
    assert server.end_step() == []
    server.decode(request, [3])
    (event,) = stored(server.end_step())
    assert event.token_ids == [104, 105, 1, 2]
    assert event.parent_block_hash == server.engine_hashes(PROMPT[:4])[0]


def test_decoding_over_several_blocks_announces_each_by_itself() -> None:
    server = engine()
    request = server.prefill(PROMPT)
    server.end_step()
    sampled = server.decode(request, 13)
    events = stored(server.end_step())
    assert [e.token_ids for e in events] == [sampled[0:4], sampled[4:8], sampled[8:12]]
    assert [e.parent_block_hash for e in events[1:]] == [e.block_hashes[0] for e in events[:-1]]


def test_invented_output_depends_on_the_prompt_alone() -> None:
    first, second = engine(), engine(blocks=32)
    one = first.decode(first.prefill(PROMPT), 5)
    assert second.decode(second.prefill(PROMPT), 5) == one
    assert second.decode(second.prefill(PROMPT[:-1]), 5) != one


def test_evictions_come_one_event_a_block_tail_first_and_before_the_store() -> None:
    server = engine(blocks=9)
    served(server, PROMPT)
    names = server.engine_hashes(PROMPT)
    events = served(server, list(range(24)))
    assert [type(event) for event in events] == [
        WireBlockRemoved,
        WireBlockRemoved,
        WireBlockStored,
    ]
    gone = [event.block_hashes for event in events if isinstance(event, WireBlockRemoved)]
    assert gone == [[names[3]], [names[2]]]
    assert server.cached_tokens(PROMPT) == 8


def test_reuse_protects_a_prefix_from_eviction() -> None:
    server = engine(blocks=9)
    served(server, PROMPT)
    served(server, list(range(16)))
    server.finish(server.prefill([*PROMPT[:12], 7]))
    server.end_step()
    served(server, list(range(200, 216)))
    assert server.cached_tokens([*PROMPT, 1]) == 12
    assert server.cached_tokens([*range(16), 1]) == 4, "the tail went, the head is the last to go"


def test_request_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    server = engine(blocks=5)
    running = server.prefill(PROMPT[:12])
    server.end_step()
    before = server.held()
    with pytest.raises(OutOfBlocksError):
        server.prefill(list(range(8)))
    assert server.end_step() == []
    assert server.held() == before
    with pytest.raises(OutOfBlocksError):
        server.decode(running, 10)
    assert len(running.token_ids) == 12 + 5, "it keeps what still had room"
    server.finish(running)
    assert server.prefill(list(range(8))).cached_tokens == 0


def test_clear_is_announced_with_the_next_step() -> None:
    server = engine()
    served(server, PROMPT)
    assert server.reset()
    assert server.held() == {}
    server.prefill(PROMPT)
    first, second = server.end_step()
    assert first == WireAllBlocksCleared()
    assert isinstance(second, WireBlockStored)


def test_clear_is_refused_while_a_request_runs() -> None:
    server = engine()
    request = server.prefill(PROMPT)
    server.end_step()
    assert not server.reset()
    assert server.end_step() == []
    server.finish(request)
    assert server.reset()


def test_restart_forgets_everything_and_says_nothing() -> None:
    server = engine()
    request = server.prefill(PROMPT)
    server.restart()
    assert server.held() == {}
    assert server.end_step() == []
    with pytest.raises(InputError, match="runs on this server"):
        server.finish(request)


def test_report_announces_reused_blocks_again_from_the_start_of_the_chain() -> None:
    server = engine()
    served(server, PROMPT)
    held = server.held()
    names = server.engine_hashes(PROMPT)
    request = server.prefill([*PROMPT[:12], 1], report=True)
    (report,) = stored(server.end_step())
    assert report.block_hashes == names[:3]
    assert report.parent_block_hash is None
    assert report.token_ids == PROMPT[:12]
    assert server.held() == held
    assert request.cached_tokens == 12


def test_report_stands_before_the_evictions_and_the_store_of_its_request() -> None:
    server = engine(blocks=6)
    served(server, PROMPT[:8])
    served(server, list(range(12)))
    server.prefill([*PROMPT[:4], 1, 2, 3, 4], report=True)
    events = server.end_step()
    assert [type(event) for event in events] == [
        WireBlockStored,
        WireBlockRemoved,
        WireBlockStored,
    ]


def test_nothing_reused_is_not_reported() -> None:
    server = engine()
    server.prefill(PROMPT, report=True)
    assert len(stored(server.end_step())) == 1


def test_extras_stand_in_the_order_of_the_wire() -> None:
    server = engine()
    features = [("cat", 6, 4), ("dog", 2, 3)]
    server.prefill(PROMPT, lora="sql", cache_salt="s", features=features)
    (event,) = stored(server.end_step())
    assert (event.lora_id, event.lora_name) == (1, "sql")
    assert event.extra_keys == [
        ("sql", ("dog", 2), "s"),
        ("sql", ("dog", -2), ("cat", 2)),
        ("sql", ("cat", -2)),
        ("sql",),
    ]


def test_extras_decide_what_can_be_reused() -> None:
    server = engine()
    prompt = [*PROMPT, 1]
    picture = [("cat", 5, 2)]
    served(server, prompt)
    server.finish(server.prefill(prompt, lora="a"))
    server.finish(server.prefill(prompt, cache_salt="a"))
    server.finish(server.prefill(prompt, features=picture))
    assert server.cached_tokens(prompt) == 16
    assert server.cached_tokens(prompt, lora="a") == 16
    assert server.cached_tokens(prompt, cache_salt="a") == 16
    assert server.cached_tokens(prompt, features=picture) == 16
    assert server.cached_tokens(prompt, lora="b") == 0
    assert server.cached_tokens(prompt, lora="a", cache_salt="a") == 0
    assert server.cached_tokens(prompt, features=[("dog", 5, 2)]) == 4, "equal up to the picture"
    assert len(server.held()) == 4 * 4 - 1


def test_window_group_holds_its_own_copies_and_lets_them_go_as_the_window_moves() -> None:
    server = engine(window_tokens=6)
    request = server.prefill(PROMPT)
    events = server.end_step()
    assert [e.group_idx for e in events if isinstance(e, WireBlockStored)] == [0, 1]
    window = stored(events, group=1)[0]
    assert window.kv_cache_spec_kind == "sliding_window"
    assert window.kv_cache_spec_sliding_window == 6
    assert set(server.held()[server.engine_hashes(PROMPT)[0]]) == {("gpu", 0), ("gpu", 1)}
    free = server.statistics().device.free
    server.decode(request, [1, 2])
    # Blocks 0 and 1 are behind the window of token 17; one of each group was added.
    assert server.statistics().device.free == free + 2 - 2


def test_window_group_with_retention_keeps_only_what_ends_at_its_boundaries() -> None:
    server = engine(window_tokens=5, retention_tokens=16)
    prompt = list(range(43))
    names = server.engine_hashes(prompt)
    server.prefill(prompt)
    events = server.end_step()
    (full,) = stored(events, group=0)
    (window,) = stored(events, group=1)
    assert full.block_hashes == names
    # One block before each multiple of 16 tokens, and one before the prompt's end (42 -> 40).
    assert window.block_hashes == [names[3], names[7], names[9]]
    assert window.extra_keys == [None, None, None]
    assert window.token_ids == prompt[:40]


def test_sparse_group_may_announce_tokens_without_any_block() -> None:
    server = engine(window_tokens=5, retention_tokens=64)
    request = server.prefill(PROMPT[:9])
    server.end_step()
    server.decode(request, [1, 2, 3, 4])
    (window,) = stored(server.end_step(), group=1)
    assert window.block_hashes == []
    assert window.extra_keys is None
    assert len(window.token_ids) == SIZE


def test_reuse_ends_where_the_window_group_can_serve_it() -> None:
    server = engine(window_tokens=5, retention_tokens=16)
    served(server, list(range(43)))
    assert server.cached_tokens([*range(39), 99]) == 32
    assert server.cached_tokens([*range(19), 99]) == 16
    assert server.cached_tokens([*range(14), 99]) == 0


def test_numpy_prompts_are_announced_as_plain_integers() -> None:
    server = engine()
    server.prefill(np.arange(100, 116, dtype=np.uint32))
    (event,) = stored(server.end_step())
    assert event.token_ids == PROMPT
    assert {type(token) for token in event.token_ids} == {int}


@pytest.mark.parametrize("token_ids", [[], [1, 2, 3, -1], [1, 2, 3, 2**32], [1, 2, 3, "4"]])
def test_bad_prompts_are_refused(token_ids: list[int]) -> None:
    with pytest.raises(InputError, match="token_ids"):
        engine().prefill(token_ids)


def test_bad_output_is_refused_and_leaves_the_request_as_it_was() -> None:
    server = engine()
    request = server.prefill(PROMPT[:3])
    with pytest.raises(InputError):
        server.decode(request, [-1])
    assert request.token_ids == PROMPT[:3]
    server.decode(request, [1, 2])
    assert len(stored(server.end_step())) == 1


def test_statistics_add_up_over_requests() -> None:
    server = engine()
    served(server, PROMPT)
    server.prefill([*PROMPT, 1])
    server.end_step()
    statistics = server.statistics()
    assert (statistics.requests, statistics.running) == (2, 1)
    assert (statistics.prompt_tokens, statistics.cached_tokens) == (33, 16)
    assert (statistics.steps, statistics.events) == (2, 1)
    assert statistics.offload is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"block_size": 0}, "block_size"),
        ({"block_size": 4097}, "block_size"),
        ({"blocks": 1}, "blocks"),
        ({"window_tokens": 1}, "window_tokens"),
        ({"retention_tokens": 16}, "retention_tokens"),
        ({"window_tokens": 8, "retention_tokens": 9}, "retention_tokens"),
        ({"cpu_blocks": 8, "window_tokens": 8}, "cpu_blocks"),
        ({"cpu_blocks": 3, "chunk_blocks": 4}, "cpu_blocks"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        SimulatedEngine(EngineOptions(**options))
