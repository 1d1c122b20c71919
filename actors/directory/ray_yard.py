"""Ray as the place where actors are made and ended, and where the directory keeps what outlives it."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kvatlas.actors.directory.settings import ActorResources, DirectorySettings
from kvatlas.actors.directory.supervision import ActorSpec, Kind
from kvatlas.actors.orders import GUEST, NAMESPACE

_CONTROL_THREADS = 4
_CALLS_AT_ONCE = 4096
"""More than its queue takes: who is too many is to be told so at once."""

_log = logging.getLogger(__name__)


class RayYard:
    """Actors of one cluster, detached: they outlive the directory's process, and end by their orders.

    A Yard for Supervision.
    """

    def __init__(self, settings: DirectorySettings) -> None:
        self._settings = settings

    def begin(self, spec: ActorSpec) -> None:
        actor, resources, settings, threads = self._made_of(spec.kind)
        options = {
            "name": spec.name,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "max_restarts": -1,
            "max_concurrency": threads,
            "get_if_exists": True,
            "scheduling_strategy": self._strategy(spec),
            **resource_options(resources),
        }
        with _logged("begin", spec.name):
            actor.options(**options).remote(self._settings.cluster, *spec.args, settings)

    def _made_of(self, kind: Kind) -> tuple[Any, ActorResources, bytes, int]:
        """Its class, resources, settings and threads. A class is imported when there is to be one of it."""
        told = self._settings
        if kind == "shard":
            from kvatlas.actors.shard.actor import ShardActor

            return ShardActor, told.shard_resources, told.shard, _CONTROL_THREADS
        if kind == "subscriber":
            from kvatlas.actors.subscriber.actor import SubscriberActor

            return SubscriberActor, told.subscriber_resources, told.subscriber, _CONTROL_THREADS
        if kind == "scorer":
            from kvatlas.actors.scorer.actor import ScorerActor

            return ScorerActor, told.scorer_resources, told.scorer, told.scorer_threads
        from kvatlas.actors.tokenizer.actor import TokenizerActor

        return TokenizerActor, told.tokenizer_resources, told.tokenizer, _CALLS_AT_ONCE

    def names(self) -> list[str]:
        """Of the cluster's actors that Ray knows, but the directory and guests, whom others have begun."""
        others = (f"{self._settings.cluster}/directory", f"{self._settings.cluster}/{GUEST}")
        return [name for name in actors_of(self._settings.cluster) if not name.startswith(others)]

    def restart(self, name: str) -> None:
        self._kill(name, no_restart=False)

    def end(self, name: str) -> None:
        self._kill(name, no_restart=True)

    def _kill(self, name: str, *, no_restart: bool) -> None:
        # ValueError: nobody has this name.
        with _logged("end", name), contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=no_restart)

    def _strategy(self, spec: ActorSpec) -> Any:
        if spec.node:
            return NodeAffinitySchedulingStrategy(spec.node, soft=not spec.is_bound)
        placement = {
            "shard": self._settings.shard_placement,
            "subscriber": "spread",
            "scorer": self._settings.scorer_placement,
            "tokenizer": self._settings.tokenizer_placement,
        }[spec.kind]
        return "SPREAD" if placement == "spread" else "DEFAULT"


class RayKeeper:
    """Values in Ray's own table, which lives as long as the Ray cluster. A Keeper."""

    def __init__(self, cluster: str) -> None:
        self._prefix = f"{NAMESPACE}/{cluster}/"

    def get(self, key: str) -> bytes | None:
        value: bytes | None = internal_kv._internal_kv_get(self._key(key), namespace=NAMESPACE.encode())
        return value

    def put(self, key: str, value: bytes) -> None:
        internal_kv._internal_kv_put(self._key(key), value, overwrite=True, namespace=NAMESPACE.encode())

    def clear(self) -> None:
        for key in internal_kv._internal_kv_list(self._prefix.encode(), namespace=NAMESPACE.encode()):
            internal_kv._internal_kv_del(key, namespace=NAMESPACE.encode())

    def _key(self, key: str) -> bytes:
        return (self._prefix + key).encode()


def actors_of(cluster: str) -> list[str]:
    """Names of the actors of a cluster that Ray knows, in order."""
    known: Any = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        actor["name"]
        for actor in known
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(f"{cluster}/")
    )


def resource_options(resources: ActorResources) -> dict[str, Any]:
    """As Ray's `options` wants them."""
    options: dict[str, Any] = {"num_cpus": resources.cpus}
    if resources.memory_bytes:
        options["memory"] = int(resources.memory_bytes)
    if resources.custom:
        options["resources"] = resources.custom
    return options


def nodes_alive() -> dict[str, str]:
    """Addresses of the nodes of the Ray cluster, by their ids."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}


@contextlib.contextmanager
def _logged(what: str, name: str) -> Any:
    """What fails now is tried again by supervision."""
    try:
        yield
    except RayError as error:
        _log.warning("could not %s actor %s: %s", what, name, error)
