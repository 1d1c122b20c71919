"""How fast is a store of 100 000 files looked through, and how fast is a third of them evicted?

The files have names, places and sizes as chunks have, and no bytes: only what a file system knows of a file
counts here. Walked as an engine does at start, then crawled and evicted by the evictor, to the low threshold.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from results import Result, arguments, show

from kvatlas.offload._native import HEAD_BYTES, chunk_name
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.evicting.evictor import Evictor
from kvatlas.offload.layout.fingerprint import GroupFields, SpaceFields
from kvatlas.offload.layout.space import Space, open_space
from kvatlas.offload.layout.walking import Walk

FILE_BYTES = 2 * HEAD_BYTES
KEPT_SHARE = 2 / 3
IDLE_S = 100_000

FIELDS = SpaceFields(
    engine_version="none",
    device="none",
    model="bench/none",
    dtype="int8",
    groups=(GroupFields(group_id=0, tokens_per_block=16, layer_names=("layers.0",)),),
    tokens_per_hash=16,
    blocks_per_chunk=1,
    row_bytes=FILE_BYTES - HEAD_BYTES,
    worker_bytes_per_block=FILE_BYTES - HEAD_BYTES,
    world_size=1,
    tp_size=1,
    pp_size=1,
    pcp_size=1,
    dcp_size=1,
    replicated_layout=False,
    canonical_layout=False,
    kv_cache_layout="",
    hash_algorithm="sha256",
    hash_seed="none",
)


def fill(space: Space, n_files: int) -> None:
    """Each was last used a moment after the one before."""
    size = FIELDS.key_bytes
    hashes = np.random.default_rng(7).bytes(n_files * (size - 4))
    begin = time.time() - IDLE_S
    for at in range(n_files):
        key = hashes[at * (size - 4) : (at + 1) * (size - 4)] + bytes(4)
        path = space.part_folder / chunk_name(key)
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            file.truncate(FILE_BYTES)
        os.utime(path, (begin, begin + at / 1e3))


def walked(space: Space, n_files: int, rounds: int) -> Result:
    rates = []
    for _ in range(rounds):
        begin = time.perf_counter()
        seen = sum(len(batch.sizes) for batch in Walk(space.part_folder, FIELDS.key_bytes))
        rates.append(seen / (time.perf_counter() - begin))
        assert seen == n_files, seen
    return files_a_second("evict/walk", "inventory of a store", rates)


def evicted(space: Space, n_files: int, threads: int) -> list[Result]:
    """A crawl of all, then the oldest third goes."""
    told: list[bytes] = []

    def tell(_space: str, keys: Sequence[bytes]) -> None:
        told.extend(keys)

    limits = CapacityLimits(
        capacity_bytes=n_files * FILE_BYTES, high_share=0.9, low_share=KEPT_SHARE, period_s=1.0
    )
    evictor = Evictor(space.root, limits, tell, threads=threads)
    begin = time.perf_counter()
    assert evictor.step()
    seconds = time.perf_counter() - begin
    seen = evictor.statistics()
    evictor.close()
    expected = n_files * (1 - KEPT_SHARE)
    assert abs(len(told) - expected) < 0.02 * n_files, (len(told), expected)
    assert sum(len(batch.sizes) for batch in Walk(space.part_folder, FIELDS.key_bytes)) == n_files - len(told)
    results = [
        files_a_second(f"evict/crawl/{threads}", f"crawl, {threads} threads", [n_files / seen.crawl_s])
    ]
    rest = len(told) / (seconds - seen.crawl_s)
    return [*results, files_a_second(f"evict/delete/{threads}", f"deletion, {threads} threads", [rest])]


def files_a_second(row: str, what: str, rates: Sequence[float]) -> Result:
    return Result(
        row=row, what=what, unit="files/s", median=float(np.median(rates)), best=float(np.max(rates))
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure; default: here")
    given = parser.parse_args()
    n_files = 10_000 if given.quick else 100_000
    with tempfile.TemporaryDirectory(prefix="bench-evict-", dir=given.folder) as folder:
        space = open_space(Path(folder), FIELDS, store="bench")
        fill(space, n_files)
        results = [walked(space, n_files, 3 if given.quick else 5)]
        for threads in (1, 4):
            n_there = sum(len(batch.sizes) for batch in Walk(space.part_folder, FIELDS.key_bytes))
            results += evicted(space, n_there, threads)
    show(results, given.json)


if __name__ == "__main__":
    main()
