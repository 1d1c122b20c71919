"""A cluster on a Ray of the demo's own: started, followed, ended."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np
import ray

from kvatlas.actors.directory.status import ClusterStatus
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.demo.demo_atlas import SETTLE_S_MAX
from kvatlas.cluster.demo.fleet import Fleet, FleetError
from kvatlas.cluster.demo.traffic import TokenIds
from kvatlas.cluster.quantities import shown_bytes, shown_count
from kvatlas.index.scores import Scores
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry

CLUSTER = "demo"
_UP_S_MAX = 60.0
_LOOK_S = 0.1
_STATUS_AGE_S_MAX = 1.0
_GREETING = np.arange(32, dtype=np.uint32)
"""Token ids that no chat has."""
_OBJECT_STORE_BYTES = 80 << 20
"""About the least that Ray takes; nothing of ours lies there."""


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """A Ray of our own on this machine, without dashboard and without a word; ended at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a coming change
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()


class ClusterAtlas:
    """A cluster that lives as long as this object, with the fleet's pods named beforehand.

    A context manager; Ray must be there. Raises FleetError when it is not up, or does not follow all
    pods, after a minute.
    """

    def __init__(self, fleet: Fleet, shards: int) -> None:
        self._fleet = fleet
        self._config = ClusterConfig(
            name=CLUSTER,
            lifetime="owned",
            shards=ShardsConfig(count=shards, table_bytes_max=64 << 20),
            discovery=DiscoveryConfig(watches=(_named(fleet),)),
        )
        self._client: Client | None = None
        self._status: ClusterStatus | None = None
        self._status_s = 0.0

    def __enter__(self) -> ClusterAtlas:
        self._client = launch.start(self._config)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        launch.down(CLUSTER)

    @property
    def client(self) -> Client:
        assert self._client is not None, "a cluster is used as a context manager"
        return self._client

    def wait_ready(self) -> None:
        """Returns when all shards are whole and every pod is known: each serves one block for that."""
        self._fleet.wait_for_subscribers()
        for pod in range(len(self._fleet.pods)):
            self._fleet.serve(pod, _GREETING, _GREETING[:0])
        until_s, never = time.monotonic() + _UP_S_MAX, threading.Event()
        while not (_is_whole(status := self.client.status()) and self._knows_all()):
            if time.monotonic() > until_s:
                raise FleetError(f"cluster: expected it whole within {_UP_S_MAX:.0f} s, got {status}")
            never.wait(_LOOK_S)

    def _knows_all(self) -> bool:
        return {worker.pod for worker in self.client.pods()} >= set(self._fleet.pods)

    def score(self, token_ids: TokenIds, *, model: str) -> Scores:
        return self.client.score(token_ids, model=model)

    def settle(self, published: Mapping[str, int]) -> None:
        wanted = sum(published.values())
        until_s, never = time.monotonic() + SETTLE_S_MAX, threading.Event()
        while (got := _sum(self._look(0.0), "batches")) < wanted:
            if time.monotonic() > until_s:
                raise FleetError(f"events: expected {wanted} batches, got {got} within {SETTLE_S_MAX:.0f} s")
            never.wait(_LOOK_S)

    def events(self) -> int:
        return _sum(self._look(_STATUS_AGE_S_MAX), "events")

    def facts(self) -> list[tuple[str, str]]:
        status = self._look(_STATUS_AGE_S_MAX)
        shards = [shard for shard in status.shards if shard.is_up]
        actors = 1 + len(shards) + len(status.subscribers) + len(status.scorers)
        return [
            ("Ray actors", str(actors)),
            ("shards, whole", f"{sum(shard.whole for shard in shards)} of {len(status.shards)}"),
            ("entries in them", shown_count(sum(shard.entries for shard in shards))),
            ("their shared memory", shown_bytes(sum(shard.bytes for shard in shards))),
            ("pods followed", str(sum(pod.state == "following" for pod in status.pods))),
            ("view", str(status.view_version)),
        ]

    def _look(self, age_s_max: float) -> ClusterStatus:
        """The status, asked anew when it is older."""
        now_s = time.monotonic()
        if self._status is None or now_s - self._status_s > age_s_max:
            self._status, self._status_s = self.client.status(), now_s
        return self._status


def _named(fleet: Fleet) -> StaticWatchConfig:
    model = fleet.config.model
    return StaticWatchConfig(
        pods=tuple(
            PodEntry(pod=pod, endpoint=endpoint, replay_endpoint=replay_endpoint, model=model)
            for pod, endpoint, replay_endpoint in zip(
                fleet.pods, fleet.endpoints, fleet.replay_endpoints, strict=True
            )
        )
    )


def _is_whole(status: ClusterStatus) -> bool:
    serving = [layout for layout in status.layouts if layout.state == "serving"]
    return bool(serving) and all(layout.n_whole == layout.n_slots for layout in serving)


def _sum(status: ClusterStatus, name: str) -> int:
    return sum(one.counts.get(name, 0) for one in status.subscribers if one.is_used)
