"""A simulated model server that takes time: requests wait, are prefilled in chunks, and decode in batches.

Its cache and its events are a `SimulatedServer`'s. Time is the caller's: it asks when the step at hand
ends (`ends_s`), and ends it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.request import PromptIds, SimulatedRequest
from kvatlas.ingest.simulator.server import SimulatedServer

_STEPS_AT_ONCE = 8
"""Steps that only decode are made so many at a time, unless a request comes: a simulation then takes an
eighth of the time."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a server works. The defaults are those of a model of some 30 billion weights on one H100."""

    prefill_tokens_per_s: float = 8000.0
    step_s: float = 0.015
    """Of every step, however little there is to do."""
    held_token_s: float = 1.2e-7
    """Of a step, for each token in the caches of the requests that it decodes."""
    step_tokens_max: int = 4096
    """Computed in one step."""
    requests_max: int = 128
    """Worked on at a time; more wait."""

    def __post_init__(self) -> None:
        if min(self.prefill_tokens_per_s, self.step_s) <= 0 or self.held_token_s < 0:
            raise ConfigError(f"pace: expected times and rates above 0, got {self}")
        if min(self.step_tokens_max, self.requests_max) < 1:
            raise ConfigError(f"pace: expected at least one request and token a step, got {self}")


@dataclass(slots=True, eq=False)
class TimedRequest:
    """One request, and what became of it."""

    request_id: str
    token_ids: PromptIds
    output_tokens: int
    """At least one."""
    arrived_s: float
    answer: Sequence[int] = ()
    """What it leaves in the cache behind the prompt when it is done."""
    cached_tokens: int = 0
    first_token_s: float = inf
    finished_s: float = inf
    to_prefill: int = 0
    produced: int = 0
    engine: SimulatedRequest | None = None


class TimedServer:
    """One worker. Not safe to call from several threads at once."""

    def __init__(self, server: SimulatedServer, pace: Pace) -> None:
        self.server = server
        self.pace = pace
        self.ends_s = inf
        """When the step at hand ends; inf: idle. `add` may change it."""
        self.busy_s = 0.0
        self._waiting: deque[TimedRequest] = deque()
        self._prefilling: list[TimedRequest] = []
        self._decoding: list[TimedRequest] = []
        self._steps = 1
        """That end together."""
        self._step_s = 0.0

    def add(self, request: TimedRequest, now_s: float) -> None:
        """It waits for the next step."""
        self._waiting.append(request)
        if self.ends_s == inf:
            self._begin_step(now_s)
        elif self._steps > 1:
            self._cut_steps(now_s)

    def _cut_steps(self, now_s: float) -> None:
        """Only those that have begun."""
        left = max(0, math.floor((self.ends_s - now_s) / self._step_s))
        left = min(left, self._steps - 1)
        self._steps -= left
        self.ends_s -= left * self._step_s
        self.busy_s -= left * self._step_s

    def end_step(self) -> tuple[list[TimedRequest], list[TimedRequest], bytes | None]:
        """The step at hand ends and the next one begins: prefilled and finished requests, events' payload."""
        now_s = self.ends_s
        finished = self._end_decoding(now_s)
        prefilled = [request for request in self._prefilling if request.to_prefill == 0]
        for request in prefilled:
            request.first_token_s = now_s
            request.produced = 1
        self._prefilling = [request for request in self._prefilling if request.to_prefill]
        self._decoding += prefilled
        payload = self.server.step()
        self._begin_step(now_s)
        return prefilled, finished, payload

    def _end_decoding(self, now_s: float) -> list[TimedRequest]:
        for request in self._decoding:
            request.produced += self._steps
        finished = [request for request in self._decoding if request.produced >= request.output_tokens]
        self._decoding = [request for request in self._decoding if request.produced < request.output_tokens]
        for request in finished:
            request.finished_s = now_s
            self._leave(request)
        return finished

    def _leave(self, request: TimedRequest) -> None:
        assert request.engine is not None
        try:
            if request.answer:
                self.server.decode(request.engine, request.answer)
        except OutOfBlocksError:  # the answer is not kept
            pass
        self.server.finish(request.engine)
        request.engine = None

    def _begin_step(self, now_s: float) -> None:
        pace = self.pace
        budget = pace.step_tokens_max - len(self._decoding)
        computed = 0
        for request in self._prefilling:
            computed += self._compute(request, budget - computed)
        while self._waiting and computed < budget and self._running < pace.requests_max:
            request = self._waiting[0]
            if not self._admit(request):
                break
            self._waiting.popleft()
            computed += self._compute(request, budget - computed)
        if not self._running:
            self.ends_s = inf
            return
        held = sum(len(request.token_ids) + request.produced for request in self._decoding)
        self._steps = 1 if self._prefilling else _STEPS_AT_ONCE
        self._step_s = pace.step_s + held * pace.held_token_s
        took_s = self._step_s * self._steps + computed / pace.prefill_tokens_per_s
        self.busy_s += took_s
        self.ends_s = now_s + took_s

    @property
    def _running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    def _compute(self, request: TimedRequest, budget: int) -> int:
        tokens = min(request.to_prefill, max(budget, 0))
        request.to_prefill -= tokens
        return tokens

    def _admit(self, request: TimedRequest) -> bool:
        """False: there is no room beside the others. Raises OutOfBlocksError where there never is."""
        try:
            request.engine = self.server.prefill(request.token_ids)
        except OutOfBlocksError:
            if self._running == 0:
                raise
            return False
        request.cached_tokens = request.engine.cached_tokens
        request.to_prefill = len(request.token_ids) - request.cached_tokens
        self._prefilling.append(request)
        return True
