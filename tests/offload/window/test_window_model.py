"""Random engines over one store: whatever happens, what is promised loads, with the right bytes, and no
slot is lost.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvatlas.offload.window.window import HIT
from tests.offload.window.engine_rig import Rig, key_of, keys_of, start
from tests.profiles import examples

_CHUNKS = st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True)
_REQUESTS = st.sampled_from("abc")
_N_ROWS = 6


class Engine(RuleBasedStateMachine):
    """One engine at a time on a store, that is killed and started again; copies end in any order, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.engines = 0
        self.start()

    def start(self) -> None:
        self.engines += 1
        self.rig: Rig = start(
            self.folder / "store", n_rows=_N_ROWS, engine=f"engine{self.engines}", request_share=0.7
        )
        self.stores: dict[int, tuple[list[bytes], bool]] = {}
        self.loads: dict[str, tuple[int, list[int], bool]] = {}

    def teardown(self) -> None:
        self.rig.close()
        shutil.rmtree(self.folder)

    @rule(numbers=_CHUNKS, fails=st.booleans())
    def store_begins(self, numbers: list[int], fails: bool) -> None:
        begun = self.rig.window.prepare_store(keys_of(numbers))
        if begun is None or not begun.keys:
            return
        self.rig.jobs += 1
        stored = [number for number in numbers if key_of(number) in begun.keys]
        for worker in self.rig.workers:
            worker.compute(stored)
            rows = np.full_like(begun.rows, -1) if fails and worker.rank == 1 else begun.rows
            worker.submit(self.rig.jobs, rows, begun.ticket, is_load=False)
            worker.copies.wait([self.rig.jobs])  # the next rule writes the blocks
        self.stores[self.rig.jobs] = begun.keys, fails

    @rule(which=st.integers(0, 3))
    def store_ends(self, which: int) -> None:
        if self.stores:
            keys, _ = self.stores.pop(sorted(self.stores)[which % len(self.stores)])
            self._sign_off()
            self.rig.window.complete_store(set(keys))

    @rule(numbers=_CHUNKS, request=_REQUESTS, fails=st.booleans())
    def request_comes(self, numbers: list[int], request: str, fails: bool) -> None:
        """As an engine does: what is found up to the first miss is loaded."""
        if request in self.loads:
            return
        hits = 0
        for number in numbers:
            if self.rig.window.lookup(key_of(number), request) != HIT:
                break
            hits += 1
        if not hits:
            return
        found = numbers[:hits]
        rows, ticket = self.rig.window.prepare_load(keys_of(found), request)
        assert (rows >= 0).all(), "what was promised lies there"
        self.rig.jobs += 1
        for worker in self.rig.workers:
            given = np.full_like(rows, -1) if fails and worker.rank == 0 else rows
            worker.submit(self.rig.jobs, given, ticket, is_load=True)
            worker.copies.wait([self.rig.jobs])
            assert (fails and worker.rank == 0) or worker.has(found), "and has the right bytes"
        self.loads[request] = self.rig.jobs, found, fails

    @rule(request=_REQUESTS)
    def load_ends(self, request: str) -> None:
        if self.loads.pop(request, None) is not None:
            self._sign_off()
            self.rig.window.complete_load(request)

    def _sign_off(self) -> None:
        for worker in self.rig.workers:
            worker.copies.finished()

    @rule(request=_REQUESTS)
    def request_ends(self, request: str) -> None:
        self.rig.window.forget(request)

    @rule()
    def step(self) -> None:
        self.rig.now_s += 0.3
        self.rig.step()

    @rule()
    def all_is_written(self) -> None:
        self.rig.until(lambda: not self.rig.storage.is_busy)

    @rule()
    def reset(self) -> None:
        self.rig.window.reset()
        self.stores.clear()
        self.loads.clear()

    @rule()
    def restart(self) -> None:
        self.rig.close()
        self.start()

    @rule(number=st.integers(0, 11), at=st.integers(0, 1 << 20))
    def a_file_is_damaged(self, number: int, at: int) -> None:
        for path in (self.folder / "store").glob(f"*/all/*/{key_of(number).hex()[:64]}_g0.kv"):
            content = bytearray(path.read_bytes())
            content[at % len(content)] ^= 0x40
            other = path.with_name(".damaged")
            other.write_bytes(content)
            other.rename(path)

    @invariant()
    def no_slot_is_lost(self) -> None:
        slots = self.rig.window.statistics().slots
        assert slots.free + slots.filling + slots.ready == slots.slots
        assert self.rig.window.statistics().broken_promises == 0

    @invariant()
    def when_all_is_quiet_nothing_is_pinned(self) -> None:
        if self.stores or self.loads:
            return
        self._sign_off()
        for request in "abc":
            self.rig.window.forget(request)
        self.rig.until(lambda: not self.rig.storage.is_busy and not self.rig.window.statistics().abandoned)
        statistics = self.rig.window.statistics()
        assert (statistics.slots.pinned, statistics.slots.filling) == (0, 0)
        assert (statistics.waiting, statistics.held, statistics.transfers) == (0, 0, 0)


TestEngine = pytest.mark.slow(Engine.TestCase)
TestEngine.settings = settings(
    max_examples=examples(30),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
