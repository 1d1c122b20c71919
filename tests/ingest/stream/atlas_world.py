"""A small fleet of simulated servers, an atlas, and hostile lines between them. A clock moved by hand."""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kvatlas import Atlas
from kvatlas.ingest.config import AtlasConfig, ModelConfig
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.stream.limits import StreamLimits
from tests.ingest.stream.hostile_pod import BLOCK_TOKENS, MODEL, HostilePod
from tests.ingest.stream.random_stories import Story

PAUSES_S = (0.01, 0.05, 0.2, 0.6, 2.5, 6.0, 11.0)
QUIET_S = [0.3] * 8 + [1.0] * 6 + [3.0] * 25
WEIGHTS = {
    "serve": 12,
    "finish": 2,
    "clear": 0.4,
    "hole": 0.2,
    "garbage": 0.1,
    "restart": 0.5,
    "restart_quietly": 0.4,
    "overtake": 0.6,
    "break_off": 1,
    "break_off_untold": 0.6,
    "reopen": 3,
    "deliver": 12,
    "repeat": 1,
    "lose": 1.5,
    "lose_all": 0.5,
    "forge": 0.3,
    "answer": 10,
    "answer_late": 1,
    "thin": 0.7,
    "double": 0.7,
    "shuffle": 0.5,
    "cut": 0.7,
    "lose_end": 0.3,
    "deafen": 0.2,
    "hear": 0.4,
    "wait": 5,
    "resync": 0.2,
    "save": 0.4,
    "crash": 0.3,
}
"""How often what happens."""


