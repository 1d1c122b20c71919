"""What does a lookup of one chunk cost in the engine core, when its bytes lie in host memory, and when not?

The manager of KvatlasOffloadingSpec with a worker over host memory, in one process with vLLM, asked as vLLM's
scheduler asks: 64 requests of 32 chunks each. The peer is vLLM's TieringOffloadingManager, whose host memory
holds the same chunks. A second process under strace counts the system calls of the thread that asks. Then the
two tables behind it, called by themselves.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results import Result, arguments, show, timed
from timing import Contender, alternate
from vllm_python import be_run_by_vllms_python

REQUESTS, KEYS = 64, 32
CHUNK_BYTES = 64 << 10
"""No byte of a chunk is touched by a lookup."""
KEY_BYTES = 36
BEGIN, END = "/kvatlas-bench-begin", "/kvatlas-bench-end"


class Asked:
    """All requests' lookups of one step; all must be hits."""

    def __init__(self, manager: Any, keys: list[Any], vllm: Any) -> None:
        self._manager, self._vllm = manager, vllm
        self._requests = [
            (vllm.request(f"request-{at}"), keys[at * KEYS : (at + 1) * KEYS]) for at in range(REQUESTS)
        ]
        self._expected = vllm.HIT

    def contender(self) -> Contender:
        return Contender(self.end_step, self.run, REQUESTS * KEYS)

    def end_step(self) -> None:
        self._manager.on_schedule_end(self._vllm.step_ended())

    def run(self, _: object) -> None:
        lookup, expected = self._manager.lookup, self._expected
        for context, keys in self._requests:
            for key in keys:
                answer = lookup(key, context)
                assert answer is expected, answer


def windowed(folder: Path, vllm: Any, keys: list[Any]) -> Any:
    """A manager whose window holds the keys."""
    folder.mkdir()
    cycle = vllm.Windowed(folder, len(keys), CHUNK_BYTES)
    cycle.store(keys)
    return cycle


def tiering(folder: Path, vllm: Any, keys: list[Any]) -> Any:
    """vLLM's manager whose host memory holds the keys."""
    folder.mkdir()
    manager = vllm.tiering_manager({"type": "fs", "root_dir": str(folder)}, 2 * len(keys), CHUNK_BYTES)
    context = vllm.request("stores")
    manager.on_new_request(context)
    assert manager.prepare_store(keys, context) is not None
    manager.complete_store(keys, context)
    manager.on_request_finished(context)
    return manager


def in_the_core(folder: Path, rounds: int) -> list[Result]:
    vllm = importlib.import_module("offloading_vllm")
    keys = vllm.new_keys(REQUESTS * KEYS)
    cycle, peer = windowed(folder / "ours", vllm, keys), tiering(folder / "peer", vllm, keys)
    for manager in (cycle.manager, peer):
        manager.on_schedule_end(vllm.step_ended())
    try:
        timings = alternate(
            {
                "ours": Asked(cycle.manager, keys, vllm).contender(),
                "peer": Asked(peer, keys, vllm).contender(),
            },
            rounds=rounds,
        )
    finally:
        cycle.close()
        peer.shutdown()
    what = "lookup of a chunk in host memory (peer: vLLM's, in its host memory)"
    return [timed("lookup/pinned", what, timings["ours"], timings["peer"])]


# --- system calls -------------------------------------------------------------------------------------------


def traced(folder: Path) -> None:
    """What runs under strace: lookups between two calls that can be found again."""
    vllm = importlib.import_module("offloading_vllm")
    keys = vllm.new_keys(REQUESTS * KEYS)
    cycle = windowed(folder / "traced", vllm, keys)
    asked = Asked(cycle.manager, keys, vllm)
    asked.run(None)
    asked.end_step()
    os.access(BEGIN, os.F_OK)
    asked.run(None)
    os.access(END, os.F_OK)
    cycle.close()


def system_calls(folder: Path) -> list[Result]:
    """Nothing, and a line, where strace is missing or may not trace."""
    strace = shutil.which("strace")
    if strace is None:
        print("no strace: system calls are not counted")
        return []
    log = folder / "calls"
    command = [strace, "-o", str(log), sys.executable, __file__, "--traced", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    lines = log.read_text().splitlines() if log.exists() else []
    marks = [at for at, line in enumerate(lines) if re.search(f"{BEGIN}|{END}", line)]
    if ended.returncode or len(marks) != 2:
        print(f"strace may not trace here, system calls are not counted: {ended.stderr[-300:]}")
        return []
    counted = lines[marks[0] + 1 : marks[1]]
    print("\n".join(counted[:5]))
    return [
        Result(
            row="lookup/calls",
            what=f"system calls in {REQUESTS * KEYS} such lookups",
            unit="calls",
            median=len(counted),
            best=len(counted),
        )
    ]


# --- the tables ---------------------------------------------------------------------------------------------


def tables(rounds: int) -> list[Result]:
    """100 000 keys in each, asked for in random order; a third of the keys is not there."""
    from kvatlas.offload._native import Catalogue, Slots

    n = 100_000
    draw = np.random.default_rng(7)
    packed = draw.bytes(n * KEY_BYTES)
    keys = [packed[at : at + KEY_BYTES] for at in range(0, len(packed), KEY_BYTES)]
    slots, catalogue = Slots(n, KEY_BYTES), Catalogue(n, KEY_BYTES, 5.0)
    filled = slots.fill(packed)
    assert filled is not None
    slots.ready(filled[0])
    catalogue.set(packed, Catalogue.PRESENT, 0.0)
    asked = [keys[at] if at % 3 else draw.bytes(KEY_BYTES) for at in draw.permutation(n).tolist()]
    calls: dict[str, Callable[[Any], None]] = {
        "slots": lambda _: _each(slots.find, asked),
        "catalogue": lambda _: _each_at(catalogue.find, asked),
    }
    timings = alternate({name: Contender(lambda: None, run, n) for name, run in calls.items()}, rounds=rounds)
    return [
        timed(f"lookup/{name}", f"{name.capitalize()}.find, 100 000 keys", timings[name]) for name in calls
    ]


def _each(find: Callable[[bytes], int], keys: list[bytes]) -> None:
    for key in keys:
        find(key)


def _each_at(find: Callable[[bytes, float], int], keys: list[bytes]) -> None:
    for key in keys:
        find(key, 1.0)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--traced", type=Path, metavar="FOLDER", help="only what is run under strace")
    given = parser.parse_args()
    if not be_run_by_vllms_python():
        return
    if given.traced:
        traced(given.traced)
        return
    rounds = 5 if given.quick else 50
    with tempfile.TemporaryDirectory(prefix="bench-lookup-") as folder:
        results = in_the_core(Path(folder), rounds) + system_calls(Path(folder))
    show(results + tables(max(3, rounds // 5)), given.json)


if __name__ == "__main__":
    main()
