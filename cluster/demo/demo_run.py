"""One run of the demo: the traffic routed one way over the fleet, while an atlas follows it."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from kvatlas.cluster.demo.demo_atlas import DemoAtlas
from kvatlas.cluster.demo.fleet import Fleet, FleetConfig
from kvatlas.cluster.demo.routing import ByScore, Policy, RoundRobin
from kvatlas.cluster.demo.run_report import RequestOutcome, RunReport
from kvatlas.cluster.demo.traffic import TrafficConfig, Turn, generate_turns
from kvatlas.index.scores import Scores


class DemoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is run."""

    fleet: FleetConfig = FleetConfig()
    traffic: TrafficConfig = TrafficConfig()
    settle_each_turn: bool = False
    """Wait for the events of a turn before the next decision. A live system does not: it decides by
    what has arrived, and now and then a prediction is a few events behind its server."""


class DemoRun:
    """A run in progress.

    Turns follow each other at once: decisions are made here, servers work in the fleet's process,
    events cross over meanwhile.
    """

    def __init__(self, config: DemoConfig, policy_name: str, fleet: Fleet, atlas: DemoAtlas) -> None:
        self.config = config
        self.atlas = atlas
        self.report = RunReport(policy_name, config.fleet.pods)
        self.pods = fleet.pods
        self._fleet = fleet
        self._policy = self._make_policy(policy_name)
        self._work = [0] * config.fleet.pods
        self._published: dict[str, int] = {}
        self._events_before = atlas.events()
        self._evictions_before = self._evictions()
        self._started_s = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started_s

    def serve(self, turn: Turn) -> None:
        """Chooses a pod, has it serve the turn, and compares what was predicted with what it reused."""
        started_s = time.perf_counter()
        pod, scores = self._policy.choose(turn.prompt, self._work)
        decision_s = time.perf_counter() - started_s
        if scores is None:
            scores = self.atlas.score(turn.prompt, model=self.config.fleet.model)
        predicted_tokens = self._predicted_tokens(scores, pod, len(turn.prompt))
        served = self._fleet.serve(pod, turn.prompt, turn.answer)
        self._published[self.pods[pod]] = served.batches
        self._work[pod] += len(turn.prompt) - served.cached_tokens + len(turn.answer)
        self.report.add(
            RequestOutcome(
                pod=pod,
                prompt_tokens=len(turn.prompt),
                predicted_tokens=predicted_tokens,
                cached_tokens=served.cached_tokens,
                decision_s=decision_s,
            )
        )

    def settle(self) -> None:
        """Returns when the atlas has taken all that was published. Raises FleetError when it does not."""
        self.atlas.settle(self._published)

    def events(self) -> int:
        """That the atlas has taken in this run."""
        return self.atlas.events() - self._events_before

    def blocks_held(self) -> list[int]:
        """By each pod's cache [n_pods]."""
        return [usage.held_blocks for usage in self._fleet.usage()]

    def finish(self) -> RunReport:
        """The report, with its totals."""
        self.report.seconds = self.elapsed_s
        self.report.events = self.events()
        self.report.evictions = self._evictions() - self._evictions_before
        return self.report

    def _evictions(self) -> int:
        return sum(usage.evictions for usage in self._fleet.usage())

    def _make_policy(self, name: str) -> Policy:
        if name == RoundRobin.name:
            return RoundRobin()
        return ByScore(self.atlas, self.config.fleet.model, self.pods)

    def _predicted_tokens(self, scores: Scores, pod: int, prompt_tokens: int) -> int:
        """What the pod should reuse: the blocks it holds, without the one of the last token.

        A server always computes at least one token, so a prompt is never reused whole.
        """
        block_size = self.config.fleet.block_size_tokens
        blocks = int(scores.get(self.pods[pod], 0.0))  # a block on a GPU scores 1
        return min(blocks, (prompt_tokens - 1) // block_size) * block_size


def run_policy(
    config: DemoConfig, policy_name: str, fleet: Fleet, atlas: DemoAtlas, show: Callable[[DemoRun], None]
) -> RunReport:
    """Drives all the traffic one way, calling `show` after each request.

    Raises FleetError when the fleet or events are lost.
    """
    run = DemoRun(config, policy_name, fleet, atlas)
    for turn in generate_turns(config.traffic):
        run.serve(turn)
        if config.settle_each_turn:
            run.settle()
        show(run)
    run.settle()
    return run.finish()


def empty_caches(fleet: Fleet, atlas: DemoAtlas) -> None:
    """As before the first run; returns when the atlas knows."""
    atlas.settle(dict(zip(fleet.pods, fleet.clear(), strict=True)))
