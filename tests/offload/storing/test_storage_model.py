"""Storage beside a model: whatever happens in whatever order, it never claims what is not so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvatlas.offload.backends.backend import Outcome
from kvatlas.offload.storing.known import PRESENT
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Storage
from tests.offload.storing.scripted_backend import KEY_BYTES, ROW_BYTES, ScriptedBackend, key_of

NUMBERS = st.integers(0, 11)
SOME = st.lists(NUMBERS, min_size=1, max_size=6, unique=True)
BAD = st.sampled_from([one for one in Outcome if one not in (Outcome.OK, Outcome.PRESENT)])


class StorageMachine(RuleBasedStateMachine):
    """The world evicts and fails as it likes; `told` is what a listener believes the store to have."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ScriptedBackend()
        self.now_s = 0.0
        settings = StorageSettings(root="memory", inventory=False, breaker_failures=4, catalogue_entries=16)
        self.storage = Storage(
            self.store, settings, key_bytes=KEY_BYTES, row_bytes=ROW_BYTES, clock=lambda: self.now_s
        )
        self.next_job = 0
        self.open_jobs: dict[int, tuple[bool, list[bytes]]] = {}
        self.ever_written: set[bytes] = set()
        self.told: set[bytes] = set()

    def begin(self, is_load: bool, numbers: list[int]) -> None:
        keys = [key_of(number) for number in numbers]
        self.open_jobs[self.next_job] = (is_load, keys)
        rows = np.array(numbers, np.int32)
        (self.storage.load if is_load else self.storage.store)(self.next_job, keys, rows)
        self.next_job += 1

    @rule(numbers=SOME)
    def look_up(self, numbers: list[int]) -> None:
        states = [self.storage.lookup(key_of(number)) for number in numbers]
        present = [number for number, state in zip(numbers, states, strict=True) if state == PRESENT]
        if present:
            self.begin(True, present)

    @rule(numbers=SOME)
    def write(self, numbers: list[int]) -> None:
        for number in numbers:
            self.store.memory[number] = number + 1
        self.begin(False, numbers)

    @rule(most=st.integers(1, 4))
    def some_jobs_end(self, most: int) -> None:
        self.store.run(most)

    @rule(number=NUMBERS, outcome=BAD)
    def a_key_fails(self, number: int, outcome: Outcome) -> None:
        self.store.outcomes[key_of(number)] = outcome

    @rule(outcome=st.sampled_from([Outcome.FAILED, Outcome.TIMED_OUT, Outcome.NO_SPACE]))
    def everything_fails(self, outcome: Outcome) -> None:
        self.store.fails_with = outcome

    @rule()
    def nothing_fails(self) -> None:
        self.store.outcomes.clear()
        self.store.fails_with = None
        self.store.is_full, self.store.takes_jobs = False, True

    @rule(is_full=st.booleans(), takes_jobs=st.booleans())
    def there_is_no_room(self, is_full: bool, takes_jobs: bool) -> None:
        self.store.is_full, self.store.takes_jobs = is_full, takes_jobs

    @rule(number=NUMBERS, is_ours=st.booleans())
    def a_file_goes(self, number: int, is_ours: bool) -> None:
        if key_of(number) in self.store.files:
            if is_ours:
                self.store.evict(key_of(number))
            else:
                del self.store.files[key_of(number)]

    @rule(seconds=st.floats(0.0, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def step_ends(self) -> None:
        self.storage.end_step()

    @rule()
    def take_in(self) -> None:
        self.store.run()
        for done in self.storage.finished():
            is_load, keys = self.open_jobs.pop(done.job)
            assert done.is_load == is_load
            assert sorted([*done.ok, *done.failed]) == sorted(keys)
            if not is_load:
                self.ever_written.update(done.ok)
        for announcement in self.storage.take_announcements():
            if announcement.is_removal:
                self.told.difference_update(announcement.keys)
            else:
                assert self.ever_written.issuperset(announcement.keys)
                self.told.update(announcement.keys)

    @rule()
    def quiet(self) -> None:
        """The store is well for long; whatever was asked is answered, and presence is believed again."""
        self.nothing_fails()
        for _ in range(4):
            self.now_s += 200.0
            self.storage.lookup(key_of(0))
            self.storage.end_step()
            self.take_in()
        assert not self.open_jobs and not self.storage.statistics().is_down
        assert self.storage.statistics().write_queue_bytes == 0

    @invariant()
    def counts_add_up(self) -> None:
        statistics = self.storage.statistics()
        assert statistics.write_queue_bytes >= 0
        assert statistics.jobs == len(self.store.waiting) + len(self.store.ended)


TestStorage = pytest.mark.slow(StorageMachine.TestCase)
