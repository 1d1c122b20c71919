"""The atlas, at several numbers of shards, beside a naive model of it, over random histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas import Atlas
from kvatlas.index.keys import Algorithm
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.wire.events import EventBatch, EventError
from tests.models import announcements as say
from tests.models.atlas import WEIGHTS, Lane, NaiveAtlas, NaiveConfig
from tests.models.content import LORA_NAMES
from tests.models.mirror import CPU, DISK, GPU, STORAGE, UNKNOWN
from tests.models.payloads import Shape, as_heard, packed
from tests.profiles import PROFILE, examples

SHARDS = (1, 2, 5, 16)
LAYOUTS = [SHARDS] if PROFILE == "thorough" else [SHARDS[::2], SHARDS[1::2]]
"""What one history is told to: all, or half of them."""
MODELS = sorted(say.BLOCK_SIZES)


pod_names = [pod.name for pod in say.PODS] + ["nobody"]
pod_filters = st.sampled_from([None] * 5 + [[], pod_names[:4], pod_names[3:]])


def new_model(world: say.World, algorithm: str) -> NaiveAtlas:
    return NaiveAtlas(
        NaiveConfig(
            block_sizes=world.block_sizes,
            algorithm=algorithm,
            lora_names={"m": LORA_NAMES},
            stores=say.STORES,
            limits=world.limits,
        )
    )


def new_atlas(world: say.World, algorithm: Algorithm, shards: int) -> Atlas:
    models = {
        name: ModelConfig(
            block_size_tokens=world.block_sizes.get(name),
            lora_names=LORA_NAMES if name == "m" else {},
        )
        for name in MODELS
    }
    return Atlas(
        AtlasConfig(
            hash_seed="seed",
            algorithm=algorithm,
            shards=shards,
            ghosts_max=world.limits.ghosts,
            orphans_max=world.limits.orphans,
            orphan_bytes_max=1 << 30,
            store_blocks_max=world.limits.stored,
            table_bytes_max=1 << 24,
            models=models,
            pods={name: PodConfig(stores=stores) for name, stores in say.STORES.items()},
        )
    )


def held(atlas: Atlas | NaiveAtlas, model: str) -> Iterator[tuple[Lane, int, int]]:
    """Lane, block key and tier mask of all that is resident."""
    for lane, masks in atlas.residency(model).items():
        for key, mask in masks.items():
            yield lane, key, mask


def tier_blocks(run: list[int]) -> dict[str, int]:
    """How many blocks of the run are best held in which tier."""
    names = {GPU: "gpu", CPU: "cpu", DISK: "disk", STORAGE: "storage", UNKNOWN: "unknown"}
    return dict(Counter(names[max(WEIGHTS, key=lambda t: (t & mask > 0, WEIGHTS[t]))] for mask in run))


class AtlasBesideItsModel(RuleBasedStateMachine):
    """What is announced goes to all of them; whatever can be asked is compared."""

    @initialize(
        world=say.worlds,
        algorithm=st.sampled_from(["fold64", "fold64", "fnv64a_cbor"]),
        layout=st.sampled_from(LAYOUTS),
    )
    def start(self, world: say.World, algorithm: Algorithm, layout: tuple[int, ...]) -> None:
        self.world = world
        self.model = new_model(world, algorithm)
        self.atlases = [new_atlas(world, algorithm, shards) for shards in layout]
        self.pending: list[say.Said] = []
        self.sequence: Counter[say.Worker] = Counter()
        self.message: tuple[say.Pod, int, EventBatch, bytes] | None = None
        self.keys_seen = {0, 1, 2**64 - 1}
        self.asked: dict[object, tuple[dict[str, Any], list[int]]] = {}

    def teardown(self) -> None:
        for atlas in getattr(self, "atlases", []):
            atlas.close()

    def held(self) -> int:
        mirrors = [m for by_worker in self.model.mirrors.values() for m in by_worker.values()]
        return sum(len(mirror.copies) for mirror in mirrors)

    # What is told.

    def announce(self, announcement: say.Announcement, more: bool, shape: Shape) -> None:
        """Adds to the worker's batch, and sends that unless `more` is to come."""
        said = announcement.said(self.world)
        if self.pending and self.pending[0].worker != said.worker:
            self.send(Shape())
        self.pending.append(said)
        if not more:
            self.send(shape)

    def send(self, shape: Shape) -> None:
        pod, rank = self.pending[0].worker
        noise = [said.written for said in self.pending if said.event is None]
        bad = EventError(index=0, path="", expected="", got="", reason="bad_event")
        batch = EventBatch(
            ts=1.5,
            data_parallel_rank=rank,
            events=tuple(as_heard(said.event, shape) for said in self.pending if said.event is not None),
            errors=tuple(bad for written in noise if written is not say.UNHEARD),
            unknown_events=sum(written is say.UNHEARD for written in noise),
        )
        payload = packed([said.written for said in self.pending], rank, shape)
        self.pending = []
        worker = (pod, rank or 0)
        self.message = (pod, self.sequence[worker], batch, payload)
        self.deliver()
        self.sequence[worker] += 1

    def deliver(self) -> None:
        assert self.message is not None
        pod, sequence, batch, payload = self.message
        self.model.ingest(pod.name, pod.model, sequence, payload, batch)
        for atlas in self.atlases:
            atlas.ingest(pod.topic, sequence, payload)

    @rule(first=say.dense, second=say.dense, shape=say.shapes)
    def store(self, first: say.Dense, second: say.Dense, shape: Shape) -> None:
        self.announce(first, False, shape)
        self.announce(second, False, shape)

    @rule(said=say.dense, more=say.often_no, shape=say.shapes)
    def store_and_more(self, said: say.Dense, more: bool, shape: Shape) -> None:
        self.announce(said, more, shape)

    @rule(said=say.removed, more=say.often_no, shape=say.shapes)
    def remove(self, said: say.Removed, more: bool, shape: Shape) -> None:
        self.announce(said, more, shape)

    @rule(dense=say.dense, said=say.sparse, together=st.booleans(), shape=say.shapes)
    def store_sparsely(self, dense: say.Dense, said: say.Sparse, together: bool, shape: Shape) -> None:
        """A group that keeps some blocks follows one that keeps all, as engines do."""
        self.announce(replace(dense, run=said.run), together, shape)
        self.announce(said, False, shape)

    @rule(run=say.runs, cut=st.integers(1, 5), removed=st.booleans(), shape=say.shapes)
    def store_out_of_order(self, run: say.Run, cut: int, removed: bool, shape: Shape) -> None:
        """The tail comes before its head, and some of it is removed while it waits."""
        head = say.Dense(replace(run, start=0, length=cut), group=0, twice=False)
        tail = say.Dense(replace(run, start=cut), group=0, twice=False)
        gone = say.Removed(replace(run, start=cut), group=0, medium=None, locality=None)
        for said in (tail, gone, head) if removed else (tail, head):
            self.announce(said, False, shape)

    @rule(said=say.offloaded, evicted=st.booleans(), late=st.booleans(), shape=say.shapes)
    def spill(self, said: say.Offloaded, evicted: bool, late: bool, shape: Shape) -> None:
        """A run is stored, copied elsewhere and evicted, perhaps before the copy is announced."""
        stored = say.Dense(said.run, said.group, twice=False)
        gone = say.Removed(said.run, said.group, medium=None, locality=None)
        steps: list[say.Announcement] = [stored, said]
        if evicted:
            steps = [stored, gone, said] if late else [stored, said, gone]
        for step in steps:
            self.announce(step, False, shape)

    @rule(said=say.offloaded | say.placeholders_on_the_device, more=say.often_no, shape=say.shapes)
    def offload(self, said: say.Offloaded, more: bool, shape: Shape) -> None:
        self.announce(said, more, shape)

    @rule(said=say.sparse | say.partial | say.noise, more=say.often_no, shape=say.shapes)
    def say_something_odd(self, said: say.Announcement, more: bool, shape: Shape) -> None:
        self.announce(said, more, shape)

    @precondition(lambda self: self.held() > 5 and self.world.limits.ghosts > 100)
    @rule(said=say.cleared, more=say.often_no, shape=say.shapes)
    def clear(self, said: say.Cleared, more: bool, shape: Shape) -> None:
        """Not where few ghosts are kept: which of those that a clear makes is nobody's promise."""
        self.announce(said, more, shape)

    @precondition(lambda self: self.held() > 8)
    @rule(worker=st.integers(0, 2))
    def remove_pod(self, worker: int) -> None:
        if self.pending:
            self.send(Shape())
        pod, _ = self.world.workers[worker % len(self.world.workers)]
        self.model.remove_pod(pod.name)
        for atlas in self.atlases:
            atlas.remove_pod(pod.name)

    @rule(worker=st.integers(0, 2), back=st.integers(1, 9))
    def restart(self, worker: int, back: int) -> None:
        """The next batch of the worker has a number that came before."""
        if self.pending:
            self.send(Shape())
        pod, rank = self.world.workers[worker % len(self.world.workers)]
        self.sequence[pod, rank or 0] = max(self.sequence[pod, rank or 0] - back, 0)

    @precondition(lambda self: self.message is not None)
    @rule()
    def deliver_again(self) -> None:
        self.deliver()

    # What is asked.

    @rule(run=say.runs, more=st.integers(0, 5), pods=pod_filters)
    def score(self, run: say.Run, more: int, pods: list[str] | None) -> None:
        if self.pending:
            self.send(Shape())
        pod, _ = run.by(self.world)
        self.compare_scores(run.content, pod, run.length, more, pods)

    @invariant()
    def every_prompt_scores_as_in_the_model(self) -> None:
        if self.pending:
            return
        for content in range(len(self.world.contents)):
            for pod in {pod for pod, _ in self.world.workers}:
                self.compare_scores(content, pod, blocks=1_000, more=1, pods=None)

    def compare_scores(
        self, content: int, pod: say.Pod, blocks: int, more: int, pods: list[str] | None
    ) -> None:
        prompt, keys = self.prompt_and_keys(content, pod, blocks, more)
        expected = [
            (worker[0], worker[1], len(run), tier_blocks(run))
            for worker, run in self.model.match(pod.model, keys, pods).items()
        ]
        scores = self.model.score_keys(pod.model, keys, pods)
        for atlas in self.atlases:
            found = atlas.score(model=pod.model, pods=pods, strategy="longest_prefix", **prompt)
            matches = [match[:4] for match in found.matches]
            assert dict(found.items()) == {name: found[name] for name in found}
            if not self.world.forgets_ancestors:
                assert sorted(matches) == sorted(expected)
                assert dict(found) == pytest.approx(scores)
            else:
                assert all(score <= scores[name] + 1e-9 for name, score in found.items())

    def prompt_and_keys(
        self, content: int, pod: say.Pod, blocks: int, more: int
    ) -> tuple[dict[str, Any], list[int]]:
        size = self.model.block_sizes.get(pod.model)
        asked = (content % len(self.world.contents), pod, blocks, more, size)
        if asked not in self.asked:
            prompt = self.world.chain(content, pod).prompt(blocks, more)
            if self.model.config.algorithm == "fnv64a_cbor":
                prompt["cache_salt"] = None
            keys = self.model.keys(model=pod.model, **prompt) if size is not None else []
            prompt["token_ids"] = np.array(prompt["token_ids"], np.uint32)
            self.asked[asked] = prompt, keys
        return self.asked[asked]

    @invariant()
    def residency_is_that_of_the_model(self) -> None:
        """A mirror that has forgotten an engine block and sees it again may miss index blocks that
        begin in it, but has none that the model has not."""
        if self.pending:
            return
        expected = {(model, *triple) for model in MODELS for triple in held(self.model, model)}
        for atlas in self.atlases:
            exported = {(model, *triple) for model in MODELS for triple in held(atlas, model)}
            if not self.world.forgets_ancestors:
                assert exported == expected
            else:
                assert {entry[:3] for entry in exported} <= {entry[:3] for entry in expected}
            self.keys_seen |= {key for _, _, key, _ in exported}
            self.compare_table(atlas, exported)

    def compare_table(self, atlas: Atlas, exported: set[tuple[str, Lane, int, int]]) -> None:
        """What is in the tables is what the mirrors say."""
        by_key: dict[int, dict[Lane, int]] = {key: {} for key in self.keys_seen}
        for _, lane, key, mask in exported:
            by_key[key][lane] = mask
        keys = np.array(sorted(by_key), np.uint64)
        assert atlas.lookup(keys) == [by_key[int(key)] for key in keys]

    @invariant()
    def every_event_left_out_is_counted(self) -> None:
        if self.pending:
            return
        expected = {reason: n for reason, n in self.model.counts.items() if n}
        for atlas in self.atlases:
            skips = atlas.statistics().skips
            assert {reason: n for reason, n in skips.items() if n} == expected


TestAtlasBesideItsModel = pytest.mark.slow(pytest.mark.native(AtlasBesideItsModel.TestCase))
TestAtlasBesideItsModel.settings = settings(max_examples=examples(200), stateful_step_count=25)
