"""Compares the plain model of what an engine reuses with vLLM's own lookups. Run by vLLM's Python:

    python -m tests.e2e.reuse_rules SEED CASES      -> "device DIFFERENT HITS" and "behind DIFFERENT HITS"

Groups and what they hold are random; vLLM's coordinator and connector are given them in place of a
block pool and an offloading manager.
"""

from __future__ import annotations

import math
import random
import sys
from types import SimpleNamespace
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.offloading import scheduler as connector
from vllm.v1 import kv_cache_interface as specs
from vllm.v1.core import kv_cache_coordinator
from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_offload.base import LookupResult

from tests.models import reuse
from tests.models.reuse import FULL, LOCAL, STATE, WINDOW, Connector, Engine, Group, Prompt

BLOCK = 4


def main() -> None:
    register_all_kvcache_specs(None)
    for name, compare in (("device", compare_device), ("behind", compare_behind)):
        rnd = random.Random(int(sys.argv[1]))
        pairs = [compare(rnd) for _ in range(int(sys.argv[2]))]
        print(name, sum(ours != theirs for ours, theirs in pairs), sum(theirs > 0 for _, theirs in pairs))


def random_groups(rnd: random.Random, sizes: tuple[int, ...], drops: bool) -> list[Group]:
    """As vLLM allows them: one group has the index's block size, local chunks want equal sizes."""
    count, uneven = rnd.choice([1, 1, 2, 2, 2, 3, 4]), rnd.random() < 0.4
    groups: list[Group] = []
    for _ in range(count):
        kind = rnd.choice([FULL, FULL, WINDOW, WINDOW, LOCAL, STATE])
        block = BLOCK * rnd.choice(sizes) if uneven and count > 1 else BLOCK
        if kind == LOCAL and (uneven or drops):
            kind = FULL
        if kind == STATE and any(g.kind == STATE and g.block != block for g in groups):
            kind = FULL
        window = {WINDOW: rnd.randint(1, 6 * BLOCK), LOCAL: block * rnd.randint(1, 4)}.get(kind, 0)
        groups.append(Group(kind, window, block, drops and rnd.random() < 0.3))
    return groups


