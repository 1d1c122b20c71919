"""What is heard of requests after they were given a replica, booked with the chooser.

Ray's LLMRouter hands it over: the news of engines, and the choices of other LLMRouters.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvatlas.cluster.serve.fleets import Fleet
from kvatlas.cluster.serve.llm import reports, seams
from kvatlas.cluster.serve.llm.open_requests import Given, OpenRequests
from kvatlas.cluster.serve.llm.routing_statistics import RoutingCounts
from kvatlas.index.errors import KvatlasError

_log = logging.getLogger(__name__)


class Bookkeeping:
    """Keeps the chooser's loads true, by what engines and peers tell. Any thread; nothing waits for long.

    Choices come from the loop of Ray's routers, news from the LLMRouter's own. `tell_peers` hands a choice to
    Ray's broadcast, which reaches every LLMRouter; `source` marks ours in it. Where the fleet shares its
    loads itself, nothing is told.
    """

    def __init__(
        self,
        fleet: Fleet,
        counts: RoutingCounts,
        *,
        model: str,
        requests_max: int,
        arrival_s_max: float,
        source: int | None,
        tell_peers: Callable[[Mapping[str, Any]], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.open = OpenRequests(requests_max, arrival_s_max, clock_s)
        self._fleet = fleet
        self._model = model
        self._counts = counts
        self._source = source
        self._tell_peers = tell_peers
        self._requests_max = requests_max
        self._figures: OrderedDict[str, tuple[int | None, int | None]] = OrderedDict()
        self._lock = threading.Lock()
        self.pods: frozenset[str] = frozenset()

    def note(self, given: Given) -> None:
        """A choice was made here."""
        if not given.request_id:
            return
        with self._lock:
            self._counts.duplicates += self.open.has(given.request_id)
            self.open.give(given)
        if not self._fleet.shares_loads:
            self._tell_peers(_told(given, self._source))

    def follow(self, pods: frozenset[str]) -> None:
        """These are all replicas that there are; what others were given has ended."""
        with self._lock:
            ended = [given for pod in self.pods - pods for given in self.open.gone(pod)]
            self.pods = pods
        for given in ended:
            self._fail(given, "its replica is gone")

    def give_up_lost(self) -> None:
        """What has not arrived in time is no load any more."""
        with self._lock:
            lost = self.open.never_arrived()
            self._counts.never_arrived += len(lost)
        for given in lost:
            self._fail(given, "it never arrived")

    async def on_events(self, events: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Of one replica's requests, in their order; in place of `KVTokenTracker.on_lifecycle_events`."""
        self.give_up_lost()
        for name, arguments in events:
            try:
                with self._lock:
                    self._on_event(name, *arguments)
            except (KvatlasError, TypeError, ValueError) as error:  # the others count all the same
                self._counts.bad_events += 1
                _log.debug("%s%r: %s", name, tuple(arguments), error)

    async def on_reservations(self, reservations: Sequence[Mapping[str, Any]]) -> None:
        """Choices of other LLMRouters, and our own that come back; in place of
        `KVTokenTracker.on_reservations_created`."""
        if self._fleet.shares_loads:
            return
        for told in reservations:
            if told["source_ingress_replica_rank"] != self._source:
                with self._lock:
                    self._on_peers_choice(_heard(told))

    def _on_peers_choice(self, given: Given) -> None:
        request_id = given.request_id
        if self.open.has(request_id) or self.open.has_ended(request_id):
            return
        if given.pod in self.pods and self._adopt(given):
            self.open.give(given)
            self._counts.adopted += 1

    def _on_event(self, name: str, request_id: str, *figures: Any) -> None:
        if name == reports.ARRIVED:
            self._on_arrival(request_id, *figures)
        elif name == reports.ENDED:
            self._keep_figures(request_id, *figures)
        elif name == seams.COMPLETED:
            self._on_end(request_id)
        elif not self.open.has(request_id):
            self._counts.not_ours += 1
        elif name == seams.PREFILLED:
            self._chooser_says("prefill_done", request_id)
        elif name == seams.PROGRESSED:
            self._chooser_says("produced", request_id, *figures)
        else:
            raise ValueError(f"event: expected one of Ray's or ours, got {name!r:.80}")

    def _on_arrival(self, request_id: str, pod: str) -> None:
        given = self.open.arrived(request_id, pod)
        if given is None:
            self._counts.not_ours += not self.open.has(request_id)  # else one more prompt of a batch
            return
        is_late, given.was_given_up = given.was_given_up, False
        self._counts.late_arrivals += is_late
        if given.pod != pod:
            self._counts.moved += 1
            if not is_late:
                self._fail(given, "another replica has it")
            self.open.moved(given, pod)
        elif not is_late:
            return
        self._adopt(given)

    def _keep_figures(
        self, request_id: str, pod: str, cached_tokens: int | None, output_tokens: int | None
    ) -> None:
        """Ray's word of the end follows it, and acts."""
        self._figures[request_id] = (cached_tokens, output_tokens)
        if len(self._figures) > self._requests_max:
            self._figures.popitem(last=False)

    def _on_end(self, request_id: str) -> None:
        cached_tokens, output_tokens = self._figures.pop(request_id, (None, None))
        is_ours = self.open.has(request_id)
        given = self.open.ended(request_id)
        if given is None:
            self._counts.not_ours += not is_ours
            return
        self._counts.completed += given.is_own
        if cached_tokens is not None and given.is_own:
            self._counts.predicted_tokens += given.cached_tokens
            self._counts.cached_tokens += cached_tokens
        self._chooser_says("completed", request_id, cached_tokens=cached_tokens, output_tokens=output_tokens)

    def _fail(self, given: Given, why: str) -> None:
        self._chooser_says("failed", given.request_id, why)

    def _adopt(self, given: Given) -> bool:
        return self._chooser_says(
            "adopt",
            given.request_id,
            given.pod,
            given.rank,
            model=self._model,
            prompt_tokens=given.prompt_tokens,
            cached_tokens=given.cached_tokens,
            output_tokens=given.output_tokens,
        )

    def _chooser_says(self, method: str, *arguments: Any, **named: Any) -> bool:
        chooser = self._fleet.chooser
        return chooser is not None and bool(getattr(chooser, method)(*arguments, **named))


def _told(given: Given, source: int | None) -> dict[str, Any]:
    """A choice, in the shape of Ray's own reservations, with the pod's name in place of its number."""
    return {
        "request_id": given.request_id,
        "source_ingress_replica_rank": source,
        "pod": given.pod,
        "dp_rank": given.rank,
        "isl_tokens": given.prompt_tokens,
        "expected_output_tokens": given.output_tokens,
        "effective_prefill_tokens": given.prompt_tokens - given.cached_tokens,
    }


def _heard(told: Mapping[str, Any]) -> Given:
    tokens = told["isl_tokens"]
    return Given(
        request_id=told["request_id"],
        pod=told["pod"],
        rank=told["dp_rank"],
        prompt_tokens=tokens,
        cached_tokens=tokens - told["effective_prefill_tokens"],
        output_tokens=told["expected_output_tokens"],
        is_own=False,
    )
