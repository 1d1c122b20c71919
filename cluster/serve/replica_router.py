"""Routes the calls of a Serve deployment to the replicas that hold their prompts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from kvatlas.cluster.serve.replicas.flights import Flight, Flights
from kvatlas.cluster.serve.replicas.replica_pods import ReplicaPods, pod_name
from kvatlas.cluster.serve.replicas.scoring import Scored, Scoring
from kvatlas.cluster.serve.replicas.tally import RouterStatistics, Tally
from kvatlas.cluster.serve.sharing import remember
from kvatlas.index.errors import OverloadedError
from kvatlas.index.scores import Worker


class KvatlasReplicaRouter(RequestRouter):
    """The cheapest replica first, by the prompt's tokens that it cannot reuse and what it has to do already.

    One group a replica, in the order of their costs, ties by chance. A call that cannot be scored goes to
    the replica with the fewest, and `statistics` says why. Replicas become pods by what they record
    (`KvatlasReplica`); a thread follows their events, and Serve's event loop waits for nothing.

    A call counts as its replica's load from when that stands first, since Serve may route hundreds of
    waiting calls before it sends the first of them. It is moved where Serve picks another, freed where it is
    refused or given up, and ends with the call. Nothing here raises: Serve would leave the call hanging.
    """

    def initialize_state(self, **settings: Any) -> None:
        """`settings`: the fields of `ReplicaRouterConfig`. Wrong ones are logged, and calls go by load."""
        deployment = self._deployment_id
        self._tally = Tally()
        self._scoring = Scoring(
            f"{deployment.app_name}#{deployment.name}",
            settings,
            self._tally,
            is_proxy=self._handle_source.name == "PROXY",
        )
        config = self._scoring.config
        self._pods = ReplicaPods(deployment.app_name, deployment.name, config.model)
        self._flights = Flights(config.unrouted_s, config.flights_max)
        self._by_pod: dict[str, RunningReplica] = {}
        self.name = deployment.name
        """Of the deployment."""
        remember(self)

    def statistics(self) -> RouterStatistics:
        """What it has done since the start."""
        return self._tally.statistics(len(self._flights))

    # What Serve calls.

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._follow()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._follow()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [[replica] for replica in self._by_load(candidate_replicas)]
        began_ns = time.perf_counter_ns()
        # Else Serve asks again at once, without a pause, until somebody has room.
        pending_request.routing_context.should_backoff = True
        self._clear(pending_request)
        order = await self._order(candidate_replicas, pending_request)
        self._tally.took_ns("choose", time.perf_counter_ns() - began_ns)
        return [[replica] for replica in order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        began_ns = time.perf_counter_ns()
        flight = self._flights.of(pending_request.future)
        if flight is None:
            self._tally.count("routed_late")
        else:
            self._move(flight, pod_name(replica_id))
            self._flights.routed(flight)
            if flight.scored is not None:
                self._scoring.runs(flight.request_id, flight.pod, flight.scored)
                flight.scored = None
        self._tally.took_ns("routed", time.perf_counter_ns() - began_ns)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        began_ns = time.perf_counter_ns()
        flight = self._flights.oldest(internal_request_id, pod_name(replica_id))
        if flight is not None:
            is_refused = not flight.is_routed and self._is_full(replica_id)
            self._end(flight, "refused" if is_refused else "")
        self._tally.took_ns("completed", time.perf_counter_ns() - began_ns)

    def _get_pending_request_matching_internal_request_id(
        self, request_metadata: Any = None
    ) -> PendingRequest | None:
        """Calls that one request makes at a time share an id by which Serve finds but one of them; the
        others would wait for ever."""
        if request_metadata is not None:
            flight = self._flights.undecided(request_metadata)
            if flight is not None:
                return flight.pending
        found: PendingRequest | None = super()._get_pending_request_matching_internal_request_id(
            request_metadata
        )
        return found

    # The order of replicas.

    async def _order(
        self, candidates: list[RunningReplica], pending: PendingRequest
    ) -> Sequence[RunningReplica]:
        """Best first. Empty: all are saturated, and Serve comes again."""
        try:
            scored = await self._scoring.ranking(
                pending,
                request_id=self._flights.name(pending.metadata.request_id),
                model=self._pods.model,
                labels=self._pods.labels,
            )
        except OverloadedError as error:
            self._tally.count("saturated", str(error))
            return ()
        ranks = _best_ranks(scored.ranking.workers) if scored is not None else {}
        by_pod = self._by_pod
        order = [by_pod[pod] for pod in ranks if pod in by_pod]
        if len(order) < len(candidates):
            others = {replica.replica_id for replica in order}
            order += self._by_load(one for one in candidates if one.replica_id not in others)
        if order:
            first = pod_name(order[0].replica_id)
            self._depart(pending, first, ranks.get(first), scored)
        return order

    def _by_load(self, replicas: Iterable[RunningReplica]) -> list[RunningReplica]:
        """The one with the fewest calls first, ties by chance; Serve knows those of other routers."""
        shuffled = list(replicas)
        random.shuffle(shuffled)
        return sorted(shuffled, key=self._load)

    def _load(self, replica: RunningReplica) -> int:
        known = self.replica_queue_len_cache.get(replica.replica_id) or 0
        return max(known, self._flights.at(pod_name(replica.replica_id)))

    def _is_full(self, replica_id: ReplicaID) -> bool:
        replica = self.curr_replicas.get(replica_id)
        calls = self.replica_queue_len_cache.get(replica_id)
        return replica is not None and calls is not None and calls >= replica.max_ongoing_requests

    def _follow(self) -> None:
        replicas = list(self.curr_replicas.values())
        self._by_pod = {pod_name(replica.replica_id): replica for replica in replicas}
        self._scoring.follow(self._pods.pods(replicas))

    # The life of a call.

    def _depart(self, pending: PendingRequest, pod: str, rank: int | None, scored: Scored | None) -> None:
        flight = self._flights.begin(pending, scored.ranking.request_id if scored is not None else "", pod)
        if scored is not None:
            flight.scored = scored
            self._scoring.goes_to(flight.request_id, pod, rank)
        pending.future.remove_done_callback(self._picked)
        pending.future.add_done_callback(self._picked)

    def _picked(self, future: Any) -> None:
        """Serve has decided, or its caller has given up."""
        flight = self._flights.of(future)
        if flight is None or flight.is_routed:
            return
        if future.cancelled() or future.exception() is not None:
            self._end(flight, "given up")
        else:
            self._move(flight, pod_name(future.result().replica_id))

    def _move(self, flight: Flight, pod: str) -> None:
        if flight.pod != pod:
            self._tally.count("moved")
            self._flights.move(flight, pod)
            if flight.scored is not None:
                self._scoring.moved(flight.request_id, pod, flight.scored)

    def _end(self, flight: Flight, why: str) -> None:
        """`why` it came to nothing; empty: it has run."""
        self._flights.end(flight)
        self._tally.count(why.replace(" ", "_") or "completed")
        if flight.request_id:
            self._scoring.ended(flight.request_id, why)

    def _clear(self, pending: PendingRequest) -> None:
        """What an earlier answer to the same question left, and what is overdue."""
        earlier = self._flights.of(pending.future)
        if earlier is not None:
            self._end(earlier, "asked again")
        for flight in self._flights.overdue():
            self._end(flight, "overdue")


def _best_ranks(workers: Sequence[Worker]) -> dict[str, int]:
    """The first rank of each pod, in their order."""
    ranks = dict(workers)
    if len(ranks) < len(workers):
        ranks = {}
        for pod, rank in workers:
            ranks.setdefault(pod, rank)
    return ranks
