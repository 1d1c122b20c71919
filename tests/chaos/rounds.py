"""Rounds of chaos: faults, then quiet, and what was measured of each."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import ray
from ray.exceptions import RayError

from kvatlas.index.errors import KvatlasError
from kvatlas.index.scores import Scores
from tests.chaos.chaos_cluster import ChaosCluster
from tests.chaos.contents import content_differences
from tests.chaos.faults import Faults
from tests.chaos.traffic import Traffic
from tests.chaos.witnesses import FarAnswers, Witness, far_asker
from tests.cluster.asker import Asker
from tests.cluster.living_fleet import Fleet, wait_until

UP_S = 150.0
HUNG_S = 60.0
"""Neither is what is measured: beyond them a process does not come, or a doubt does not heal."""
BEHIND_S_MAX = 30.0
ANSWER_S_MAX = 20.0
"""Far more than answers take: it was waited for something."""
_SAMPLE = 60


class Round(NamedTuple):
    """What one round has shown."""

    number: int
    faults: list[str]
    up_s: float
    """From the last fault until all processes were up."""
    healed_s: float
    """From then until all answers were exact."""
    near_s: float
    """The longest that an answer took, here."""
    far_s: float
    """The same, in the other process."""
    partial: float
    """Share of the answers that were not whole."""
    behind_s: float

    def __str__(self) -> str:
        return (
            f"round {self.number:3}  up {self.up_s:5.1f} s  healed {self.healed_s:5.1f} s  "
            f"longest answers {self.near_s:5.3f} and {self.far_s:5.3f} s  partial {self.partial:4.0%}  "
            f"behind {self.behind_s:4.1f} s  {'; '.join(self.faults)}"
        )


class Rounds:
    """Disturbs a cluster again and again, and holds it against its servers."""

    def __init__(self, chaos: ChaosCluster, traffic: Traffic, seed: int, say: Callable[[str], None]) -> None:
        """`say`: where each round is told of."""
        self._chaos = chaos
        self._say = say
        self._traffic = traffic
        self._seed = seed
        self._far = far_asker(chaos.client)
        self.done: list[Round] = []

    def run_one(self) -> None:
        """Raises AssertionError where something is wrong or does not heal."""
        number = len(self.done)
        chance = random.Random(f"{self._seed}-{number}")
        growing, client = self._traffic.growing, self._chaos.client
        far_prompts = growing.sample(10)
        told = self._far.ask.remote(far_prompts, growing.model)
        with Asker(client, growing) as asker, Witness(client, self._traffic) as witness:
            faults = Faults(self._chaos, self._traffic, chance).some()
            self._say(f"round {number}: {'; '.join(faults)}")
            self._chaos.add_node()
            up_s = wait_until(lambda: not self._chaos.missing(), UP_S, self._chaos.missing)
            self._traffic.pause()
            healed_s = self._heal()
        ray.get(self._far.stop.remote())
        far: FarAnswers = ray.get(told)
        assert (asker.wrong[:3], witness.wrong[:3], far.errors[:3]) == ([], [], [])
        assert self._traffic.failed == []
        _check_far(far, far_prompts, growing)
        assert witness.behind_s_max < BEHIND_S_MAX
        answers, partial = asker.answers + far.answers, asker.partial + far.partial
        assert asker.answers and far.answers and max(asker.pause_s_max, far.pause_s_max) < ANSWER_S_MAX
        found = Round(
            number,
            faults,
            up_s,
            healed_s,
            asker.pause_s_max,
            far.pause_s_max,
            partial / answers,
            witness.behind_s_max,
        )
        self.done.append(found)
        self._say(str(found))
        self._traffic.go()

    def _heal(self) -> float:
        """Seconds until both fleets' answers are what their servers would do."""
        began_s = time.monotonic()
        for fleet in (self._traffic.growing, self._traffic.evicting):
            sample = [*fleet.sample(_SAMPLE), *fleet.prompts[-10:]]
            wait_until(
                lambda fleet=fleet, sample=sample: not fleet.differences(self._chaos.client, sample),  # type: ignore[misc]
                HUNG_S,
                lambda fleet=fleet, sample=sample: self._why(fleet, sample),  # type: ignore[misc]
            )
        healed_s = time.monotonic() - began_s
        for fleet in (self._traffic.growing, self._traffic.evicting):
            prompts = [*fleet.sample(_SAMPLE), *fleet.prompts[-10:]]
            assert content_differences(self._chaos.client, fleet, prompts)[:5] == []
        wait_until(self._scorer_agrees, HUNG_S, self._chaos.client.status)
        return healed_s

    def _scorer_agrees(self) -> bool:
        """A scorer says what a client says."""
        client, growing = self._chaos.client, self._traffic.growing
        prompt = growing.prompts[-1]
        try:
            said: Scores = ray.get(client.scorer(0).score.remote(prompt, model=growing.model), timeout=5.0)
        except (RayError, KvatlasError):
            return False
        return said.is_whole and dict(said) == dict(client.score(prompt, model=growing.model))

    def _why(self, fleet: Fleet, sample: list[list[int]]) -> object:
        client = self._chaos.client
        doubts = [(view.pod, view.state, view.doubts) for view in client.pods() if view.state != "EXACT"]
        return fleet.differences(client, sample)[:3], doubts, client.reading(), client.status()

    def report(self) -> str:
        """Of all rounds."""
        lines = [f"seed {self._seed}, {len(self.done)} rounds", "", "| | median | max |", "|---|---:|---:|"]
        for name in ("up_s", "healed_s", "near_s", "far_s", "behind_s"):
            values = [getattr(one, name) for one in self.done]
            lines.append(f"| {name[:-2]} (s) | {statistics.median(values):.3f} | {max(values):.3f} |")
        shares = [one.partial for one in self.done]
        lines.append(f"| partial answers | {statistics.median(shares):.1%} | {max(shares):.1%} |")
        return "\n".join(lines)


def _check_far(far: FarAnswers, prompts: list[list[int]], fleet: Fleet) -> None:
    for prompt, most in zip(prompts, far.most, strict=True):
        truth = fleet.truth(prompt)
        assert all(tokens <= truth.get(pod, 0) for pod, tokens in most.items()), (most, truth)
