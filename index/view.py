"""What readers are told of a fleet: workers, their lanes, and what can be claimed of each.

A *part* is what one writer (a subscriber) says of the workers it speaks for; readers put the parts
together. Lanes and worker numbers are unique over all parts.
"""

from __future__ import annotations

import msgspec

from kvatlas.index.groups import Group


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as readers see it."""

    number: int
    """Unique among the workers of a cluster at one time."""
    pod: str
    rank: int
    """Data-parallel rank."""
    model: str
    groups: tuple[Group, ...] = ()
    """Its KV-cache groups with their lanes; none: it has stored nothing yet."""
    stores: tuple[str, ...] = ()
    """Names of the stores whose copies count for it."""
    chunk_blocks: int = 1
    """Engine blocks that its offloading connector moves together."""
    recomputes_last_block: bool = True
    drops_matched_block: bool = False
    state: str = "BLIND"
    """EXACT, PARTIAL, DEGRADED or BLIND (ingest/stream/truth.py)."""
    lacks_extras: bool = False
    """Some of its events do not say what is salted or multimodal."""
    doubts: tuple[str, ...] = ()
    """Why its state is not better, the worst first."""


class FleetPart(msgspec.Struct, frozen=True, kw_only=True):
    """What one writer says of its workers."""

    block_sizes: dict[str, int] = {}
    """Tokens in a block of the index, by model; 0: not known yet."""
    workers: tuple[WorkerView, ...] = ()
    stores: dict[str, int] = {}
    """Lane of each store, as far as this writer has heard of it."""


WorkerName = tuple[str, str, int]
"""Model, pod and rank: the same from one process, or one dump, to another."""


def name_of(worker: WorkerView) -> WorkerName:
    return worker.model, worker.pod, worker.rank


def is_heard(worker: WorkerView) -> bool:
    """Whether who speaks for it knows anything of it: it has told something, or how it is."""
    return bool(worker.groups) or worker.state != "BLIND"
