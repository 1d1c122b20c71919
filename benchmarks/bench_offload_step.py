"""For how long does a tier hold the engine core in one step, beside vLLM's own `fs` tier?

A step of 64 requests with 32 chunks each, none of which the host's memory holds: the lookups, then everything
that vLLM calls at its end. Three kinds: chunks nobody has asked for yet; the same a step later, when it is
known that they are absent; and chunks that are there, which are sent for. Then a step without lookups, as
most are. Once the tier alone, and once with all of vLLM's TieringOffloadingManager around it; the tier's
threads compete for the processors. p50 and p99 over steps, in turns.
"""

from __future__ import annotations

import importlib
import mmap
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results import Result, arguments, show
from timing import quiet
from vllm_python import be_run_by_vllms_python

REQUESTS, KEYS = 64, 32
CHUNK_BYTES = 4096
"""Little to move: what is measured is not the disk."""
N_KEYS = REQUESTS * KEYS
SETTLED_S = 30.0
KINDS = {
    "unknown": "2 048 chunks not asked for before",
    "absent": "2 048 chunks known to be absent",
    "present": "2 048 chunks found, and sent for",
    "quiet": "no lookups",
}

Requests = list[tuple[Any, list[Any]]]


class TierAlone:
    """What vLLM's manager calls of a tier in a step, and nothing of its own."""

    def __init__(self, make: Callable[[memoryview], Any], vllm: Any) -> None:
        self._rows = np.frombuffer(mmap.mmap(-1, N_KEYS * CHUNK_BYTES), np.uint8).reshape(N_KEYS, CHUNK_BYTES)
        self.tier = make(memoryview(self._rows))  # type: ignore[arg-type]
        self.on_new_request = self.tier.on_new_request
        self.on_request_finished = self.tier.on_request_finished
        self.take_events, self.get_stats = self.tier.take_events, self.tier.get_stats
        self._vllm, self._job, self._open = vllm, 0, 0
        self._hits: list[list[Any]] = []
        self.lookup = self.tier.lookup

    def looked_up(self, keys: list[Any], answers: list[Any]) -> None:
        """All of one request."""
        hit = self._vllm.HIT
        hits = [key for key, answer in zip(keys, answers, strict=True) if answer is hit]
        if hits:
            self._hits.append(hits)

    def on_schedule_end(self, ended: Any) -> None:
        self._take_finished()
        for keys in self._hits:
            self._submit(self.tier.submit_load, keys, is_load=True)
        self._hits.clear()
        self.tier.on_schedule_end(ended)

    def store(self, keys: list[Any]) -> None:
        """Untimed, as the rest."""
        for at in range(0, N_KEYS, KEYS):
            self._submit(self.tier.submit_store, keys[at : at + KEYS], is_load=False)
        self.forget()

    def forget(self) -> None:
        """Nothing is under way any more."""
        self.tier.drain_jobs()
        self._take_finished()
        assert not self._open, self._open

    def _submit(self, submit: Any, keys: list[Any], *, is_load: bool) -> None:
        first = self._job % REQUESTS * KEYS
        self._job, self._open = self._job + 1, self._open + 1
        rows = np.arange(first, first + len(keys))
        submit(self._vllm.transfer(self._job, keys, rows, is_load=is_load))

    def _take_finished(self) -> None:
        for ended in self.tier.get_finished_jobs():
            assert ended.success, ended
            self._open -= 1

    def close(self) -> None:
        self.tier.shutdown()


class WholeManager:
    """vLLM's manager over host memory and the tier."""

    def __init__(self, options: dict[str, Any], vllm: Any) -> None:
        self.manager = vllm.tiering_manager(options, 2 * N_KEYS, CHUNK_BYTES)
        self.lookup = self.manager.lookup
        self.on_new_request = self.manager.on_new_request
        self.on_request_finished = self.manager.on_request_finished
        self.on_schedule_end = self.manager.on_schedule_end
        self.take_events, self.get_stats = self.manager.take_events, self.manager.get_stats
        self._vllm = vllm

    def looked_up(self, keys: list[Any], answers: list[Any]) -> None:
        """The manager has taken note."""

    def store(self, keys: list[Any]) -> None:
        context = self._vllm.request("stores")
        self.on_new_request(context)
        assert self.manager.prepare_store(keys, context) is not None
        self.manager.complete_store(keys, context)
        self.on_schedule_end(self._vllm.step_ended())
        self.on_request_finished(context)
        self.forget()

    def forget(self) -> None:
        """Nothing is under way any more, and host memory holds nothing."""
        self.manager.reset_cache()

    def close(self) -> None:
        self.manager.shutdown()


