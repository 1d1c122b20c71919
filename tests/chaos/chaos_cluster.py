"""A cluster of two nodes whose processes can be killed, paused and counted."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from kvatlas.actors.directory.ray_yard import actors_of
from kvatlas.actors.directory.status import ClusterStatus
from kvatlas.actors.orders import NAMESPACE
from kvatlas.actors.shard.table_files import remove_left
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.index.errors import ClusterError
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from tests.cluster.living_fleet import Fleet, wait_until

NAME = "chaos"
_ASK_S = 2.0
_GONE_S = 60.0
_CHECKPOINT_S = 5.0
_SHARED_MEMORY = "/dev/shm"


class Shape(NamedTuple):
    """In what clusters that are disturbed differ."""

    transport: Literal["zmq", "ray"]
    replicas_per_node: int
    checkpoint_folder: str | None

    @classmethod
    def chosen(cls, seed: int, checkpoint_folder: Path) -> Shape:
        """By chance."""
        chance = random.Random(seed)
        folder = str(checkpoint_folder)
        return cls(
            chance.choice(("zmq", "zmq", "zmq", "ray")),
            chance.choice((0, 0, 1)),
            chance.choice((folder, None)),
        )


class ChaosCluster:
    """The cluster that is disturbed. One thread calls it; timers of its own end pauses."""

    def __init__(self, nodes: Cluster, client: Client) -> None:
        self.client = client
        self.n_shards = client.status().desired_shards
        self._nodes = nodes
        self._ended: set[int] = set()
        """Processes that were killed: they may still be listed."""
        self._seen: set[int] = set()
        self._timers: list[threading.Timer] = []

    def processes(self) -> dict[str, int]:
        """Process ids of the actors by name, without the cluster's; 0: does not answer."""
        calls: dict[str, Any] = {}
        for name in actors_of(NAME):
            with suppress(ValueError, RayError):
                actor = ray.get_actor(name, namespace=NAMESPACE)
                calls[name.removeprefix(f"{NAME}/")] = actor.__ray_call__.remote(lambda _: os.getpid())
        if not calls:
            return {}
        answered, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=_ASK_S)
        found = {name: _answer(call) if call in answered else 0 for name, call in calls.items()}
        self._seen |= set(found.values()) - {0}
        return {name: 0 if pid in self._ended else pid for name, pid in found.items()}

    def kill(self, pid: int) -> None:
        self._ended.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def pause(self, pid: int, seconds: float) -> None:
        """It stands still, and goes on where it was."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(seconds, _go_on, (pid,))
        timer.start()
        self._timers.append(timer)

    def pause_ray(self, process: Literal["gcs_server", "raylet"], seconds: float) -> None:
        """Ray's own table, or the second node's raylet, stands still: for less than Ray calls it dead."""
        node = self._nodes.head_node if process == "gcs_server" else next(iter(self._nodes.worker_nodes))
        assert node is not None
        for info in node.all_processes[process]:
            self.pause(info.process.pid, seconds)

    def scale(self, n_shards: int) -> bool:
        """Whether the directory has heard it."""
        try:
            launch.scale(NAME, shards=n_shards)
        except ClusterError:
            return False
        self.n_shards = n_shards
        return True

    def lose_node(self) -> None:
        """The second node's raylet dies, and all processes with it."""
        self._nodes.remove_node(next(iter(self._nodes.worker_nodes)), allow_graceful=False)

    def add_node(self) -> None:
        """A second node, where there is none."""
        if not self._nodes.worker_nodes:
            self._nodes.add_node(num_cpus=2)

    def missing(self) -> list[str]:
        """What is not up again, or not begun; empty: every process is there."""
        waiting = [timer for timer in self._timers if timer.is_alive()]
        if waiting:
            return [f"{len(waiting)} pauses"]
        processes = self.processes()
        try:
            status = self.client.status()
        except ClusterError as error:
            return [str(error)]
        lacking = [name for name, pid in processes.items() if not pid]
        wanted = {pod.subscriber for pod in status.pods if pod.subscriber}
        actors = {f"subscriber/{name}" for name in wanted} | {
            name.removeprefix(f"{NAME}/") for name in status.scorers
        }
        return lacking + sorted(actors - set(processes)) + _unsettled(status)

    def ended_processes_alive(self) -> list[int]:
        """Of all actors that were ever seen; for after the end."""
        return [pid for pid in self._seen if "ray::" in _title(pid)]

    def finish(self) -> None:
        for timer in self._timers:
            timer.join()


def _unsettled(status: ClusterStatus) -> list[str]:
    serving = status.layouts[0]
    found = []
    if serving.n_shards != status.desired_shards or status.building_waits_for:
        found.append(f"{status.desired_shards} shards, {status.building_waits_for}")
    if serving.n_up != serving.n_slots:
        found.append(f"{serving.n_slots - serving.n_up} of layout {serving.number}")
    return found


def _answer(call: Any) -> int:
    try:
        return int(ray.get(call))
    except RayError:
        return 0


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@contextmanager
def chaos_cluster(fleets: list[Fleet], shape: Shape) -> Iterator[ChaosCluster]:
    """On two nodes of this machine; at its end nothing may be left of it."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
    config = ClusterConfig(
        name=NAME,
        discovery=DiscoveryConfig(
            watches=(StaticWatchConfig(pods=tuple(entry for fleet in fleets for entry in fleet.entries)),)
        ),
        transport=shape.transport,
        shards=ShardsConfig(count=3, table_bytes_max=64 << 20, replicas_per_node=shape.replicas_per_node),
        subscribers=SubscribersConfig(
            pods_each=3, checkpoint_folder=shape.checkpoint_folder, checkpoint_s=_CHECKPOINT_S
        ),
        scorers=ScorersConfig(count=1),
    )
    try:
        with launch.start(config) as client:
            chaos = ChaosCluster(nodes, client)
            yield chaos
            chaos.finish()
        launch.down(NAME)
        assert actors_of(NAME) == []
        wait_until(lambda: not chaos.ended_processes_alive(), _GONE_S, chaos.ended_processes_alive)
        wait_until(lambda: not tables_left(), _GONE_S, tables_left)
    finally:
        ray.shutdown()
        nodes.shutdown()  # type: ignore[no-untyped-call]
        remove_left(_SHARED_MEMORY, NAME)  # after a failure; else there is nothing


def tables_left() -> list[str]:
    """Files of the cluster in shared memory."""
    return [path.name for path in Path(_SHARED_MEMORY).iterdir() if f"-{os.getuid()}-{NAME}@" in path.name]
