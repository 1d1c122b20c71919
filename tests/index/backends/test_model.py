"""Any history of calls, beside a table of dicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.harness import Harness
from tests.index.backends.telling import Keys, blocks, cleared, enroll, held, packed, runs, tell
from tests.models.table import ADD, CLEAR_LANE, OPEN, REMOVE, NaiveTable, Record
from tests.models.world import CPU, GPU, STORAGE, chain

STEM = chain(130, 150)
CHAINS: list[Keys] = [STEM, np.concatenate([STEM, chain(140, 151)]), chain(3, 152)]
LANES = [0, 1, 64, 65_534]

lanes = st.sampled_from(LANES)


@st.composite
def changes(draw: st.DrawFn) -> list[Record]:
    """Some blocks of one chain come or go, a record a segment."""
    keys = draw(st.sampled_from(CHAINS))
    end = draw(st.integers(1, len(keys)))
    first = draw(st.sampled_from([0, 0, end // 2, end - 1]))
    tier = draw(st.sampled_from([GPU, GPU, CPU, STORAGE, GPU | CPU]))
    return blocks(draw(st.sampled_from([ADD, ADD, REMOVE])), draw(lanes), keys[:end], tier, first)


marks = st.builds(Record, st.sampled_from([CLEAR_LANE, OPEN]), lanes, st.just(0)).map(lambda mark: [mark])
histories = st.lists(changes() | changes() | marks, max_size=4).map(
    lambda parts: [record for part in parts for record in part]
)


class Histories(RuleBasedStateMachine):
    harness: Harness

    def __init__(self) -> None:
        super().__init__()
        self.index: BlockIndex = self.harness.make()
        enroll(self.index, *LANES)
        self.model = NaiveTable()

    @rule(records=histories)
    def apply(self, records: list[Record]) -> None:
        tell(self.index, *records)
        for record in records:
            self.model.apply(record)

    @rule(lane=lanes)
    def remove_lane(self, lane: int) -> None:
        self.index.remove_lane(lane)
        self.model.apply(cleared(lane))

    @rule(replaced=st.sets(lanes, min_size=1), records=histories)
    def replace(self, replaced: set[int], records: list[Record]) -> None:
        fitting = [record for record in records if record.lane in replaced]
        self.index.replace(sorted(replaced), packed(fitting))
        self.model.replace(replaced, fitting)

    @rule()
    def load_its_own_export(self) -> None:
        self.index.load(list(self.index.export()))

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        for keys in CHAINS:
            assert held(self.index, keys) == self.model.lookup(keys.tolist())
            assert runs(self.index.match(keys)) == self._runs(keys)

    def _runs(self, keys: Keys) -> dict[int, int]:
        found = self.model.lookup(keys.tolist())
        ends = {lane: next((n for n, at in enumerate(found) if lane not in at), len(keys)) for lane in LANES}
        return {lane: end for lane, end in ends.items() if end}

    def teardown(self) -> None:
        self.index.close()


@pytest.mark.slow
def test_any_history_leaves_what_it_leaves_in_dicts(harness: Harness) -> None:
    kind = type("Machine", (Histories,), {"harness": harness})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=min(harness.histories, settings().max_examples),
            stateful_step_count=min(20, settings().stateful_step_count),
            suppress_health_check=[HealthCheck.too_slow],
            deadline=None,
        ),
    )
