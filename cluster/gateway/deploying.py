"""The gateway as an application on Ray Serve: brought up, and taken away."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from ray.exceptions import RayError

from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.gateway.replica import DEPLOYMENT, GatewayReplica
from kvatlas.index.errors import ClusterError

_ASK_S_MAX = 5.0


def application_name(cluster: str) -> str:
    """What Serve calls it."""
    return f"kvatlas-{cluster}"


def deploy(config: ClusterConfig) -> None:
    """Have the gateway of a cluster that runs; returns when it answers. Ray must be connected.

    Serve is started where it does not run; where it does, its proxies stay as they are. Replicas that run
    with the same configuration stay, too. Raises ClusterError when it cannot be brought up.
    """
    from ray import serve

    gateway = config.gateway
    if _runs(config):  # Serve would start its replicas anew
        return
    # Twice is fine: a Serve that runs keeps the options of its start.
    serve.start(http_options={"host": gateway.host, "port": gateway.port})
    try:
        serve.run(
            _application(config),
            name=application_name(config.name),
            route_prefix=gateway.route_prefix,
        )
    except RuntimeError as error:
        raise ClusterError(f"gateway of {config.name!r}: expected it to come up, {error}") from error


def remove(cluster: str) -> None:
    """Take the gateway of a cluster away, where there is one. Serve itself goes on."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    # Where no Serve runs there is nothing to take away, and asking must not start one.
    with contextlib.suppress(RayServeException, RayError):
        if application_name(cluster) in serve.status().applications:
            serve.delete(application_name(cluster))


def _runs(config: ClusterConfig) -> bool:
    """Whether all of it runs, with this configuration."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    name = application_name(config.name)
    try:
        if serve.status().applications[name].status != "RUNNING":
            return False
        asked = serve.get_app_handle(name).told.remote()
        return bool(asked.result(timeout_s=_ASK_S_MAX) == msgspec.msgpack.encode(config.gateway))
    except (KeyError, TimeoutError, RayServeException, RayError):
        return False


def _application(config: ClusterConfig) -> Any:
    from ray import serve

    gateway = config.gateway
    told = msgspec.msgpack.encode(gateway)
    resources = gateway.resources
    actor_options: dict[str, Any] = {"num_cpus": resources.cpus}
    if resources.memory_bytes:
        actor_options["memory"] = resources.memory_bytes
    if resources.custom:
        actor_options["resources"] = dict(resources.custom)
    deployment: Any = serve.deployment(
        serve.ingress()(GatewayReplica),
        name=DEPLOYMENT,
        num_replicas=gateway.replicas,
        max_ongoing_requests=gateway.requests_max,
        max_queued_requests=gateway.requests_max,
        ray_actor_options=actor_options,
        logging_config={"enable_access_log": False},
    )
    peers_of = application_name(config.name) if gateway.replicas > 1 else None
    return deployment.bind(config.name, told, peers_of)
