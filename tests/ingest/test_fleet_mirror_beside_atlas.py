"""What a fleet's mirror gives away, carried to tables of any layout, beside an atlas of the same batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas import Atlas
from kvatlas.index._native import Index, Roster, Table, route
from kvatlas.index.keys import keyspace
from kvatlas.index.shards import Matches
from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.fleet_mirror import Content, FleetMirror
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from tests.models import announcements as say
from tests.models.atlas import Lane
from tests.models.content import LORA_NAMES
from tests.models.payloads import Shape, packed
from tests.profiles import examples

STORES = {pod.name: say.STORES.get(pod.name, ("nfs",)) for pod in say.PODS}
LANES = 4000
WORKERS = 2000


def new_config(world: say.World) -> AtlasConfig:
    models = {
        name: ModelConfig(
            block_size_tokens=world.block_sizes.get(name), lora_names=LORA_NAMES if name == "m" else {}
        )
        for name in say.BLOCK_SIZES
    }
    return AtlasConfig(
        ghosts_max=world.limits.ghosts,
        orphans_max=world.limits.orphans,
        store_blocks_max=world.limits.stored,
        table_bytes_max=1 << 24,
        hash_seed="seed",
        models=models,
        pods={name: PodConfig(stores=stores) for name, stores in STORES.items()},
    )


class Layout:
    """Tables of one layout, and what has come for them."""

    def __init__(self, n_shards: int) -> None:
        self.tables = [Table(1 << 24) for _ in range(n_shards)]

    def apply(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            for table, delta in zip(self.tables, route(piece, len(self.tables)), strict=True):
                table.apply(delta)

    def load(self, content: Content) -> None:
        for table, delta in zip(self.tables, route(content.records, len(self.tables)), strict=True):
            table.replace(content.lanes, delta)

    def held(self, keys: list[int], names: dict[int, Lane]) -> list[dict[Lane, int]]:
        """Tier bits of each key by the name of the lane. Lanes without a name are empty."""
        found: list[dict[Lane, int]] = [{} for _ in keys]
        for table in self.tables:
            for holders, held in zip(found, table.lookup(np.array(keys, np.uint64)), strict=True):
                holders.update({names[lane]: tiers for lane, tiers in held})
        return found

    def close(self) -> None:
        for table in self.tables:
            table.close()


def roster_of(part: FleetPart) -> Roster:
    roster = Roster()
    for worker in part.workers:
        roster.set(
            worker.number,
            worker.groups,
            [part.stores[name] for name in worker.stores] if worker.groups else [],
            chunk_blocks=worker.chunk_blocks,
            recomputes_last_block=worker.recomputes_last_block,
            drops_matched_block=worker.drops_matched_block,
        )
    return roster


class FleetMirrorBesideAnAtlas(RuleBasedStateMachine):
    """The same batches for both; what is taken goes to layouts that were loaded at different times."""

    @initialize(world=say.worlds, n_shards=st.sampled_from([1, 3, 16]))
    def start(self, world: say.World, n_shards: int) -> None:
        self.world = world
        self.now_s = 0.0
        self.atlas = Atlas(new_config(world))
        numbers = LeasedNumbers(clock_s=lambda: self.now_s)
        numbers.lease([(7, LANES)], [(3, WORKERS)])
        self.mirror = FleetMirror(new_config(world), GatheringOutlet(), numbers, hash_seed="seed")
        self.layouts = [Layout(n_shards)]
        self.sequence: Counter[say.Worker] = Counter()
        self.keys_seen: set[int] = {0, 1, 2**64 - 1}
        self.is_level = True
        self.version = -1
        self.part = FleetPart()

    def teardown(self) -> None:
        if hasattr(self, "atlas"):
            self.atlas.close()
            for layout in self.layouts:
                layout.close()

    def announce(self, *announcements: say.Announcement, shape: Shape) -> None:
        for announcement in announcements:
            said = announcement.said(self.world)
            pod, rank = worker = said.worker
            payload = packed([said.written], rank, shape)
            for sink in (self.atlas, self.mirror):
                sink.ingest(pod.topic, self.sequence[worker], payload)
            self.sequence[worker] += 1
        self.is_level = False

    @rule(first=say.dense, second=say.dense, shape=say.shapes, takes=st.booleans())
    def store(self, first: say.Dense, second: say.Dense, shape: Shape, takes: bool) -> None:
        self.announce(first, second, shape=shape)
        if takes:
            self.take()

    @rule(said=say.removed, shape=say.shapes)
    def remove(self, said: say.Removed, shape: Shape) -> None:
        self.announce(said, shape=shape)

    @rule(dense=say.dense, said=say.sparse, shape=say.shapes)
    def store_sparsely(self, dense: say.Dense, said: say.Sparse, shape: Shape) -> None:
        self.announce(replace(dense, run=said.run), said, shape=shape)

    @rule(said=say.offloaded, evicted=st.booleans(), shape=say.shapes)
    def spill(self, said: say.Offloaded, evicted: bool, shape: Shape) -> None:
        steps: list[say.Announcement] = [say.Dense(said.run, said.group, twice=False), said]
        if evicted:
            steps.append(say.Removed(said.run, said.group, medium=None, locality=None))
        self.announce(*steps, shape=shape)

    @rule(said=say.cleared | say.noise, shape=say.shapes)
    def clear(self, said: say.Cleared | say.Noise, shape: Shape) -> None:
        self.announce(said, shape=shape)

    @precondition(lambda self: len(self.keys_seen) > 10)
    @rule(worker=st.integers(0, 2), rest_s=st.sampled_from([0.0, 0.0, 61.0]))
    def remove_pod(self, worker: int, rest_s: float) -> None:
        pod, _ = self.world.workers[worker % len(self.world.workers)]
        self.atlas.remove_pod(pod.name)
        self.mirror.remove_pod(pod.name)
        self.now_s += rest_s
        self.is_level = False

    @precondition(lambda self: len(self.keys_seen) > 10)
    @rule(worker=st.integers(0, 2))
    def restart(self, worker: int) -> None:
        """The next batch of the worker has a number that came before."""
        pod, rank = self.world.workers[worker % len(self.world.workers)]
        self.sequence[pod, rank] = 0

    # Carrying it on.

    @rule()
    def take(self) -> None:
        self.carry(self.mirror.take())
        self.is_level = True

    def carry(self, pieces: list[bytes]) -> None:
        for layout in self.layouts:
            layout.apply(pieces)

    @rule(
        which=st.integers(0, 2),
        n_shards=st.integers(1, 8),
        meanwhile=st.lists(say.dense | say.removed | say.cleared | say.offloaded, max_size=4),
        takes=st.lists(st.booleans(), min_size=4, max_size=4),
    )
    def load(self, which: int, n_shards: int, meanwhile: list[say.Announcement], takes: list[bool]) -> None:
        """New tables, or some that hold something, while batches come and the others are fed."""
        if which == len(self.layouts):
            self.layouts.append(Layout(n_shards))
        chosen = self.layouts[which % len(self.layouts)]
        coming = list(zip(meanwhile, takes, strict=False))
        for content in self.mirror.content():
            self.carry(content.before)
            chosen.load(content)
            if coming:
                said, takes_after = coming.pop()
                self.announce(said, shape=Shape())
                if takes_after:
                    self.take()

    # What must hold.

    @invariant()
    def every_layout_holds_what_the_atlas_holds(self) -> None:
        assert self.mirror.lost == 0
        if not self.is_level:
            return
        for model in say.BLOCK_SIZES:
            held = self.atlas.residency(model)
            assert self.mirror.residency(model) == held
            self.keys_seen.update(key for blocks in held.values() for key in blocks)
        keys = sorted(self.keys_seen)
        expected = self.atlas.lookup(np.array(keys, np.uint64))
        for layout in self.layouts:
            assert layout.held(keys, self.mirror.fleet.lane_names) == expected

    @invariant()
    def the_part_says_what_the_roster_was_told(self) -> None:
        """Matches with a roster made of the part are those of the atlas."""
        part, version = self.mirror.part(), self.mirror.part_version
        assert version > self.version or part_without_doubts(part) == part_without_doubts(self.part)
        self.version, self.part = version, part
        if not self.is_level:
            return
        roster = roster_of(part)
        workers = {worker.number: worker for worker in part.workers}
        for layout in self.layouts:
            index = Index(layout.tables, roster)
            for content in range(len(self.world.contents)):
                for pod in {pod for pod, _ in self.world.workers}:
                    self.compare_matches(index, workers, content, pod)

    def compare_matches(
        self, index: Index, workers: dict[int, WorkerView], content: int, pod: say.Pod
    ) -> None:
        size = self.part.block_sizes.get(pod.model, 0)
        prompt = self.world.chain(content, pod).prompt(1_000, 1)
        if not size:
            return
        scores = self.atlas.score(model=pod.model, **prompt)
        keys = keyspace(pod.model, size, "fold64", "seed").keys(**prompt)
        matched = Matches(*index.match(keys, None, len(prompt["token_ids"]), size)) if len(keys) else None
        is_plain = prompt["cache_salt"] is None and not prompt["features"]
        found = set()
        if matched is not None:
            for i, number in enumerate(matched.workers.tolist()):
                worker = workers[number]
                cached = int(matched.blocks[i]) * size - (i in matched.partial_rows)
                if worker.model == pod.model:
                    says_less = worker.state == "EXACT" and worker.lacks_extras and not is_plain
                    state = "PARTIAL" if says_less else worker.state
                    found.add((worker.pod, worker.rank, cached, state))
        assert found == {(m.pod, m.rank, m.cached_tokens, m.truth) for m in scores.matches}


def part_without_doubts(part: FleetPart) -> FleetPart:
    return msgspec.structs.replace(
        part, workers=tuple(msgspec.structs.replace(worker, doubts=()) for worker in part.workers)
    )


TestFleetMirrorBesideAnAtlas = pytest.mark.slow(pytest.mark.native(FleetMirrorBesideAnAtlas.TestCase))
TestFleetMirrorBesideAnAtlas.settings = settings(max_examples=examples(200), stateful_step_count=25)