class Core:
    """One engine core's thread, which calls a tier alone or a manager."""

    def __init__(self, name: str, called: TierAlone | WholeManager, vllm: Any) -> None:
        self._name, self._called, self._vllm = name, called, vllm
        self._requests = 0
        self.held_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
        """Kind -> of each step."""
        self._stored = vllm.new_keys(N_KEYS)
        called.store(self._stored)

    def round(self) -> None:
        """A step of each kind."""
        requests = self._begin(self._vllm.new_keys(N_KEYS))
        self._count("unknown", requests, {"RETRY"})
        self._count("absent", requests, {"MISS"})
        self._finish(requests)
        requests = self._begin(self._stored)
        self._count("present", requests, {"HIT", "HIT_PENDING"})
        self._called.forget()
        self._finish(requests)
        self._count("quiet", [], set())

    def _count(self, kind: str, requests: Requests, expected: set[str]) -> None:
        """Counts the first step whose answers are the expected ones."""
        until_s = time.monotonic() + SETTLED_S
        while True:
            seconds, answers = self._step(requests)
            if answers <= expected:
                self.held_s[kind].append(seconds)
                return
            assert time.monotonic() < until_s, (self._name, kind, answers)
            time.sleep(0.002)  # the GPU computes

    def _step(self, requests: Requests) -> tuple[float, set[str]]:
        called, answers, ended = self._called, [], self._vllm.step_ended()
        begin = time.perf_counter()
        lookup = called.lookup
        for context, keys in requests:
            told = [lookup(key, context) for key in keys]
            called.looked_up(keys, told)
            answers += told
        called.on_schedule_end(ended)
        for _ in called.take_events():
            pass
        called.get_stats()
        seconds = time.perf_counter() - begin
        time.sleep(0.002)
        return seconds, {answer.name for answer in answers}

    def _begin(self, keys: list[Any]) -> Requests:
        requests = []
        for at in range(0, N_KEYS, KEYS):
            self._requests += 1
            context = self._vllm.request(f"{self._name}-{self._requests}")
            self._called.on_new_request(context)
            requests.append((context, keys[at : at + KEYS]))
        return requests

    def close(self) -> None:
        self._called.close()

    def _finish(self, requests: Requests) -> None:
        for context, _ in requests:
            self._called.on_request_finished(context)
        self._step([])


def make_cores(around: str, folder: Path, vllm: Any) -> dict[str, Core]:
    """Ours and vLLM's `fs`, `around` them nothing ("tier") or vLLM's manager ("manager")."""
    ours, fs = folder / f"{around}-ours", folder / f"{around}-fs"
    for one in (ours, fs):
        one.mkdir()
    if around == "tier":
        called: dict[str, TierAlone | WholeManager] = {
            "ours": TierAlone(lambda rows: vllm.our_tier(ours, rows), vllm),
            "fs": TierAlone(lambda rows: vllm.fs_tier(fs, rows, 32), vllm),
        }
    else:
        tier = {"type": "KvatlasTier", "module_path": "kvatlas.offload.tier", **vllm.our_options(ours)}
        called = {
            "ours": WholeManager(tier, vllm),
            "fs": WholeManager({"type": "fs", "root_dir": str(fs)}, vllm),
        }
    return {name: Core(name, one, vllm) for name, one in called.items()}


def measured(around: str, folder: Path, rounds: int, vllm: Any) -> list[Result]:
    called = make_cores(around, folder, vllm)
    with quiet():
        for at in range(rounds):
            for name in list(called)[:: 1 if at % 2 == 0 else -1]:
                called[name].round()
    for core in called.values():
        core.close()
    said = {"tier": "the tier alone", "manager": "with all of vLLM's manager"}[around]
    results = []
    for kind, what in KINDS.items():
        for share in (50, 99):
            ours_ms, peer_ms = (
                float(np.percentile(core.held_s[kind][2:], share)) * 1e3 for core in called.values()
            )
            results.append(
                Result(
                    row=f"step/{around}/{kind}/p{share}",
                    what=f"step, {what}, {said}, p{share} (peer: vLLM's fs tier)",
                    unit="ms",
                    median=ours_ms,
                    best=ours_ms,
                    peer_median=peer_ms,
                    peer_best=peer_ms,
                )
            )
    return results


def main() -> None:
    given = arguments(__doc__).parse_args()
    if not be_run_by_vllms_python():
        return
    vllm = importlib.import_module("offloading_vllm")
    rounds = 12 if given.quick else 202
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-step-") as folder:
        for around in ("tier", "manager"):
            results += measured(around, Path(folder), rounds, vllm)
    show(results, given.json)


if __name__ == "__main__":
    main()
