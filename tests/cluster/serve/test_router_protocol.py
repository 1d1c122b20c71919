"""What Serve calls of a router, in every order in which it may: real router, index and chooser, no Serve."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from kvatlas.cluster.serve import sharing
from kvatlas.cluster.serve.replica_router import KvatlasReplicaRouter
from kvatlas.cluster.serve.replicas.extracting import Extracted
from kvatlas.cluster.serve.sharing import fleets_here
from tests.cluster.living_fleet import wait_until

_numbers = itertools.count()
PROMPT = list(range(640))


def replica(deployment: DeploymentID, name: str, calls_max: int = 100) -> Any:
    """Of Serve's running replica, what routers look at."""

    async def get_queue_len(*, deadline_s: float) -> int:
        return 0

    return SimpleNamespace(
        replica_id=ReplicaID(name, deployment),
        node_id="node",
        availability_zone=None,
        routing_stats={},
        replica_metadata={},
        max_ongoing_requests=calls_max,
        multiplexed_model_ids=set(),
        get_queue_len=get_queue_len,
    )


def raising(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Extracted:
    raise RuntimeError("an extractor of somebody's own")


class Rig:
    """A router of three replicas that advertise nothing."""

    def __init__(
        self,
        source: DeploymentHandleSource = DeploymentHandleSource.REPLICA,
        *,
        beside: Rig | None = None,
        **settings: Any,
    ) -> None:
        """`beside`: another router of the same deployment."""
        name = f"d{next(_numbers)}" if beside is None else beside.deployment.name
        self.deployment: DeploymentID = DeploymentID(name=name, app_name="a")
        self.router = KvatlasReplicaRouter(
            self.deployment, source, self_actor_handle=None, use_replica_queue_len_cache=True
        )
        self.router.initialize_state(**settings)
        self.replicas = {name: replica(self.deployment, name) for name in ("x", "y", "z")}
        self.router.update_replicas(list(self.replicas.values()))
        self._number = 0

    def call(self, *, internal_id: str = "", **kwargs: Any) -> PendingRequest:
        self._number += 1
        metadata = RequestMetadata(
            request_id=f"request{self._number}", internal_request_id=internal_id or f"internal{self._number}"
        )
        return PendingRequest(args=[], kwargs=kwargs or {"token_ids": PROMPT}, metadata=metadata)

    async def order(self, pending: PendingRequest) -> list[str]:
        groups = await self.router.choose_replicas(list(self.replicas.values()), pending)
        assert all(len(group) == 1 for group in groups)
        return [group[0].replica_id.unique_id for group in groups]

    async def pick(self, pending: PendingRequest, name: str) -> None:
        """What Serve does when it has found a replica that has room."""
        pending.future.set_result(self.replicas[name])
        await asyncio.sleep(0)

    def routed(self, pending: PendingRequest, name: str) -> None:
        self.router.on_request_routed(pending, ReplicaID(name, self.deployment), None)

    def completed(self, pending: PendingRequest, name: str) -> None:
        self.router.on_request_completed(
            ReplicaID(name, self.deployment), pending.metadata.internal_request_id
        )

    def refused(self, pending: PendingRequest, name: str) -> None:
        self.router.on_new_queue_len_info(ReplicaID(name, self.deployment), 100)
        self.completed(pending, name)

    @property
    def fleet(self) -> Any:
        return fleets_here()[f"a#{self.deployment.name}"]

    @property
    def counts(self) -> dict[str, int]:
        return self.router.statistics().counts

    def loads(self) -> dict[str, int]:
        """Requests that the chooser counts at each replica."""
        chooser = self.fleet.chooser
        chooser.choose(model=self.deployment.name, request_id="look", reserve=False)
        (receipt,) = chooser.receipts("", 1)
        chooser.failed("look")
        return {one.pod.rpartition("#")[2]: one.requests for one in receipt.candidates if one.requests}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_a_call_counts_at_its_replica_from_the_first_answer_to_its_end() -> None:
    async def scenario() -> None:
        rig = Rig()
        pending = rig.call()
        first, *others = await rig.order(pending)
        assert sorted([first, *others]) == ["x", "y", "z"]
        assert rig.loads() == {first: 1}
        await rig.pick(pending, first)
        rig.routed(pending, first)
        assert rig.loads() == {first: 1}
        rig.completed(pending, first)
        assert rig.loads() == {}
        assert rig.router.statistics().in_flight == 0

    run(scenario)


def test_asking_again_for_the_same_call_counts_it_once_and_asks_serve_to_pause() -> None:
    async def scenario() -> None:
        rig = Rig()
        pending = rig.call()
        for _ in range(5):
            first, *_ = await rig.order(pending)
            assert pending.routing_context.should_backoff
            assert rig.loads() == {first: 1}
        assert rig.counts["asked_again"] == 4

    run(scenario)


def test_calls_that_wait_together_spread_before_any_is_sent() -> None:
    async def scenario() -> None:
        rig = Rig()
        for number in range(30):
            await rig.order(rig.call(token_ids=list(range(number * 1000, number * 1000 + 640))))
        assert sorted(rig.loads().values()) == [10, 10, 10]

    run(scenario)


def test_a_call_that_is_refused_is_freed_and_routed_anew() -> None:
    async def scenario() -> None:
        rig = Rig()
        pending = rig.call()
        first, *_ = await rig.order(pending)
        await rig.pick(pending, first)
        rig.refused(pending, first)
        assert rig.loads() == {}
        pending.reset_future()  # type: ignore[no-untyped-call]
        second, *_ = await rig.order(pending)
        await rig.pick(pending, second)
        rig.routed(pending, second)
        rig.completed(pending, second)
        assert rig.loads() == {}
        assert (rig.counts["refused"], rig.counts["completed"]) == (1, 1)

    run(scenario)


def test_the_late_end_of_a_refused_attempt_leaves_the_next_one_at_the_same_replica_alone() -> None:
    async def scenario() -> None:
        rig = Rig()
        pending = rig.call()
        first, *_ = await rig.order(pending)
        await rig.pick(pending, first)
        pending.reset_future()  # type: ignore[no-untyped-call]
        await rig.order(pending)
        await rig.pick(pending, first)
        rig.refused(pending, first)
        rig.routed(pending, first)
        assert rig.loads() == {first: 1}
        rig.completed(pending, first)
        assert rig.loads() == {}

    run(scenario)


def test_a_call_that_serve_sends_elsewhere_counts_there() -> None:
    async def scenario() -> None:
        rig = Rig()
        pending = rig.call()
        _, second, _ = await rig.order(pending)
        await rig.pick(pending, second)
        assert rig.loads() == {second: 1}
        rig.routed(pending, second)
        assert rig.counts["moved"] == 1
        rig.completed(pending, second)
        assert rig.loads() == {}

    run(scenario)


def test_a_call_that_is_given_up_while_it_waits_counts_no_longer() -> None:
    async def scenario() -> None:
        rig = Rig()
        pending = rig.call()
        await rig.order(pending)
        pending.future.cancel()
        await asyncio.sleep(0)
        assert rig.loads() == {}
        assert rig.counts["given_up"] == 1

    run(scenario)


def test_a_call_that_ends_before_serve_says_that_it_runs_ends_once() -> None:
    async def scenario() -> None:
        rig = Rig()
        pending = rig.call()
        first, *_ = await rig.order(pending)
        await rig.pick(pending, first)
        rig.completed(pending, first)
        rig.routed(pending, first)
        assert rig.loads() == {}
        assert (rig.counts["completed"], rig.counts["routed_late"]) == (1, 1)

    run(scenario)


def test_calls_that_share_an_id_end_one_by_one() -> None:
    async def scenario() -> None:
        rig = Rig()
        calls = [rig.call(internal_id="shared") for _ in range(6)]
        went = []
        for pending in calls:
            went.append((await rig.order(pending))[0])
            found = rig.router._get_pending_request_matching_internal_request_id(pending.metadata)
            assert found is pending
        for pending, name in zip(calls, went, strict=True):
            await rig.pick(pending, name)
            rig.routed(pending, name)
        for left, (pending, name) in enumerate(zip(calls, went, strict=True)):
            assert sum(rig.loads().values()) == len(calls) - left
            rig.completed(pending, name)
        assert rig.loads() == {}

    run(scenario)


def test_a_call_that_never_gets_anywhere_is_overdue() -> None:
    async def scenario() -> None:
        rig = Rig(unrouted_s=0.1)
        await rig.order(rig.call())
        began_s = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began_s + 0.11:
            await asyncio.sleep(0.01)
        await rig.order(rig.call())
        assert sum(rig.loads().values()) == 1
        assert rig.counts["overdue"] == 1

    run(scenario)


def test_when_all_are_saturated_serve_is_sent_away_to_come_again() -> None:
    async def scenario() -> None:
        rig = Rig(choosing={"saturation_tokens": 100})
        for number in range(3):
            assert await rig.order(rig.call(token_ids=list(range(number * 1000, number * 1000 + 640))))
        waiting = rig.call()
        assert await rig.order(waiting) == []
        assert waiting.routing_context.should_backoff
        assert rig.counts["saturated"] == 1

    run(scenario)


@pytest.mark.parametrize(
    ("kwargs", "kind"),
    [
        ({"token_ids": [-1] * 64}, "InputError"),
        ({"token_ids": [1, "two"]}, "InputError"),
        ({"token_ids": [1 << 40] * 64}, "InputError"),
        ({"prompt": "a text"}, "partly_scored"),
        ({"token_ids": [1] * 64, "model": "another"}, "NoWorkerError"),
        ({"other": 1}, "no_prompt"),
    ],
)
def test_what_cannot_be_scored_goes_to_somebody_and_is_counted(kwargs: dict[str, Any], kind: str) -> None:
    async def scenario() -> None:
        rig = Rig()
        assert len(await rig.order(rig.call(**kwargs))) == 3
        assert rig.counts[kind] == 1, rig.counts
        assert rig.router.statistics().said[kind]

    run(scenario)


def test_an_extractor_that_raises_stops_no_call() -> None:
    async def scenario() -> None:
        rig = Rig(extractor=f"{__name__}:raising")
        for _ in range(3):
            assert len(await rig.order(rig.call())) == 3
        assert rig.counts["failed"] == 3
        assert "somebody's own" in rig.router.statistics().said["failed"]

    run(scenario)


def test_calls_that_cannot_be_scored_spread_by_what_was_sent_here() -> None:
    async def scenario() -> None:
        rig = Rig(colour="blue")
        went = [(await rig.order(rig.call()))[0] for _ in range(30)]
        assert {went.count(name) for name in "xyz"} == {10}
        assert "colour" in rig.router.statistics().said["not_ready"]

    run(scenario)


def test_in_a_proxy_nothing_is_opened_and_calls_go_by_load() -> None:
    async def scenario() -> None:
        before = fleets_here()
        deployment = DeploymentID(name="behind", app_name="a")
        router = KvatlasReplicaRouter(deployment, DeploymentHandleSource.PROXY)
        router.initialize_state()
        assert fleets_here() == before
        assert await router.choose_replicas([replica(deployment, "x")], Rig().call())
        assert "proxy" in router.statistics().said["not_ready"]

    run(scenario)


def test_a_replica_that_died_is_in_no_order() -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.router.on_replica_actor_died(ReplicaID("x", rig.deployment))
        del rig.replicas["x"]
        assert sorted(await rig.order(rig.call())) == ["y", "z"]
        assert sorted(pod[-1] for pod in rig.fleet.atlas.serving_pods()) == ["y", "z"]

    run(scenario)


@pytest.mark.slow
def test_routers_of_one_deployment_share_a_fleet_that_ends_with_the_last_of_them() -> None:
    names = []

    async def scenario() -> None:
        first = Rig()
        second = Rig(beside=first)
        fleet = second.fleet
        names.append(f"a#{first.deployment.name}")
        pending = first.call()
        name, *_ = await first.order(pending)
        assert second.loads() == {name: 1}
        del first, pending
        gc.collect()
        assert second.fleet is fleet

    run(scenario)
    gc.collect()
    wait_until(lambda: names[0] not in fleets_here(), 60, fleets_here)


@pytest.mark.slow
def test_a_router_may_be_collected_while_the_lock_of_all_fleets_is_held() -> None:
    names = []

    async def scenario() -> None:
        rig = Rig()
        names.append(f"a#{rig.deployment.name}")

    run(scenario)
    with sharing._lock:  # as when the collector runs amid `share`
        gc.collect()
    wait_until(lambda: names[0] not in fleets_here(), 60, fleets_here)
