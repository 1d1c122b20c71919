"""A cluster of two nodes whose processes are killed and paused by chance for CHAOS_SECONDS, under load.

`CHAOS_SEED` repeats a run's choices, as far as a busy machine repeats anything.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.chaos.chaos_cluster import Shape, chaos_cluster
from tests.chaos.rounds import Rounds
from tests.chaos.traffic import Traffic
from tests.cluster.living_fleet import fleet_of

CHAOS_S = float(os.environ.get("CHAOS_SECONDS", "120"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)


@pytest.mark.slow
@pytest.mark.timeout(CHAOS_S + 600)
def test_answers_stay_right_and_heal_whatever_dies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def say(line: str) -> None:
        with capfd.disabled():  # what Ray itself prints of each death is shown where the test fails
            print(line, flush=True)

    shape = Shape.chosen(SEED, tmp_path)
    say(f"\nCHAOS_SEED={SEED} {shape}")
    with (
        fleet_of(3, blocks=1 << 16, seed=SEED, prefix="grows", model="chaos/grows") as growing,
        fleet_of(3, blocks=1 << 9, seed=SEED + 1, prefix="evicts", model="chaos/evicts") as evicting,
        chaos_cluster([growing, evicting], shape) as chaos,
    ):
        growing.serve(40)
        evicting.serve(40)
        traffic = Traffic(growing, evicting, SEED)
        traffic.start()
        rounds = Rounds(chaos, traffic, SEED, say)
        ends_s = time.monotonic() + CHAOS_S
        try:
            while time.monotonic() < ends_s:
                rounds.run_one()
        finally:
            traffic.stop()
            if rounds.done:
                say(rounds.report())
        for fleet in (growing, evicting):
            fleet.wait_agreed(chaos.client)