class AtlasWorld:
    """One to three workers of one model: a plain one, one with a window, one that offloads."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.now_s = 100.0
        self.config = AtlasConfig(
            hash_seed="seed",
            table_bytes_max=4 << 20,
            models={MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)},
            stream=StreamLimits(buffer_batches_max=rng.choice([2, 5, 1000])),
        )
        self.atlas = Atlas(self.config, clock_s=lambda: self.now_s)
        self.folder: Path | None = None
        has_replay = rng.random() < 0.85
        kinds = rng.sample([_plain, _window, _offload], rng.randint(1, 3))
        ticks = itertools.count()
        self.pods = [
            HostilePod(
                make(rng, lambda: self.now_s + next(ticks) * 1e-6),
                rng.choice([1, 3, 8, 1000, 1000, 1000]),
                self.atlas,
                has_replay=has_replay,
                introduces=rng.random() < 0.5,
            )
            for make in kinds
        ]
        for pod in self.pods:
            if rng.random() < 0.7:
                pod.line.reopen()

    def close(self) -> None:
        self.atlas.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)

    def take(self, name: str, number: int) -> None:
        """One step: what it is about is chosen by the number, too."""
        pod, number = self.pods[number % 3 % len(self.pods)], number // 3
        if name in ("wait", "save", "crash"):
            getattr(self, name)(number)
        elif name in ("serve", "clear"):
            getattr(pod, name)(number)
        elif name in (
            "deliver",
            "repeat",
            "lose",
            "answer_late",
            "thin",
            "double",
            "shuffle",
            "cut",
            "lose_end",
        ):
            getattr(pod.line, name)(number if number % 5 == 0 else 0)
        else:
            getattr(self, f"_{name}")(pod, number)

    # What may happen to one pod.

    def _finish(self, pod: HostilePod, _: int) -> None:
        pod.finish()

    def _hole(self, pod: HostilePod, number: int) -> None:
        if not pod.line.is_strict and (payload := pod.server.step()) is not None:
            pod.publish(payload, for_good=True)

    def _garbage(self, pod: HostilePod, number: int) -> None:
        """The engine publishes what nobody can read."""
        pod.has_garbage = True
        pod.publish(b"\x93\xcb" + number.to_bytes(2, "big"), for_good=False)

    def _forge(self, pod: HostilePod, number: int) -> None:
        pod.line.forge(number % 100 if number % 2 else (1 << 40) + number, b"\xc1" * (number % 9))

    def _restart(self, pod: HostilePod, _: int) -> None:
        pod.restart(told=True)

    def _restart_quietly(self, pod: HostilePod, _: int) -> None:
        pod.restart(told=not pod.has_replay)

    def _overtake(self, pod: HostilePod, number: int) -> None:
        """The engine restarts and publishes about as much as before, while nobody looks."""
        last = pod.worker.stream.last if pod.worker is not None else 0
        pod.restart(told=True)
        while pod.publisher.next_seq < min((last or 0) + number % 4, 60):
            pod.serve(number * 31 + pod.publisher.next_seq * 7 & 0xFFF | 1 << 14)
            pod.clear(1)
        if number & 16:
            pod.line.reopen()

    def _break_off(self, pod: HostilePod, _: int) -> None:
        pod.line.break_off(told=True)

    def _break_off_untold(self, pod: HostilePod, _: int) -> None:
        pod.line.break_off(told=False)

    def _reopen(self, pod: HostilePod, _: int) -> None:
        pod.line.reopen()

    def _lose_all(self, pod: HostilePod, _: int) -> None:
        for _ in range(len(pod.line.flight)):
            pod.line.lose(0)

    def _answer(self, pod: HostilePod, number: int) -> None:
        pod.line.answer_on(0, 1 + number % 12)

    def _deafen(self, pod: HostilePod, _: int) -> None:
        pod.line.deaf = True

    def _hear(self, pod: HostilePod, _: int) -> None:
        pod.line.deaf = False

    def _resync(self, pod: HostilePod, _: int) -> None:
        if pod.worker is not None:
            pod.worker.stream.resync(self.now_s)

    # What may happen to all.

    def wait(self, number: int) -> None:
        self.now_s += PAUSES_S[number % len(PAUSES_S)]
        for pod in self.pods:
            pod.feed.tick()
            pod.check()

    def save(self, _: int) -> None:
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="kvatlas-world-"))
        report = self.atlas.save(self.folder)
        assert not report.errors

    def crash(self, _: int) -> None:
        """The atlas dies; another one goes on from what was saved last, if anything was."""
        self.atlas.close()
        self.atlas = Atlas(self.config, clock_s=lambda: self.now_s)
        if self.folder is not None:
            report = self.atlas.load(self.folder)
            assert not report.errors
        for pod in self.pods:
            pod.enter(self.atlas)

    # The end.

    def end(self) -> None:
        """All heals, and time passes: now it is what the engines hold that counts."""
        for pod in self.pods:
            pod.line.heal()
            if pod.tail_is_hole:  # nobody can notice before the next batch
                pod.serve(0x4001)
                pod.clear(1)
                pod.line.heal()
        for pause_s in QUIET_S:
            for pod in self.pods:
                pod.line.run_answers()
            self.now_s += pause_s
            for pod in self.pods:
                pod.feed.tick()
        for pod in self.pods:
            pod.line.run_answers()
            self._check_quiet(pod)

    def _check_quiet(self, pod: HostilePod) -> None:
        worker, name = pod.worker, pod.server.pod
        if worker is None:
            nothing_said = pod.publisher.next_seq == 0 or pod.has_garbage
            assert nothing_said or not (pod.has_replay and pod.publisher.keeps_all), name
            return
        pod.check()
        true = pod.true()
        if worker.truth.state in ("EXACT", "PARTIAL"):
            pod.compare(worker, true)
            self._check_tables(pod)
        reasons = {reason.name for reason in worker.truth.reasons}
        untold = {"maybe_gpu", "maybe_cpu", "lost_offloaded", "lost_stored", "missed_offloaded"}
        if pod.has_replay:
            if pod.publisher.next_seq and pod.publisher.keeps_all and not pod.has_garbage:
                assert reasons <= untold - {"missed_offloaded"}, (
                    f"{name}: {reasons}, though all can be asked for"
                )
            fit = {"missed", "never_heard", *untold}
            fit |= {"orphans", "lost_blocks", "unindexed", "reported"}  # what a truncated history leaves
            fit |= {"lost"} if pod.has_hole else set()
            fit |= {"unread", "lost"} if pod.has_garbage else set()
            assert reasons <= fit, f"{name}: {reasons - fit} do not fit"

    def _check_tables(self, pod: HostilePod) -> None:
        """What is looked up is what the mirror says."""
        keys = sorted(set(pod.names.values()))
        found = self.atlas.lookup(np.array(keys, np.uint64))
        in_tables = {
            (key, tier, lane[2])
            for key, lanes in zip(keys, found, strict=True)
            for lane, mask in lanes.items()
            if not isinstance(lane, str) and lane[0] == pod.server.pod
            for tier in (1, 2)
            if mask & tier
        }
        assert pod.worker is not None
        assert in_tables == pod.held(pod.worker), f"{pod.server.pod}: tables and mirror differ"


def _plain(rng: random.Random, clock_s: Callable[[], float]) -> SimulatedServer:
    return SimulatedServer(
        "plain",
        MODEL,
        block_size=BLOCK_TOKENS,
        blocks=14,
        hashes_as_bytes=rng.random() < 0.5,
        clock_s=clock_s,
    )


def _window(rng: random.Random, clock_s: Callable[[], float]) -> SimulatedServer:
    return SimulatedServer(
        "window",
        MODEL,
        block_size=BLOCK_TOKENS,
        blocks=24,
        window_tokens=8,
        retention_tokens=8,
        clock_s=clock_s,
    )


def _offload(rng: random.Random, clock_s: Callable[[], float]) -> SimulatedServer:
    described = rng.random() < 0.5
    return SimulatedServer(
        "offload",
        MODEL,
        block_size=BLOCK_TOKENS,
        blocks=12,
        cpu_blocks=6,
        chunk_blocks=rng.choice([1, 2]) if described else 1,
        self_describing=described,
        clock_s=clock_s,
    )


def tell(seed: int, story: Story) -> None:
    world = AtlasWorld(seed)
    try:
        for name, number in story:
            world.take(name, number)
        world.end()
    finally:
        world.close()
