"""Random things that the servers of a small world announce, as hypothesis strategies.

A world is a few workers and a few prompts. All that is announced is a run of blocks of one of its
prompts: from the start it is a new chain or a report, from the middle a continuation, a duplicate
or an orphan, as it happens to meet what came before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, BlockStored
from tests.models.content import VARIANTS, Chain
from tests.models.mirror import Limits
from tests.models.payloads import Event, Shape


@dataclass(frozen=True)
class Pod:
    name: str
    model: str
    size: int
    """Tokens in a block of its engine."""

    @property
    def topic(self) -> bytes:
        return f"kv@{self.name}@{self.model}".encode()


PODS = (
    Pod("equal", "m", 4),
    Pod("10.0.0.2:5557", "m", 4),
    Pod("half", "m", 2),
    Pod("double", "m", 8),
    Pod("three", "m", 3),
    Pod("six", "m", 6),
    Pod("other", "org/n@2", 4),
    Pod("neighbour", "n", 4),
    Pod("pages", "fine", 50),
    Pod("odd pages", "finer", 128),
)
BLOCK_SIZES = {"m": 4, "org/n@2": 3, "n": 4, "fine": 1, "finer": 3}
STORES = {"double": ("nfs",), "half": ("nfs", "m/storage")}
GROUP_KINDS = {0: None, 1: "full_attention", 2: "sliding_window"}

Worker = tuple[Pod, int | None]
Fields = dict[str, Any]


@dataclass(frozen=True)
class World:
    workers: tuple[Worker, ...]
    contents: tuple[tuple[str, tuple[int, ...], int | None], ...]
    """Variant and path of each prompt, and the block size of the engine if not the usual one."""
    limits: Limits = field(default_factory=Limits)
    learns: bool = False
    """Block sizes are not configured but learned from what comes."""

    @property
    def block_sizes(self) -> dict[str, int]:
        return {} if self.learns else BLOCK_SIZES

    def chain(self, content: int, pod: Pod) -> Chain:
        variant, path, size = self.contents[content % len(self.contents)]
        size = size or pod.size
        return Chain(variant, path if size < 10 else path[-6:], size)

    @property
    def forgets_ancestors(self) -> bool:
        """Engine blocks under one index block may be forgotten one by one."""
        whole = all(
            self.chain(content, pod).size % BLOCK_SIZES[pod.model] == 0
            for pod, _ in self.workers
            for content in range(len(self.contents))
        )
        return self.limits.ghosts < 100 and (self.learns or not whole)


@dataclass(frozen=True)
class Said:
    """One event of one worker; `event` is None where what is written is none of ours."""

    worker: Worker
    event: Event | None
    written: Any


@dataclass(frozen=True)
class Run:
    """Some blocks of a prompt of the world, and who says something about them."""

    worker: int
    content: int
    start: int
    length: int
    kept: tuple[bool, ...]
    """Which of the blocks are named, where not all must be."""

    def by(self, world: World) -> Worker:
        return world.workers[self.worker % len(world.workers)]

    def stored(self, world: World, **fields: Any) -> BlockStored:
        """What the worker's engine announces when it fills the blocks."""
        chain = world.chain(self.content, self.by(world)[0])
        blocks = len(chain.path)
        start = self.start % blocks
        return store_of(chain, start, min(start + self.length, blocks), **fields)

    def some(self, hashes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(key for key, kept in zip(hashes, self.kept, strict=False) if kept)


def store_of(chain: Chain, start: int, stop: int, **fields: Any) -> BlockStored:
    """The dense store of the chain's blocks from `start` to `stop`, but for `fields`."""
    group = fields.get("group_idx", 0)
    said: Fields = {
        "block_hashes": tuple(chain.key(i) for i in range(start, stop)),
        "parent_block_hash": (chain.key(start - 1) or None) if start else None,
        "token_ids": chain.tokens(start, stop),
        "block_size": chain.size,
        "lora_id": chain.lora_id,
        "lora_name": chain.lora,
        "cache_salt": chain.salt_beside,
        "extra_keys": None if chain.unsaid else tuple(map(chain.extras, range(start, stop))),
        "kv_cache_spec_kind": GROUP_KINDS[group],
    }
    return BlockStored(**said | fields)


@dataclass(frozen=True)
class Dense:
    run: Run
    group: int
    twice: bool
    """The last block comes twice."""

    def said(self, world: World) -> Said:
        event = self.run.stored(world, group_idx=self.group)
        if self.twice:
            extras = event.extra_keys
            event = self.run.stored(
                world,
                group_idx=self.group,
                block_hashes=(*event.block_hashes, event.block_hashes[-1]),
                token_ids=(*event.token_ids, *event.token_ids[-event.block_size :]),
                extra_keys=None if extras is None else (*extras, extras[-1]),
            )
        return Said(self.run.by(world), event, event)


@dataclass(frozen=True)
class Sparse:
    """All tokens of the run but only some of its blocks, at times none."""

    run: Run
    group: int
    report: bool

    def said(self, world: World) -> Said:
        event = self.run.stored(world)
        fields: Fields = {"parent_block_hash": None} if self.report else {}
        hashes = self.run.some(event.block_hashes)
        event = self.run.stored(world, group_idx=self.group, block_hashes=hashes, extra_keys=None, **fields)
        return Said(self.run.by(world), event, event)


@dataclass(frozen=True)
class Offloaded:
    """Blocks outside the device, with their tokens or as a placeholder, which names the last."""

    run: Run
    group: int
    medium: str | None
    locality: str | None
    described: bool

    def said(self, world: World) -> Said:
        fields: Fields = {"medium": self.medium, "locality": self.locality, "extra_keys": None}
        if not self.described:
            last = self.run.stored(world).block_hashes[-1:]
            fields |= {"block_hashes": last, "token_ids": (), "block_size": 0}
            fields |= {"parent_block_hash": None}
        event = self.run.stored(world, group_idx=self.group, **fields)
        return Said(self.run.by(world), event, event)


@dataclass(frozen=True)
class Partial:
    """Fewer tokens than the blocks have room for."""

    run: Run

    def said(self, world: World) -> Said:
        event = self.run.stored(world, token_ids=self.run.stored(world).token_ids[:-1])
        return Said(self.run.by(world), event, event)


@dataclass(frozen=True)
class Removed:
    run: Run
    group: int
    medium: str | None
    locality: str | None

    def said(self, world: World) -> Said:
        hashes = self.run.some(self.run.stored(world).block_hashes)[::-1]
        event = BlockRemoved(
            block_hashes=hashes,
            medium=self.medium,
            group_idx=self.group,
            locality=self.locality,
        )
        return Said(self.run.by(world), event, event)


@dataclass(frozen=True)
class Cleared:
    worker: int

    def said(self, world: World) -> Said:
        worker = world.workers[self.worker % len(world.workers)]
        return Said(worker, AllBlocksCleared(), AllBlocksCleared())


UNHEARD = ["Unheard", [1]]
BAD_EVENTS: tuple[Any, ...] = (
    7,
    None,
    [],
    ["BlockStored"],
    ["BlockStored", [b""], None, [], 4],
    ["BlockStored", [1.5], None, [1, 2, 3, 4], 4],
    {"type": "BlockStored", "block_hashes": [1], "token_ids": [2**32], "block_size": 1},
    {"type": "BlockRemoved", "block_hashes": [1], "group_idx": 64},
    {"block_hashes": [1]},
)


@dataclass(frozen=True)
class Noise:
    worker: int
    written: Any

    def said(self, world: World) -> Said:
        return Said(world.workers[self.worker % len(world.workers)], None, self.written)


Announcement = Dense | Sparse | Offloaded | Partial | Removed | Cleared | Noise

ranks = st.sampled_from([None, None, 0, 1])
variants = st.sampled_from(["plain"] * len(VARIANTS) + list(VARIANTS))
short_paths = st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=2, max_size=6).map(tuple)
long_paths = short_paths.map(lambda path: (0,) * 125 + path)
paths = st.one_of([short_paths] * 9 + [long_paths])
contents = st.tuples(variants, paths, st.sampled_from([None] * 9 + [2, 3, 8]))
worlds = st.builds(
    World,
    workers=st.lists(st.tuples(st.sampled_from([*PODS, *PODS[:5]]), ranks), min_size=2, max_size=3).map(
        tuple
    ),
    contents=st.lists(contents, min_size=2, max_size=4).map(tuple),
    limits=st.sampled_from([Limits()] * 5 + [Limits(4, 2, 2), Limits(1, 1, 0), Limits(2, 0)]),
    learns=st.sampled_from([False, False, False, True]),
)
runs = st.builds(
    Run,
    worker=st.integers(0, 2),
    content=st.integers(0, 3),
    start=st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5, 126, 127, 128]),
    length=st.sampled_from([1, 2, 3, 4, 6, 6, 126, 131]),
    kept=st.lists(st.sampled_from([True, True, False]), min_size=6, max_size=6).map(tuple),
)
groups = st.sampled_from([0] * 9 + [1, 2, 2])
media_elsewhere = st.sampled_from(
    ["CPU", "CPU", "cpu_pinned", "DISK", "STORAGE", "STORAGE", "EXTERNAL", "HBF"]
)
media = st.sampled_from([None, "GPU", "gpu"]) | media_elsewhere
localities = st.sampled_from([None, None, None, "LOCAL", "REMOTE"])
often_no = st.sampled_from([False, False, False, True])

dense = st.builds(Dense, run=runs, group=groups, twice=often_no)
sparse = st.builds(Sparse, run=runs, group=st.sampled_from([0, 1, 2, 2]), report=st.booleans())
offloaded = st.builds(
    Offloaded,
    run=runs,
    group=groups,
    medium=media_elsewhere,
    locality=localities,
    described=st.booleans(),
)
placeholders_on_the_device = st.builds(
    Offloaded,
    run=runs,
    group=groups,
    medium=st.sampled_from([None, "GPU"]),
    locality=st.none(),
    described=st.just(False),
)
partial = st.builds(Partial, run=runs)
removed = st.builds(Removed, run=runs, group=groups, medium=media, locality=localities)
cleared = st.builds(Cleared, worker=st.integers(0, 2))
noise = st.builds(Noise, worker=st.integers(0, 2), written=st.sampled_from([UNHEARD, *BAD_EVENTS]))
shapes = st.builds(
    Shape,
    events=st.sampled_from(["map", "array"]),
    batch=st.sampled_from(["array", "map"]),
    hashes=st.sampled_from(["unsigned", "signed", "digest"]),
    nested=st.booleans(),
)
