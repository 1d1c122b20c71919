"""Very many different blocks, of long chains and of short ones."""

from __future__ import annotations

import numpy as np
import pytest

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.telling import Keys, blocks, cleared, enroll, held, runs, tell
from tests.models.table import ADD, Record
from tests.models.world import GPU, chain

LANES = 6


def told_apart(index: BlockIndex, chains: list[Keys]) -> dict[int, int]:
    """Some at a time, as batches come; returns how much each lane was told."""
    enroll(index, *range(LANES))
    batch: list[Record] = []
    total = dict.fromkeys(range(LANES), 0)
    for place, keys in enumerate(chains):
        batch += blocks(ADD, place % LANES, keys)
        total[place % LANES] += len(keys)
        if len(batch) > 60:
            tell(index, *batch)
            batch = []
    tell(index, *batch)
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("n_chains", "n_blocks"), [(60, 2_000), (3_000, 40)])
def test_a_hundred_thousand_blocks_are_each_held_and_gone(
    index: BlockIndex, n_chains: int, n_blocks: int
) -> None:
    pool = np.random.default_rng(n_chains).integers(2, 2**63, n_chains * n_blocks, dtype=np.uint64)
    chains = list(pool.reshape(n_chains, n_blocks))
    assert sum(told_apart(index, chains).values()) == 120_000
    for place in range(0, n_chains, 7):
        assert runs(index.match(chains[place])) == {place % LANES: n_blocks}
        assert held(index, chains[place])[-1] == {place % LANES: GPU}
    assert runs(index.match(chain(200, 110))) == {}
    tell(index, *(cleared(lane) for lane in range(1, LANES)))
    left = [bool(runs(index.match(keys))) for keys in chains[::7]]
    assert left == [place % LANES == 0 for place in range(0, n_chains, 7)]
