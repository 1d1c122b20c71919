"""A fleet in simulated time: requests arrive, are chosen for by a real chooser over a real atlas, and
take as long as their servers take. Minutes pass in seconds.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import OverloadedError
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.simulator.request import PromptIds
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.simulator.timed_server import Pace, TimedRequest, TimedServer

MODEL = "simulated/model"


class Arrival(NamedTuple):
    """A request, and when it comes."""

    at_s: float
    token_ids: PromptIds
    output_tokens: int
    session: str = ""
    answer: Sequence[int] = ()


class Served(NamedTuple):
    """What became of a request."""

    pod: str
    arrived_s: float
    ttft_s: float
    total_s: float
    prompt_tokens: int
    cached_tokens: int
    predicted_tokens: int


class TimedFleetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet is like."""

    pods: int = 8
    blocks: int = 1024
    """Of each pod's cache."""
    block_size: int = 16
    pace: Pace = Pace()
    paces: Mapping[str, Pace] = {}
    """Of pods that are faster or slower than the others, by name (pod0, pod1, ...)."""
    event_delay_s: float = 0.05
    """From the end of a step until its events are in the index."""
    without_events: Collection[str] = ()
    """Pods that publish nothing."""


class TimedFleet:
    """Pods, atlas, chooser and clock. Not safe to call from several threads at once."""

    def __init__(self, options: TimedFleetOptions, choosing: ChoosingConfig) -> None:
        self.options = options
        self.now_s = 1000.0
        self.served: list[Served] = []
        self.refused = 0
        """Times that a request was told to come again later."""
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._seqs = dict.fromkeys(self.pod_names, 0)
        self._chosen: dict[TimedRequest, tuple[str, int]] = {}
        self._ids = itertools.count()
        self.atlas = Atlas(AtlasConfig(hash_seed="simulated"), clock_s=lambda: self.now_s)
        self.pods = {pod: self._pod(pod) for pod in self.pod_names}
        self.chooser = Chooser(self.atlas, choosing, clock_s=lambda: self.now_s)

    @property
    def pod_names(self) -> list[str]:
        return [f"pod{number}" for number in range(self.options.pods)]

    def run(self, arrivals: Iterable[Arrival]) -> list[Served]:
        """Until all of them are served; the clock goes on from where it stands."""
        began_s = self.now_s
        for arrival in arrivals:
            at_s = began_s + arrival.at_s
            self._at(at_s, functools.partial(self._arrive, arrival, at_s))
        while self._due:
            self.now_s, _, happen = heapq.heappop(self._due)
            happen()
        return self.served

    def close(self) -> None:
        self.atlas.close()

    def _pod(self, pod: str) -> TimedServer:
        options = self.options
        pace = options.paces.get(pod, options.pace)
        server = SimulatedServer(pod, MODEL, block_size=options.block_size, blocks=options.blocks)
        if pod not in options.without_events:  # an idle server's first words: it holds nothing
            server.reset()
            self._ingest(pod, server.step() or b"")
        serving = Serving(
            kv_tokens_max=(options.blocks - 1) * options.block_size, requests_max=pace.requests_max
        )
        self.atlas.set_serving(pod, ServingPod(pod=pod, model=MODEL, serving=serving))
        return TimedServer(server, pace)

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), happen))

    def _arrive(self, arrival: Arrival, arrived_s: float) -> None:
        request_id = f"request {next(self._ids)}"
        ids = np.asarray(arrival.token_ids, np.uint32)
        try:
            choice = self.chooser.choose(
                ids,
                model=MODEL,
                request_id=request_id,
                session=arrival.session,
                output_tokens=arrival.output_tokens,
            )
        except OverloadedError as error:
            self.refused += 1
            wait_s = max(error.retry_after_s or 0.0, 0.05)
            self._at(self.now_s + wait_s, lambda: self._arrive(arrival, arrived_s))
            return
        request = TimedRequest(
            request_id, arrival.token_ids, max(arrival.output_tokens, 1), arrived_s, arrival.answer
        )
        self._chosen[request] = choice.pod, choice.cached_tokens
        pod = self.pods[choice.pod]
        expected_s = pod.ends_s
        pod.add(request, self.now_s)
        if pod.ends_s != expected_s:
            self._await_step(choice.pod)

    def _await_step(self, name: str) -> None:
        ends_s = self.pods[name].ends_s
        if ends_s < math.inf:
            self._at(ends_s, lambda: self._end_step(name, ends_s))

    def _end_step(self, name: str, expected_s: float) -> None:
        pod = self.pods[name]
        if pod.ends_s != expected_s:  # a request has cut the step short
            return
        prefilled, finished, payload = pod.end_step()
        if payload is not None and name not in self.options.without_events:
            self._at(self.now_s + self.options.event_delay_s, lambda: self._ingest(name, payload))
        for request in prefilled:
            self.chooser.prefill_done(request.request_id)
        for request in finished:
            self._finish(request)
        self._await_step(name)

    def _finish(self, request: TimedRequest) -> None:
        pod, predicted = self._chosen.pop(request)
        self.chooser.completed(
            request.request_id, cached_tokens=request.cached_tokens, output_tokens=request.output_tokens
        )
        self.served.append(
            Served(
                pod,
                request.arrived_s,
                request.first_token_s - request.arrived_s,
                request.finished_s - request.arrived_s,
                len(request.token_ids),
                request.cached_tokens,
                predicted,
            )
        )

    def _ingest(self, pod: str, payload: bytes) -> None:
        seq, self._seqs[pod] = self._seqs[pod], self._seqs[pod] + 1
        self.atlas.ingest(f"kv@{pod}@{MODEL}".encode(), seq, payload)
