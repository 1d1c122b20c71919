"""A fleet's mirror by itself, small and quickly made, and what its servers say."""

from __future__ import annotations

import numpy as np

from kvatlas import AtlasConfig
from kvatlas.index._native import Table
from kvatlas.ingest.atlas_statistics import WorkerStatistics
from kvatlas.ingest.feed import Feed
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from tests.ingest.plain_batches import batch, stored

TOKENS = list(range(64))
TOPIC = b"kv@a@m"
FIRST = batch(stored([1, 2], TOKENS[:32]))
SECOND = batch(stored([3, 4], TOKENS[32:], 2))
IN_A_WINDOW = batch(stored([2], TOKENS[16:32], 1, group_idx=1, kv_cache_spec_kind="sliding_window"))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def new_mirror(
    config: AtlasConfig | None = None,
    *,
    lanes: tuple[int, int] = (0, 100),
    workers: tuple[int, int] = (0, 100),
    bytes_max: int = 1 << 20,
    clock: Clock | None = None,
) -> FleetMirror:
    clock = clock or Clock()
    numbers = LeasedNumbers(clock_s=clock)
    numbers.lease([lanes], [workers])
    return FleetMirror(
        config or AtlasConfig(), GatheringOutlet(bytes_max), numbers, hash_seed="s", clock_s=clock
    )


def held(table: Table, mirror: FleetMirror, model: str = "m") -> list[list[tuple[int, int]]]:
    keys = {key for blocks in mirror.residency(model).values() for key in blocks}
    return table.lookup(np.array(sorted(keys), np.uint64))


def only(mirror: FleetMirror) -> WorkerStatistics:
    (worker,) = mirror.statistics().workers
    return worker


def doubts(mirror: FleetMirror) -> set[str]:
    return {reason.name for reason in only(mirror).truth.reasons}


def answer(feed: Feed, *payloads: bytes) -> None:
    (request,) = feed.requests()
    request.handler.began(request.number)
    for seq, payload in enumerate(payloads):
        if seq >= request.start:
            request.handler.replayed(request.number, TOPIC, seq, payload)
    request.handler.ended(request.number)
