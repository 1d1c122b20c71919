"""The simulated engine's lookups beside the rules in plain Python, over random contents of a pool."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kvatlas.ingest.simulator.block_pool import BlockPool
from kvatlas.ingest.simulator.cache_groups import CacheGroup, GroupLayout, Kind
from kvatlas.ingest.simulator.prefix_lookup import PrefixHit, PrefixLookup
from tests.models import reuse

BLOCK = 4
KINDS: dict[int, Kind] = {
    reuse.FULL: "full_attention",
    reuse.WINDOW: "sliding_window",
    reuse.LOCAL: "chunked_local_attention",
    reuse.STATE: "mamba",
}


def random_groups(rnd: random.Random) -> tuple[tuple[reuse.Group, ...], bool]:
    drops, uneven = rnd.random() < 0.4, rnd.random() < 0.4
    groups = []
    for _ in range(rnd.choice([1, 2, 2, 3, 4])):
        kind = rnd.choice([reuse.FULL, reuse.FULL, reuse.WINDOW, reuse.WINDOW, reuse.LOCAL, reuse.STATE])
        if kind == reuse.LOCAL and (drops or uneven):
            kind = reuse.FULL
        block = BLOCK * rnd.choice([1, 2, 3]) if uneven else BLOCK
        window = {reuse.WINDOW: rnd.randint(2, 30), reuse.LOCAL: block * rnd.randint(1, 4)}.get(kind, 0)
        groups.append(reuse.Group(kind, window, block, drops and rnd.random() < 0.2))
    if len(groups) == 1:
        groups = [reuse.Group(groups[0].kind, groups[0].window, BLOCK, groups[0].draft)]
    return tuple(groups), drops


def layout_of(groups: tuple[reuse.Group, ...], drops: bool) -> GroupLayout:
    options = [
        CacheGroup(kind=KINDS[g.kind], window_tokens=g.window, block_size=g.block, is_draft=g.draft)
        for g in groups
    ]
    return GroupLayout(options, block_size=BLOCK, retention_tokens=None, drops_matched_block=drops)


@given(st.integers(0, 2**32), st.integers(1, 70))
def test_the_longest_hit_is_that_of_the_rules(seed: int, tokens: int) -> None:
    rnd = random.Random(seed)
    groups, drops = random_groups(rnd)
    layout = layout_of(groups, drops)
    digests = [bytes([block]) * 8 for block in range(tokens // BLOCK)]
    pool = BlockPool(len(digests) * len(groups) + 2)
    masks = [[0] * len(digests) for _ in groups]
    for group in layout.groups:
        share = rnd.choice([0.6, 0.9, 1.0])
        for position in range(len(digests) // group.scale):
            if rnd.random() < share:
                (block,) = pool.allocate(1)
                pool.hold(block, group.digest(digests, position), group.number)
                masks[group.number][(position + 1) * group.scale - 1] = reuse.GPU
    hit = PrefixLookup(pool, layout).longest_hit(digests, tokens)
    prompt = reuse.Prompt(tokens, BLOCK, masks, [0] * len(digests))
    assert hit.tokens == reuse.device_tokens(reuse.Engine(groups, drops=drops), prompt)
    assert_usable(hit, layout)


def assert_usable(hit: PrefixHit, layout: GroupLayout) -> None:
    """Each group has a block, or none that is needed, at every position of the hit."""
    for group, blocks in zip(layout.groups, hit.blocks, strict=True):
        assert len(blocks) * group.block_size == hit.tokens
        if hit.tokens:
            assert all(blocks[group.skipped_blocks(hit.tokens) :])
