"""A small fleet of real caches, an atlas, and a hostile network between them, without sockets.

After every step each worker that says EXACT holds what its engine held behind the last batch applied;
in quiet what it holds now; and it must say EXACT where all can be asked for.
"""

from __future__ import annotations

import logging

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.ingest.stream.atlas_world import WEIGHTS, AtlasWorld, tell
from tests.ingest.stream.random_stories import tell_many
from tests.profiles import examples, fresh_seeds

_STORIES = 2_000
_STEPS_MAX = 80
_OFTEN = [name for name, weight in WEIGHTS.items() for _ in range(max(1, round(weight)))]


@pytest.mark.slow
@pytest.mark.native
def test_no_worker_says_exact_and_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    assert tell_many(tell, fresh_seeds(examples(_STORIES)), WEIGHTS, _STEPS_MAX) == examples(_STORIES)


class FleetBehindAHostileNetwork(RuleBasedStateMachine):
    """The same world, told by hypothesis, which looks for trouble in another way."""

    @initialize(seed=st.integers(0, 255))
    def start(self, seed: int) -> None:
        self.world = AtlasWorld(seed)

    @rule(name=st.sampled_from(_OFTEN), number=st.integers(0, (1 << 16) - 1))
    def something_happens(self, name: str, number: int) -> None:
        self.world.take(name, number)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.end()
            finally:
                self.world.close()


TestFleetBehindAHostileNetwork = pytest.mark.slow(pytest.mark.native(FleetBehindAHostileNetwork.TestCase))
TestFleetBehindAHostileNetwork.settings = settings(max_examples=examples(200), stateful_step_count=40)
