"""The proxies of a cluster: begun with it, ended with it."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kvatlas.actors.directory.ray_yard import resource_options
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.directory_settings import actor_resources, reader_settings
from kvatlas.cluster.proxy.actor import ProxyActor
from kvatlas.index.errors import ClusterError

NAMESPACE = "kvatlas-proxies"
"""Not that of the cluster's other actors: a directory ends those that it does not know."""
_READY_S_MAX = 90.0
_END_S_MAX = 15.0

_log = logging.getLogger(__name__)
_owned: dict[str, list[Any]] = {}
"""Proxies that end with this process, as their cluster does."""


def begin(config: ClusterConfig) -> list[str]:
    """Starts the proxies that the configuration wants, or finds them; returns their URLs.

    Ray starts one that ends unasked again. Raises ClusterError for one that cannot listen.
    """
    actors = [_begun(config, number) for number in range(config.proxy.count)]
    if config.lifetime == "owned":
        _owned[config.name] = actors
    urls: list[str] = []
    for number, actor in enumerate(actors):
        try:
            urls.append(ray.get(actor.url.remote(), timeout=_READY_S_MAX))
        except RayError as error:
            why = getattr(error, "cause", None) or error
            raise ClusterError(
                f"proxy {number} of {config.name!r}: expected it to listen, got {why}"
            ) from error
    _log.info("proxies of %r listen at %s", config.name, ", ".join(urls))
    return urls


def end(name: str) -> None:
    """Ends all proxies of a cluster, when their answers have ended; there may be none."""
    _owned.pop(name, None)
    listed: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    for actor_name in [one["name"] for one in listed if one["namespace"] == NAMESPACE]:
        if actor_name.rpartition("/proxy/")[0] != name:
            continue
        with contextlib.suppress(ValueError, RayError):
            actor = ray.get_actor(actor_name, namespace=NAMESPACE)
            with contextlib.suppress(RayError):
                ray.get(actor.stop.remote(), timeout=_END_S_MAX)
            ray.kill(actor, no_restart=True)


def _begun(config: ClusterConfig, number: int) -> Any:
    proxy = config.proxy
    strategy: Any = "SPREAD" if proxy.placement == "spread" else "DEFAULT"
    if proxy.nodes:
        strategy = NodeAffinitySchedulingStrategy(proxy.nodes[number % len(proxy.nodes)], soft=False)
    options = {
        "name": f"{config.name}/proxy/{number}",
        "namespace": NAMESPACE,
        "lifetime": "detached" if config.lifetime == "detached" else None,
        "max_restarts": -1,
        "get_if_exists": True,
        "scheduling_strategy": strategy,
        **resource_options(actor_resources(proxy.resources)),
    }
    settings = msgspec.msgpack.encode(reader_settings(config))
    return ProxyActor.options(**options).remote(config.name, msgspec.msgpack.encode(proxy), settings)
