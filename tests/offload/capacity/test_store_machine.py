"""Writers, readers, pins, deaths and an evictor on one store, in any order: what must hold always holds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.claims import Claims
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.keeper import LedgerKeeper
from kvatlas.offload.capacity.ledger import Ledger
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.pins import write_pin
from kvatlas.offload.evicting.evictor import Evictor
from tests.offload.capacity.stores_at_hand import bytes_of, key_of, last_used, make_store, put
from tests.profiles import examples

CAP = 256 << 10
LIMITS = CapacityLimits(
    capacity_bytes=CAP, low_share=0.5, lease_s=600.0, dead_s=60.0, crawl_s=3600.0, temporary_s=600.0
)
VALID_S = 30.0


class Writer:
    """A writing process, step by step; its clock can be stopped."""

    def __init__(self, root: Path, space: str) -> None:
        self.now_ns = 0
        self.claims = Claims(VALID_S, lambda: self.now_ns)
        self.keeper = LedgerKeeper(root, LIMITS, self.claims, os.urandom(16), space)
        self.in_flight: list[tuple[bytes, int]] = []

    def age_entry(self, root: Path) -> None:
        """As if it had not been heard of for two minutes."""
        path = root / "control" / "ledger" / f"{self.keeper._entry.name}.json"
        if path.exists():
            last_used(path, 120.0)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp()) / "store"
        self.space = make_store(self.root)
        self.control = ControlFolder(self.root)
        self.told: set[bytes] = set()
        self.evictor = Evictor(self.root, LIMITS, self.tell)
        self.evictor.step()
        self.writers: list[Writer] = []
        self.protected: set[bytes] = set()
        self.written: set[bytes] = set()
        self.next_key = 0

    def teardown(self) -> None:
        self.evictor.close()
        shutil.rmtree(self.root.parent)

    def tell(self, _space: str, keys: Sequence[bytes]) -> None:
        self.told.update(keys)

    def path(self, key: bytes) -> Path:
        return self.space.part_folder / chunk_name(key)

    @initialize(count=st.integers(1, 3))
    def writers_begin(self, count: int) -> None:
        for _ in range(count):
            self.writer_begins()

    @precondition(lambda self: len(self.writers) < 4)
    @rule()
    def writer_begins(self) -> None:
        self.writers.append(Writer(self.root, self.space.name))
        self.writers[-1].keeper.step()

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 3), kb=st.sampled_from([4, 16, 60]), count=st.integers(1, 24))
    def writer_begins_stores(self, which: int, kb: int, count: int) -> None:
        """Where there is no room it asks for more, as it does a period later."""
        writer = self.writers[which % len(self.writers)]
        for _ in range(count):
            if not writer.claims.reserve(kb << 10):
                writer.keeper.step()
            elif len(writer.in_flight) < 100:
                writer.in_flight.append((key_of(self.next_key), kb << 10))
                self.next_key += 1
            else:
                writer.claims.not_stored(kb << 10)

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 3), fails=st.booleans(), age_s=st.sampled_from([0.0, 5_000.0, 10_000.0]))
    def writer_ends_stores(self, which: int, fails: bool, age_s: float) -> None:
        writer = self.writers[which % len(self.writers)]
        for number, (key, n_bytes) in enumerate(writer.in_flight):
            if fails and number % 2:
                writer.claims.not_stored(n_bytes)
                continue
            put(self.space.part_folder, key, n_bytes, age_s=age_s)
            self.written.add(key)
            if age_s == 0.0:
                self.protected.add(key)
            writer.claims.stored(n_bytes)
        writer.in_flight.clear()

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 3))
    def writer_steps(self, which: int) -> None:
        self.writers[which % len(self.writers)].keeper.step()

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 3))
    def writer_dies(self, which: int) -> None:
        """Its stores in flight leave temporary files, or nothing."""
        self.writers.pop(which % len(self.writers)).age_entry(self.root)

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 3))
    def writer_is_paused_for_two_minutes(self, which: int) -> None:
        """With nothing in flight: what was, is over its time limit."""
        writer = self.writers[which % len(self.writers)]
        for _, n_bytes in writer.in_flight:
            writer.claims.not_stored(n_bytes)
        writer.in_flight.clear()
        writer.age_entry(self.root)
        writer.now_ns += int(120e9)

    @precondition(lambda self: self.written)
    @rule(which=st.integers(0, 10_000))
    def reader_uses(self, which: int) -> None:
        key = sorted(self.written)[which % len(self.written)]
        try:
            os.utime(self.path(key))
        except FileNotFoundError:
            return
        self.protected.add(key)

    @precondition(lambda self: self.written)
    @rule(which=st.integers(0, 10_000))
    def pinned(self, which: int) -> None:
        key = sorted(self.written)[which % len(self.written)]
        write_pin(self.control, self.space.name, [key])
        if self.path(key).exists():
            self.protected.add(key)

    @rule()
    def evictor_steps(self) -> None:
        assert self.evictor.step()

    @rule()
    def evictor_is_replaced_and_counts_anew(self) -> None:
        self.evictor.close()
        self.control.usage.unlink()
        self.evictor = Evictor(self.root, LIMITS, self.tell, candidates_max=5)
        self.evictor.step()

    @invariant()
    def the_cap_holds(self) -> None:
        in_flight = sum(n for writer in self.writers for _, n in writer.in_flight)
        assert bytes_of(self.root) + in_flight <= CAP

    @invariant()
    def the_ledger_never_counts_too_little(self) -> None:
        in_flight = sum(n for writer in self.writers for _, n in writer.in_flight)
        assert Ledger(self.control).sums().claimed_bytes >= bytes_of(self.root) + in_flight

    @invariant()
    def what_is_used_or_pinned_stays(self) -> None:
        assert all(self.path(key).exists() for key in self.protected)

    @invariant()
    def what_went_was_told(self) -> None:
        assert {key for key in self.written if not self.path(key).exists()} <= self.told


StoreMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=40)


TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)
