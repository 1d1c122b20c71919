"""Which stores that begin a chain bring true copies, and which may only report what is held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from kvatlas.ingest.wire.events import BlockStored

FULL_ATTENTION = (None, "full_attention", "mla_attention", "sink_full_attention")


def is_sparse(event: BlockStored) -> bool:
    return event.block_size > 0 and len(event.token_ids) > len(event.block_hashes) * event.block_size


def is_dense(event: BlockStored) -> bool:
    return len(event.token_ids) == len(event.block_hashes) * event.block_size > 0


def true_copies(
    events: Sequence[object],
    on_gpu: Callable[[BlockStored], bool],
    kinds: Mapping[int, str | None],
    may_be_held: Callable[[int, int], bool],
) -> list[BlockStored]:
    """Events from parent nil that are no reports, as the others of their prompt tell.

    `may_be_held`: engine key and group of what may be on the device already.
    """
    found: list[BlockStored] = []
    for prompt in _prompts(events, on_gpu):
        if len(prompt) < 2:
            continue
        no_hit = (is_dense(event) and _is_no_hit(event, kinds, may_be_held) for event in prompt)
        if any(map(is_sparse, prompt)) or any(no_hit):
            found += prompt
    return found


def _prompts(events: Sequence[object], on_gpu: Callable[[BlockStored], bool]) -> Iterable[list[BlockStored]]:
    """Consecutive stores of the same tokens from parent nil, one a group, groups in order."""
    prompt: list[BlockStored] = []
    for event in events:
        begins = isinstance(event, BlockStored) and event.parent_block_hash is None and on_gpu(event)
        if isinstance(event, BlockStored) and begins and event.token_ids and event.block_size:
            if prompt and (
                prompt[-1].token_ids != event.token_ids or prompt[-1].group_idx >= event.group_idx
            ):
                yield prompt
                prompt = []
            prompt.append(event)
        else:
            yield prompt
            prompt = []
    yield prompt


def _is_no_hit(
    event: BlockStored, kinds: Mapping[int, str | None], may_be_held: Callable[[int, int], bool]
) -> bool:
    """Whether the engine cannot have found all: a full group lacks a block, a window one of its last."""
    needed = event.block_hashes
    if kinds.get(event.group_idx) not in FULL_ATTENTION:
        window = event.kv_cache_spec_sliding_window or 0
        if window == 0 or not (event.kv_cache_spec_kind or "").startswith("sliding_window"):
            return False
        n_needed = -(-(window - 1) // event.block_size)
        needed = needed[-n_needed:] if n_needed else ()
    return not all(may_be_held(key, event.group_idx) for key in needed)