def random_prompt(rnd: random.Random, count: int, tier: int) -> Prompt:
    tokens = rnd.randint(1, 20 * BLOCK)
    if rnd.random() < 0.5:
        tokens = max(tokens // BLOCK, 1) * BLOCK
    blocks = tokens // BLOCK
    held = []
    for _ in range(count):
        share, head = rnd.choice([0.0, 0.5, 0.8, 0.93, 1.0]), rnd.randint(0, blocks)
        held.append([tier * (block < head or rnd.random() < share) for block in range(blocks)])
    return Prompt(tokens, BLOCK, held, [0] * blocks)


def spec_of(group: Group) -> Any:
    sizes = {"block_size": group.block, "num_kv_heads": 1, "head_size": 16, "dtype": torch.float16}
    if group.kind == WINDOW:
        return specs.SlidingWindowSpec(**sizes, sliding_window=group.window)
    if group.kind == LOCAL:
        return specs.ChunkedLocalAttentionSpec(**sizes, attention_chunk_size=group.window)
    if group.kind == STATE:
        shape: dict[str, Any] = {"shapes": ((1,),), "dtypes": (torch.float16,)}
        return specs.MambaSpec(block_size=group.block, mamba_cache_mode="align", **shape)
    return specs.FullAttentionSpec(**sizes)


def coordinator_of(engine: Engine) -> Any:
    groups = [specs.KVCacheGroupSpec([f"layer{i}"], spec_of(g)) for i, g in enumerate(engine.groups)]
    for spec, group in zip(groups, engine.groups, strict=True):
        spec.is_eagle_group = group.draft
    sizes = [group.block for group in engine.groups]
    return kv_cache_coordinator.get_kv_cache_coordinator(
        specs.KVCacheConfig(num_blocks=10, kv_cache_tensors=[], kv_cache_groups=groups),
        max_model_len=10_000,
        max_in_flight_tokens=8_192,
        use_eagle=engine.drops,
        enable_caching=True,
        enable_kv_cache_events=False,
        dcp_world_size=1,
        pcp_world_size=1,
        scheduler_block_size=math.lcm(*sizes),
        hash_block_size=BLOCK,
        allow_partial_hash_hits=False,
    )


def compare_device(rnd: random.Random) -> tuple[int, int]:
    drops = rnd.random() < 0.35
    groups = random_groups(rnd, (1, 2, 3, 4), drops)
    while math.gcd(*(group.block for group in groups)) != BLOCK:
        groups = random_groups(rnd, (1, 2, 3, 4), drops)
    engine = Engine(tuple(groups), drops=drops)
    prompt = random_prompt(rnd, len(groups), reuse.GPU)

    def cached(block_hash: bytes, group_ids: list[int]) -> list[KVCacheBlock] | None:
        block = int.from_bytes(block_hash, "big")
        held = all(prompt.held[group][block] for group in group_ids)
        return [KVCacheBlock(block + 1) for _ in group_ids] if held else None

    coordinator = coordinator_of(engine)
    for manager in coordinator.single_type_managers:
        manager.block_pool.get_cached_block = cached
    hashes = [block.to_bytes(4, "big") for block in range(prompt.tokens // BLOCK)]
    _, theirs, _ = coordinator.find_longest_cache_hit(hashes, prompt.tokens - 1)
    return reuse.device_tokens(engine, prompt), theirs


def compare_behind(rnd: random.Random) -> tuple[int, int]:
    groups = random_groups(rnd, (1, 2, 4), rnd.random() < 0.35)
    engine = Engine(tuple(groups), chunk_blocks=rnd.choice([1, 1, 2, 3]))
    prompt = random_prompt(rnd, len(groups), 2)
    align = math.lcm(*(group.block for group in groups))
    begin = rnd.randint(0, (prompt.tokens - 1) // align) * align
    asked = scheduler_of(engine, prompt)
    chunks = [group.block * engine.chunk_blocks for group in groups]
    keys = [
        [(i, (n + 1) * chunk // BLOCK - 1) for n in range(prompt.tokens // chunk)]
        for i, chunk in enumerate(chunks)
    ]
    status = SimpleNamespace(
        num_locally_computed_tokens=begin,
        req=SimpleNamespace(num_tokens=prompt.tokens, request_id="r"),
        max_load_tokens=None,
        group_states=[connector.RequestGroupState(offload_keys=offloaded) for offloaded in keys],
        req_context=None,
    )
    return Connector(engine, prompt, begin).tokens(), asked._lookup_complete_chunks(status)


def scheduler_of(engine: Engine, prompt: Prompt) -> Any:
    """The connector's scheduler with as much as its lookup of whole chunks needs."""
    configs = [group_config(i, group, engine.chunk_blocks) for i, group in enumerate(engine.groups)]
    windows = [config.sliding_window_size_in_chunks for config in configs]
    full = [i for i, window in enumerate(windows) if window is None]
    others = sorted((i for i in range(len(configs)) if i not in full), key=lambda i: windows[i], reverse=True)
    states = [group.block * engine.chunk_blocks for group in engine.groups if group.kind == STATE]
    asked: Any = connector.OffloadingConnectorScheduler.__new__(connector.OffloadingConnectorScheduler)
    asked.config = SimpleNamespace(kv_group_configs=tuple(configs))
    asked.manager = SimpleNamespace(
        lookup=lambda key, _: LookupResult.HIT if prompt.held[key[0]][key[1]] else LookupResult.MISS
    )
    asked._events_tracker = SimpleNamespace(record_lookup=lambda *_: None)
    asked._full_attention_groups, asked._sliding_window_groups = tuple(full), tuple(others)
    asked._lookup_groups = tuple(full + others)
    asked._mamba_align_size = states[0] if states else None
    asked._chunks_being_loaded = None
    return asked


def group_config(number: int, group: Group, chunk_blocks: int) -> Any:
    spec, chunk = spec_of(group), group.block * chunk_blocks
    return connector.GroupOffloadConfig(
        group_idx=number,
        tokens_per_block=group.block,
        tokens_per_chunk=chunk,
        hashes_per_chunk=chunk // BLOCK,
        kv_event_group_spec=None,
        sliding_window_size_in_chunks=connector.get_sliding_window_size_in_chunks(spec, chunk),
        kv_cache_spec=spec,
        manager_cls=None,
        is_eagle_group=group.draft,
    )


if __name__ == "__main__":
    main()
