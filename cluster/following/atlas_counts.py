"""What the command line shows of an atlas, out of its statistics."""

from __future__ import annotations

from kvatlas.ingest.atlas_statistics import AtlasStatistics

_EVENTS = ("events_stored", "events_removed", "events_cleared")


def events_ingested(statistics: AtlasStatistics) -> int:
    """Events of all kinds, over all workers."""
    return sum(statistics.events[name] for name in _EVENTS)


def blocks_by_pod(statistics: AtlasStatistics) -> dict[str, dict[str, int]]:
    """Pod -> tier -> blocks, over all ranks of the pod: gpu always, other tiers where there are any."""
    blocks: dict[str, dict[str, int]] = {}
    for worker in statistics.workers:
        held = blocks.setdefault(worker.pod, {"gpu": 0})
        for tier, count in worker.blocks.items():
            if count:
                held[tier] = held.get(tier, 0) + count
    return blocks
