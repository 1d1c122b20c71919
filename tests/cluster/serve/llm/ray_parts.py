"""Ray's own parts, as an LLMRouter's process has them, without Serve: what reaches them from elsewhere is
handed over by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from ray.llm._internal.serve.routing_policies.kv_aware import kv_token_tracker
from ray.serve._private.common import (
    DeploymentID,
    DeploymentTargetInfo,
    ReplicaID,
    RequestMetadata,
    RunningReplicaInfo,
)
from ray.serve.request_router import PendingRequest, RunningReplica

from kvatlas.cluster.serve.llm.application import Application
from kvatlas.cluster.serve.llm.options import RouterOptions
from kvatlas.cluster.serve.llm.reports import ARRIVED, ENDED
from kvatlas.cluster.serve.replicas.replica_pods import pod_name
from kvatlas.ingest.simulator.server import SimulatedServer

APP = "app"
DEPLOYMENT = "LLMServer:tiny"
BLOCK_SIZE_TOKENS = 16
PROMPT = list(range(100, 100 + 20 * BLOCK_SIZE_TOKENS))
REUSED = 19 * BLOCK_SIZE_TOKENS
"""Of a prompt that is cached whole all but the last block."""
OTHER = list(range(5000, 5000 + 20 * BLOCK_SIZE_TOKENS))


class Tracker(kv_token_tracker.KVTokenTracker):
    """Ray's, less the subscription to Serve's controller."""

    def _start_replica_tracking(self) -> None:
        pass


class Replica(RunningReplica):
    """Ray's, less the handle of the actor."""

    def __init__(self, info: RunningReplicaInfo) -> None:
        self._replica_info = info
        self._multiplexed_model_ids = set(info.multiplexed_model_ids)

    @property
    def pod(self) -> str:
        return pod_name(self.replica_id)


class Engine:
    """A simulated model server, and the replica that it is in: it tells what a replica tells."""

    def __init__(
        self, number: int, *, rank: int = 0, adapters: Sequence[str] = (), blocks: int = 256
    ) -> None:
        self.server = SimulatedServer(
            f"engine{number}", "tiny", block_size=BLOCK_SIZE_TOKENS, blocks=blocks, data_parallel_rank=rank
        )
        publisher = self.server.listen()
        self.replica = Replica(
            RunningReplicaInfo(
                replica_id=ReplicaID(f"r{number}", DeploymentID(DEPLOYMENT, APP)),
                node_id="node",
                node_ip="127.0.0.1",
                availability_zone=None,
                actor_name=f"actor{number}",
                max_ongoing_requests=100,
                multiplexed_model_ids=list(adapters),
                routing_stats={
                    "kv_event_metadata": {
                        "endpoint": publisher.endpoint,
                        "block_size": BLOCK_SIZE_TOKENS,
                        "max_num_batched_tokens": 2048,
                        "dp_rank": rank,
                        "replay_endpoint": publisher.replay_endpoint,
                    }
                },
                backend_http_port=8000 + number,
            )
        )

    @property
    def pod(self) -> str:
        return self.replica.pod

    def close(self) -> None:
        self.server.close()


class Broadcast:
    """The handle of the LLMRouters: every one of them gets what one of them says."""

    is_initialized = True

    def __init__(self, routers: Sequence[LlmRouter]) -> None:
        self._routers = routers

    def broadcast(self, method: str, batch: Any) -> Broadcast:
        self._said = (method, batch)
        return self

    async def results_async(self, **_: Any) -> list[Any]:
        method, batch = self._said
        return [await getattr(router.tracker, method)(batch) for router in self._routers]


class LlmRouter:
    """One LLMRouter's process: Ray's tracker, and our application on it."""

    def __init__(self, options: RouterOptions | None = None, rank: int | None = 0) -> None:
        self.tracker = Tracker(ingress_replica_rank=rank)
        self.application = Application(self.tracker, options or RouterOptions(), APP, DEPLOYMENT)
        self.replicas: list[Replica] = []

    def update(self, engines: Sequence[Engine]) -> None:
        """Serve tells of the replicas: the router, and Ray's tracker too."""
        self.replicas = [engine.replica for engine in engines]
        infos = [replica._replica_info for replica in self.replicas]
        self.tracker._on_deployment_targets(DeploymentTargetInfo(is_available=True, running_replicas=infos))
        self.application.routing.update(self.replicas)

    async def route(
        self,
        request_id: str,
        token_ids: list[int] | None = None,
        *,
        body: Mapping[str, object] | None = None,
        adapter: str = "",
        session: str = "",
    ) -> str:
        """The pod that a request is given, as the LLMRouter asks for it."""
        pending = PendingRequest(
            args=[SimpleNamespace(**body)] if body else [],
            kwargs={} if token_ids is None else {"request_token_ids": token_ids},
            metadata=RequestMetadata(
                request_id=request_id,
                internal_request_id=f"internal {request_id}",
                multiplexed_model_id=adapter,
                session_id=session,
            ),
        )
        replica = await self.application.routing.choose(self.replicas, pending)
        assert isinstance(replica, Replica)
        return replica.pod

    async def hear(self, *events: tuple[str, tuple[Any, ...]]) -> Any:
        """A replica's news, as the LLMRouter hands it on."""
        return await self.tracker.on_lifecycle_events(list(events))

    async def hear_peer(self, choice: Any) -> None:
        """One choice of another LLMRouter."""
        await self.tracker.on_reservations_created([choice])

    async def until_given_up(self, count: int) -> None:
        """Until so many requests were found never to have arrived."""

        async def given_up() -> None:
            while self.application.statistics().never_arrived < count:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(given_up(), 20)

    def load(self, engine: Engine) -> int:
        """Requests that count as this replica's load."""
        chooser = self.application.fleet.chooser
        assert chooser is not None
        slot = chooser.loads.slot(engine.pod, 0)
        slots, _, _, requests = chooser.loads.own()
        return int(sum(requests[slots == slot]))

    async def until_heard(self, engine: Engine, tokens: int, prompt: list[int]) -> None:
        """Until the index knows so much of the prompt on this replica."""
        atlas = self.application.fleet.atlas  # type: ignore[attr-defined]
        model = self.application.routing.model

        async def heard() -> None:
            while all(
                (match.pod, match.cached_tokens) != (engine.pod, tokens)
                for match in atlas.score(prompt, model=model).matches
            ):
                await asyncio.sleep(0.01)

        await asyncio.wait_for(heard(), 20)

    def close(self) -> None:
        self.application.close()


def arrived(request_id: str, engine: Engine) -> tuple[str, tuple[Any, ...]]:
    return ARRIVED, (request_id, engine.pod)


def ended(
    request_id: str, engine: Engine, cached: int = 0, output: int = 1
) -> list[tuple[str, tuple[Any, ...]]]:
    """What a replica says at the end: our figures, then Ray's own word."""
    return [(ENDED, (request_id, engine.pod, cached, output)), ("on_request_completed", (request_id,))]


def engines(stack: ExitStack, count: int) -> list[Engine]:
    made = [Engine(number) for number in range(count)]
    for engine in made:
        stack.callback(engine.close)
    return made


def routers(stack: ExitStack, count: int, options: RouterOptions | None = None) -> list[LlmRouter]:
    made = [LlmRouter(options, rank) for rank in range(count)]
    for router in made:
        stack.callback(router.close)
    return made


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())
