"""How long does Ray Serve wait for KvatlasReplicaRouter, per request?

The real router over a filled index, called as Serve calls it, without Serve: 64 replicas, prompts of 8 192
tokens as a list. Every order is checked.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from results import Result, arguments, show
from timing import quiet
from workload import BLOCK_TOKENS, MODEL, PAIRS, SEED, Held, events, fleet, payload

from kvatlas import AtlasConfig, ModelConfig

WORKERS = 64
PROMPTS = 512
WARM_UP = 200
_DEPLOYMENT, _APP = "bench", "bench"


class Rig:
    """A router with its replicas, whose caches hold the sequences."""

    def __init__(self, stored: list[Held]) -> None:
        # Ray Serve takes a second to import: only where it is used.
        from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID

        from kvatlas.cluster.serve.fleets import EmbeddedFleet
        from kvatlas.cluster.serve.replica_router import KvatlasReplicaRouter
        from kvatlas.cluster.serve.replicas.replica_pods import pod_name
        from kvatlas.cluster.serve.sharing import fleets_here

        deployment = DeploymentID(name=_DEPLOYMENT, app_name=_APP)
        self.ids = [ReplicaID(f"replica{worker}", deployment) for worker in range(WORKERS)]
        self.replicas = [_replica(replica_id) for replica_id in self.ids]
        self.router = KvatlasReplicaRouter(
            deployment,
            DeploymentHandleSource.REPLICA,
            self_actor_handle=None,
            use_replica_queue_len_cache=True,
        )
        models = {MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)}
        self.router.initialize_state(model=MODEL, atlas=AtlasConfig(hash_seed=SEED, models=models))
        self.router.update_replicas(self.replicas)
        shared = fleets_here()[f"{_APP}#{_DEPLOYMENT}"]
        assert isinstance(shared, EmbeddedFleet)
        self.fleet = shared
        pods = [pod_name(replica_id) for replica_id in self.ids]
        numbers = [0] * WORKERS
        for event in events(stored, 512):
            worker = event.held.worker
            topic = f"kv@{pods[worker]}@{MODEL}".encode()
            self.fleet.atlas.ingest(topic, numbers[worker], payload(event))
            numbers[worker] += 1

    async def serves_all(self) -> None:
        """Its thread has told the chooser of every replica."""
        deadline_s = time.monotonic() + 30
        while len(self.fleet.chooser.choose(model=MODEL, reserve=False, request_id="look").pod) == 0 or (
            len(self.fleet.atlas.serving_pods()) < WORKERS
        ):
            assert time.monotonic() < deadline_s, "replicas are not followed"
            await asyncio.sleep(0.01)
        self.fleet.chooser.failed("look")

    def close(self) -> None:
        self.fleet.close()


def _replica(replica_id: Any) -> Any:
    """Of Serve's running replica, what routers look at."""

    async def get_queue_len(*, deadline_s: float) -> int:
        return 0

    return SimpleNamespace(
        replica_id=replica_id,
        node_id="node",
        availability_zone=None,
        routing_stats={},
        replica_metadata={},
        max_ongoing_requests=100,
        multiplexed_model_ids=set(),
        get_queue_len=get_queue_len,
    )


async def time_call(rig: Rig, number: int, token_ids: list[int], worker: int) -> tuple[int, int]:
    """Nanoseconds in all hooks of one call, and in the one that orders the replicas."""
    from ray.serve._private.common import RequestMetadata
    from ray.serve.request_router import PendingRequest

    router = rig.router
    metadata = RequestMetadata(request_id=f"request{number}", internal_request_id=f"internal{number}")
    pending = PendingRequest(args=[], kwargs={"token_ids": token_ids, "max_tokens": 256}, metadata=metadata)
    began_ns = time.perf_counter_ns()
    groups = await router.choose_replicas(rig.replicas, pending)
    chose_ns = time.perf_counter_ns()
    replica = groups[0][0]
    assert len(groups) == WORKERS and replica is rig.replicas[worker], (replica.replica_id, worker)
    picked_ns = time.perf_counter_ns()
    pending.future.set_result(replica)
    await asyncio.sleep(0)  # its callbacks run, and the loop turns once: that counts too
    router.on_request_routed(pending, replica.replica_id, None)
    router.on_request_completed(replica.replica_id, metadata.internal_request_id)
    ended_ns = time.perf_counter_ns()
    return chose_ns - began_ns + ended_ns - picked_ns, chose_ns - began_ns


async def measure(quick: bool) -> list[Result]:
    stored = fleet(WORKERS, PAIRS // 4 if quick else PAIRS)
    chosen = np.random.default_rng(4).choice(len(stored), size=PROMPTS, replace=False).tolist()
    asked = itertools.cycle([(stored[n].tokens.tolist(), stored[n].worker) for n in chosen])
    rig = Rig(stored)
    try:
        await rig.serves_all()
        times = []
        with quiet():
            for number in range(WARM_UP + (1000 if quick else 5000)):
                times.append(await time_call(rig, number, *next(asked)))
        counts = rig.router.statistics().counts
        assert counts["scored"] == counts["completed"] == len(times), counts
    finally:
        rig.close()
    return list(results_of(np.array(times[WARM_UP:], float) / 1e3))


def results_of(us: np.ndarray[Any, Any]) -> Iterator[Result]:
    for respect, row, what in (
        (0, "serve/hooks", "all hooks of a request"),
        (1, "serve/order", "order of 64"),
    ):
        for q, name in ((0.5, ""), (0.99, "/p99")):
            yield Result(
                row=row + name,
                what=what + name.replace("/", ", "),
                unit="us",
                median=float(np.quantile(us[:, respect], q)),
                best=float(us[:, respect].min()),
            )


def main() -> None:
    args = arguments(__doc__).parse_args()
    show(asyncio.run(measure(args.quick)), args.json)


if __name__ == "__main__":
    main()
