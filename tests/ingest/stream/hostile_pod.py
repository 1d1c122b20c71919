"""A simulated model server whose batches reach an atlas through a hostile line, and what it truly holds."""

from __future__ import annotations

from typing import TypedDict

from kvatlas import Atlas
from kvatlas.index.keys import Feature, keyspace
from kvatlas.ingest._native import checksum
from kvatlas.ingest.feed import Feed, FeedNames
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.request import SimulatedRequest
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.worker_state import WorkerState
from tests.ingest.stream.hostile_line import HostileLine
from tests.models.mirror import CPU, GPU
from tests.models.publisher import Batch, PublisherModel

BLOCK_TOKENS = 4
MODEL = "m"
SPACE = keyspace(MODEL, BLOCK_TOKENS, "fold64", "seed")
TIERS = {"gpu": GPU, "cpu": CPU}

Held = frozenset[tuple[int, int, int]]
"""Block key, tier, group."""


class Extra(TypedDict, total=False):
    lora: str
    cache_salt: str
    features: list[Feature]


EXTRAS: list[Extra] = [{}, {}, {}, {"lora": "lo"}, {"cache_salt": "s"}, {"features": [("img", 3, 6)]}]


class HostilePod:
    """One worker of the fleet: engine, publisher, line. After all that the atlas is told, its claim is
    compared with what the engine held behind the last batch applied."""

    def __init__(
        self, server: SimulatedServer, buffer_steps: int, atlas: Atlas, *, has_replay: bool, introduces: bool
    ) -> None:
        self.server = server
        self.has_replay = has_replay
        self.introduces = introduces
        self.publisher = PublisherModel(buffer_steps)
        self.atlas = atlas
        self.feed = self._new_feed()
        self.line = HostileLine(
            self.publisher, self.feed, server.topic.encode(), has_replay=has_replay, reorders=has_replay
        )
        self.line.checked = self.check
        self.running: list[SimulatedRequest] = []
        self.names: dict[int, int] = {}
        """Block key of each engine hash."""
        self.said: dict[tuple[int, int], Held] = {}
        self.reset_hole()

    def _new_feed(self) -> Feed:
        names = FeedNames(pod=self.server.pod, model=MODEL, rank=0)
        feed = self.atlas.feed(names, self.has_replay, introduces=self.introduces and self.has_replay)
        if not self.introduces:
            feed.expect(self.server.pod, MODEL)
        return feed

    def reset_hole(self) -> None:
        self.has_hole = self.tail_is_hole = self.has_garbage = False

    def enter(self, atlas: Atlas) -> None:
        """Another atlas listens from now on."""
        self.atlas = atlas
        self.feed = self._new_feed()
        self.line.move(self.feed)

    # The engine.

    def serve(self, number: int) -> None:
        prompt = [number >> i & 1 for i in range(1 + number % 6)]
        tokens = [11 * choice + i for choice in prompt for i in range(BLOCK_TOKENS)]
        tokens += range(number >> 6 & 3)
        extra = EXTRAS[(number >> 8) % len(EXTRAS)]
        try:
            request = self.server.prefill(tokens, report=number >> 10 & 15 == 0, **extra)
        except OutOfBlocksError:
            self.finish()
            return
        self.running.append(request)
        self._name(request, extra)
        self.step()
        full = False
        try:
            self.server.decode(request, (number >> 12) % 8)
        except OutOfBlocksError:
            full = True
        self._name(request, extra)
        if full or number >> 14 & 3:
            self.finish()
        self.step()

    def _name(self, request: SimulatedRequest, extra: Extra) -> None:
        tokens = list(request.token_ids)
        hashes = self.server.engine_hashes(tokens, **extra)
        keys = SPACE.keys(tokens, extra.get("lora"), extra.get("cache_salt"), extra.get("features"))
        self.names.update(zip(hashes, map(int, keys), strict=True))

    def finish(self) -> None:
        if self.running:
            self.server.finish(self.running.pop())
        self.step()

    def clear(self, number: int) -> None:
        while self.running:
            self.finish()
        self.server.reset(external=number % 2 == 0)
        self.step()

    def step(self, *, for_good: bool = False) -> None:
        """Until nothing is left to be said."""
        while True:
            payload = self.server.step()
            if payload is not None:
                self.publish(payload, for_good=for_good)
            if not self.server.has_pending_work:
                return

    def publish(self, payload: bytes, *, for_good: bool) -> Batch:
        batch = self.publisher.publish(payload, for_good=for_good)
        self.said[batch.seq, checksum(payload)] = self.true()
        self.has_hole |= for_good
        self.tail_is_hole = for_good
        if not for_good:
            self.line.send(batch)
        return batch

    def restart(self, *, told: bool) -> None:
        self.running.clear()
        self.server.restart()
        self.reset_hole()
        self.line.restart(told=told)

    def true(self) -> Held:
        return frozenset(
            (self.names[name], TIERS[tier], group)
            for name, places in self.server.held().items()
            for tier, group in places
        )

    # The atlas.

    @property
    def worker(self) -> WorkerState | None:
        return next(iter(self.feed.workers.values()), None)

    def held(self, worker: WorkerState) -> Held:
        """What the worker's mirror says."""
        lanes = worker.mirror.residency() if worker.mirror is not None else {}
        return frozenset(
            (key, tier, group)
            for group, masks in lanes.items()
            for key, mask in masks.items()
            for tier in (GPU, CPU)
            if mask & tier
        )

    def check(self) -> None:
        """At any time: compared with what the engine held behind the last batch applied."""
        worker = self.worker
        if worker is None or worker.truth.state not in ("EXACT", "PARTIAL"):
            return
        position = worker.stream.position
        self.compare(worker, frozenset() if position is None else self.said[position])

    def compare(self, worker: WorkerState, true: Held) -> None:
        state, held = worker.truth.state, self.held(worker)
        pod = self.server.pod
        assert held <= true, f"{pod}: {state} holds {set(held - true)} too much"
        assert state == "PARTIAL" or held == true, f"{pod}: {state} lacks {set(true - held)}"
